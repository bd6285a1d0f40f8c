from __future__ import annotations

import sys
from types import ModuleType

import pytest

from rewards import Metric, MetricError, Scorer, open_metric
from rewards.deqa import CHECKPOINT, ChatScorer, Deqa


@pytest.mark.parametrize(
    ("name", "kind"), [("psnr", Metric), ("lpips", Metric), ("deqa", Deqa), ("chat:some/model", ChatScorer)]
)
def test_by_name(name: str, kind: type[Scorer]) -> None:
    made = open_metric(name)
    assert isinstance(made, kind)
    assert made.name == f"quality/{name}"
    assert made.needs_reference == (kind is Metric)


def test_checkpoints() -> None:
    assert open_metric("deqa").checkpoint == CHECKPOINT  # type: ignore[attr-defined]
    mine = open_metric("deqa:/models/mine")
    assert (mine.name, mine.checkpoint) == ("quality/deqa:/models/mine", "/models/mine")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["deqa:", "chat", "chat:", "no-such", "pocket", "gain:psnr"])
def test_mistakes_are_named(name: str) -> None:
    with pytest.raises(MetricError) as caught:
        open_metric(name)
    assert repr(name) in caught.value.thing
    assert caught.value.remedy


def test_near_names_are_offered_of_ours_too() -> None:
    with pytest.raises(MetricError, match="Did you mean: pocket-deqa"):
        open_metric("pocketdeqa")


def test_the_pocket_scorer_is_imported_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("rewards.pocket_deqa")
    made = Metric("psnr")
    stand_in.PocketDeqa = lambda: made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rewards.pocket_deqa", stand_in)
    assert open_metric("pocket-deqa") is made

"""Two learners, each with half of the dialogues, are one with all of them: real processes, copied and sharded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing

from agents.vlm.settings import Objective
from agents.vlm.team import Team
from pool import Problem
from tests.agents.vlm import pair

# Shares and entropies of each learner's own rollouts: their mean over the learners is not that of all rollouts.
OF_ONE = ("diversity/order", "diversity/tool", "diversity/tool_entropy")


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    torch.set_num_threads(1)
    return {name: case(Team()) for name, case in pair.CASES.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both have written what came out."""
    place = tmp_path_factory.mktemp("team")
    torch.multiprocessing.spawn(pair.work, (str(place),), nprocs=2)
    return place


@pytest.fixture(params=[False, True], ids=["copied", "sharded"])
def together(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = torch.load(folder / f"results-{request.param}.pt", weights_only=True)
    return results


def test_gradients_and_figures_are_those_of_one(alone: dict[str, Any], together: dict[str, Any]) -> None:
    cases = set(together) & set(alone)
    assert len(cases) == len(alone) - 1, "all but one"
    for name in cases:
        one, two = alone[name], together[name]
        assert (one["gradient"] - two["gradient"]).norm() < 1e-5 * one["gradient"].norm(), name
        for a, b in zip(one["figures"], two["figures"], strict=True):
            assert a.keys() == b.keys()
            for key in a:
                if not key.startswith("seconds/") and key not in OF_ONE:
                    assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5, nan_ok=True), (name, key)
        if "design" in one:
            assert two["design"] == pytest.approx(one["design"], rel=1e-9)


def test_a_state_of_two_goes_on(together: dict[str, Any]) -> None:
    went_on, resumed = together["saved"]["figures"]
    assert resumed == went_on


@pytest.mark.parametrize("lora", [0, 4])
def test_what_is_kept_of_two_is_the_whole_model(together: dict[str, Any], lora: int) -> None:
    written, trained = together[f"kept, lora {lora}"].values()
    assert written.keys() == trained.keys()
    assert all(torch.equal(written[name], weight) for name, weight in trained.items())


def test_kl_needs_the_model_of_old_and_so_no_shards(model: Any) -> None:
    vlm, chat = model
    learner = copy.copy(pair.Scripted.__new__(pair.Scripted))
    learner.vlm, learner.chat, learner.team = vlm, chat, Team(0, 2, sharded=True)
    learner.settings = pair.GrpoSettings(aim=Objective(beta=0.1))
    with pytest.raises(Problem, match="whole on every learner"):
        learner._reference()


def test_alone_everything_is_the_identity(model: Any) -> None:
    team = Team()
    assert team.sum({"a": 1.5, "b": 2}) == {"a": 1.5, "b": 2}
    assert team.most(3) == 3
    assert team.prepare(model[0]) is model[0]
    with team.whole(model[0]):
        pass

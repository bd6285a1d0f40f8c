"""The statistics by hand, and what the tables say of trainings whose outcome is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import compare_rewards
from experiments.compare_rewards import (
    CompareRewards,
    area,
    beats,
    compare,
    dynamics,
    hacked,
    interquartile,
    interval,
    known_as,
    read,
    told,
    worst_drop,
)  # fmt: skip
from pool import Problem


def cell(psnr: float, ssim: float = 0.1, curve: tuple[float | None, ...] = (0.0, 1.0)) -> dict[str, Any]:
    weight = {"psnr": [0.5, 0.6], "ssim": [0.5, 0.4]}
    return {"gain": {"psnr": psnr, "ssim": ssim}, "curve": {"psnr": list(curve), "ssim": [0.0, 0.1]}, "weight": weight}


def test_a_drop_is_measured_from_what_was_reached() -> None:
    assert worst_drop(np.array([0.0, 2.0, 1.5, 3.0, 1.0, 2.0])) == 2.0
    assert worst_drop(np.array([0.0, 1.0, 2.0])) == 0.0
    assert worst_drop(np.array([np.nan, 1.0, np.nan, 0.25])) == 0.75
    assert np.isnan(worst_drop(np.array([np.nan])))
    assert worst_drop(np.array([0.0, 3.0, 0.0]), forgiven=np.array([0.0, 0.0, 2.0])) == 1.0
    assert worst_drop(np.array([1.0, 1.0, 1.0]), forgiven=np.array([0.0, 2.0, 0.0])) == 0.0, "where only others fell"
    assert area(np.array([1.0, np.nan, 3.0])) == 2.0


def test_what_all_designs_of_a_seed_go_through_is_no_drop() -> None:
    luck = (0.0, 3.0, 0.0, 3.0, 0.0, 3.0, 0.0, 3.0, 0.0)
    steady = [cell(1.0, curve=luck)]
    fell = [cell(1.0, curve=tuple(value - 4.0 * (at > 4) for at, value in enumerate(luck)))]
    settings = CompareRewards(("a", "b", "c"), seeds=1, metrics=("psnr",))
    rows = dict(row[::2] for row in dynamics({"a": steady, "b": steady, "c": fell}, settings).rows)
    assert rows["a"] == "0.000"
    assert 3.5 < float(rows["c"]) <= 4.0
    dip = (0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    level = [cell(1.0, curve=tuple(float(at) for at in range(len(dip))))]
    pair = dict(row[::2] for row in dynamics({"level": level, "dips": [cell(1.0, curve=dip)]}, settings).rows)
    assert pair["level"] == "0.000", "it never fell: that another one did, and came back, is no fall of its own"
    assert pair["dips"] == "2.000", "of a fall that nobody shares nothing is forgiven (curves are smoothed)"
    alone = dict(row[::2] for row in dynamics({"a": steady}, settings).rows)
    assert float(alone["a"]) > 0.3, "of one design nobody can tell"


def test_one_design_beats_another_as_often_as_its_runs_are_better() -> None:
    ours, theirs = [cell(1.0), cell(3.0)], [cell(2.0), cell(0.0)]
    assert beats(ours, theirs, ["psnr"])[0] == 0.5, "runs of one seed are held against each other: it loses the first pair"
    assert beats([cell(2.5), cell(3.0)], theirs, ["psnr", "ssim"])[0] == pytest.approx((1.0 + 0.5) / 2), "ties count half"
    assert beats(ours, theirs, ["psnr"])[0] + beats(theirs, ours, ["psnr"])[0] == 1.0
    assert beats(ours, theirs, ["psnr"]) == (0.5,), "two seeds say nothing of others"
    assert beats([cell(2.5)] * 4, [cell(2.0)] * 4, ["psnr"]) == (1.0,), "nor do four that agree"
    _, low, high = beats([*ours, *ours, *ours], [*theirs, *theirs, *theirs], ["psnr"])
    assert low < 0.5 < high
    assert beats([cell(float(k)) for k in range(9)], [cell(-1.0)] * 9, ["psnr"]) == (1.0, 1.0, 1.0)


def test_a_run_that_ruined_a_metric_is_found() -> None:
    assert not hacked(cell(1.0))
    assert hacked(cell(1.0, -0.01))
    assert hacked(cell(1.0, math.nan)), "images that cannot be scored any more"


def test_intervals_hold_the_middle() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 100.0]
    low, high = interval(values)
    assert interquartile(values) == 3.0, "the outlier is trimmed"
    assert 1.0 <= low < 3.0 < high <= 100.0
    assert interval([2.0]) == (2.0, 2.0)
    assert interval([2.0, 2.0]) == (2.0, 2.0)
    assert told([2.0, 2.0]) == "+2.00 [+2.00, +2.00]"
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0), "of a few the lowest and the highest"


def test_the_tables_of_trainings_whose_outcome_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = {"mar": (2.0, 0.1), "gain:psnr": (3.0, -0.1)}
    calls: list[tuple[str, int]] = []

    def trained(design: str, seed: int, settings: CompareRewards, share: str | None) -> dict[str, Any]:
        calls.append((design, seed))
        return cell(outcomes[design][0] + seed, outcomes[design][1])

    monkeypatch.setattr(compare_rewards, "trained", trained)
    settings = CompareRewards(("mar", "gain:psnr"), seeds=2, metrics=("psnr", "ssim"), json=tmp_path / "rewards.json")
    compare(settings)
    assert calls == [("mar", 0), ("gain:psnr", 0), ("mar", 1), ("gain:psnr", 1)], "paired: all designs of a seed together"
    text = settings.json.with_suffix(".md").read_text()
    assert "| mar | +2.50 [+2.00, +3.00] | **+0.100 [+0.100, +0.100]** | 0% |" in text
    assert "| gain:psnr | **+3.50 [+3.00, +4.00]** | -0.100 [-0.100, -0.100] | 100% |" in text
    assert settings.json.with_suffix(".png").stat().st_size > 5000
    compare(replace(settings, seeds=3))
    assert len(calls) == 6, "what was done is not done again"
    outcomes["sum"] = (math.nan, 0.1)
    for _ in range(2):
        compare(replace(settings, designs=("sum",)))
    assert "NaN" not in settings.json.read_text()
    assert "| sum | +nan [+nan, +nan] |" in settings.json.with_suffix(".md").read_text()
    assert "mar" in capsys.readouterr().out


def test_a_design_that_is_not_known_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="says too little"):
        compare(CompareRewards(("mar", "gain"), json=tmp_path / "rewards.json"))
    assert not list(tmp_path.iterdir())


def test_a_design_of_ones_own_is_another_one_when_its_text_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = "from rewards import Gain\n\nclass Mine(Gain):\n    def __init__(self):\n        super().__init__('psnr')\n"
    (tmp_path / "designs_of_mine.py").write_text(text)
    first = known_as("designs_of_mine:Mine")
    assert first == known_as("designs_of_mine:Mine") != "designs_of_mine:Mine"
    (tmp_path / "designs_of_mine.py").write_text(text + "\n")
    assert known_as("designs_of_mine:Mine") != first
    assert [known_as(design) for design in ("mar:no-mar", "gain:psnr", "sum")] == ["mar:no-mar", "gain:psnr", "sum"]
    assert known_as("gain:designs_of_mine:Mine").startswith("gain:designs_of_mine:Mine "), "a metric of one's own"


def test_what_options_name_belongs_to_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_rewards, "trained", lambda *_: cell(1.0))
    tools = tmp_path / "tools.yaml"
    tools.write_text("a")
    settings = CompareRewards(
        ("mar",), seeds=1, metrics=("psnr", "ssim"), options=f"--toolbox {tools}", json=tmp_path / "rewards.json"
    )
    compare(settings)
    compare(settings)
    tools.write_text("b")
    with pytest.raises(Problem, match=r"other settings: contents \{.*tools.yaml"):
        compare(settings)


def test_a_run_is_read(tmp_path: Path) -> None:
    weights = [
        {f"reward_design/{metric}/weight": weight for metric, weight in zip(("psnr", "fsim"), pair, strict=True)}
        for pair in ((0.4, 0.6), (0.6, 0.4))
    ]
    rows = [
        {"iteration": 1, "sft/loss": 0.2},
        {"iteration": 2, "reward": 0.0, "gain/psnr": 0.5, **weights[0]},
        {"iteration": 3, "reward": 0.0, "gain/psnr": None, **weights[1]},
    ]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "table.json").write_text(json.dumps({"rows": {"ppo clip_mlp": {"psnr gain": 1.5}, "random": {"psnr gain": 0}}}))
    assert read(tmp_path, ["psnr"]) == {
        "gain": {"psnr": 1.5},
        "curve": {"psnr": [0.5, None]},
        "weight": {"psnr": [0.4, 0.6], "fsim": [0.6, 0.4]},
    }


@pytest.mark.ray
def test_a_real_training_on_the_tree(tmp_path: Path) -> None:
    settings = CompareRewards(
        ("mar:metrics=psnr+ssim",), env="tree:pocket", seeds=1, metrics=("psnr", "ssim"), test_episodes=8, iterations=2,
        options="--episodes 32", json=tmp_path / "rewards.json",
    )  # fmt: skip
    compare(settings)
    [cell] = [value for key, value in json.loads(settings.json.read_text()).items() if key != "settings"]
    assert set(cell["gain"]) == {"psnr", "ssim"}
    assert [len(curve) for curve in cell["curve"].values()] == [2, 2]
    assert sum(weights[-1] for weights in cell["weight"].values()) == pytest.approx(1)
    [run] = (tmp_path / "runs").iterdir()
    ended = (run / "about.json").read_bytes()
    settings.json.unlink()
    compare(settings)
    assert (run / "about.json").read_bytes() == ended, "what has ended is not run again"

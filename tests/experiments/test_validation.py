"""Trials on the validation part: what they say, and which policy is kept. No Ray is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.training_free.bounds import FixedAgent
from experiments.reporting import panels, short
from experiments.run import Run, checked
from experiments.runs import Row, RunFolder
from experiments.tracking import gains
from experiments.validation import BEST, RECORD, Record, Validation, due, read_record
from pool import Problem
from tir_env.world import World

SETTINGS = Run(validate_every=4, validations=3, metrics=("psnr", "ssim"), iterations=10)


def test_the_best_policy_is_kept_and_a_worse_one_is_not(tmp_path: Path) -> None:
    world = World("skimage", "validation", "dark", "classical", "gain:psnr", ("psnr", "ssim"), 3, 32, pool="local")
    folder = RunFolder.create(tmp_path / "run", SETTINGS)
    validation = Validation(world, folder, SETTINGS)
    rows = []
    for number, name in ((4, "brighten/gamma"), (8, None), (10, "brighten/gamma")):
        tools = [] if name is None else [world.toolbox.index(name)]
        row = validation.look(number, FixedAgent(tools, world.stop, str(name)), lambda path, n=number: save(path, n))
        rows.append({"iteration": number, **row})
        folder.append(rows[-1])
    assert rows[1] == {"iteration": 8, "validation/psnr": 0.0, "validation/ssim": 0.0}
    assert rows[0]["validation/psnr"] > 1
    assert {**rows[2], "iteration": 4} == rows[0]  # the same starts
    assert (tmp_path / "run" / BEST / "agent").read_text() == "4"  # the first of equals
    assert (record := read_record(folder)) is not None
    assert (record.iteration, record.metric, record.gain) == (4, "psnr", rows[0]["validation/psnr"])


@pytest.mark.parametrize(
    ("kept", "replaced"),
    [
        ({}, False),
        ({"gain": 0.1}, True),
        ({"iteration": 9}, True),  # of a run that was killed, whose iterations come again
        ({"metric": "ssim"}, True),
        ({"starts": "others"}, True),
    ],
)
def test_what_is_kept_is_the_best_of_the_same_trials_in_this_run_s_past(
    tmp_path: Path, kept: dict[str, Any], replaced: bool
) -> None:
    world = World("skimage", "validation", "dark", "classical", "gain:psnr", ("psnr", "ssim"), 3, 32, pool="local")
    validation = Validation(world, RunFolder.create(tmp_path / "run", SETTINGS), SETTINGS)
    place = tmp_path / "run" / BEST
    save(place, 4)
    record = Record(iteration=4, metric="psnr", gain=99.0, starts=validation.digest).model_copy(update=kept)
    (place / RECORD).write_text(record.model_dump_json())
    agent = FixedAgent([world.toolbox.index("brighten/gamma")], world.stop, "gamma")
    validation.look(8, agent, lambda path: save(path, 8))
    assert (place / "agent").read_text() == ("8" if replaced else "4")


def save(place: Path, number: int) -> None:
    place.mkdir(exist_ok=True)
    (place / "agent").write_text(str(number))


def test_when_it_is_due() -> None:
    assert [number for number in range(1, 11) if due(SETTINGS, number, 10)] == [4, 8, 10]
    assert not due(replace(SETTINGS, validate_every=0), 10, 10)


def test_it_is_shown_beside_training() -> None:
    row: Row = {"iteration": 4, "reward": 1.0, "gain/psnr": 1.0, "validation/psnr": 0.5, "tool_calls_per_second": 9.0}
    assert "psnr +1.00  validation psnr +0.50" in gains(row, ["psnr"])
    assert ("gain, psnr", ["gain/psnr", "validation/psnr"]) in panels([row], ["psnr"])
    assert [short(key) for key in ("gain/psnr", "validation/psnr", "reward_design/psnr/weight", "sft/loss", "reward")] == [
        "training", "validation", "psnr", "loss", "reward",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validate_every": -1}, "validate.every"),
        ({"validate_every": 5, "validations": 0}, "validations"),
        ({"validations": 9}, "--validations: would do nothing: --validate-every is 0"),
        ({"validate_every": 5, "whole": True}, "--validate-every 5: would try the policy on photographs that it learns from"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=message):
        checked(replace(Run(), out=tmp_path / "run", **options))  # type: ignore[arg-type]

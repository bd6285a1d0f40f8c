"""What a benchmark finds done already: only what was done under the same settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.cells import train_run
from experiments.evaluate import seen_before
from experiments.run import Run, completed
from experiments.runs import ABOUT, RunFolder
from pool import Problem
from tests.experiments.test_scripts import within
from tir_env.images.sources import skimage_photos


def test_a_training_that_has_ended_is_not_taken_for_one_with_other_settings(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    RunFolder.create(folder, completed(replace(Run(), suite="rain", seed=3, pool="local", out=folder)))
    (folder / ABOUT).write_text("{}")
    assert train_run(folder, "--suite", "rain", "--seed", 3) == folder
    with pytest.raises(Problem, match="holds a training with other settings: suite rain, not dark, seed 3, not 4"):
        train_run(folder, "--suite", "dark", "--seed", 4)


@pytest.mark.parametrize(("whole", "said"), [(True, "was trained on 3 of these 3 photographs, such as coffee"), (False, "")])
def test_a_test_on_what_was_trained_on_is_not_passed_over(tmp_path: Path, whole: bool, said: str) -> None:
    RunFolder.create(tmp_path / "run", completed(replace(Run(), images="skimage", whole=whole)))
    (tmp_path / "run" / "agent").mkdir()
    (tmp_path / "run" / "agent" / "agent.json").write_text("{}")
    assert said in seen_before(str(tmp_path / "run"), skimage_photos().part("test"), "test")
    assert bool(said) == bool(seen_before(str(tmp_path / "run"), skimage_photos().part("test"), "test"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--algo", "grpo", "--lr", 0.5, "--encoder", "statistics"), "--lr, --encoder: would do nothing: --policy is vlm"),
        (("--algo", "ppo", "--rollouts", 64, "--no-sft"), "--sft, --rollouts: would do nothing: --policy is clip_mlp"),
        (("--env", "tree:pocket", "--suite", "rain"), "--suite rain: is not what this tree was grown with"),
        (("--env", "tree:pocket", "--horizon", 5), "--horizon 5: goes beyond this tree, which is 3 deep"),
    ],
)
def test_options_that_nothing_would_come_of_are_refused(tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    done = within("run.py", *options, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "run").exists()

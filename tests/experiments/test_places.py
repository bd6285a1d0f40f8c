"""Where a run's folder may be, and what is said of places that will not do. Nothing is made there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agents.vlm.config import VlmOptions
from agents.vlm.grpo import Grpo
from agents.vlm.team import Team
from experiments.light import LightWorkplace
from experiments.run import Run
from experiments.runs import RunFolder
from experiments.vlm_stage import make_learner
from experiments.workplace import check_apart
from pool import Problem, connect
from pool.console import problem_of
from tests.experiments.test_scripts import within
from tir_env.images.sources import Images, Part, generated, open_images, skimage_photos
from tir_env.tools import Toolbox


class SettingsOnly(LightWorkplace):
    """A workplace that looks for nothing."""

    def __init__(self, settings: Run) -> None:
        self.settings, self.toolbox = settings, Toolbox.load("pocket")


@pytest.mark.parametrize("below", [".", "run", "deep/run"])
def test_a_file_is_no_folder_for_a_run(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = within("run.py", "--out", tmp_path / "file" / below)
    assert done.returncode == 2
    assert f"cannot be a folder: {tmp_path / 'file'} is a file. Choose another --out." in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_that_may_not_be_written_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "experiments.console.os.access", lambda path, mode: False
    )  # who tests may be root, who may write anywhere
    with pytest.raises(Problem, match=f"you may not write to {tmp_path}"):
        RunFolder.check_free(tmp_path / "deep" / "run")


def test_results_have_a_place_before_a_script_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for option, place, said in (
        ("--json", tmp_path / "file" / "results.json", "is a file. Choose another --json."),
        ("--json", tmp_path, "is a folder. Give --json the name of a file."),
        ("--figures", tmp_path / "file", "is a file. Choose another --figures."),
    ):
        done = within("evaluate.py", "--agent", "no such agent", option, place)
        assert done.returncode == 2
        assert said in done.stderr


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(Problem, match=r"/proc/none: cannot be made: .*Choose another --out"):
        RunFolder.create(Path("/proc/none"), Run())


def test_settings_that_cannot_be_written_down_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"--images caf\\udce9: is no UTF-8"):
        RunFolder.create(tmp_path / "run", Run(images="caf\udce9"))
    assert not (tmp_path / "run").exists()


def test_a_group_of_one_has_nothing_to_be_judged_by(tmp_path: Path) -> None:
    for options, said in (
        (("--policy", "clip_mlp", "--group", 1, "--encoder", "statistics"), "--group: must be at least 2"),
        (("--policy", "vlm", "--rollouts", 1), "rollouts: must be at least 2"),
    ):
        done = within("run.py", "--algo", "grpo", *options, "--out", tmp_path / "run")
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [("--minibatch", 25), ("--episodes", 9)])
def test_a_round_that_cannot_be_learnt_from_leaves_no_folder(option: tuple[object, ...], tmp_path: Path) -> None:
    small = ("--encoder", "statistics", "--episodes", 8, "--minibatch", 24, "--env-runners", 2)
    done = within("run.py", *small, *option, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {option[0]} {option[1]}: "), done.stderr
    assert not (tmp_path / "run").exists()


def test_other_scripts_say_what_the_system_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = within("show.py", "cases", "--suite", "restore-r1-i", "--out", tmp_path / "file" / "sheet.png")
    assert done.returncode == 2
    assert f"error: {tmp_path / 'file'}" in done.stderr
    assert "choose another place" in done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR])
def test_the_systems_errors_come_with_a_remedy(number: int) -> None:
    problem = problem_of(OSError(number, os.strerror(number), "/some/file"))
    assert str(problem).startswith(f"/some/file: {os.strerror(number)}. ")
    assert problem.remedy
    assert str(problem_of(OSError("odd"))) == "a file: odd"


@pytest.mark.parametrize(("whole", "counts"), [(False, (5, 3)), (True, (9, 9))])
def test_photographs_are_split_unless_all_are_asked_for(whole: bool, counts: tuple[int, int]) -> None:
    settings = Run(images="skimage", test_images="skimage", whole=whole)
    parts: list[Part] = [SettingsOnly(settings).world_settings(part)["part"] for part in ("train", "test")]
    assert tuple(len(skimage_photos().part(part)) for part in parts) == counts


def test_the_language_models_second_stage_has_all_of_them_too(tmp_path: Path) -> None:
    settings = Run(
        images="generated:6",
        toolbox="classical",
        suite="dark",
        policy="vlm",
        algo="grpo",
        whole=True,
        vlm=VlmOptions(sft=False),
    )
    place = SettingsOnly(settings).world_settings("train")
    with connect("local") as pool:
        learner = make_learner(settings, place, "grpo", RunFolder(tmp_path), Team(), pool)
    assert isinstance(learner, Grpo)
    assert len(learner.world.images) == 6


def test_what_was_trained_on_is_not_tested_on() -> None:
    check_apart(skimage_photos().part("train"), skimage_photos().part("test"))
    check_apart(generated(3), generated(3, seed=1))
    with pytest.raises(Problem, match="shares 1 of 9 pictures with --images skimage:validation, such as 'chelsea'"):
        check_apart(skimage_photos().part("validation"), skimage_photos())
    left, right = (open_images("skimage").find(f"motorcycle_{side}") for side in ("left", "right"))
    with pytest.raises(Problem, match="motorcycle_right"):  # another picture of the same place
        check_apart(Images("one", [left]), Images("other", [right]))


def test_whole_sets_that_overlap_are_refused_before_anything_runs(tmp_path: Path) -> None:
    done = within("run.py", "--whole", "--encoder", "statistics", "--out", tmp_path / "run")
    assert (done.returncode, "--test-images skimage: shares 9 of 9 pictures" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "run").exists()

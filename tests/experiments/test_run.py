"""Training as a user runs it: in a process of its own, stopped, killed and gone on with."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from experiments.cells import train_run, workers_for
from experiments.run import Run
from experiments.runs import RunFolder
from tests.conftest import ROOT
from tests.experiments.outcome import checkpoint, log, outcome
from tests.experiments.test_scripts import within
from tir_env.images import read_image, write_image
from tir_env.images.sources import skimage_photos

pytestmark = pytest.mark.ray

TOOLS = """
name: small
tools:
  - {task: brighten, model: gamma, call: "tir_env.tools.classical.brighten:gamma"}
  - {task: brighten, model: shift, call: "tir_env.tools.classical.brighten:shift"}
  - {task: denoise, model: median, call: "tir_env.tools.classical.denoise:median"}
"""
ITERATIONS = 6
LEARNER = "ray::_WrappedExecutable"  # how its process calls itself
GROUPED = ("--algo", "grpo", "--policy", "clip_mlp", "--group", 4, "--keep", ITERATIONS)


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment, preexec_fn=hears_ctrl_c
    )


def hears_ctrl_c() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so do all its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def begin(tmp_path: Path, name: str, *more: object) -> subprocess.Popen[str]:
    return start(*options(tmp_path, name), *more)


def options(tmp_path: Path, name: str) -> tuple[object, ...]:
    (tmp_path / "tools.yaml").write_text(TOOLS)
    return (
        "--algo", "ppo", "--reward", "mar:metrics=psnr+ssim", "--toolbox", tmp_path / "tools.yaml", "--suite", "dark",
        "--images", "skimage", "--crop", 32, "--encoder", "tests.agents.encoders:Statistics", "--iterations", ITERATIONS,
        "--episodes", 8, "--minibatch", 16, "--test-episodes", 4, "--pool", "local", "--validate-every", 2, "--validations", 3,
        "--out", tmp_path / name,
    )  # fmt: skip


def photos(folder: Path) -> tuple[object, ...]:
    return ("--images", folder / "photos", "--test-images", "skimage")


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    try:
        out, err = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == code, f"{out}\n{err}"
    return out + err


def wait_for_rows(folder: Path, process: subprocess.Popen[str], count: int) -> None:
    last = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < last:
        if (folder / "config.json").exists() and len(RunFolder(folder).rows()) >= count:
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"it ended too early, or took too long: {process.communicate()}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nobody disturbed, and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    for photo in skimage_photos():
        write_image(folder / "photos" / f"{photo.name}.png", photo.image[:64, :64])
    said = ended(begin(folder, "run", *photos(folder), "--wandb", "offline"))
    return folder / "run", said


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run by GRPO whose tools run in worker processes, all its checkpoints, and what it said."""
    folder = tmp_path_factory.mktemp("grouped")
    said = ended(begin(folder, "run", *GROUPED, "--pool", "ray"))
    return folder / "run", said


def test_a_run_is_one_folder(whole: tuple[Path, str]) -> None:
    folder, said = whole
    assert f"iteration {ITERATIONS}/{ITERATIONS}" in said
    for row in ("ppo clip_mlp", "best, iteration ", "random", "no tool", "best: brighten/"):
        assert row in said
    found = outcome(folder)
    rows, table = found["log"], found["table"]
    assert [row["iteration"] for row in rows] == list(range(1, ITERATIONS + 1))
    assert {"reward", "entropy", "policy_loss", "value_loss", "gain/psnr", "reward_design/psnr/weight"} <= set(rows[0])
    assert [row["entropy_coefficient"] for row in rows] == pytest.approx([0.02 * 0.99**k for k in range(ITERATIONS)])
    tried = {row["iteration"]: row["validation/psnr"] for row in rows if "validation/psnr" in row}
    assert list(tried) == [2, 4, 6]
    best = f"best, iteration {max(tried, key=lambda number: tried[number])}"
    assert set(table) == {"ppo clip_mlp", best, "random", "no tool", "brighten/gamma", "brighten/shift", "denoise/median"}
    assert table["no tool"]["psnr gain"] == 0
    for name in ("curves", "best", "median", "worst"):
        assert read_image(folder / "figures" / f"{name}.png").std() > 5
    assert len(found["played"]) == 4
    assert all(trajectory.ended for trajectory in found["played"])
    assert list((folder / "tensorboard").glob("events.*"))
    assert list((folder / "wandb").glob("offline-run-*"))
    assert RunFolder(folder).settings(Run).suite == "dark"
    assert json.loads((folder / "about.json").read_text())["seconds"] > 1
    assert f"Look at {folder}/report.html" in said
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "What was run" in report
    assert '"probabilities":[[' in report
    assert len(list((folder / "thumbnails").iterdir())) >= 8


def test_killed_at_a_random_moment_it_goes_on_as_if_nothing_had_happened(whole: tuple[Path, str], tmp_path: Path) -> None:
    """No iteration is lost or repeated, and the adaptive reward, the weights and the starts go on where they stood.

    What comes after the kill and what came before it is the same to the bit as in the other run, which had processes of its own.
    """
    process = begin(tmp_path, "run", *photos(whole[0].parent))
    wait_for_rows(tmp_path / "run", process, random.randint(1, ITERATIONS - 2))
    time.sleep(random.random() / 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = RunFolder(tmp_path / "run").last_checkpoint()[0]
    assert 0 < done < ITERATIONS or (tmp_path / "run" / "table.json").exists() is False
    said = ended(start("--resume", tmp_path / "run"))
    assert f"going on after iteration {done}" in said or done == ITERATIONS
    assert outcome(tmp_path / "run") == outcome(whole[0])


def test_moved_with_its_last_checkpoint_torn_it_goes_on_from_the_one_before(whole: tuple[Path, str], tmp_path: Path) -> None:
    """As after a power cut and on another machine: other folders, the photographs named anew."""
    before, home, place = outcome(whole[0]), whole[0].parent, tmp_path / "another machine"
    shutil.copytree(home, place)
    checkpoint = place / "run" / "checkpoints" / f"{ITERATIONS:06d}"
    torn = max(checkpoint.rglob("*"), key=lambda path: path.stat().st_size)
    torn.write_bytes(torn.read_bytes()[:-1])
    home.rename(hidden := home.with_name("hidden"))
    try:
        said = ended(start("--resume", place / "run", "--images", place / "photos", "--toolbox", place / "tools.yaml"))
    finally:
        hidden.rename(home)
    assert f"checkpoint {ITERATIONS} cannot be used: {torn.relative_to(checkpoint)} has " in said
    assert "the one before is taken" in said
    assert f"going on after iteration {ITERATIONS - 1}" in said
    assert outcome(place / "run") == before
    assert RunFolder(place / "run").last_checkpoint()[0] == ITERATIONS


def test_trainings_that_share_a_process_and_its_pool_come_out_as_one_alone(whole: tuple[Path, str], tmp_path: Path) -> None:
    *same, _, _ = options(tmp_path, "run")  # all but --out
    computed = []
    with workers_for("local") as (pool, share):
        for name in ("first", "second"):
            train_run(tmp_path / name, *same, *photos(whole[0].parent), share=share)
            assert outcome(tmp_path / name) == outcome(whole[0])
            computed.append(pool.stats().calls - pool.stats().hits)
    assert computed[0] == computed[1] > 0, "the second asked for nothing new"


def test_options_that_do_not_fit_the_checkpoint_leave_the_settings_as_they_were(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    said = ended(start("--resume", tmp_path / "run", "--iterations", ITERATIONS + 1, "--hidden", 16), 2)
    assert "does not fit these settings" in said
    assert "Resume with the settings that the run was begun with" in said
    assert (tmp_path / "run" / "config.json").read_text() == before
    assert len(RunFolder(tmp_path / "run").rows()) == ITERATIONS


@pytest.mark.long
def test_a_learner_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    small = ("--learners", 1, "--iterations", 4, "--test-episodes", 2)
    ended(begin(tmp_path, "undisturbed", *small))
    process = begin(tmp_path, "run", *small)
    wait_for_rows(tmp_path / "run", process, 1)
    [learner] = [each for each in psutil.Process(process.pid).children(recursive=True) if LEARNER in " ".join(each.cmdline())]
    learner.kill()
    said = ended(process)
    assert "a process was lost" in said
    assert "going on after iteration" in said
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")


def test_grpo_trains_the_same_agent_and_a_folder_in_use_is_left_alone(grouped: tuple[Path, str]) -> None:
    folder, said = grouped
    assert "grpo clip_mlp" in said
    done = within("run.py", *options(folder.parent, "run"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "holds a run already. Go on with it: --resume" in done.stderr


def test_ctrl_c_saves_and_says_how_to_go_on(grouped: tuple[Path, str], tmp_path: Path) -> None:
    """Up to there it is the same run as another, to the bit, whoever ran the tools."""
    process = begin(tmp_path, "run", *GROUPED, "--pool", "local")
    wait_for_rows(tmp_path / "run", process, 2)
    process.send_signal(signal.SIGINT)
    said = ended(process, 130)
    folder = RunFolder(tmp_path / "run")
    done = folder.last_checkpoint()[0]
    assert done >= 1
    assert f"iteration {done} is saved. Go on: python experiments/run.py --resume {folder.path}" in said
    assert "Traceback" not in said
    assert log(folder.path)[:done] == log(grouped[0])[:done]
    assert checkpoint(folder.path, done) == checkpoint(grouped[0], done)

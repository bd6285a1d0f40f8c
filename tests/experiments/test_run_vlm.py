"""The vision-language agent trained as a user trains it: both stages, killed and gone on with, evaluated, a photograph restored."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents.vlm import demonstrations
from experiments.runs import RunFolder
from experiments.vlm import AFTER_SFT, Plan
from tests.agents.vlm.play import tiny
from tests.conftest import ROOT
from tests.experiments.outcome import outcome
from tests.experiments.test_run import TOOLS, ended, start, wait_for_rows
from tests.experiments.test_scripts import within
from tir_env.images import read_image, write_image
from tir_env.images.sources import skimage_photos

pytestmark = pytest.mark.ray

SFT, GRPO = 8, 3  # steps


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights."""
    folder = tmp_path_factory.mktemp("model")
    vlm, _ = tiny()
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


def begin(tmp_path: Path, model: Path, name: str, *more: object) -> Any:
    (tmp_path / "tools.yaml").write_text(TOOLS)
    (tmp_path / "suite.yaml").write_text("name: night\ncases: [dark]\n")
    here = partial(os.path.relpath, start=ROOT)  # a learner works elsewhere, and must find them, too
    return start(
        "--algo", "grpo", "--model", here(model), "--reward", "mar:metrics=psnr+ssim", "--metrics", "psnr", "ssim", "--toolbox",
        here(tmp_path / "tools.yaml"), "--suite", here(tmp_path / "suite.yaml"), "--images", "skimage",
        "--crop", 32, "--teacher", "oracle:psnr",
        "--demonstrations", 23, "--no-edp", "--sft-epochs", 2, "--sft-batch", 4, "--sft-lr", 3e-3, "--iterations", GRPO,
        "--prompts", 2, "--rollouts", 4, "--turn-tokens", 24, "--test-episodes", 4, "--pool", "local", "--out", tmp_path / name,
        "--validate-every", 2, "--validations", 3, *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nobody disturbed, and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    said = ended(begin(folder, model, "run"))
    return folder / "run", said


def test_both_stages_are_in_one_folder(whole: tuple[Path, str]) -> None:
    folder, said = whole
    for words in (f"sft {SFT}/{SFT}", f"grpo {GRPO}/{GRPO}", "grpo vlm", "after SFT"):
        assert words in said
    for words in ("16 demonstrations from 23 starts", "7 starts are left out"):
        assert words in said
    found = outcome(folder)
    rows, table = found["log"], found["table"]
    assert [row["iteration"] for row in rows] == list(range(1, SFT + GRPO + 1))
    assert rows[SFT - 1]["sft/loss"] < rows[0]["sft/loss"]
    assert {"reward", "entropy", "length", "gain/psnr", "diversity/order", "malformed", "reward_design/psnr/weight"} <= set(
        rows[-1]
    )
    assert set(table) >= {"grpo vlm", "after SFT", "untrained", "oracle:psnr", "random", "no tool", "brighten/gamma"}
    assert demonstrations.read_index(folder / "demonstrations").count == 16
    assert read_image(folder / "figures" / "curves.png").std() > 5
    assert RunFolder(folder).last_checkpoint()[0] == SFT + GRPO


def test_its_result_is_an_agent_like_others(whole: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = whole
    for agent in (folder, folder / AFTER_SFT):
        done = within("evaluate.py", "--agent", agent, "--suite", "dark", "--episodes", 4)
        assert done.returncode == 0, done.stderr
        assert "policy calls" in done.stdout
    write_image(tmp_path / "photo.png", skimage_photos()[0].image[:100, :150])
    done = within("restore.py", tmp_path / "photo.png", "--agent", folder, "--out", tmp_path / "restored")
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "restored" / "photo.png").shape == (100, 150, 3)
    done = within("diversity.py", "--agent", folder, folder / AFTER_SFT, "--starts", 2, "--rollouts", 4, "--suite", "dark")
    assert done.returncode == 0, done.stderr
    assert "distinct" in done.stdout


def test_a_first_stage_that_has_ended_keeps_its_length(whole: tuple[Path, str]) -> None:
    config = whole[0] / "config.json"
    before = config.read_text()
    for options in (("--no-sft",), ("--sft-epochs", 1), ("--sft-batch", 2)):
        done = within("run.py", "--resume", whole[0], *options)
        assert done.returncode == 2
        assert f"stage 1 has {SFT} steps in this run and would have " in done.stderr
        assert f"on its model: --no-sft --model {whole[0] / AFTER_SFT}" in done.stderr
    assert config.read_text() == before


@pytest.mark.long
def test_killed_in_either_stage_it_goes_on_as_if_nothing_had_happened(
    whole: tuple[Path, str], model: Path, tmp_path: Path
) -> None:
    process = begin(tmp_path, model, "run")
    wait_for_rows(tmp_path / "run", process, random.choice([2, SFT + 1]))
    time.sleep(random.random() / 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    ended(start("--resume", tmp_path / "run"))
    assert outcome(tmp_path / "run") == outcome(whole[0])


def test_mistakes_are_found_before_anything_is_made(tmp_path: Path) -> None:
    for options, message in (
        (("--model", "nowhere/such"), "the model 'nowhere/such'"),
        (("--dtype", "float16"), "--dtype float16: loses small gradients"),
        (("--engine", "vllm"), "pip install vllm"),
        (("--engine", "vllm", "--shard", "--learners", 2), "--engine vllm: does not go with --shard"),
        (("--vllm-memory", 1), "--vllm-memory: must lie between 0 and 1"),
        (("--shard", "--learners", 2, "--lora", 4), "--shard: does not go with --lora"),
        (("--demonstrations-from", tmp_path), "demonstrations.json"),
        (("--alpha-t", 2), "--alpha-t: must lie in 0..1"),
        (("--algo", "ppo", "--policy", "vlm"), "--algo ppo: is not for the vlm"),
    ):
        done = within("run.py", "--algo", "grpo", *options, "--out", tmp_path / "run")
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_plan_counts_steps_through_both_stages() -> None:
    plan = Plan(8, 3)
    assert plan.stages == ["sft", "grpo"]
    assert (plan.span("sft"), plan.span("grpo")) == ((0, 8), (8, 11))
    assert Plan(0, 3).stages == ["grpo"]

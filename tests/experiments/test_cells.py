"""What a benchmark finds done already: only what was done under the same settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.cells import continued, more_options, train_run
from experiments.evaluate import seen_before
from experiments.run import Run, completed, settings_from
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


@pytest.mark.parametrize("validate_every", [0, 2])
def test_a_test_on_what_the_best_was_chosen_by_is_not_passed_over(tmp_path: Path, validate_every: int) -> None:
    begun = completed(replace(Run(), images="skimage", validate_every=validate_every))
    run, photos = RunFolder.create(tmp_path / "run", begun).path, skimage_photos()
    for name in ("agent", "best"):
        (run / name).mkdir()
        (run / name / "agent.json").write_text("{}")
    for agent, chosen in ((run, False), (run / "best", validate_every > 0)):
        said = seen_before(str(agent), photos.part("validation"), "validation")
        assert said.startswith(f"{agent} was trained or chosen on 1 of these 1 photographs" if chosen else "")
        assert bool(said) == chosen
        assert f"on {6 if chosen else 5} of these 9" in seen_before(str(agent), photos, "all")
        assert seen_before(str(agent), photos.part("test"), "test") == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--algo", "grpo", "--lr", 0.5, "--encoder", "statistics"), "--lr, --encoder: would do nothing: --policy is vlm"),
        (("--algo", "ppo", "--rollouts", 64, "--no-sft"), "--sft, --rollouts: would do nothing: --policy is clip_mlp"),
        (("--algo", "ppo", "--group", 16), "--group: would do nothing: --algo is ppo. Leave it out, or give --algo grpo."),
        (
            ("--algo", "grpo", "--policy", "clip_mlp", "--gamma", 0.9, "--lam", 1, "--value-coefficient", 1),
            "--gamma, --lam, --value-coefficient: would do nothing: --algo is grpo, which has no critic",
        ),
        (("--pool", "local", "--workers", 8), "--workers: would do nothing: --pool is local"),
        (("--preset", "paper", "--pool", "local", "--worker-memory", 4), "--worker-memory: would do nothing: --pool is local"),
        (("--env", "tree:pocket", "--pool", "ray", "--workers", 8), "--workers: would do nothing: on a tree no tool runs"),
        (("--env", "tree:pocket", "--suite", "rain"), "--suite rain: is not what this tree was grown with"),
        (("--env", "tree:pocket", "--horizon", 5), "--horizon 5: goes beyond this tree, which is 3 deep"),
    ],
)
def test_options_that_nothing_would_come_of_are_refused(tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    done = within("run.py", *options, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--no-sft --teacher mair --sft-lr 5", "--teacher, --sft-lr: would do nothing: --no-sft leaves stage 1 out"),
        ("--no-rl --prompts 4 --beta 0.1", "--prompts, --beta: would do nothing: --no-rl leaves stage 2 out"),
        ("--no-rl --iterations 9", "--iterations: would do nothing: --no-rl"),
        ("--no-edp --alpha-t 0.7", "--alpha-t: would do nothing: --no-edp perturbs nothing"),
        ("--no-rl --top-p 0.5", "--top-p: would do nothing: --no-rl leaves stage 2 out"),
        ("--no-sft --no-rl --batch-tokens 77", "--batch-tokens: would do nothing: --no-sft and --no-rl leave all learning out"),
        ("--shard", "--shard: would do nothing: one learner has all of it"),
        ("--vllm-memory 0.5", "--vllm-memory: would do nothing: --engine is own"),
        ("--demonstrations-from out/a --demonstrations 9", "--demonstrations: would do nothing: --demonstrations-from"),
        ("--plan-at-once --sft-slips 0.5", "--sft-slips: would do nothing: --plan-at-once"),
        ("--top-p 0", "--top-p: must be above 0 and at most 1"),
        ("--slips -1", "--slips: must be at least 0"),
        ("--lora -4", "--lora: must be at least 0"),
        ("--epsilon-high -1", "epsilon_high: must be at least 0"),
    ],
)
def test_options_of_the_language_model_that_make_no_sense(options: str, message: str) -> None:
    with pytest.raises(Problem, match=message):
        completed(settings_from(["--algo", "grpo", *options.split()]))


def test_a_script_s_own_options_are_not_overridden() -> None:
    assert more_options("--crop 96 --lr=0.1", ("--seed",)) == ["--crop", "96", "--lr=0.1"]
    for text in ("--seed 1", "--crop 96 --seed=1"):
        with pytest.raises(Problem, match=r"--options: holds --seed.*, which this script gives itself"):
            more_options(text, ("--seed",))


def test_results_of_other_settings_are_named_by_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    path.write_text('{"settings": {"crop": 32, "seed": 0}}')
    with pytest.raises(Problem, match=r"holds results of other settings: crop 32, not 48\. Name another"):
        continued(path, {"crop": 48, "seed": 0})
    path.write_text("[]")
    with pytest.raises(Problem, match="holds no results of this script"):
        continued(path, {"crop": 48})


@pytest.mark.parametrize(
    "options",
    [
        ("--algo", "grpo", "--policy", "clip_mlp"),
        ("--algo", "grpo"),
        ("--preset", "paper", "--pool", "local"),
        ("--env", "tree:pocket"),
    ],
)
def test_what_a_preset_gives_is_no_option_that_was_given(options: tuple[str, ...]) -> None:
    completed(settings_from([*options]))


def test_a_run_that_was_begun_with_an_option_for_nothing_can_be_gone_on_with(tmp_path: Path) -> None:
    begun = Run(light=replace(Run().light, group=16), policy="clip_mlp")
    RunFolder.create(tmp_path, begun)
    assert completed(settings_from(["--resume", str(tmp_path)])).light.group == 16
    with pytest.raises(Problem, match="--group: would do nothing"):
        completed(settings_from(["--resume", str(tmp_path), "--group", "4"]))

"""The scripts around the tree: grown, stopped, gone on with, trained on, compared with the real world."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments import grow_tree
from experiments.bench_tree import Bench, bench, iterations_to, leaderboard
from experiments.drills import tree_trajectories
from experiments.grow_tree import Grow, run
from experiments.on_tree import with_tree
from experiments.run import Run, held_out
from pool import Problem
from tests.experiments.test_run import TOOLS
from tests.experiments.test_scripts import within
from tir_env.tree import Tree, TreeWorld


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    (folder / "tools.yaml").write_text(TOOLS)
    run(settings(folder))
    return folder / "tree.safetensors"


def settings(folder: Path) -> Grow:
    return Grow(
        out=folder / "tree.safetensors", depth=2, train=2, test=1, images="skimage", suite="dark", toolbox=str(folder / "tools.yaml"),
        metrics=("psnr", "ssim"), crop=32,
    )  # fmt: skip


def test_the_parts_are_of_different_photographs(grown: Path) -> None:
    tree = Tree.load(grown)
    assert [start.part for start in tree.starts] == ["train", "train", "test"]
    photos = {part: {s.start.image for s in tree.starts if s.part == part} for part in ("train", "test")}
    assert not photos["train"] & photos["test"]
    assert tree.features.dtype == np.float16
    assert not grown.with_name("tree.safetensors.parts").exists()


def test_stopped_it_goes_on_where_it_was(grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes as without a stop, and no start is grown twice."""
    (tmp_path / "tools.yaml").write_text(TOOLS)
    monkeypatch.chdir(tmp_path)
    for folder in (grown.parent, tmp_path):  # the same words on both command lines
        assert (folder / "tools.yaml").exists()
    mine = settings(tmp_path)
    honest, made = grow_tree.grow, []

    def killed(*arguments: object, **more: object) -> Tree:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return honest(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(grow_tree, "grow", killed)
    with pytest.raises(KeyboardInterrupt):
        run(mine)
    assert not mine.out.exists()
    made.clear()
    run(mine)
    assert len(made) == 1
    one, other = Tree.load(mine.out), Tree.load(grown)
    for name in ("digests", "sizes", "values", "raws", "features", "children"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    with pytest.raises(Problem, match="is there already"):
        run(mine)


def test_half_a_tree_of_other_settings_is_refused(tmp_path: Path, grown: Path) -> None:
    parts = tmp_path / "tree.safetensors.parts"
    parts.mkdir()
    (parts / "settings.json").write_text('{"settings": {"depth": 9}}')
    with pytest.raises(Problem, match="holds results of other settings"):
        run(settings(tmp_path))


def test_the_drill_finds_them_equal(grown: Path, tmp_path: Path) -> None:
    tree_trajectories.drill(tree_trajectories.Drill(tree=str(grown), trajectories=40, json=tmp_path / "f.json"))
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["trajectories"] == 40
    assert figures["rewards that are not 0"] > 40


def test_the_drill_finds_a_difference(grown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = Tree.load(grown)
    tree.values[tree.children[0][0], 0] += 1e-6
    tree.save(tmp_path / "wrong.safetensors")
    with pytest.raises(SystemExit):
        tree_trajectories.drill(tree_trajectories.Drill(tree=str(tmp_path / "wrong.safetensors"), trajectories=40))
    assert "they differ" in capsys.readouterr().out


def test_a_run_takes_over_what_the_tree_was_grown_with(grown: Path) -> None:
    usual = Run(policy="clip_mlp")
    chosen = with_tree(replace(usual, env=f"tree:{grown}"), usual)
    assert (chosen.suite, chosen.crop, chosen.horizon) == ("dark", 32, 2)
    assert chosen.toolbox.endswith("tools.yaml")
    with pytest.raises(Problem, match="Write tree:PATH"):
        with_tree(replace(usual, env="forest:x"), usual)
    with pytest.raises(Problem, match="sees images, and a tree has none"):
        with_tree(replace(usual, env=f"tree:{grown}", policy="vlm"), usual)
    assert with_tree(chosen, usual) == chosen, "as a run that is gone on with has them"
    for name, value in {"suite": "rain", "crop": 96, "images": "photos", "horizon": 5}.items():
        with pytest.raises(Problem, match=f"--{name} {value}"):
            with_tree(replace(usual, env=f"tree:{grown}", **{name: value}), usual)  # type: ignore[arg-type]


@pytest.mark.ray
@pytest.mark.parametrize("algo", ["ppo", "grpo"])
def test_training_on_a_tree(grown: Path, tmp_path: Path, algo: str, cluster: None) -> None:
    done = within(
        "run.py", "--env", f"tree:{grown}", "--algo", algo, "--policy", "clip_mlp", "--reward", "mar:metrics=psnr+ssim", "--iterations",
        8, "--episodes", 32, "--test-episodes", 8, "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 starts to learn from and 1 starts to test on" in done.stdout.replace("\n", " ")
    rows = json.loads((tmp_path / "run" / "table.json").read_text())["rows"]
    assert set(rows) == {f"{algo} clip_mlp", "random", "no tool", "brighten/gamma", "brighten/shift", "denoise/median"}
    said = done.stdout.replace("\n", " ")
    assert "no pictures of trajectories: toolbox" in said, "its tools may run any program"
    assert "If you trust it: report.py --remake" in said
    report = within("report.py", tmp_path / "run", "--remake", "--out", tmp_path / "r.html")
    assert report.returncode == 0, report.stderr
    assert "have no pictures" not in (tmp_path / "r.html").read_text()
    said = within("evaluate.py", "--agent", tmp_path / "run", "--suite", "dark", "--episodes", 2)
    assert said.returncode == 0, said.stderr


@pytest.mark.ray
def test_the_leaderboard(grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: None) -> None:
    monkeypatch.setattr("experiments.bench_tree.METRICS", ("psnr", "ssim"))
    monkeypatch.setattr("experiments.bench_tree.LEARNERS", {"PPO": ("--algo", "ppo")})
    out = tmp_path / "bench"
    options = ("--episodes", "32", "--metrics", "psnr", "ssim")
    bench(Bench(str(grown), seeds=1, iterations=3, options=options, out=out, json=tmp_path / "f.json"))
    done = json.loads((tmp_path / "f.json").read_text())
    assert done["exhaustive oracle"]["test psnr"] >= max(
        done[name]["test psnr"] for name in ("greedy oracle", "PPO 0", "no tool")
    )
    assert done["no tool"]["test psnr"] == 0
    assert done["steps per second"] > 0
    assert 0 < done["PPO 0"]["seconds to 95 %"] <= done["PPO 0"]["seconds"]


def test_the_leaderboards_table() -> None:
    row = {f"{part} {key}": 1.0 for part in ("train", "test") for key in ("psnr", "ssim", "pocket-deqa", "calls")}
    names = ("no tool", "best single tool", "best fixed sequence", "greedy oracle", "exhaustive oracle")
    several = [f"{name} {seed}" for name in ("random", "PPO", "GRPO", "GRPO with MAR") for seed in (0, 1)]
    done = {name: {**row} for name in (*names, *several)}
    done["PPO 0"]["test psnr"], done["exhaustive oracle"]["test psnr"] = 3.0, 4.0
    done["best single tool"]["actions"], done["best fixed sequence"]["actions"] = "denoise/nlm", "denoise/nlm+dejpeg/dct"
    said = leaderboard(done, 2)
    assert "| PPO | +1.00 ±0.00 | +2.00 ±1.41 | +1.000 ±0.000 | +1.000 ±0.000 | 50% | 1.0 |" in said
    assert "| best single tool (denoise/nlm) | +1.00 | +1.00 |" in said
    assert len({line.count("|") for line in said.splitlines()}) == 1
    Console().print(said)


def test_when_a_return_has_come_far_enough() -> None:
    rows = [{"iteration": k, "reward": float(min(k, 50))} for k in range(100)]
    assert 46 <= iterations_to(rows) <= 50
    assert iterations_to([{"iteration": 1, "reward": 2.0}]) == 1


def test_a_tree_is_tested_on_each_of_its_starts_once_or_on_some_of_all_cases() -> None:
    world = TreeWorld(Tree.load("pocket"), part="test")
    assert len({*held_out(world, 96)}) == len(world.mine) == 16
    assert len({start.case for start in held_out(world, 8)}) == 8

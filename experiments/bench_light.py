"""The light agent on the ground of RL-Restore, the first restoration agent (arXiv:1804.03312): its tools, its degradations.

    python experiments/bench_light.py --test-images FOLDER         with the toolbox's weights under $TIR_WEIGHTS/rl_restore

Trains PPO and GRPO with several seeds on generated and scikit-image photographs, one agent for all three levels, at most three calls,
reward `gain:psnr`; tests on 63x63 patches of other photographs. Beside them: no tool, the best single tool, the best fixed sequence of
three (both chosen with the test patches in hand), the greedy oracle, which reads the ground truth, and on a part of the patches the
exhaustive one. You see the mean PSNR of each level and the share of the way from no tool to the greedy oracle. With --samples also the
twelve patches that RL-Restore's repository publishes, beside what its own agent (a DQN with an LSTM) reaches on them.

Everything that is done is kept under --out: run it again to go on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from agents.agent import finish, observer_for, play
from agents.opening import open_agent
from experiments.cells import Cells, train_run, workers_for
from experiments.console import at_least, main
from experiments.grids import spread
from pool import Call, Pool, Problem
from tir_env.images import read_image
from tir_env.images.operations import Image
from tir_env.tools import Toolbox
from tir_env.trajectory import Start
from tir_env.world import World

LEVELS = ("mild", "moderate", "severe")
# The published agent on the samples, in the order of `samples`: from its own runtime, four of each level.
PUBLISHED = (24.571, 25.780, 24.280, 24.210, 24.520, 20.989, 28.476, 25.046, 20.797, 26.214, 20.033, 26.624)
DEPTH = 3
SIDE = 63


@dataclass
class Bench:
    test_images: str
    """Photographs to test on, such as a folder of BSD100; never trained on."""
    images: str = "skimage,generated:9"
    """Photographs to train on."""
    algos: tuple[str, ...] = ("ppo", "grpo")
    """Which learners."""
    seeds: int = 5
    """Trainings of each."""
    iterations: int = 300
    """Of each training."""
    episodes: int = 128
    """Of each iteration."""
    starts: int = 1000
    """Train on so many first patches only; 0: always new ones."""
    lr_end: float = 0.05
    """What part of the learning rate is left in the last iteration."""
    encoder: str = "pocket-levels"
    """The frozen encoder."""
    patches: int = 500
    """Test patches of each level."""
    exhaustive: int = 50
    """Of these, how many the exhaustive oracle gets: it runs 1,884 tools for each."""
    candidates: int = 20
    """The best fixed sequences on these that are tried on all."""
    samples: Path | None = None
    """The folder with RL-Restore's samples: mild_in, mild_gt and so on."""
    pool: str = "ray"
    """Where the tools run: local or ray."""
    out: Path = Path("out/bench_light")
    """Results cell by cell, and the runs."""


def bench(settings: Bench) -> None:
    at_least(1, seeds=settings.seeds, patches=settings.patches, exhaustive=settings.exhaustive, iterations=settings.iterations)
    at_least(1, candidates=settings.candidates)
    if settings.samples is not None:
        samples(settings.samples)
    Toolbox.load("rl-restore").with_weights_only()  # says what is missing before an hour is spent
    told = {name: value for name, value in vars(settings).items() if name not in ("algos", "seeds", "samples", "pool", "out")}
    cells = Cells(settings.out / "cells.json", told)
    with workers_for(settings.pool) as (pool, share):
        worlds = {level: test_world(level, settings, pool) for level in LEVELS}
        for level, world in worlds.items():
            starts = world.draw_many(0, range(settings.patches))
            cells.fill(f"bounds {level}", bounds, world, starts, settings.exhaustive, settings.candidates)
        for algo, seed in itertools.product(settings.algos, range(settings.seeds)):
            cells.fill(f"{algo} {seed}", trained, algo, seed, settings, worlds, share)
            if settings.samples is not None:
                cells.fill(f"samples {algo} {seed}", on_samples, algo, seed, settings, worlds["mild"])
    console = Console()
    console.print(table(cells.done, settings))
    if settings.samples is not None:
        console.print(samples_table(cells.done, settings))
    console.print(f"figures: {cells.path}")


def test_world(level: str, settings: Bench, pool: Pool) -> World:
    return World(
        settings.test_images, "all", f"rl-restore-{level}", "rl-restore", "gain:psnr", ("psnr",), DEPTH, SIDE, pool=pool
    )


# -- agents ------------------------------------------------------------------------------------------------------------------


def trained(algo: str, seed: int, settings: Bench, worlds: dict[str, World], share: str | None) -> dict[str, list[float]]:
    """PSNR of every test patch after the trained agent. The training is a run like any other, resumed if it is there."""
    folder = train_run(
        folder_of(algo, seed, settings), "--algo", algo, "--policy", "clip_mlp", "--seed", seed, "--toolbox", "rl-restore",
        "--suite", "rl-restore", "--images", settings.images, "--test-images", settings.test_images, "--whole",
        "--reward", "gain:psnr", "--metrics", "psnr", "--lr-end", settings.lr_end, "--starts", settings.starts,
        "--horizon", DEPTH, "--crop", SIDE,
        "--iterations", settings.iterations, "--episodes", settings.episodes, "--encoder", settings.encoder, "--pool", settings.pool,
        "--test-episodes", 24, share=share,
    )  # fmt: skip
    results = {}
    for level, world in worlds.items():
        agent = open_agent(str(folder), world)
        starts = world.draw_many(0, range(settings.patches))
        results[level] = [t.end_quality["psnr"].raw for t in play(world, observer_for(agent, world), agent, starts)]
    return results


def folder_of(algo: str, seed: int, settings: Bench) -> Path:
    return settings.out / "runs" / f"{algo}-{seed}"


def on_samples(algo: str, seed: int, settings: Bench, world: World) -> list[float]:
    assert settings.samples is not None
    agent = open_agent(str(folder_of(algo, seed, settings)), world)
    trajectories = [world.enter(image, name, clean) for name, image, clean in samples(settings.samples)]
    finish(world, observer_for(agent, world), agent, trajectories)
    return [t.end_quality["psnr"].raw for t in trajectories]


def samples(folder: Path) -> list[tuple[str, Image, Image]]:
    """Name, spoilt and clean patch of each, in the order of `PUBLISHED`."""
    found = []
    for level in LEVELS:
        for path in sorted((folder / f"{level}_in").glob("*.png"), key=number):
            found.append(
                (f"{level}/{path.stem}", read_image(path), read_image(folder / f"{level}_gt" / f"{number(path)}_gt.png"))
            )
    if len(found) != len(PUBLISHED):
        reason = f"holds {len(found)} samples, not {len(PUBLISHED)}"
        raise Problem(folder, reason, "Give the folder with mild_in, mild_gt ... of github.com/yuke93/RL-Restore.")
    return found


def number(path: Path) -> int:
    return int(path.stem.removesuffix("_in"))


# -- bounds ------------------------------------------------------------------------------------------------------------------


def bounds(world: World, starts: Sequence[Start], exhaustive: int, count: int) -> dict[str, Any]:
    """PSNR of every patch under each bound; the exhaustive oracle and its company on the first patches only."""
    tools = [tool.name for tool in world.toolbox]
    begun = world.begin(starts)
    images, clean = [t.image for t in begun], [t.reference for t in begun]
    none = [t.quality["psnr"].raw for t in begun]
    singles = {tool: psnrs(world.pool, apply(world.pool, tool, images), clean) for tool in tools}
    best = max(singles, key=lambda tool: np.mean(singles[tool]))
    print(f"  greedy oracle on {len(images)} patches", flush=True)
    greedy = greedy_oracle(world.pool, tools, images, clean, none)
    print(f"  every sequence on {exhaustive} patches", flush=True)
    trees = sequences(world.pool, tools, images[:exhaustive], clean[:exhaustive], none[:exhaustive])
    means = {name: float(np.mean(values)) for name, values in trees.items() if name}
    candidates = sorted(means, key=lambda name: -means[name])[:count]
    fixed = {}
    for name in track(candidates, "  the best fixed sequences on all patches", transient=True):
        current = images
        for tool in name.split("+"):
            current = apply(world.pool, tool, current)
        fixed[name] = psnrs(world.pool, current, clean)
    chosen = max(fixed, key=lambda name: np.mean(fixed[name]))
    return {
        "no tool": none, "best single": singles[best], "best single is": best, "best fixed": fixed[chosen],
        "best fixed is": chosen, "greedy oracle": greedy, "exhaustive oracle": np.max(list(trees.values()), axis=0).tolist(),
    }  # fmt: skip


def apply(pool: Pool, tool: str, images: Sequence[Image]) -> list[Image]:
    return [outcome.unwrap() for outcome in pool.run([Call(tool, image) for image in images])]


def psnrs(pool: Pool, images: Sequence[Image], clean: Sequence[Image | None]) -> list[float]:
    calls = [Call("quality/psnr", (image, reference)) for image, reference in zip(images, clean, strict=True)]
    return [float(outcome.unwrap().raw) for outcome in pool.run(calls)]


def greedy_oracle(
    pool: Pool, tools: Sequence[str], images: Sequence[Image], clean: Sequence[Image | None], scores: Sequence[float]
) -> list[float]:
    """At each step the tool that brings most PSNR; stop where none brings any."""
    current, best = list(images), np.array(scores)
    for _ in range(DEPTH):
        tried = [apply(pool, tool, current) for tool in tools]
        values = np.array([psnrs(pool, outputs, clean) for outputs in tried])  # [tools, patches]
        choice = values.argmax(axis=0)
        for i in np.flatnonzero(values.max(axis=0) > best):
            current[i], best[i] = tried[choice[i]][i], values[choice[i], i]
    return [float(value) for value in best]


def sequences(
    pool: Pool, tools: Sequence[str], images: Sequence[Image], clean: Sequence[Image | None], scores: Sequence[float]
) -> dict[str, list[float]]:
    """PSNR of every patch after every sequence of up to three tools, by the sequence's name; "" is no tool."""
    found: dict[str, list[float]] = {"": list(scores)}
    level: dict[str, list[Image]] = {"": list(images)}
    for depth in range(1, DEPTH + 1):
        following: dict[str, list[Image]] = {}
        for name, tool in track(list(itertools.product(level, tools)), f"  depth {depth}", transient=True):
            sequence = f"{name}+{tool}".lstrip("+")
            outputs = apply(pool, tool, level[name])
            found[sequence] = psnrs(pool, outputs, clean)
            if depth < DEPTH:
                following[sequence] = outputs
        level = following
    return found


# -- the table ---------------------------------------------------------------------------------------------------------------


def table(done: dict[str, Any], settings: Bench) -> Table:
    made = Table(title=f"PSNR, mean over {settings.patches} patches (± between seeds)", box=box.SIMPLE_HEAD)
    made.add_column("")
    for level in LEVELS:
        made.add_column(level, justify="right")
        made.add_column("of the way", justify="right")
    bound = {level: done[f"bounds {level}"] for level in LEVELS}

    def way(level: str, psnr: float) -> str:
        none, greedy = np.mean(bound[level]["no tool"]), np.mean(bound[level]["greedy oracle"])
        return f"{(psnr - none) / (greedy - none):.0%}"

    for row in ("no tool", "best single", "best fixed", "greedy oracle"):
        means = [float(np.mean(bound[level][row])) for level in LEVELS]
        cells = [(f"{mean:.2f}", way(level, mean)) for level, mean in zip(LEVELS, means, strict=True)]
        made.add_row(row, *itertools.chain(*cells))
    few = settings.exhaustive
    for row in ("exhaustive oracle", "greedy oracle"):
        means = [float(np.mean(bound[level][row][:few])) for level in LEVELS]
        made.add_row(f"{row}, first {few}", *itertools.chain(*((f"{mean:.2f}", "") for mean in means)))
    for algo in settings.algos:
        runs = [done[f"{algo} {seed}"] for seed in range(settings.seeds)]
        cells = []
        for level in LEVELS:
            means = [float(np.mean(run[level])) for run in runs]
            cells.append((spread(means, 2), way(level, float(np.mean(means)))))
        made.add_row(algo, *itertools.chain(*cells), style="bold")
    return made


def samples_table(done: dict[str, Any], settings: Bench) -> Table:
    made = Table(title="PSNR on RL-Restore's twelve samples (± between seeds)", box=box.SIMPLE_HEAD)
    for column in ("", *LEVELS, "all"):
        made.add_column(column, justify="right" if column else "left")

    def row(name: str, runs: Sequence[Sequence[float]], style: str = "") -> None:
        values = np.array(runs).reshape(len(runs), len(LEVELS), -1)
        means = np.concatenate([values.mean(axis=2), values.mean(axis=(1, 2))[:, None]], axis=1)
        made.add_row(name, *(spread(column, 2) for column in means.T), style=style)

    row("RL-Restore (published)", [PUBLISHED])
    for algo in settings.algos:
        row(algo, [done[f"samples {algo} {seed}"] for seed in range(settings.seeds)], "bold")
    return made


if __name__ == "__main__":
    main(Bench, bench, __doc__)

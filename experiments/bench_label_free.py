"""Learning without labels, as Restore-R1 puts it: trained on Setting I alone, tested on Settings I to IV, reward by reward.

    python experiments/bench_label_free.py --test-images FOLDER        PPO, five rewards, three seeds: an hour or two on two cores

Three tables: every agent's qualities in the four settings beside no tool and a random policy; which
reward raises which metric (its table 3); what happens to every metric from step to step of the label-free agent (its trade-off between
distortion and perception). ± is the standard deviation between seeds.

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
from rich.table import Table

from agents.agent import Agent, observer_for, play
from agents.opening import open_agent
from experiments.cells import Cells, train_run, workers_for
from experiments.console import at_least, main
from experiments.grids import spread
from pool import Pool
from tir_env.trajectory import Trajectory
from tir_env.world import World

SETTINGS = ("restore-r1-i", "restore-r1-ii", "restore-r1-iii", "restore-r1-iv")
METRICS = ("psnr", "ssim", "pocket-deqa", "piqe")
LOWER = ("piqe",)
PER_CASE = 20  # training images of each combination, as in the paper
CASES = 5  # of Setting I


@dataclass
class Bench:
    test_images: str
    """Photographs to test on, such as a folder of BSD100; never trained on."""
    images: str = "skimage,generated:200"
    """Photographs to train on."""
    rewards: tuple[str, ...] = ("gain:pocket-deqa", "gain:psnr", "gain:ssim", "gain:piqe", "mar")
    """What the agents learn from; the first one is the label-free agent of the first and the last table."""
    algo: str = "ppo"
    """The learner."""
    seeds: int = 3
    """Trainings with each reward."""
    iterations: int = 40
    """Of each training."""
    episodes: int = 64
    """Of each iteration."""
    horizon: int = 4
    """Decisions in an episode."""
    crop: int = 96
    """Side of the crops that are trained and tested on."""
    tests: int = 100
    """Test images of each setting."""
    pool: str = "ray"
    """Where the tools run: local or ray."""
    out: Path = Path("out/bench_label_free")
    """Results cell by cell, and the runs."""


def bench(settings: Bench) -> None:
    at_least(1, seeds=settings.seeds, iterations=settings.iterations, tests=settings.tests, rewards=len(settings.rewards))
    told = {key: value for key, value in vars(settings).items() if key not in ("rewards", "seeds", "out", "pool")}
    cells = Cells(settings.out / "cells.json", told)
    with workers_for(settings.pool) as (pool, share):
        worlds = {suite: test_world(suite, settings, pool) for suite in SETTINGS}
        for name, seed in (("none", 0), *(("random", seed) for seed in range(settings.seeds))):
            cells.fill(f"{name} {seed}", qualities, name, settings, worlds, seed)
        for seed, reward in itertools.product(range(settings.seeds), settings.rewards):
            cells.fill(f"{reward} {seed}", trained, reward, seed, settings, worlds, share)
    console = Console()
    for table in (settings_table(cells.done, settings), rewards_table(cells.done, settings), steps_table(cells.done, settings)):
        console.print(table)
    console.print(f"figures: {cells.path}")


def test_world(suite: str, settings: Bench, pool: Pool) -> World:
    every_step = "sum:" + ",".join(f"{metric}=1" for metric in METRICS)  # so that each step is scored, not only the last
    return World(settings.test_images, "all", suite, "pocket", every_step, METRICS, settings.horizon, settings.crop, pool=pool)


def trained(reward: str, seed: int, settings: Bench, worlds: dict[str, World], share: str | None) -> dict[str, Any]:
    folder = train_run(
        settings.out / "runs" / f"{reward.replace(':', '-')}-{seed}", "--algo", settings.algo, "--policy", "clip_mlp", "--seed", seed,
        "--suite", "restore-r1-i", "--starts", PER_CASE * CASES, "--images", settings.images, "--test-images", "skimage",
        "--reward", reward, "--metrics", "psnr", "--horizon", settings.horizon, "--crop", settings.crop,
        "--iterations", settings.iterations, "--episodes", settings.episodes, "--pool", settings.pool, "--test-episodes", 8,
        share=share,
    )  # fmt: skip
    return qualities(str(folder), settings, worlds, seed)


def qualities(name: str, settings: Bench, worlds: dict[str, World], seed: int) -> dict[str, Any]:
    """Per setting: each metric's value for every image, before and after each step; and how many tools were called."""
    out: dict[str, dict[str, Any]] = {}
    for suite, world in worlds.items():
        agent: Agent = open_agent(name, world, seed)
        starts = world.draw_many(0, range(settings.tests))
        played = play(world, observer_for(agent, world), agent, starts)
        out[suite] = {metric: paths(played, metric, settings.horizon) for metric in METRICS}
        out[suite]["calls"] = [t.calls for t in played]
    return out


def paths(played: Sequence[Trajectory], metric: str, horizon: int) -> list[list[float]]:
    """[images, 1 + horizon]: the raw value at the start and after each step; an episode that stopped keeps its last value."""
    rows = []
    for trajectory in played:
        values = [trajectory.quality[metric].raw]
        for step in trajectory.steps:
            values.append(step.quality[metric].raw if metric in step.quality else values[-1])
        rows.append(values + [values[-1]] * (1 + horizon - len(values)))
    return rows


# -- tables ------------------------------------------------------------------------------------------------------------------


def ends(done: dict[str, Any], name: str, seeds: int, suite: str, metric: str, step: int = -1) -> np.ndarray:
    """Mean over images at `step`, one value for each seed that there is."""
    found = [done[f"{name} {seed}"] for seed in range(seeds) if f"{name} {seed}" in done]
    return np.array([np.mean(np.array(cell[suite][metric])[:, step]) for cell in found])


def columns(table: Table, names: Sequence[str]) -> Table:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def heads() -> list[str]:
    return [f"{metric} {'↓' if metric in LOWER else '↑'}" for metric in METRICS]


def settings_table(done: dict[str, Any], settings: Bench) -> Table:
    title = f"trained on Setting I without labels ({settings.rewards[0]}), {settings.tests} images for each setting"
    table = columns(Table("setting", "agent", title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)), [*heads(), "calls"])
    for suite in SETTINGS:
        for label, name in (("no tool", "none"), ("random", "random"), (settings.algo, settings.rewards[0])):
            values = [spread(ends(done, name, settings.seeds, suite, metric)) for metric in METRICS]
            calls = np.mean([done[f"{name} {s}"][suite]["calls"] for s in range(settings.seeds) if f"{name} {s}" in done])
            style = "bold" if name == settings.rewards[0] else ""
            table.add_row(suite.removeprefix("restore-r1-").upper(), label, *values, f"{calls:.1f}", style=style)
    return table


def rewards_table(done: dict[str, Any], settings: Bench) -> Table:
    """Over the three settings that were not trained on: what each reward does to each metric, as a gain over no tool."""
    title = "the reward decides what rises: change from no tool, Settings II to IV"
    table = columns(Table("reward", title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)), heads())
    for reward in ("random", *settings.rewards):
        gains = [
            np.mean(
                [
                    ends(done, reward, settings.seeds, s, m) - ends(done, reward, settings.seeds, s, m, step=0)
                    for s in SETTINGS[1:]
                ],
                axis=0,
            )
            for m in METRICS
        ]
        table.add_row(reward, *(spread(values) for values in gains))
    return table


def steps_table(done: dict[str, Any], settings: Bench) -> Table:
    title = f"step by step, {settings.rewards[0]}, all settings: distortion (psnr, ssim) and perception (pocket-deqa, piqe)"
    table = columns(Table("after", title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)), heads())
    for step in range(settings.horizon + 1):
        means = [
            np.mean([ends(done, settings.rewards[0], settings.seeds, s, m, step) for s in SETTINGS], axis=0) for m in METRICS
        ]
        table.add_row(f"{step} step{'s' * (step != 1)}", *(spread(values) for values in means))
    return table


if __name__ == "__main__":
    main(Bench, bench, __doc__)

"""What the environment costs on top of the tools and metrics that it calls.

The same tools with the same actions on the same images run in a bare Python loop, in the single environment, and in the vector
environment with 8 and 64 side by side, interleaved. You see steps per second, the ratio to the bare loop, and the environment's own
time per step (everything but the time inside tools and metrics), for light tools and for the whole toolbox. Results are checked to
be equal to the byte.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.console import at_least, main, write_json
from experiments.grids import spread
from pool import Call, connect
from tir_env.env import RestorationEnv
from tir_env.images.operations import digest
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory
from tir_env.vector import RestorationVectorEnv
from tir_env.world import World

LIGHT = ("brighten",)


@dataclass
class Bench:
    images: str = "skimage"
    """Photographs."""
    suite: str = "restore-r1-i"
    """What spoils them."""
    toolbox: str = "pocket"
    """The whole toolbox; the light run takes its brightening tools only."""
    size: int = 128
    """Side of the images."""
    rounds: int = 5
    """Interleaved rounds, each with a seed of its own."""
    episodes: int = 64
    """Episodes of four steps in a round."""
    seed: int = 0
    """First seed."""
    json: Path | None = None
    """Write the figures here."""


@dataclass
class Timing:
    """Seconds in `step` (or in the bare loop), of which inside tools and metrics, over so many steps."""

    total: float
    inside: float
    steps: int


def bare(world: World, recorded: list[Trajectory]) -> Timing:
    """What anybody would write first: a loop over images, tools and the metric."""
    [metric] = world.metrics.values()
    steps = 0
    began = time.perf_counter()
    ends = []
    for trajectory in recorded:
        image = trajectory.input
        assert image is not None
        for action in trajectory.actions:
            [image] = world.toolbox[action].run([image])
            metric.run([(image, trajectory.reference)])
            steps += 1
        ends.append(image)
    total = time.perf_counter() - began
    for trajectory, image in zip(recorded, ends, strict=True):
        if digest(image) != trajectory.current_digest:
            raise RuntimeError(f"the bare loop and the environment disagree on {trajectory.start}")
    return Timing(total, total, steps)


def single(world: World, episodes: int, actions: np.ndarray, seed: int) -> tuple[Timing, list[Trajectory]]:
    env = RestorationEnv(world=world, canvas=world.crop)
    total, inside, recorded = 0.0, 0.0, []
    for episode in range(episodes):
        env.reset(seed=seed + episode)
        before, began = world.pool.stats().seconds, time.perf_counter()
        for action in actions[episode]:
            env.step(int(action))
        total += time.perf_counter() - began
        inside += world.pool.stats().seconds - before
        assert env.trajectory is not None
        recorded.append(env.trajectory)
    return Timing(total, inside, actions.size), recorded


def vector(world: World, envs: int, actions: np.ndarray, seed: int) -> Timing:
    envs = min(envs, len(actions))
    env = RestorationVectorEnv(envs, world=world, canvas=world.crop)
    total, inside = 0.0, 0.0
    actions = actions[: len(actions) // envs * envs]
    for first in range(0, len(actions), envs):
        env.reset(seed=seed + first)
        before, began = world.pool.stats().seconds, time.perf_counter()
        for column in actions[first : first + envs].T:
            env.step(column)
        total += time.perf_counter() - began
        inside += world.pool.stats().seconds - before
    return Timing(total, inside, actions.size)


def bench(settings: Bench) -> None:
    at_least(1, rounds=settings.rounds, episodes=settings.episodes)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    console = Console()
    whole = Toolbox.load(settings.toolbox).with_weights_only()
    # Enlarging tools would make later steps many times larger in one run than in the next.
    whole = whole.subset([tool.name for tool in whole if tool.scale == 1])
    figures: dict[str, dict[str, list[float]]] = {}
    for label, toolbox in (("light tools", whole.subset(LIGHT)), ("whole toolbox", whole)):
        pool = connect("local", cache_bytes=0)  # the bare loop remembers nothing either
        world = World(settings.images, "all", settings.suite, toolbox, "gain:psnr", horizon=4, crop=settings.size, pool=pool)
        for tool in toolbox:  # load and warm up
            world.pool.run([Call(tool.name, world.images[0].image[:64, :64])])
        for number in range(settings.rounds):
            seed = settings.seed + 1000 * number
            actions = np.random.default_rng(seed).integers(len(toolbox), size=(settings.episodes, world.horizon))
            timings = one_round(world, actions, seed)
            for name, timing in timings.items():
                row = figures.setdefault(f"{label}: {name}", {"steps_per_s": [], "ratio": [], "own_ms": []})
                row["steps_per_s"].append(timing.steps / timing.total)
                row["ratio"].append(timings["bare loop"].total / timing.total)
                row["own_ms"].append(1000 * (timing.total - timing.inside) / timing.steps)
    console.print(table(figures, settings))
    write_json(settings.json, {"settings": {k: str(v) for k, v in vars(settings).items()}, "figures": figures})


def one_round(world: World, actions: np.ndarray, seed: int) -> dict[str, Timing]:
    recorded: list[Trajectory] = []
    timings: dict[str, Timing] = {}

    def run_single() -> Timing:
        timing, trajectories = single(world, len(actions), actions, seed)
        recorded.extend(trajectories)
        return timing

    runs: dict[str, Callable[[], Timing]] = {
        "single": run_single,
        **{f"vector {min(envs, len(actions))}": partial(vector, world, envs, actions, seed) for envs in (8, 64)},
        "bare loop": lambda: bare(world, recorded),
    }
    for name, run in runs.items():
        timings[name] = run()
    return timings


def table(figures: dict[str, dict[str, list[float]]], settings: Bench) -> Table:
    made = Table(title=f"{settings.size}x{settings.size}, {settings.rounds} rounds, mean ± std", box=box.SIMPLE_HEAD)
    for column in ("", "steps/s", "to bare loop", "own ms/step"):
        made.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name, row in figures.items():
        cells = [spread(v, d) for v, d in zip(row.values(), (0, 3, 3), strict=True)]
        made.add_row(name, *cells)
    return made


if __name__ == "__main__":
    main(Bench, bench, __doc__)

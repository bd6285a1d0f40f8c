"""Play random trajectories on a tree and in the real world side by side: every reward, score and digest must be equal to the bit.

    python -m experiments.drills.tree_trajectories --trajectories 1000

The real world is opened with the tree's own settings: its photographs, tools and metrics must be at hand. You see how many
trajectories, steps and rewards were compared, how long each world took, and the first difference, if there is one: then it exits
with 1.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from experiments.console import at_least, main, write_json
from tir_env.trajectory import Trajectory
from tir_env.tree import Tree, TreeWorld
from tir_env.world import World


@dataclass
class Drill:
    tree: str = "pocket"
    """The tree: pocket, or a file."""
    trajectories: int = 1000
    """How many, of all starts."""
    reward: str = "gain:psnr"
    """The reward design."""
    metrics: tuple[str, ...] = ("ssim",)
    """Qualities to compare beside the reward's."""
    at_once: int = 32
    """Trajectories side by side."""
    seed: int = 0
    """Decides starts and actions."""
    json: Path | None = None
    """Write the figures here."""


def drill(settings: Drill) -> None:
    at_least(1, trajectories=settings.trajectories, at_once=settings.at_once)
    torch.set_num_threads(1)
    tree = Tree.load(settings.tree)
    rng = np.random.default_rng(settings.seed)
    console = Console()
    figures: dict[str, Any] = {"trajectories": 0, "steps": 0, "rewards that are not 0": 0, "tree": 0.0, "real": 0.0}
    worlds: dict[str, tuple[World, TreeWorld]] = {}
    chosen = np.sort(rng.integers(len(tree.starts), size=settings.trajectories))
    for first in range(0, len(chosen), settings.at_once):
        for part in sorted({tree.starts[number].part for number in chosen[first : first + settings.at_once]}):
            if part not in worlds:
                worlds[part] = both(tree, part, settings)
            real, kept = worlds[part]
            starts = [tree.starts[n].start for n in chosen[first : first + settings.at_once] if tree.starts[n].part == part]
            actions = rng.integers(0, real.stop + 1, (len(starts), real.horizon))
            played = []
            for name, world in (("real", real), ("tree", kept)):
                began = time.perf_counter()
                played.append(play(world, world.begin(starts), actions))
                figures[name] += time.perf_counter() - began
            for one, other in zip(*played, strict=True):
                if one != other:
                    console.print(f"they differ: {one} in the real world, {other} on the tree", soft_wrap=True)
                    sys.exit(1)
                figures["trajectories"] += 1
                figures["steps"] += len(one.steps)
                figures["rewards that are not 0"] += sum(step.reward != 0 for step in one.steps)
        console.print(f"{figures['trajectories']} of {len(chosen)} trajectories are equal")
    count, steps, paid = (figures[key] for key in ("trajectories", "steps", "rewards that are not 0"))
    console.print(
        f"all {count} trajectories ({steps} steps, {paid} rewards that are not 0) are equal to the bit; the real world took "
        f"{figures['real']:.0f} s, the tree {figures['tree']:.1f} s",
        soft_wrap=True,
    )
    write_json(settings.json, {"settings": vars(settings), **figures})


def both(tree: Tree, part: Any, settings: Drill) -> tuple[World, TreeWorld]:
    ground = tree.ground
    told = settings.reward, settings.metrics, ground.depth
    real = World(ground.images, part, ground.suite, ground.toolbox, *told, ground.crop, depth=ground.haze)
    return real, TreeWorld(tree, part, *told)


def play(world: World, trajectories: list[Trajectory], actions: np.ndarray) -> list[Trajectory]:
    """To their ends; `actions` are [trajectories, horizon]."""
    for column in actions.T:
        going = [number for number, trajectory in enumerate(trajectories) if not trajectory.ended]
        if going:
            world.step([trajectories[number] for number in going], column[going].tolist())
    return trajectories


if __name__ == "__main__":
    main(Drill, drill, __doc__)

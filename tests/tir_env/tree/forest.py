"""A small tree of the fake toolbox and the world that it was grown in, with a metric that fails on some images."""

from __future__ import annotations

from typing import Any

import pytest

from pool import Model
from tests.conftest import Mean, fake_toolbox
from tir_env.images.operations import digest
from tir_env.trajectory import Start
from tir_env.tree import Tree
from tir_env.tree.growing import ground_of, grow
from tir_env.world import World

DEPTH = 3
REWARDS = ("gain:psnr", "final:ssim", "sum:psnr=1,ssim=10", "mar:metrics=psnr+ssim")


def real_world(reward: str = "gain:psnr", metrics: tuple[str, ...] = ("psnr", "ssim"), horizon: int = DEPTH) -> World:
    return World(toolbox=fake_toolbox(), crop=32, horizon=horizon, suite="restore-r1-i", reward=reward, metrics=metrics)


def break_metric(world: World, metric: str, patch: pytest.MonkeyPatch, spare: set[str]) -> None:
    """It fails on about a third of all images, decided by their pixels, never on those to be spared."""
    honest = world.metrics[metric].run

    def run(items: Any) -> Any:
        [(image, _)] = items
        key = digest(image)
        if int(key, 16) % 3 == 0 and key not in spare:
            raise RuntimeError(f"no {metric} for this one")
        return honest(items)

    patch.setattr(world.metrics[metric], "run", run)


def starts_of(world: World, count: int) -> list[Start]:
    return [world.draw(3, number) for number in range(count)]


def grown(world: World, starts: list[Start], encoder: Model | None = None, depth: int = DEPTH) -> Tree:
    encoder = encoder or Mean()
    ground = ground_of(world, depth, encoder)
    parts = ["train" if number % 2 == 0 else "test" for number in range(len(starts))]
    begun = zip(world.begin(starts), parts, strict=True)
    return Tree.joined([grow(world, trajectory, ground, encoder, part, "float32") for trajectory, part in begun])

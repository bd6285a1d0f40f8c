"""Bounds that a learned agent is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.agent import Observations
from pool import Call, Model, Problem
from rewards import open_metric
from tir_env.images.operations import Image, resize_like
from tir_env.trajectory import Trajectory
from tir_env.world import World


class RandomAgent:
    """Any allowed action, all alike."""

    name = "random"
    encoder: Model | None = None

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        mask = observations["mask"]  # [batch, actions]
        return (self.rng.random(mask.shape) * mask).argmax(axis=1)


class FixedAgent:
    """The same actions for every image: "no tool" and "one tool, then stop" are the simplest."""

    encoder: Model | None = None

    def __init__(self, actions: Sequence[int], stop: int, name: str) -> None:
        self.actions, self.stop, self.name = list(actions), stop, name

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        steps = [len(t.steps) for t in trajectories]
        return np.array([self.actions[k] if k < len(self.actions) else self.stop for k in steps])


class GreedyOracle:
    """At every step the tool whose output is best, read off the clean reference; stop where none is better than the image.

    No agent can know that. Others are reported as a share of the way from no tool to it.
    """

    encoder: Model | None = None

    def __init__(self, world: World, metric: str = "psnr") -> None:
        self.world, self.metric = world, open_metric(metric)
        if not self.metric.needs_reference:
            raise Problem(f"oracle:{metric}", "needs no reference, so anybody may read it", "Use psnr or ssim.")
        self.name = f"oracle:{metric}"
        world.pool.add(self.metric)
        self._notes: list[dict[str, int]] = []

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        masks = [self.world.mask(trajectory)[:-1] for trajectory in trajectories]
        tried = [(row, int(action)) for row, mask in enumerate(masks) for action in np.flatnonzero(mask)]
        calls = [Call(self.world.toolbox[action].name, trajectories[row].image) for row, action in tried]
        made = [(key, o.value) for key, o in zip(tried, self.world.pool.run(calls), strict=True) if o.ok]
        stop = self.world.stop
        candidates = [((row, stop), trajectory.image) for row, trajectory in enumerate(trajectories)] + made
        asked = [Call(self.metric.name, _pair(image, trajectories[row].reference)) for (row, _), image in candidates]
        values = np.full((len(trajectories), stop + 1), -np.inf)
        for (key, _), outcome in zip(candidates, self.world.pool.run(asked), strict=True):
            values[key] = outcome.value.value if outcome.ok else -np.inf
        self._notes = [{"policy_calls": 0, "tool_calls": int(mask.sum())} for mask in masks]
        best = values.argmax(axis=1)
        return np.where(values[np.arange(len(values)), best] > values[:, stop], best, stop)

    def notes(self) -> Sequence[dict[str, Any]]:
        return self._notes


def _pair(image: Image, reference: Image | None) -> tuple[Image, Image | None]:
    """As the world compares them: an image of another size is resized to the reference."""
    return (image if reference is None else resize_like(image, reference)), reference

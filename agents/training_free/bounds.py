"""Bounds that a learned agent is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.agent import Observations
from pool import Model, Problem
from rewards import open_metric
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
        self.world, self.metric = world, reference_metric(metric)
        self.name = f"oracle:{metric}"
        self._notes: list[dict[str, int]] = []

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        values = self.world.peek(trajectories, self.metric)  # [batch, tools + 1]
        self._notes = [{"policy_calls": 0, "tool_calls": int(self.world.mask(t)[:-1].sum())} for t in trajectories]
        best = values.argmax(axis=1)
        return np.where(values[np.arange(len(values)), best] > values[:, -1], best, self.world.stop)

    def notes(self) -> Sequence[dict[str, Any]]:
        return self._notes


def reference_metric(metric: str) -> str:
    if not open_metric(metric).needs_reference:
        raise Problem(f"oracle:{metric}", "needs no reference, so anybody may read it", "Use psnr or ssim.")
    return metric

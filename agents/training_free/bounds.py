"""Bounds that a learned agent is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agents.agent import Observations
from pool import Model
from tir_env.trajectory import Trajectory


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

"""What an agent is: a batch of observations in, a batch of actions out. `play` lets any agent restore a list of starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tir_env.observations import Observer
from tir_env.trajectory import Start, Trajectory
from tir_env.world import World

Observations = dict[str, np.ndarray]


class Agent(Protocol):
    name: str

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        """One action per row, int [batch]. The trajectories hold the images at their true size and all that happened so far."""


def play(world: World, observer: Observer, agent: Agent, starts: Sequence[Start], at_once: int = 64) -> list[Trajectory]:
    """Every start played to its end, `at_once` side by side. Each start counts once, however short its episode is."""
    finished: list[Trajectory] = []
    for first in range(0, len(starts), at_once):
        trajectories = world.begin(starts[first : first + at_once])
        going = trajectories
        while going:
            world.step(going, agent.act(observer.observe_batch(going), going).tolist())
            going = [t for t in going if not t.ended]
        finished += trajectories
    return finished

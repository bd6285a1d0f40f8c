"""What an agent is: a batch of observations in, a batch of actions out. `play` lets any agent restore a list of starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from pool import Model
from tir_env.observations import Observer
from tir_env.trajectory import Start, Trajectory
from tir_env.world import World

Observations = dict[str, np.ndarray]


class Agent(Protocol):
    """Anything that decides. Who asks a model several times for one action says so: `trajectory.steps[-1].notes["policy_calls"]`."""

    name: str
    encoder: Model | None  # whose features it wants to see in place of the image

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        """One action per row, int [batch]. The trajectories hold the images at their true size and all that happened so far."""


@runtime_checkable
class Player(Protocol):
    """An agent that plays whole episodes by itself, because it remembers more of them than an observation says."""

    def finish(self, world: World, trajectories: Sequence[Trajectory]) -> None:
        """Play trajectories that have begun to their end, all side by side."""


def observer_for(agent: Agent, world: World) -> Observer:
    return Observer(world, encoder=agent.encoder)


def play(
    world: World,
    observer: Observer,
    agent: Agent,
    starts: Sequence[Start],
    at_once: int = 64,
    on_done: Callable[[int], None] | None = None,
) -> list[Trajectory]:
    """Every start played to its end, `at_once` side by side. Each start counts once, however short its episode is.

    `on_done` hears how many have ended after every batch of them.
    """
    finished: list[Trajectory] = []
    for first in range(0, len(starts), at_once):
        trajectories = world.begin(starts[first : first + at_once])
        finish(world, observer, agent, trajectories)
        finished += trajectories
        if on_done is not None:
            on_done(len(finished))
    return finished


def finish(world: World, observer: Observer, agent: Agent, trajectories: Sequence[Trajectory]) -> None:
    """Play trajectories that have begun to their end, all side by side."""
    if isinstance(agent, Player):
        agent.finish(world, trajectories)
        return
    going = [t for t in trajectories if not t.ended]
    while going:
        world.step(going, agent.act(observer.observe_batch(going), going).tolist())
        going = [t for t in going if not t.ended]

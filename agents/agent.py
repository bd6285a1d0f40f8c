"""What an agent is: a batch of observations in, a batch of actions out; or whole episodes at once. `play` lets any agent restore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from pool import Model, Problem
from tir_env.observations import Observer
from tir_env.side_by_side import are_actions
from tir_env.trajectory import Start, Trajectory
from tir_env.world import World

Observations = dict[str, np.ndarray]


class Agent(Protocol):
    """Anything that restores: a `Decider` or a `Player`."""

    name: str
    encoder: Model | None  # whose features it wants to see in place of the image


@runtime_checkable
class Decider(Agent, Protocol):
    """An agent that decides step by step. One that spends more on a decision than one look at the policy is a `NotingAgent` as well."""

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        """One action per row, int [batch]. The trajectories hold the images at their true size and all that happened so far."""


@runtime_checkable
class Player(Agent, Protocol):
    """An agent that plays whole episodes by itself, because it plans them, or remembers more of them than an observation says."""

    def finish(self, world: World, trajectories: Sequence[Trajectory]) -> None:
        """Play trajectories that have begun to their end, all side by side."""


@runtime_checkable
class NotingAgent(Protocol):
    """An agent that says what its decisions cost, or why it made them."""

    def notes(self) -> Sequence[dict[str, Any]]:
        """For each row of the last `act` what to note in the step that it led to.

        `policy_calls` and `tool_calls` are what the decision cost in all, the action's own call among them.
        """


def observer_for(agent: Agent, world: World) -> Observer:
    return Observer(world, encoder=getattr(agent, "encoder", None))


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


def checked(actions: Any, name: str, count: int, stop: int) -> list[int]:
    """What an agent answered, if it is an action for each row."""
    found = np.asarray(actions)
    if not are_actions(found, count, stop):
        reason = f"must answer with {count} whole numbers from 0 to {stop}, and answered {actions}"
        raise Problem(f"agent {name!r}", reason, "Return an int array with an action for each row.")
    return [int(action) for action in found]


def finish(world: World, observer: Observer, agent: Agent, trajectories: Sequence[Trajectory]) -> None:
    """Play trajectories that have begun to their end, all side by side."""
    if callable(getattr(agent, "finish", None)):
        cast(Player, agent).finish(world, trajectories)
        return
    name = getattr(agent, "name", type(agent).__name__)
    if not callable(getattr(agent, "act", None)):
        raise Problem(f"agent {name!r}", "has neither act() nor finish()", "See agents/agent.py for what an agent is.")
    going = [t for t in trajectories if not t.ended]
    while going:
        world.step(going, checked(cast(Decider, agent).act(observer.observe_batch(going), going), name, len(going), world.stop))
        if isinstance(agent, NotingAgent):
            for trajectory, notes in zip(going, agent.notes(), strict=True):
                trajectory.steps[-1].notes.update(notes)
        going = [t for t in going if not t.ended]

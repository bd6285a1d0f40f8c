"""Agents that search before they act. Each is a generator that reads like its paper and yields the work it needs done.

`side_by_side` drives many of them at once: what they ask for together runs together in the pool. What a search found best is then
played in the environment, so that a record of it looks like anybody's; what it cost stands in the notes of the first step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from agents.training_free.endpoint import EndpointError
from agents.training_free.perceive import Severities
from agents.training_free.speaking import Asked, Reply
from pool import Call, Model, Outcome, Pool
from pool.errors import LoadFailed
from tir_env.images import Image
from tir_env.trajectory import Trajectory
from tir_env.world import World

Result = TypeVar("Result")
Search = Generator[list["Call | Asked"], list[Any], Result]

TASKS_OF = {
    "low resolution": ("super_resolve",),
    "noise": ("denoise",),
    "jpeg": ("dejpeg",),
    "dark": ("brighten",),
    "haze": ("dehaze",),
    "motion blur": ("motion_deblur", "deblur"),
    "defocus blur": ("defocus_deblur", "deblur"),
    "rain": ("derain",),
}


@dataclass(frozen=True, eq=False)
class State:
    """An image, and the actions that led to it."""

    image: Image
    actions: tuple[int, ...] = ()


class Walk:
    """One image's search: what may be done, what was spent, and what there is to say of it."""

    def __init__(self, world: World, trajectory: Trajectory, seed: int = 0) -> None:
        self.world, self.toolbox = world, world.toolbox
        self.start = State(trajectory.image)
        self.room = world.horizon - len(trajectory.steps)
        self.enlarged = any(world.toolbox[action].scale > 1 for action in trajectory.used)
        self.rng = np.random.default_rng([seed, int(trajectory.current_digest[:12], 16)])  # the same for the same image
        self.tool_calls = self.policy_calls = self.scored_images = 0
        self.perceived: dict[State, Severities] = {}
        self.left_out: set[str] = set()  # metrics that cannot score such images
        self.fallbacks = 0  # answers that it did without
        self.remarks: list[str] = []  # what did not go as it should: a tool that failed, an answer that was no answer

    def tools(self, state: State, task: str) -> list[int]:
        """What may be applied to a state; nothing where the episode has no room for another step."""
        if len(state.actions) >= self.room:
            return []
        large = self.enlarged or any(self.toolbox[action].scale > 1 for action in state.actions)
        return [i for i, tool in enumerate(self.toolbox) if tool.task == task and not (large and tool.scale > 1)]

    def tasks(self, degradations: Sequence[str]) -> list[str]:
        """What undoes them, as far as the toolbox can; each once."""
        known = [next((t for t in TASKS_OF[each] if t in self.toolbox.tasks), None) for each in degradations]
        return list(dict.fromkeys(task for task in known if task is not None))

    def apply(self, state: State, actions: Sequence[int]) -> Search[list[State]]:
        """The states that the tools lead to; one that fails leads to none and is remarked upon."""
        self.tool_calls += len(actions)
        outcomes: list[Outcome] = yield [Call(self.toolbox[action].name, state.image) for action in actions]
        self.remarks += [f"{o.error}" for o in outcomes if o.error is not None]
        return [State(o.value, (*state.actions, a)) for a, o in zip(actions, outcomes, strict=True) if o.ok]

    def score(self, images: Sequence[Image], weights: dict[str, float]) -> Search[list[float]]:
        """Sums of no-reference metrics, weighted by their names in the pool; NaN where one failed, which is remarked upon.

        One that fails on all of the first images is left out of the whole search, as NIQE is where an image is too small for it.
        """
        if not images:
            return []
        first, names = not self.scored_images, [name for name in weights if name not in self.left_out]
        self.scored_images += len(images)
        outcomes: list[Outcome] = yield [Call(name, (image, None)) for image in images for name in names]
        for outcome in outcomes:
            if isinstance(outcome.error, LoadFailed):
                raise outcome.error  # without it, this would be another agent
        self.remarks += dict.fromkeys(f"{o.error}" for o in outcomes if o.error is not None)
        values = np.reshape([o.value.value if o.ok else math.nan for o in outcomes], (len(images), -1))
        if first:
            told = [column for column in range(len(names)) if not np.isnan(values[:, column]).all()]
            self.left_out |= {name for column, name in enumerate(names) if column not in told}
            names, values = [names[column] for column in told], values[:, told]
        if not names:
            return [math.nan] * len(images)
        sums: list[float] = (values @ np.array([weights[name] for name in names])).tolist()
        return sums

    def fall_back(self, remark: str) -> None:
        self.fallbacks += 1
        self.remarks.append(remark)

    def notes(self) -> dict[str, Any]:
        """What the search cost in all: for the first step, where other steps cost nothing more."""
        spent = {"policy_calls": self.policy_calls, "tool_calls": self.tool_calls, "scored_images": self.scored_images}
        spent |= {"fallbacks": self.fallbacks} if self.fallbacks else {}
        return spent | ({"remarks": self.remarks} if self.remarks else {})


class Searcher(ABC):
    """An agent that finds a whole sequence for each image before the first step is taken."""

    name: str
    encoder: Model | None = None
    seed = 0

    @abstractmethod
    def restore(self, walk: Walk) -> Search[State]:
        """The algorithm: from `walk.start` to the state to end with."""

    def finish(self, world: World, trajectories: Sequence[Trajectory]) -> None:
        """Search for all side by side, then play what was found."""
        going = [t for t in trajectories if not t.ended]
        walks = [Walk(world, t, self.seed) for t in going]
        ends = side_by_side(world.pool, [self.restore(walk) for walk in walks])
        play_plans(world, going, [end.actions for end in ends], [walk.notes() for walk in walks])


def play_plans(
    world: World, trajectories: Sequence[Trajectory], plans: Sequence[Sequence[int]], notes: Sequence[dict[str, Any]]
) -> None:
    """Each trajectory its own actions, then a stop if there is room for one. `notes` go with the first step of each."""
    rest = [[*plan, world.stop] for plan in plans]
    first = True
    while going := [k for k, t in enumerate(trajectories) if not t.ended]:
        world.step([trajectories[k] for k in going], [rest[k].pop(0) for k in going])
        for k in going:
            trajectories[k].steps[-1].notes |= notes[k] if first else {"policy_calls": 0, "tool_calls": 0}
        first = False


def side_by_side(pool: Pool, searches: Sequence[Search[Result]]) -> list[Result]:
    """Every search to its end. In each round the wishes of all are granted together."""
    results: dict[int, Result] = {}
    wishes: dict[int, list[Call | Asked]] = {}

    def resume(number: int, answers: list[Any] | None) -> None:
        try:
            wishes[number] = searches[number].send(answers)  # type: ignore[arg-type]
        except StopIteration as end:
            results[number] = end.value

    for number in range(len(searches)):
        resume(number, None)
    while wishes:
        asked, wishes = wishes, {}
        answers = iter(granted(pool, [wish for each in asked.values() for wish in each]))
        for number, each in asked.items():
            resume(number, [next(answers) for _ in each])
    return [results[number] for number in range(len(searches))]


def granted(pool: Pool, wishes: Sequence[Call | Asked]) -> list[Outcome | Reply]:
    """Calls go to the pool, questions to whom they are for; all of one place at once, answers in the order of the wishes."""
    answers: list[Any] = [None] * len(wishes)
    calls = {k: wish for k, wish in enumerate(wishes) if isinstance(wish, Call)}
    for k, outcome in zip(calls, pool.run(list(calls.values())) if calls else [], strict=True):
        answers[k] = outcome
    questions = {k: wish for k, wish in enumerate(wishes) if isinstance(wish, Asked)}
    for speaker in {id(wish.speaker): wish.speaker for wish in questions.values()}.values():
        mine = [k for k, wish in questions.items() if wish.speaker is speaker]
        for k, reply in zip(mine, speaker.reply([questions[k].question for k in mine]), strict=True):
            if isinstance(reply, EndpointError) and reply.final:
                raise reply  # without it, this would be another agent
            answers[k] = reply
    return answers

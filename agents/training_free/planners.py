"""Who puts the tasks of an image into an order: a table of experience, or a language model that is told of it, as AgenticIR does."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from itertools import permutations

from agents.training_free.experience import Experience
from agents.training_free.search import Search, Walk
from agents.training_free.speaking import Asked, Question, Speaker, said
from pool import Problem

MOST = 7  # tasks of which all orders are weighed
LIST = re.compile(r"\[[^\[\]]*\]")


class Planner(ABC):
    name: str

    @abstractmethod
    def order(self, walk: Walk, tasks: Sequence[str], not_first: Collection[str] = ()) -> Search[list[str]]:
        """All tasks, one that is not among `not_first` at their head. There is one."""


class TablePlanner(Planner):
    """The order that is expected to leave least; without experience a random one, the same for the same image."""

    name = "table"

    def __init__(self, experience: Experience | None) -> None:
        self.experience = experience

    def order(self, walk: Walk, tasks: Sequence[str], not_first: Collection[str] = ()) -> Search[list[str]]:
        shuffled = [tasks[k] for k in walk.rng.permutation(len(tasks))]
        orders = [list(each) for each in permutations(shuffled) if each[0] not in not_first] if len(tasks) <= MOST else []
        if not orders:
            return sorted(shuffled, key=lambda task: task in not_first)
        if (experience := self.experience) is None:
            return orders[0]
        pairs = experience.distilled
        return min(orders, key=lambda order: experience.cost(order, pairs))
        yield  # a planner that asks nobody


class ChatPlanner(Planner):
    """A language model, told the distilled experience. Where its answer is no order of these tasks, the table decides."""

    def __init__(self, speaker: Speaker, experience: Experience | None) -> None:
        self.name, self.speaker, self.instead = speaker.name, speaker, TablePlanner(experience)
        self._told = experience.told() if experience else ""

    def order(self, walk: Walk, tasks: Sequence[str], not_first: Collection[str] = ()) -> Search[list[str]]:
        if len(tasks) == 1:
            return list(tasks)
        walk.policy_calls += 1
        ask = f"These tasks restore a photograph: {', '.join(tasks)}. In which order should they run? "
        ask += f"Not first: {', '.join(sorted(not_first))}. " if not_first else ""
        ask += f"Experience:\n{self._told}\n" if self._told else ""
        [reply] = yield [Asked(self.speaker, Question([said(f"{ask}Answer with one JSON list of all of them.")]))]
        order = None if isinstance(reply, Problem) else read_order(reply, tasks)
        if order is None or order[0] in not_first:
            walk.fall_back(f"the table planned instead: {self.speaker.name} said {str(reply)[:200]!r}")
            return (yield from self.instead.order(walk, tasks, not_first))
        return order


def read_order(text: str, tasks: Sequence[str]) -> list[str] | None:
    """The last JSON list in a text that holds exactly these tasks."""
    for found in reversed(LIST.findall(text)):
        try:
            told = json.loads(found)
        except ValueError:
            continue
        if all(isinstance(task, str) for task in told) and sorted(told) == sorted(tasks):
            return list(told)
    return None

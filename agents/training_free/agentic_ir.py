"""AgenticIR (Zhu et al., ICLR 2025): perception, scheduling by experience, execution, reflection, rollback, rescheduling.

    agenda = what is medium or worse
    while agenda: task = the first of the plan; try its tools in a random order until one leaves "very low"
                  none does: take the best of those that leave least; "low" will do
                  still there: roll back, and plan anew with another task first
                  all were tried first: go up a level; at the root take the best state that was seen

The paper adds super-resolution wherever an image has no side of 300 pixels. Here images are often small because crops are:
super-resolution is on the agenda where low resolution is perceived, like all else.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.training_free.eyes import Eye, agenda
from agents.training_free.perceive import LEVELS, Severities, word
from agents.training_free.planners import Planner
from agents.training_free.search import TASKS_OF, Search, Searcher, State, Walk


class AgenticIR(Searcher):
    """The three switches, and a planner without experience, are the paper's ablations."""

    name = "agenticir"

    def __init__(
        self,
        eye: Eye,
        planner: Planner,
        *,
        reflection: bool = True,
        rollback: bool = True,
        rescheduling: bool = True,
        seed: int = 0,
    ) -> None:
        """Without `reflection` a task's first tool is taken unseen; without `rollback` what failed is kept and the plan goes on;
        without `rescheduling` a task that failed is put at the plan's end."""
        self.eye, self.planner = eye, planner
        self.reflection, self.rollback, self.rescheduling, self.seed = reflection, rollback, rescheduling, seed

    def restore(self, walk: Walk) -> Search[State]:
        severities = yield from self.eye.look(walk, walk.start)
        wanted = agenda(severities)
        tasks = walk.tasks(wanted)[: walk.room]  # the severest
        seen = {walk.start: left(severities, wanted)}
        if not tasks:
            return walk.start
        plan = yield from self.planner.order(walk, tasks)
        end = yield from self._execute(walk, walk.start, plan, wanted, seen)
        return end or min(seen, key=lambda state: (seen[state], len(state.actions)))

    def _execute(
        self, walk: Walk, state: State, plan: Sequence[str], wanted: Sequence[str], seen: dict[State, float]
    ) -> Search[State | None]:
        """A state in which every task of the plan is done; None if each was tried first from here, and in vain."""
        failed: list[str] = []
        while plan:
            task, *rest = plan
            result, success = yield from self._subtask(walk, state, task, wanted, seen)
            if success or (result is not None and not self.rollback):
                assert result is not None
                end = yield from self._execute(walk, result, rest, wanted, seen)
                if end is not None:
                    return end
            elif not self.rollback:
                plan = rest  # no tool of this task could run
                continue
            failed.append(task)
            if all(each in failed for each in plan):
                return None
            if self.rescheduling:
                plan = yield from self.planner.order(walk, plan, failed)
            else:
                plan = [*rest, task]
        return state

    def _subtask(
        self, walk: Walk, state: State, task: str, wanted: Sequence[str], seen: dict[State, float]
    ) -> Search[tuple[State | None, bool]]:
        """One task: the state that it ends in, and whether its degradation is gone."""
        aims = [name for name in wanted if task in TASKS_OF[name]]
        tools = walk.tools(state, task)
        tried: dict[State, float] = {}
        for action in [tools[k] for k in walk.rng.permutation(len(tools))]:
            for made in (yield from walk.apply(state, [action])):
                if not self.reflection:
                    return made, True
                severities = yield from self.eye.look(walk, made)
                seen[made] = left(severities, wanted)
                tried[made] = max(severities[name] for name in aims)
                if word(tried[made]) == "very low":
                    return made, True
        if not tried:
            return None, False
        least = min(map(word, tried.values()), key=LEVELS.index)
        best = yield from self.eye.best(walk, [made for made, severity in tried.items() if word(severity) == least])
        return best, least == "low"


def left(severities: Severities, wanted: Sequence[str]) -> float:
    """How much of what was on the agenda is still there."""
    return sum(severities[name] for name in wanted)

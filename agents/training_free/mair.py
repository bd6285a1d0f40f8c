"""MAIR (Jiang et al., 2025): degradations come about in three stages, and are undone stage by stage in the reverse order.

for stage in compression, imaging, scene: perceive; for each degradation of the stage that is medium or worse, severest first:
    its expert tries every tool, and keeps the best of those that lessened it
"""

from __future__ import annotations

from agents.training_free.eyes import Eye, agenda
from agents.training_free.search import Search, Searcher, State, Walk

STAGES = (("jpeg",), ("noise", "motion blur", "defocus blur", "dark", "low resolution"), ("rain", "haze"))


class Mair(Searcher):
    name = "mair"

    def __init__(self, eye: Eye) -> None:
        self.eye = eye

    def restore(self, walk: Walk) -> Search[State]:
        state = walk.start
        for stage in STAGES:
            severities = yield from self.eye.look(walk, state)
            for name in (each for each in agenda(severities) if each in stage):
                state = yield from self._expert(walk, state, name)
        return state

    def _expert(self, walk: Walk, state: State, name: str) -> Search[State]:
        severity = (yield from self.eye.look(walk, state))[name]
        tools = [action for task in walk.tasks([name]) for action in walk.tools(state, task)]
        better = []
        for made in (yield from walk.apply(state, tools)):
            if (yield from self.eye.look(walk, made))[name] < severity:
                better.append(made)
        return (yield from self.eye.best(walk, better)) if better else state

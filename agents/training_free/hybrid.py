"""HybridAgent (Li et al., 2025): easy images get one call of a fast tool, hard ones the slow agent, good ones none.

Easy is an image with one degradation that is medium or worse. The fast tool is the toolbox's first for all degradations in
one, or, without such a network, the first one of the task.
"""

from __future__ import annotations

from agents.training_free.eyes import Eye, agenda
from agents.training_free.search import Search, Searcher, State, Walk

ALL_IN_ONE = "all_in_one"


class HybridAgent(Searcher):
    name = "hybrid"

    def __init__(self, eye: Eye, slow: Searcher) -> None:
        self.eye, self.slow, self.seed = eye, slow, slow.seed

    def restore(self, walk: Walk) -> Search[State]:
        severities = yield from self.eye.look(walk, walk.start)
        wanted = agenda(severities)
        if not wanted:
            return walk.start
        if len(wanted) > 1:
            return (yield from self.slow.restore(walk))
        for task in (ALL_IN_ONE, *walk.tasks(wanted)):
            for made in (yield from walk.apply(walk.start, walk.tools(walk.start, task)[:1])):
                return made
        return walk.start

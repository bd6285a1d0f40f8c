"""Q-Agent (Zhou et al., 2025): greedy by quality. At each step the tool whose output a no-reference quality likes best.

tasks = what undoes the degradations that are low or worse
while tasks: try all their tools; take the best output, if it is better than the image, and drop its task; else stop
"""

from __future__ import annotations

from agents.training_free.eyes import PocketEye, agenda, leading
from agents.training_free.search import Search, Searcher, State, Walk


class QAgent(Searcher):
    name = "q-agent"

    def __init__(self, eye: PocketEye) -> None:
        self.eye = eye

    def restore(self, walk: Walk) -> Search[State]:
        state = walk.start
        severities = yield from self.eye.look(walk, state)
        tasks = walk.tasks(agenda(severities, least="low"))
        [quality] = yield from self.eye.score(walk, [state])
        while actions := [action for task in tasks for action in walk.tools(state, task)]:
            made = yield from walk.apply(state, actions)
            best, quality = leading(made, (yield from self.eye.score(walk, made)), least=quality)
            if best is None:
                break
            state = best
            tasks.remove(walk.toolbox[state.actions[-1]].task)
        return state

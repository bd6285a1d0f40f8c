"""4KAgent (arXiv:2507.07105): perceive, plan, run every tool of a task, keep the output with the best quality, roll back.

    for each task of the plan: apply all its tools; keep the best output, unless it is worse than the image was before

Two things differ. The order of the plan is a fixed one, where 4KAgent asks a language model. And 4KAgent rolls back where the best
output scores below a fixed 0.5, and plans anew with that task not first; here a task is left out where its best output scores less than
the image had before, by more than `threshold`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from agents.training_free.eyes import PocketEye, leading
from agents.training_free.perceive import Severities
from agents.training_free.search import TASKS_OF, Search, Searcher, State, Walk
from pool import Model, Problem
from tir_env.tools import Toolbox
from tir_env.world import World

# Of a plan: degradations are undone in the reverse of the order in which they come about.
ORDER = ("dejpeg", "denoise", "super_resolve", "motion_deblur", "defocus_deblur", "deblur", "brighten", "dehaze", "derain")
# A profile says which of a task's tools are tried: those whose name has one of these in it please the eye, the others are faithful.
PERCEPTUAL = ("sharp", "gan", "diffbir", "ridcp", "perception")
PROFILES = ("all", "fidelity", "perception")


def plan(severities: Severities, tasks: Sequence[str], agenda_from: float, most: int) -> tuple[str, ...]:
    """Of the tasks that the toolbox has those whose degradation is so severe or more, in the `ORDER`; the `most` severest."""
    here = [task for task in ORDER if task in tasks]
    severity = {task: max(severities[name] for name, undone in TASKS_OF.items() if task in undone) for task in here}
    agenda = sorted((task for task in severity if severity[task] >= agenda_from), key=lambda task: -severity[task])
    return tuple(task for task in here if task in agenda[:most])


def preferred(tools: Sequence[int], toolbox: Toolbox, profile: str) -> list[int]:
    """Of the tools of one task those of the profile; all of them if it has none."""
    if profile == "all":
        return list(tools)
    pleasing = {i for i in tools if any(word in toolbox[i].model for word in PERCEPTUAL)}
    return [i for i in tools if (i in pleasing) == (profile == "perception")] or list(tools)


class FourKAgent(Searcher):
    name = "4kagent"

    def __init__(
        self,
        world: World,
        perceiver: Model | None = None,
        quality: str | Mapping[str, float] = "pocket",
        profile: str = "all",
        threshold: float = 0.05,
        agenda_from: float = 0.375,
    ) -> None:
        """`quality` is one by name, or weights by metric; `agenda_from` a severity: 0.375 is the least that is nearer to "medium" than
        to "low", and with "medium" 4KAgent's agenda begins. A lower one makes plans that `quality` likes better and PSNR does not.
        """
        if profile not in PROFILES:
            raise Problem(f"profile {profile!r}", "is not known", f"Use {', '.join(PROFILES)}.")
        self.eye = PocketEye(world, perceiver, quality)
        self.profile, self.threshold, self.agenda_from = profile, threshold, agenda_from

    def restore(self, walk: Walk) -> Search[State]:
        state = walk.start
        severities = yield from self.eye.look(walk, state)
        tasks = plan(severities, walk.toolbox.tasks, self.agenda_from, walk.room)
        if not tasks:
            return state
        [quality] = yield from self.eye.score(walk, [state])
        for task in tasks:
            made = yield from walk.apply(state, preferred(walk.tools(state, task), walk.toolbox, self.profile))
            scores = yield from self.eye.score(walk, made)
            best, reached = leading(made, scores, least=math.nextafter(quality - self.threshold, -math.inf))
            if best is not None:
                state, quality = best, reached
        return state

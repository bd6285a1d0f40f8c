"""4KAgent (arXiv:2507.07105) as a policy: perceive, plan, run every tool of a task, keep the output with the best quality, roll back.

Two things differ. The order of the plan is a fixed one, where 4KAgent asks a language model. And 4KAgent rolls back where the best
output scores below a fixed 0.5, and plans anew with that task not first; here a task is left out where its best output scores less than
the image had before, by more than `threshold`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agents.agent import Observations
from agents.training_free.perceive import Perceiver, Severities
from pool import Call, Model, Problem
from rewards import open_metric
from tir_env.images import Image
from tir_env.trajectory import Trajectory
from tir_env.world import World

# Tasks in the order of a plan: degradations are undone in the reverse of the order in which they come about.
UNDOES = {
    "dejpeg": ("jpeg",),
    "denoise": ("noise",),
    "super_resolve": ("low resolution",),
    "motion_deblur": ("motion blur",),
    "defocus_deblur": ("defocus blur",),
    "deblur": ("motion blur", "defocus blur"),
    "brighten": ("dark",),
    "dehaze": ("haze",),
    "derain": ("rain",),
}
# Q is a weighted sum of metrics. 4KAgent's is HPSv2 + (CLIPIQA+ + MANIQA + 0.01 MUSIQ + (1 - NIQE/10)) / 4. HPSv2 needs a description
# of the image and is left out, and so is the constant, as only differences count. Both profiles span about 1, and so share a threshold.
PROFILES: dict[str, dict[str, float]] = {
    "pocket": {"pocket-deqa": 0.25},
    "perception": {"clipiqa+": 0.25, "maniqa": 0.25, "musiq": 0.0025, "niqe": 0.025},
}


def plan(severities: Severities, tasks: Sequence[str], agenda_from: float, most: int) -> tuple[str, ...]:
    """Of the tasks that the toolbox has those whose degradation is so severe or more, in the order of `UNDOES`; the `most` severest."""
    severity = {task: max(severities[each] for each in spoilt) for task, spoilt in UNDOES.items() if task in tasks}
    agenda = sorted((task for task in severity if severity[task] >= agenda_from), key=lambda task: -severity[task])
    return tuple(task for task in UNDOES if task in agenda[:most])


class Trial(NamedTuple):
    """What became of one task: the action that won, None if it was rolled back, and what trying it cost."""

    choice: int | None
    tool_calls: int
    scored_images: int


class FourKAgent:
    """Deterministic and without memory: the plan follows from the input and goes on after the task of the last step.

    What it spends on trials is in its notes: a trial is a tool call, and the environment's own call of the winner is answered from
    the pool's cache. A tool that fails in a trial is out of the choice; a task without an output that could be scored is left out.
    """

    name = "4kagent"
    encoder: Model | None = None

    def __init__(
        self,
        world: World,
        perceiver: Model | None = None,
        metrics: str | Mapping[str, float] = "pocket",
        threshold: float = 0.05,
        agenda_from: float = 0.375,
    ) -> None:
        """`metrics` is a profile or weights by metric; `agenda_from` a severity: 0.375 is the least that is nearer to "medium" than to
        "low", and with "medium" 4KAgent's agenda begins. A lower one makes longer plans that `metrics` likes better and PSNR does not.
        """
        self.world, self.threshold, self.agenda_from = world, threshold, agenda_from
        self.perceiver = perceiver or Perceiver()
        self.weights = _weights(metrics)
        self.metrics = {name: open_metric(name) for name in self.weights}
        if needy := [name for name, metric in self.metrics.items() if metric.needs_reference]:
            reason = f"needs a clean reference, which it must not see: {', '.join(needy)}"
            raise Problem("the quality of 4kagent", reason, "Use no-reference metrics, such as pocket-deqa.")
        world.pool.add(self.perceiver, *self.metrics.values())
        self._notes: list[dict[str, int]] = []

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        actions = np.full(len(trajectories), self.world.stop)
        left = {row: list(tasks) for row, tasks in enumerate(self.tasks_left(trajectories))}
        self._notes = [_cost_of_looking(t, bool(left[row])) for row, t in enumerate(trajectories)]
        while going := [row for row, tasks in left.items() if tasks]:
            trials = self._try([(trajectories[row], left[row].pop(0)) for row in going])
            for row, trial in zip(going, trials, strict=True):
                self._notes[row]["tool_calls"] += trial.tool_calls
                self._notes[row]["scored_images"] += trial.scored_images
                if trial.choice is not None:
                    actions[row] = trial.choice
                    left[row] = []
        return actions

    def notes(self) -> Sequence[dict[str, Any]]:
        """What the last `act` spent on each row. The perceiver is the policy: it is asked once for each image."""
        return self._notes

    def tasks_left(self, trajectories: Sequence[Trajectory]) -> list[tuple[str, ...]]:
        """The rest of each one's plan: what comes after the last of its tasks that was done."""
        seen = self.world.pool.run([Call(self.perceiver.name, t.input) for t in trajectories])
        return [self._rest(outcome.unwrap(), t) for outcome, t in zip(seen, trajectories, strict=True)]

    def _rest(self, severities: Severities, trajectory: Trajectory) -> tuple[str, ...]:
        whole = plan(severities, self.world.toolbox.tasks, self.agenda_from, self.world.horizon)
        done = [whole.index(task) for step in trajectory.steps if (task := step.tool.partition("/")[0]) in whole]
        return whole[max(done, default=-1) + 1 :]

    def _try(self, tasks: Sequence[tuple[Trajectory, str]]) -> list[Trial]:
        """Every allowed tool of one task on each image."""
        world = self.world
        tools = [self._tools(trajectory, task) for trajectory, task in tasks]
        calls = [Call(world.toolbox[i].name, t.image) for (t, _), mine in zip(tasks, tools, strict=True) for i in mine]
        outcomes = iter(world.pool.run(calls))
        outputs = [{i: o.value for i, o in [(i, next(outcomes)) for i in mine] if o.ok} for mine in tools]
        images = [image for (t, _), mine in zip(tasks, outputs, strict=True) for image in (t.image, *mine.values())]
        scores = iter(self.quality(images))
        trials = []
        for mine, made in zip(tools, outputs, strict=True):
            before = next(scores)
            after = {i: score for i, score in [(i, next(scores)) for i in made] if not math.isnan(score)}
            best = max(after, key=lambda i: after[i], default=None)
            choice = best if best is not None and after[best] >= before - self.threshold else None
            trials.append(Trial(choice, len(mine), len(made)))
        return trials

    def _tools(self, trajectory: Trajectory, task: str) -> list[int]:
        mask = self.world.mask(trajectory)
        return [i for i, tool in enumerate(self.world.toolbox) if tool.task == task and mask[i]]

    def quality(self, images: Sequence[Image]) -> list[float]:
        """Q of each image; NaN where a metric failed."""
        calls = [Call(metric.name, (image, None)) for image in images for metric in self.metrics.values()]
        values = [outcome.value.value if outcome.ok else math.nan for outcome in self.world.pool.run(calls)]
        return (np.reshape(values, (len(images), -1)) @ np.array(list(self.weights.values()))).tolist()


def _cost_of_looking(trajectory: Trajectory, anything_to_do: bool) -> dict[str, int]:
    """Before anything is tried: at the first decision the perceiver is asked, and the input scored if the plan is not empty."""
    first = not trajectory.steps
    return {"policy_calls": int(first), "tool_calls": 0, "scored_images": int(first and anything_to_do)}


def _weights(metrics: str | Mapping[str, float]) -> dict[str, float]:
    if isinstance(metrics, str):
        if metrics not in PROFILES:
            raise Problem(f"profile {metrics!r}", "is not known", f"Use {', '.join(PROFILES)}, or weights by metric.")
        return PROFILES[metrics]
    if not metrics or not all(math.isfinite(weight) for weight in metrics.values()):
        raise Problem("the quality of 4kagent", f"has no finite weights: {dict(metrics)}", "Give each metric a number.")
    return dict(metrics)

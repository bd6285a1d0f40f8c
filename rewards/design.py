"""Reward designs: what turns the qualities of an episode into rewards. `make_reward("gain:psnr")` makes one.

A design says which metrics it needs and whether it wants every step scored or only the end. The environment scores, the design
judges: it never sees an image, and it is never asked about a tool call that failed.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod

from pool import Problem
from rewards.quality import Quality


class RewardError(Problem):
    """A reward design that does not exist or cannot be used."""


class RewardDesign(ABC):
    """Subclass it, name your class as `module:Class`, and the environment and every learner take it.

    `metrics` are pyiqa's names. With `every_step` the image is scored after each tool call and `step` is called with the quality
    before and after; without, it is scored at the start and the end only, and `step` is called once, with these two.
    """

    name: str
    metrics: tuple[str, ...]
    every_step: bool = True

    @abstractmethod
    def step(self, before: Quality, after: Quality) -> float:
        """The reward for going from `before` to `after`."""


class Gain(RewardDesign):
    """What one metric gained: R(s_t, a_t) = Q(s_{t+1}) − Q(s_t) (Restore-R1, eq. 9, for any metric)."""

    def __init__(self, metric: str) -> None:
        self.name, self.metrics = f"gain:{metric}", (metric,)

    def step(self, before: Quality, after: Quality) -> float:
        [metric] = self.metrics
        return after[metric].value - before[metric].value


class Final(RewardDesign):
    """The value of one metric at the end, nothing on the way."""

    every_step = False

    def __init__(self, metric: str) -> None:
        self.name, self.metrics = f"final:{metric}", (metric,)

    def step(self, before: Quality, after: Quality) -> float:
        [metric] = self.metrics
        return after[metric].value


class Sum(RewardDesign):
    """Gains of several metrics, added with fixed weights."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights, self.metrics = weights, tuple(weights)
        self.name = "sum:" + ",".join(f"{metric}={weight:g}" for metric, weight in weights.items())

    def step(self, before: Quality, after: Quality) -> float:
        return sum(w * (after[m].value - before[m].value) for m, w in self.weights.items())


FORMS = "gain:METRIC, final:METRIC, sum:METRIC=WEIGHT,..., or your own as module:Class"


def make_reward(spec: str | RewardDesign) -> RewardDesign:
    """`gain:psnr`, `final:ssim`, `sum:psnr=1,ssim=10`, or `my_module:MyReward`."""
    if isinstance(spec, RewardDesign):
        return spec
    kind, _, rest = str(spec).partition(":")
    if not rest:
        raise RewardError(f"reward {spec!r}", "says too little", f"Use {FORMS}.")
    if kind == "gain":
        return Gain(rest)
    if kind == "final":
        return Final(rest)
    if kind == "sum":
        return Sum(_weights(spec, rest))
    return _imported(spec, kind, rest)


def _weights(spec: str, text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        metric, _, weight = part.partition("=")
        name = metric.strip()
        try:
            value = float(weight or 1)
        except ValueError as error:
            raise RewardError(f"reward {spec!r}", f"{weight!r} is not a number", "Write sum:psnr=1,ssim=10.") from error
        if not math.isfinite(value) or name in weights or not name:
            raise RewardError(f"reward {spec!r}", f"{part!r} is not finite, or names no metric or one twice", "Correct it.")
        weights[name] = value
    return weights


def _imported(spec: str, module: str, name: str) -> RewardDesign:
    try:
        made = getattr(importlib.import_module(module), name)()
    except Exception as error:  # importing a module and making an object run a user's code, which may raise anything
        reason = f"cannot be imported and made: {type(error).__name__}: {error}"
        raise RewardError(f"reward {spec!r}", reason, f"Is it on PYTHONPATH? Forms: {FORMS}.") from error
    if not isinstance(made, RewardDesign):
        raise RewardError(f"reward {spec!r}", "is not a RewardDesign", "Derive your class from rewards.RewardDesign.")
    return made

"""Reward designs that never change: a metric's gain, its final value, a sum with fixed weights."""

from __future__ import annotations

from rewards.design import RewardDesign
from rewards.quality import Quality


class Gain(RewardDesign):
    """What one metric gained: R(s_t, a_t) = Q(s_{t+1}) − Q(s_t) (Restore-R1, eq. 9, for any metric)."""

    additive = True

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

    additive = True

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights, self.metrics = weights, tuple(weights)
        self.name = "sum:" + ",".join(f"{metric}={weight:g}" for metric, weight in weights.items())

    def step(self, before: Quality, after: Quality) -> float:
        return sum(w * (after[m].value - before[m].value) for m, w in self.weights.items())

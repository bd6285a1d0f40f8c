"""MAR, the multi-dimensional adaptive reward (TIR-Agent, eqs. 5–9), with the paper's ablations as flags.

A metric whose batch mean falls behind its own moving average gets more weight. Advantages are computed for each metric apart, so that
no metric counts for more because its numbers are larger. The equations are pure functions; `Mar` holds the averages and weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import numpy as np

from rewards.design import RewardDesign, RewardError, group_advantages
from rewards.quality import Quality

METRICS = ("psnr", "ssim", "fsim", "gmsd", "pocket-deqa", "piqe")
EPS, BETA = 0.2, 0.1


def importances(now: np.ndarray, average: np.ndarray, eps: float) -> np.ndarray:
    """Eq. 5: ω_t = 1 − clip((r_t − r̄_{t−1}) / |r̄_{t−1}|, −ε, ε). [metrics]. An average of 0 makes any change a large one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.nan_to_num((now - average) / np.abs(average), nan=0.0)
    return cast(np.ndarray, 1 - np.clip(change, -eps, eps))


def moved(average: np.ndarray, now: np.ndarray, beta: float) -> np.ndarray:
    """Eq. 6: r̄_t = (1 − β) r̄_{t−1} + β r_t. [metrics]."""
    return (1 - beta) * average + beta * now


def softmax(importance: np.ndarray) -> np.ndarray:
    """Eq. 7: w = softmax(ω). [metrics], sums to 1."""
    powers = np.exp(importance - importance.max())
    return cast(np.ndarray, powers / powers.sum())


def decoupled(ends: np.ndarray, weights: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Eqs. 8 and 9: A = Σ_θ w^θ A^θ, each A^θ normalised within its group. [groups, rollouts, metrics] → [groups, rollouts]."""
    return cast(np.ndarray, group_advantages(ends, valid) @ weights)


class Mar(RewardDesign):
    """`mar`, or with `adaptive=False` (the paper's "w/o w^θ") equal weights; with `decouple=False` ("w/o decouple") the weighted
    metrics are summed first and normalised once; with neither ("w/o MAR") the raw metrics are summed.

    By default there are as many metrics as the paper has, none of which is downloaded: fidelity by PSNR, SSIM, FSIM and GMSD,
    perceived quality by the scorer that ships and PIQE. The paper's are psnr, ssim, lpips, maniqa, clipiqa, musiq. It prints neither ε
    nor β. Ours: ε = 0.2, so that no metric gets more than e^0.4 = 1.5 times another's weight; β = 0.1, an average over about ten
    batches.

    **For a critic** there is no group to normalise in. `step` divides each metric's gain by its scale and weighs it:
    Σ w^θ (after − before) / scale^θ. The scale is the std of the metric's gains over the episodes of a batch, averaged over all batches
    so far: a moving average would shrink with a policy that settles, and inflate what it sees next. A metric that never moves
    contributes 0. Until the first `observe` all scales are 1. Without decoupling gains stay raw.
    """

    additive = True

    def __init__(
        self,
        metrics: tuple[str, ...] = METRICS,
        *,
        adaptive: bool = True,
        decouple: bool = True,
        eps: float = EPS,
        beta: float = BETA,
    ) -> None:
        self.metrics, self.adaptive, self.decouple, self.eps, self.beta = tuple(metrics), adaptive, decouple, eps, beta
        self.name = self._name()
        self._check()
        self.state = self._state(0, np.zeros(len(metrics)), np.ones(len(metrics)), 0, np.ones(len(metrics)))

    def _name(self) -> str:
        """Says all of it: `make_reward(name)` makes an equal one."""
        flag = {(True, True): [], (False, True): ["no-weights"], (True, False): ["no-decouple"], (False, False): ["no-mar"]}
        parts = [*flag[self.adaptive, self.decouple]]
        parts += [f"metrics={'+'.join(self.metrics)}"] if self.metrics != METRICS else []
        parts += [f"eps={self.eps!r}"] if self.eps != EPS else []
        parts += [f"beta={self.beta!r}"] if self.beta != BETA else []
        return f"mar:{','.join(parts)}" if parts else "mar"

    def _check(self) -> None:
        if not all(self.metrics) or len(set(self.metrics)) != len(self.metrics) or not self.metrics:
            raise RewardError(f"reward {self.name!r}", "names no metric, or one twice", "Write mar:metrics=psnr+ssim.")
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise RewardError(f"reward {self.name!r}", f"eps must be finite and not negative, not {self.eps}", "Try 0.2.")
        if not 0 < self.beta <= 1:
            raise RewardError(f"reward {self.name!r}", f"beta must lie above 0 and at most at 1, not {self.beta}", "Try 0.1.")

    def _state(
        self, batches: float, average: np.ndarray, importance: np.ndarray, spreads: float, scale: np.ndarray
    ) -> dict[str, float]:
        if self.adaptive:
            weight = softmax(importance)
        else:
            weight = np.full(len(self.metrics), 1 / len(self.metrics) if self.decouple else 1.0)
        state = {"batches": float(batches), "spreads": float(spreads)}  # seen so far; a spread takes a batch of two
        for i, metric in enumerate(self.metrics):
            state |= {f"{metric}/average": float(average[i]), f"{metric}/weight": float(weight[i])}
            state |= {f"{metric}/scale": float(scale[i])}
        return state

    def _row(self, source: Mapping[str, float], what: str) -> np.ndarray:
        return np.array([source[f"{metric}/{what}"] for metric in self.metrics], np.float64)

    @property
    def weights(self) -> np.ndarray:
        """w_t, [metrics]."""
        return self._row(self.state, "weight")

    def step(self, before: Quality, after: Quality) -> float:
        reward = 0.0
        for metric in self.metrics:
            scale = self.state[f"{metric}/scale"] if self.decouple else 1.0
            if scale > 0:
                reward += self.state[f"{metric}/weight"] * (after[metric].value - before[metric].value) / scale
        return reward

    def advantages(self, returns: np.ndarray, ends: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Of the final qualities. (Of the gains they are the same: a group has one start, and a shift changes nothing.)"""
        if self.decouple:
            return decoupled(ends, self.weights, valid)
        return group_advantages(np.where(np.asarray(valid, bool)[..., None], ends, 0.0) @ self.weights, valid)

    def statistics(self, starts: np.ndarray, ends: np.ndarray) -> dict[str, float]:
        gains = ends - starts
        if not np.isfinite(gains).all():
            raise RewardError(
                f"reward {self.name!r}", "was shown qualities that are not finite", "Observe valid episodes only."
            )
        sums = {"episodes": float(len(ends))}
        for i, metric in enumerate(self.metrics):
            sums |= {f"{metric}/end": float(ends[:, i].sum()), f"{metric}/gain": float(gains[:, i].sum())}
            sums |= {f"{metric}/gain2": float((gains[:, i] ** 2).sum())}
        return sums

    def update(self, statistics: Mapping[str, float]) -> None:
        """Eqs. 5–7. The first batch is its own average, so its weights are equal; a batch without episodes changes nothing."""
        count = statistics["episodes"]
        if not count:
            return
        now, gain, gain2 = (self._row(statistics, what) / count for what in ("end", "gain", "gain2"))
        batches, average = self.state["batches"], self._row(self.state, "average")
        if not batches:
            average = now
        spreads, scale = self.state["spreads"], self._row(self.state, "scale")
        if count > 1:
            spread = np.sqrt(np.maximum(0.0, gain2 - gain**2) * count / (count - 1))
            spread[spread < 1e-6 * np.sqrt(gain2)] = 0.0  # equal gains differ by rounding errors
            scale = (scale * spreads + spread) / (spreads + 1)
            spreads += 1
        importance = importances(now, average, self.eps)
        self.state = self._state(batches + 1, moved(average, now, self.beta), importance, spreads, scale)

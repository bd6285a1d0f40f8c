"""The protocol of reward designs: what turns the qualities of episodes into rewards and advantages.

A design says which metrics it needs and whether it wants every step scored or only the end. The environment scores, the design
judges: it never sees an image, and it is never asked about a tool call that failed. `step` is all that a design must have; with it
a critic (PPO) gets step rewards and GRPO gets group advantages of the returns. What adapts while training goes on is `state`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from pool import Problem
from pool.errors import describe
from rewards.quality import Quality

STATE_VERSION = 1


class RewardError(Problem):
    """A reward design that does not exist or cannot be used."""


class RewardDesign(ABC):
    """Subclass it, name your class as `module:Class`, and the environment and every learner take it.

    `metrics` are names that `rewards.open_metric` knows. With `every_step` the image is scored after each tool call and `step` is
    called with the quality before and after; without, it is scored at the start and the end only, and `step` is called once, with
    these two. Where a design is `additive`, so that its steps add up to the same, a learner that judges whole episodes does so.

    A learner does at each training step, in this order: `observe` the batch, then ask for `step` rewards or `advantages`. Both are
    pure functions of their arguments and of `state`.

    **State.** A flat mapping of floats, replaced as a whole, never written into. It must be the same for all learners and env
    runners. Either one place observes everything and the others `load_state_dict` what it says; or every learner computes the
    `statistics` of its share, they are added up key by key (an all-reduce), and each calls `update` with the sums.
    """

    name: str
    metrics: tuple[str, ...]
    every_step: bool = True
    additive: bool = False
    state: Mapping[str, float] = MappingProxyType({})

    def for_groups(self) -> None:
        """Score no more than a learner needs that judges whole episodes."""
        self.every_step = self.every_step and not self.additive

    @abstractmethod
    def step(self, before: Quality, after: Quality) -> float:
        """The reward for going from `before` to `after`: what a critic learns from."""

    def advantages(self, returns: np.ndarray, ends: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """[groups, rollouts]: how much better than its group each rollout was. 0 for what is not valid, which counts for nothing.

        returns: [groups, rollouts], the step rewards of each added up; ends: [groups, rollouts, metrics], the final qualities as
        `values` gives them; valid: bool [groups, rollouts]. Unless a design knows better: GRPO's, of the returns.
        """
        return group_advantages(returns, valid)

    # -- what adapts ---------------------------------------------------------------------------------------------------------

    def observe(self, starts: np.ndarray, ends: np.ndarray) -> None:
        """Take note of a batch: the qualities at the start and at the end of its valid episodes, both [episodes, metrics]."""
        self.advance(self.statistics(starts, ends))

    def advance(self, statistics: Mapping[str, float]) -> None:
        """`update`, and a look at what it made."""
        before = set(self.state)
        self.update(statistics)
        if set(self.state) != before:
            other = ", ".join(sorted(set(self.state) ^ before))
            remedy = "Give `state` all its keys in __init__: every copy of the design must know them from the beginning."
            raise RewardError(f"reward {self.name!r}", f"its update() changed which keys `state` has: {other}", remedy)
        if wrong := [key for key, value in self.state.items() if not math.isfinite(value)]:
            raise RewardError(
                f"reward {self.name!r}", f"its update() made {wrong[0]} {self.state[wrong[0]]}", "It must be finite."
            )

    def statistics(self, starts: np.ndarray, ends: np.ndarray) -> dict[str, float]:
        """Of a share of a batch, what `update` needs: sums, so that those of several shares add up to those of the whole."""
        return {}

    def update(self, statistics: Mapping[str, float]) -> None:  # noqa: B027 (optional)
        """Replace `state` by the next one."""

    def state_dict(self) -> dict[str, float]:
        return {"version": STATE_VERSION, **self.state}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        found = dict(state)
        version = found.pop("version", None)
        if version != STATE_VERSION:
            reason = f"the saved state has version {version}, and this program reads {STATE_VERSION}"
            raise RewardError(f"reward {self.name!r}", reason, "Resume with the version of this program that saved it.")
        if set(found) != set(self.state):
            reason = f"the saved state is another design's: it differs in {', '.join(sorted(set(found) ^ set(self.state)))}"
            raise RewardError(f"reward {self.name!r}", reason, "Resume with the reward that the run was begun with.")
        self.state = {key: float(value) for key, value in found.items()}

    def log(self) -> dict[str, float]:
        """Numbers worth a curve each."""
        return dict(self.state)

    # -- for learners --------------------------------------------------------------------------------------------------------

    def values(self, qualities: Sequence[Quality]) -> np.ndarray:
        """float64 [episodes, metrics], oriented. NaN where a metric is not known: such an episode is not a valid one."""
        rows = [[quality[m].value if m in quality else np.nan for m in self.metrics] for quality in qualities]
        return np.array(rows, np.float64).reshape(len(qualities), len(self.metrics))


def paid(design: RewardDesign, before: Quality, after: Quality) -> float:
    """`step`, which is often a user's own, if it gives what a learner can bear."""
    try:
        reward = float(design.step(before, after))
    except (KeyError, TypeError, ValueError) as error:
        remedy = "Name every metric that it reads in `metrics`, and return a number."
        raise RewardError(f"reward {design.name!r}", f"its step() failed: {describe(error)}", remedy) from error
    if not math.isfinite(reward):
        reason = f"its step() gave {reward} for {_told(before)} before and {_told(after)} after"
        remedy = "Return a finite number; learners that judge again, as the state moves on, know `value` and not `raw`."
        raise RewardError(f"reward {design.name!r}", reason, remedy)
    return reward


def judged(design: RewardDesign, qualities: Sequence[Quality]) -> float:
    """The return of a valid episode by the design's present state; `qualities` are those at the start and after each tool that ran."""
    if not design.every_step:
        return paid(design, qualities[0], qualities[-1])
    return sum(paid(design, before, after) for before, after in pairwise(qualities))


def _told(quality: Quality) -> str:
    return ", ".join(f"{metric} {score.value:.4g}" for metric, score in quality.items())


def group_advantages(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(r − mean) / std over the valid rollouts of each group, separately for each metric if there are any (TIR-Agent, eq. 8).

    values: [groups, rollouts] or [groups, rollouts, metrics]; valid: bool [groups, rollouts]. The std is that of a sample (n − 1).
    0 where a rollout is not valid, and where all valid ones of a group are equal or there is only one.
    """
    values, valid = np.asarray(values, np.float64), np.asarray(valid, bool)
    if valid.shape != values.shape[:2]:
        raise RewardError("advantages", f"{values.shape} rewards do not fit a {valid.shape} mask", "Give a mask entry each.")
    mask = valid.reshape(valid.shape + (1,) * (values.ndim - 2))
    known = np.where(mask, values, 0.0)
    if not np.isfinite(known).all():
        raise RewardError(
            "advantages", "a rollout that counts as valid has a reward that is not finite", "Mark it as not valid."
        )
    count = mask.sum(axis=1, keepdims=True)
    deviation = np.where(mask, known - known.sum(axis=1, keepdims=True) / np.maximum(count, 1), 0.0)
    std = np.sqrt((deviation**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1))
    # Equal rewards differ by rounding errors, which are no advantage: of their own size, or of the steps that cancel in a return.
    differ = std > np.maximum(1e-9 * np.abs(known).max(axis=1, keepdims=True, initial=0.0), 1e-12)
    return np.where(differ, deviation / np.where(differ, std, 1.0), 0.0)

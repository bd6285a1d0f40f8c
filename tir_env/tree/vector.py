"""Thousands of episodes on a tree side by side: a step is index arithmetic on its arrays, whatever the tools and metrics cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards import RewardDesign, paid
from tir_env.observations import SIDE, Observer
from tir_env.side_by_side import SideBySide
from tir_env.trajectory import Trajectory
from tir_env.tree.env import no_pictures
from tir_env.tree.file import REFUSED, Tree
from tir_env.tree.world import TreeWorld
from tir_env.world import refusal

NONE = -1  # no failure


class RestorationTreeVector(SideBySide):
    """`num_envs` episodes side by side; `RestorationTree` says what each does, `SideBySide` how they share starts and end.

    Infos come without trajectories unless `info_trajectory` is set; `trajectories` makes them when asked for. The rewards of every
    pair of states are computed by the reward design when they are first met, and again when its `state` was replaced.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        tree: str | Path | Tree = "pocket",
        part: str = "train",
        reward: str | RewardDesign = "gain:psnr",
        metrics: Sequence[str] = (),
        horizon: int = 0,
        group: int = 1,
        lockstep: bool = False,
        info_trajectory: bool = False,
        on_episode: Callable[[Trajectory], None] | None = None,
        render_mode: str | None = None,
        world: TreeWorld | None = None,
    ) -> None:
        if render_mode is not None:
            raise no_pictures(render_mode)
        self.forest = world or TreeWorld(tree, part, reward, metrics, horizon)
        super().__init__(num_envs, Observer(self.forest), group, lockstep)
        self.on_episode, self.info_trajectory = on_episode, info_trajectory
        self.tables = Tables(self.forest)
        tools, columns = self.forest.stop, len(self.tables.columns)
        # Of every environment; those that are not begun yet are at start 0.
        self._start = np.full(num_envs, -1)
        self._state = np.zeros(num_envs, int)
        self._known = np.zeros(num_envs, int)  # the latest state whose quality the reward design knows
        self._used = np.zeros((num_envs, tools), np.int8)
        self._taken = np.zeros(num_envs, int)  # decisions
        self._actions = np.zeros((num_envs, self.forest.horizon), int)
        self._ended = np.zeros(num_envs, bool)
        self._quality = np.zeros((num_envs, columns))  # last known values, in the order of `world.metrics`
        self._scored = np.zeros((num_envs, columns), bool)  # which of these are the current state's

    @property
    def trajectories(self) -> list[Trajectory]:
        """The records so far, made anew."""
        return [self._trajectory(i) for i in range(self.num_envs)] if self._begun else []

    def _trajectory(self, i: int) -> Trajectory:
        [trajectory] = self.forest.begin([self.forest.tree.starts[self._start[i]].start])
        for action in self._actions[i, : self._taken[i]].tolist():
            self.forest.step([trajectory], [action])
        return trajectory

    @property
    def _begun(self) -> bool:
        return bool(self._start[0] >= 0)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        self._begin(seed, options)
        self._candidates = self.forest.candidates(self._pin)
        self._enter(np.arange(self.num_envs))
        nothing = np.full(self.num_envs, NONE)
        return self._observations(), self._infos(nothing, np.ones(self.num_envs, bool), np.zeros(self.num_envs, bool))

    def _enter(self, who: NDArray[np.int64]) -> None:
        """Begin their next episodes."""
        self._start[who] = self.forest.numbers(self._streams[who], self._episodes[who], self._candidates)
        roots = self.tables.roots[self._start[who]]
        self._state[who] = self._known[who] = roots
        self._used[who], self._taken[who], self._ended[who] = 0, 0, False
        self._quality[who] = self.tables.values[roots]
        self._scored[who] = ~np.isnan(self._quality[who])

    def step(self, actions: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        actions = self._checked(actions, self._begun)
        going = np.flatnonzero(~self._ended)
        over = np.flatnonzero(self._ended) if self._ends else np.zeros(0, int)
        rewards, valid = np.zeros(self.num_envs), np.ones(self.num_envs, bool)
        failures = self._last_failures.copy()
        self._tick(len(over) > 0)
        if len(going):
            rewards[going], valid[going], failures[going] = self._decide(going, actions[going])
        idle = np.ones(self.num_envs, bool)
        idle[going] = idle[over] = False
        valid[idle] = self._last_valid[idle]
        if len(over):
            self._episodes[over] += 1
            self._enter(over)
            failures[over] = NONE
        if self.on_episode:
            for i in going[self._ended[going]]:
                self.on_episode(self._trajectory(i))
        terminated = self._ended & self._ends
        infos = self._infos(failures, valid, idle)
        return self._observations(), rewards, terminated, np.zeros(self.num_envs, bool), infos

    def _decide(
        self, who: NDArray[np.int64], actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
        """One action each: rewards, whether they say something about the decision, and what failed. `World.step`, in arrays."""
        tables, design = self.tables, self.forest.reward
        before, stop = self._state[who], actions == self.forest.stop
        self._actions[who, self._taken[who]] = actions
        self._taken[who] += 1
        ended = self._ended[who] = stop | (self._taken[who] >= self.forest.horizon)
        children = np.where(stop, before, tables.children[before, actions])
        failed = children < 0
        after = self._state[who] = np.where(failed, before, children)
        changed = ~(stop | failed)
        self._used[who[changed], actions[changed]] = 1

        # What is scored: all metrics at the end; on the way the reward's, if it wants every step and the image is a new one.
        asked = ended[:, None] | (changed & design.every_step)[:, None] & tables.rewarded
        values = tables.values[after]
        found = asked & ~np.isnan(values)
        self._quality[who] = np.where(found, values, self._quality[who])
        self._scored[who] = found | self._scored[who] & ~changed[:, None]
        unscored = np.where(
            ended, tables.unscored[after], np.where(changed & design.every_step, tables.unrewarded[after], NONE)
        )
        failures = np.where(failed, tables.failure(children, actions), unscored)

        if design.every_step:
            due, paid_from = changed | (self._known[who] != before), self._known[who]
            own = paid_from == before
        else:
            due, paid_from, own = ended, tables.roots[self._start[who]], True
        judged = tables.judged[after]
        valid = ~failed & (~due | judged & own)
        rewards = np.zeros(len(who))
        pay = due & judged & ~failed
        rewards[pay] = tables.rewards(paid_from[pay], after[pay])
        self._known[who] = np.where(judged, after, self._known[who])
        return rewards, valid, failures

    def _observations(self) -> dict[str, np.ndarray]:
        tables, state = self.tables, self._state
        return {
            "features": self.forest.tree.features[state].astype(np.float32),
            "size": tables.sizes[state],
            "used": self._used.copy(),
            "steps_left": (self.forest.horizon - self._taken[:, None]).astype(np.float32),
            "mask": tables.masks[state],
        }

    def _infos(self, failures: NDArray[np.int64], valid: NDArray[np.bool_], idle: NDArray[np.bool_]) -> dict[str, Any]:
        tables = self.tables
        self._last_failures, self._last_valid = failures, valid
        last = self._actions[np.arange(self.num_envs), np.maximum(self._taken - 1, 0)]
        found: dict[str, Any] = {
            "image": tables.images[self._start],
            "case": tables.cases[self._start],
            "tool": np.where(self._taken > 0, tables.names[last], ""),
            "valid": valid,
            "failure": tables.told[failures],
        }
        if self.info_trajectory:
            found["trajectory"] = np.fromiter(self.trajectories, object, self.num_envs)
        if self.lockstep:
            found["idle"] = idle
        everyone = np.ones(self.num_envs, bool)
        infos = {name: each for key, value in found.items() for name, each in ((key, value), (f"_{key}", everyone.copy()))}
        for name, arrays in (("quality", self._quality), ("scored", self._scored)):
            pairs = [(metric, arrays[:, column].copy()) for column, metric in enumerate(self.forest.metrics)]
            infos[name] = {known: each for key, value in pairs for known, each in ((key, value), (f"_{key}", everyone.copy()))}
            infos[f"_{name}"] = everyone.copy()
        return infos


class Tables:
    """What a step looks up: the tree's arrays, and what follows from them and from the reward design."""

    def __init__(self, world: TreeWorld) -> None:
        tree, self.world = world.tree, world
        self.columns = [tree.column(metric) for metric in world.metrics]
        self.values = tree.values[:, self.columns]  # [states, metrics of the world]
        self.children = np.pad(tree.children, ((0, 0), (0, 1)))  # a column for stop, which nobody reads
        self.roots = np.array([start.root for start in tree.starts])
        self.sizes = tree.sizes.astype(np.float32) / SIDE
        self.masks = np.ones((len(tree), world.stop + 1), np.int8)
        counts = np.diff([*self.roots, len(tree)])
        enlarged = (tree.sizes != tree.sizes[self.roots.repeat(counts)]).any(axis=1)
        self.masks[np.ix_(enlarged, [tool.scale > 1 for tool in world.toolbox] + [False])] = 0
        self.images = np.array([start.start.image for start in tree.starts], object)
        self.cases = np.array([start.start.case for start in tree.starts], object)
        self.names = np.array([*(tool.name for tool in world.toolbox), "stop"], object)
        # Failures by number: the tree's, then each tool's refusal, then none, which is also the last.
        self.told = np.array([*tree.failures, *(refusal(tool.name) for tool in world.toolbox), None], object)
        self._refusals = len(tree.failures)
        reward = [tree.column(metric) for metric in world.reward.metrics]
        self.rewarded = np.isin(self.columns, reward)  # [metrics of the world]
        self.judged = np.asarray(~np.isnan(tree.values[:, reward]).any(axis=1))  # [states]
        self.unscored, self.unrewarded = (first_failures(tree, columns) for columns in (self.columns, reward))
        self._paid: dict[int, float] = {}
        self._judge: Any = None

    def failure(self, children: NDArray[np.int64], actions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of the failures that stand in place of children."""
        return np.where(children == REFUSED, self._refusals + actions, REFUSED - 1 - children)

    def rewards(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> list[float]:
        design, tree = self.world.reward, self.world.tree
        if design.state is not self._judge:
            self._paid, self._judge = {}, design.state
        keys = (before * len(tree) + after).tolist()
        for key in set(keys) - self._paid.keys():
            one, other = divmod(key, len(tree))
            self._paid[key] = paid(design, tree.quality(one), tree.quality(other))
        return [self._paid[key] for key in keys]


def first_failures(tree: Tree, columns: Sequence[int]) -> NDArray[np.int64]:
    """[states]: the number of the failure of the first of these metrics that failed, or NONE."""
    found = np.full(len(tree), NONE)
    for column in reversed(columns):
        states, _, numbers = tree.unscored[tree.unscored[:, 1] == column].T
        found[states] = numbers
    return found

"""Bounds that a learned agent is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from agents.agent import Observations
from pool import Model, Problem
from rewards import open_metric
from tir_env.tools import Tool
from tir_env.tools.tool import Engine
from tir_env.trajectory import Start, Trajectory
from tir_env.tree.file import Tree
from tir_env.tree.growing import ground_of, grow
from tir_env.tree.world import TreeWorld
from tir_env.world import World


class Blind:
    """Decides without a look at the image."""

    encoder: Model | None = None
    count = 0  # decisions of the last call

    def notes(self) -> Sequence[dict[str, Any]]:
        return [{"policy_calls": 0}] * self.count


class RandomAgent(Blind):
    """Any allowed action, all alike."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        self.count = len(trajectories)
        mask = observations["mask"]  # [batch, actions]
        return (self.rng.random(mask.shape) * mask).argmax(axis=1)


class FixedAgent(Blind):
    """The same actions for every image: "no tool" and "one tool, then stop" are the simplest."""

    def __init__(self, actions: Sequence[int], stop: int, name: str) -> None:
        self.actions, self.stop, self.name = list(actions), stop, name

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        self.count = len(trajectories)
        steps = [len(t.steps) for t in trajectories]
        return np.array([self.actions[k] if k < len(self.actions) else self.stop for k in steps])


class GreedyOracle:
    """At every step the tool whose output is best, read off the clean reference; stop where none is better than the image.

    No agent can know that. Others are reported as a share of the way from no tool to it.
    """

    encoder: Model | None = None

    def __init__(self, world: World, metric: str = "psnr") -> None:
        self.world, self.metric = world, reference_metric(metric)
        self.name = f"oracle:{metric}"
        self._notes: list[dict[str, int]] = []

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        values = self.world.peek(trajectories, self.metric)  # [batch, tools + 1]
        self._notes = [{"policy_calls": 0, "tool_calls": int(self.world.mask(t)[:-1].sum())} for t in trajectories]
        best = values.argmax(axis=1)
        return np.where(values[np.arange(len(values)), best] > values[:, -1], best, self.world.stop)

    def notes(self) -> Sequence[dict[str, Any]]:
        return self._notes


class ExhaustiveOracle:
    """The best that any sequence of at most `depth` tools can do, read off the clean reference: every one of them is run.

    Equal images are computed once. In the real world an image takes up to n + n² + ... + nᵈ tool calls, all workers busy; what is
    found of a start is kept in the folder `keep`, if it is given, so that a search that was stopped goes on. On a tree it is there.
    """

    encoder: Model | None = None

    def __init__(self, world: World, metric: str = "psnr", depth: int = 3, keep: Path | None = None) -> None:
        self.world, self.metric, self.depth, self.keep = world, reference_metric(metric), depth, keep
        self.name = f"oracle:{metric}:{depth}"
        if isinstance(world, TreeWorld) and depth > world.tree.ground.depth:
            raise Problem(self.name, f"looks further than this tree's {world.tree.ground.depth} steps", "Choose fewer.")
        self.ground = ground_of(world, min(depth, world.horizon), metrics=(metric,))
        self._trees: dict[Start, TreeWorld] = {}
        self._notes: list[dict[str, int]] = []

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        actions, self._notes = [], []
        for trajectory in trajectories:
            where = self._search(trajectory)
            left = min(self.depth, self.world.horizon) - len(trajectory.steps)
            ways = where.tree.ways(where.state(trajectory), left)
            best = where.tree.best(list(ways), self.metric)
            actions.append(ways[best][0] if ways[best] else self.world.stop)
            tried = [state for state, way in ways.items() if len(way) < left]
            # The search is paid for with the first decision.
            calls = 0 if trajectory.steps else int(where.tree.tried[tried].sum())
            self._notes.append({"policy_calls": 0, "tool_calls": calls})
        return np.array(actions)

    def notes(self) -> Sequence[dict[str, Any]]:
        return self._notes

    def best_sequence(self, starts: Sequence[Start]) -> FixedAgent:
        """The one sequence of at most `depth` tools that is best on these starts, on average."""
        depth = min(self.depth, self.world.horizon)
        total: np.ndarray | float = 0.0
        for trajectory in self.world.begin(starts):
            where = self._search(trajectory)
            ends = where.tree.after_all(where.state(trajectory), depth)
            total = total + where.tree.values[ends, where.tree.column(self.metric)]
        best = int(np.nan_to_num(total, nan=-np.inf).argmax())
        digits = np.unravel_index(best, [self.world.stop + 1] * depth)
        actions = [int(action) for action in digits if action != self.world.stop]
        names = "+".join(self.world.toolbox[action].name for action in actions)
        return FixedAgent(actions, self.world.stop, names or "no tool")

    def _search(self, trajectory: Trajectory) -> TreeWorld:
        """All that can become of this start."""
        if isinstance(self.world, TreeWorld):
            return self.world
        start = trajectory.start
        if start not in self._trees:
            path = self.keep / f"{self._key(trajectory)}.safetensors" if self.keep else None
            tree = Tree.load(path) if path and path.exists() else grow(self.world, trajectory, self.ground)
            if path and not path.exists():
                tree.save(path)
            self._trees[start] = TreeWorld(tree, "all", f"final:{self.metric}")
        return self._trees[start]

    def _key(self, trajectory: Trajectory) -> str:
        """What the result of a search depends on; the code of tools aside."""
        pixels = f"{trajectory.input_digest} {trajectory.reference_digest}"
        parts = (self.ground.model_dump_json(), self._tools, trajectory.start, pixels)
        return xxhash.xxh3_128(" ".join(map(str, parts)).encode()).hexdigest()

    @cached_property
    def _tools(self) -> list[tuple[object, ...]]:
        """Their parameters and weights, wherever these lie: of two toolboxes with the same names one may do other things."""
        return [
            (tool.name, without_place(tool.engine), tool.multiple, tool.tile, tool.overlap, digest_of(tool))
            for tool in self.world.toolbox
        ]


def without_place(engine: Engine) -> Any:
    """An engine's parameters, without the folder of its weights: what is kept is found from another checkout, too."""
    if engine.weights is None or not is_dataclass(engine):
        return engine
    return replace(engine, weights=replace(engine.weights, folder=Path()))


def digest_of(tool: Tool) -> str:
    """Of its weight file; nothing where there is none."""
    file = tool.engine.weights.found() if tool.engine.weights else None
    return xxhash.xxh3_128(file.read_bytes()).hexdigest() if file else ""


def reference_metric(metric: str) -> str:
    if not open_metric(metric).needs_reference:
        raise Problem(f"oracle:{metric}", "needs no reference, so anybody may read it", "Use psnr or ssim.")
    return metric

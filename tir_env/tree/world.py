"""The world as a tree knows it: `World`'s interface, answered from a file. Nothing is computed and nothing has pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pool import Model, Problem, connect
from rewards import RewardDesign, Score, Scorer, make_reward
from tir_env.degradations import Case, Suite
from tir_env.degradations.depth import FALLBACK
from tir_env.images.operations import Image
from tir_env.images.sources import Images, Photo
from tir_env.starts import FREE, Pin, pick
from tir_env.tools import Tool, Toolbox
from tir_env.trajectory import Failure, Start, Trajectory
from tir_env.tree.file import REFUSED, ToolRecord, Tree, TreeError
from tir_env.world import World
from tir_env.yaml_files import suggest

NO_PIXELS = "a tree holds no pixels and runs no tools"


class Kept(Scorer):
    """Stands for a model whose results are in the tree: a metric or an encoder."""

    def __init__(self, name: str, needs_reference: bool = False, dim: int = 0) -> None:
        self.name, self.needs_reference, self.dim = name, needs_reference, dim

    def run(self, items: Sequence[Any]) -> list[Any]:
        raise TreeError(self.name, NO_PIXELS, "Use the real world: tir_env/Restoration-v0.")


class NoEngine:
    """Of a tool whose results are in the tree."""

    weights = None

    def load(self, tool: Tool) -> Any:
        raise TreeError(tool.name, NO_PIXELS, "Use the real world: tir_env/Restoration-v0.")


class TreeWorld(World):
    """Starts, tools and cases are the tree's; reward, metrics and a shorter horizon may be chosen.

    Its trajectories are those of the real world, digests, scores and failures alike, without images: `remake` makes them again.
    """

    def __init__(
        self,
        tree: str | Path | Tree = "pocket",
        part: str = "train",
        reward: str | RewardDesign = "gain:psnr",
        metrics: Sequence[str] = (),
        horizon: int = 0,
    ) -> None:
        """`part` of the starts: train, test, or all; `horizon` 0: as deep as the tree."""
        self.tree = tree if isinstance(tree, Tree) else Tree.load(tree)
        ground = self.tree.ground
        self.reward = make_reward(reward)
        self.horizon = horizon or ground.depth
        if self.horizon != int(self.horizon) or not 1 <= self.horizon <= ground.depth:
            raise TreeError(
                "horizon", f"must lie in 1..{ground.depth}, the tree's depth, and is {horizon}", "Choose a smaller one."
            )
        known = {metric.name: Kept(metric.name, metric.needs_reference) for metric in ground.metrics}
        for name in (*self.reward.metrics, *metrics):
            if name not in known:
                raise TreeError(f"metric {name!r}", "is not in this tree", suggest(name, known))
        self.metrics: dict[str, Any] = {name: known[name] for name in dict.fromkeys((*self.reward.metrics, *metrics))}
        self._scorers = dict(known)
        self.mine = np.array(self.tree.part(part))  # numbers of the starts
        self._numbers = {self.tree.starts[number].start: number for number in self.mine.tolist()}
        starts = list(self._numbers)
        self.suite = Suite(ground.suite, tuple(Case(name, ()) for name in dict.fromkeys(start.case for start in starts)))
        name = starts[0].images if len({start.images for start in starts}) == 1 else ground.images
        self.images = Images(name, [Photo(image, _no_pixels) for image in dict.fromkeys(start.image for start in starts)])
        self.toolbox = Toolbox(ground.toolbox, [_kept_tool(tool) for tool in ground.tools])
        self.encoder = Kept(ground.encoder.name, dim=ground.encoder.dim)
        self.crop, self.starts = ground.crop, 0
        self.pool, self.owns_pool = connect("local"), True
        self._scales = np.array([tool.scale for tool in self.toolbox])

    # -- starts --------------------------------------------------------------------------------------------------------------

    def draw(self, stream: int, episode: int, pin: Pin = FREE) -> Start:
        if stream < 0:
            raise TreeError("seed", f"must not be negative, and is {stream}", "Use 0, 1, 2 ...")
        [number] = self.numbers(np.array([stream]), np.array([episode]), self.candidates(pin))
        return self.tree.starts[number].start

    def candidates(self, pin: Pin = FREE) -> NDArray[np.int64]:
        """The numbers of the starts that a pin leaves."""
        if pin == FREE:
            return self.mine
        image = pick("image", pin.image, self.images, self.images.find).name if isinstance(pin.image, int) else pin.image
        case = pick("case", pin.case, self.suite, self.suite.case).name if isinstance(pin.case, int) else pin.case
        wanted = {"image": image, "case": case, "seed": pin.seed, "corner": pin.corner}
        left = [
            number
            for start, number in self._numbers.items()
            if all(value is None or getattr(start, key) == value for key, value in wanted.items())
        ]
        if not left:
            told = ", ".join(f"{key} {value!r}" for key, value in wanted.items() if value is not None)
            reason = f"none of the {len(self._numbers)} starts of this tree has {told}"
            raise TreeError("the reset options", reason, "Pin what is in tree.starts.")
        return np.array(left)

    def numbers(
        self, streams: NDArray[np.int64], episodes: NDArray[np.int64], candidates: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Which start is the `episode`-th of each stream: a pure function of the two."""
        return candidates[(splitmix(streams, episodes) % np.uint64(len(candidates))).astype(np.int64)]

    def _made(self, starts: Iterable[Start]) -> dict[Start, Trajectory | Failure]:
        return {start: self._enter(self._number(start)) for start in starts}

    def _number(self, start: Start) -> int:
        if start not in self._numbers:
            raise TreeError(f"the start on {start.image!r}", "is not in this part of the tree", "Draw one: world.draw(0, 0).")
        return self._numbers[start]

    def _enter(self, number: int) -> Trajectory:
        tree, known = self.tree, self.tree.starts[number]
        quality = tree.quality(known.root)
        return Trajectory(
            known.start, self.toolbox.name, tuple(tool.name for tool in self.toolbox),
            [entry.model_dump() for entry in known.record], None, None, tree.digest(known.root), known.reference_digest,
            {metric: quality[metric] for metric in self.metrics}, self.reward.name,
        )  # fmt: skip

    def enter(self, image: Image, name: str = "photo", reference: Image | None = None) -> Trajectory:
        raise TreeError(name, NO_PIXELS, "Open a World for pictures of your own.")

    # -- steps ---------------------------------------------------------------------------------------------------------------

    def state(self, trajectory: Trajectory) -> int:
        """Where in the tree it has come to."""
        state = self.tree.starts[self._number(trajectory.start)].root
        for step in trajectory.steps:
            if step.changed:
                state = int(self.tree.children[state, step.action])
        return state

    def _apply(self, trajectories: Sequence[Trajectory]) -> None:
        for trajectory in trajectories:
            step = trajectory.steps.pop()  # where was it before?
            child = int(self.tree.children[self.state(trajectory), step.action])
            trajectory.steps.append(step)
            if child < REFUSED:
                step.failure = self.tree.failure(child)
            else:
                step.digest, step.quality = self.tree.digest(child), {}
                step.size = (int(self.tree.sizes[child, 0]), int(self.tree.sizes[child, 1]))

    def _scores(self, group: Sequence[Trajectory], wanted: Sequence[list[str]]) -> list[dict[str, Score | Failure]]:
        found: list[dict[str, Score | Failure]] = []
        for trajectory, metrics in zip(group, wanted, strict=True):
            state = self.state(trajectory) if metrics else 0
            quality = self.tree.quality(state)
            found.append({m: quality[m] if m in quality else self.tree.unscored_by(state, m) for m in metrics})
        return found

    # -- looking -------------------------------------------------------------------------------------------------------------

    def size(self, trajectory: Trajectory) -> tuple[int, int]:
        height, width = self.tree.sizes[self.state(trajectory)].tolist()
        return height, width

    def encoder_for(self, encoder: Model | None) -> Model | None:
        if encoder is not None and encoder.name != self.encoder.name:
            reason = f"is not the one whose features this tree keeps ({self.encoder.name or 'none'})"
            raise TreeError(encoder.name, reason, "Use that one, or grow another tree.")
        return self.encoder

    def features(self, encoder: Model, trajectories: Sequence[Trajectory]) -> np.ndarray:
        return self.tree.features[[self.state(trajectory) for trajectory in trajectories]].astype(np.float32)

    def peek(self, trajectories: Sequence[Trajectory], metric: str) -> np.ndarray:
        column = self.tree.column(metric)
        values = np.full((len(trajectories), self.stop + 1), np.nan)
        for row, trajectory in enumerate(trajectories):
            state = self.state(trajectory)
            children = self.tree.children[state]
            allowed = (children >= 0) & (self.mask(trajectory)[:-1] == 1)
            values[row, :-1][allowed] = self.tree.values[children[allowed], column]
            values[row, -1] = self.tree.values[state, column]
        return np.where(np.isnan(values), -np.inf, values)

    def remake(self, trajectory: Trajectory) -> Trajectory:
        """The same trajectory with its images, made again in the real world, with tools that ship: others may do harm."""
        ground = self.tree.ground
        for name, ships in (
            (f"toolbox {ground.toolbox}", ground.toolbox in Toolbox.names()),
            (f"depth {ground.haze}", ground.haze == FALLBACK),
        ):
            if not ships:
                reason = "does not ship, and what a tree's file names may do harm"
                raise TreeError(name, reason, "If you trust it: report.py --remake, or a World's own remake().")
        part: Any = self.tree.starts[self._number(trajectory.start)].part
        real = World(
            ground.images, part, ground.suite, ground.toolbox, self.reward, tuple(self.metrics), self.horizon, ground.crop,
            depth=ground.haze,
        )  # fmt: skip
        try:
            return real.remake(trajectory)
        finally:
            real.close()


def _kept_tool(known: ToolRecord) -> Tool:
    task, _, model = known.name.partition("/")
    return Tool(task, model, NoEngine(), scale=known.scale)


def splitmix(streams: NDArray[np.int64], episodes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The `episode`-th number of SplitMix64 begun at the stream (Steele et al. 2014)."""
    z = streams.astype(np.uint64) + (episodes.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _no_pixels() -> Image:
    raise Problem("a photograph of a tree", NO_PIXELS, "Trajectories made in it can be made again: TreeWorld.remake.")

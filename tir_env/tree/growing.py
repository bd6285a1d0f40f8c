"""Growing a tree in the real world: every sequence of tools to some depth, from one start after another.

Equal images are one state, so nothing is computed twice. Only the images of the last level are in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pool import Call, Model
from rewards import Score
from tir_env.images.operations import Image, digest
from tir_env.starts import OF_THE_INPUT
from tir_env.trajectory import Failure, Trajectory
from tir_env.tree.file import (
    REFUSED,
    UNKNOWN,
    DegradationRecord,
    EncoderRecord,
    Ground,
    MetricRecord,
    StartRecord,
    ToolRecord,
    Tree,
    TreeError,
)
from tir_env.world import World

AT_ONCE = 256  # calls in flight together: enough to keep workers busy, and few enough for their images to fit anywhere


def ground_of(
    world: World, depth: int, encoder: Model | None = None, metrics: Sequence[str] | None = None, **told: str
) -> Ground:
    """`metrics` are the world's if none are given; `told` are the names by which images, suite and toolbox were opened."""
    if depth < 1:
        raise TreeError("depth", f"must be at least 1, not {depth}", "Give the longest sequence of tools.")
    names = {"images": world.images.name, "suite": world.suite.name, "toolbox": world.toolbox.name, "haze": "synthetic", **told}
    if moody := [tool.name for tool in world.toolbox if not tool.traits.deterministic]:
        reason = "may give another image the next time, so that what a tree says of it would not be so"
        raise TreeError(f"the tool {moody[0]}", reason, "Leave it out of the toolbox.")
    wanted = list(world.metrics) if metrics is None else metrics
    return Ground(
        **names,
        crop=world.crop,
        depth=depth,
        tools=[ToolRecord(name=tool.name, scale=tool.scale) for tool in world.toolbox],
        metrics=[MetricRecord(name=name, needs_reference=world.scorer(name).needs_reference) for name in wanted],
        encoder=EncoderRecord(name=encoder.name if encoder else "", dim=int(getattr(encoder, "dim", 0))),
    )


def grow(
    world: World,
    trajectory: Trajectory,
    ground: Ground,
    encoder: Model | None = None,
    part: str = "all",
    precision: str = "float16",
) -> Tree:
    """The tree of one start, given as a trajectory that has just begun. Features are kept in this precision."""
    if trajectory.input is None:
        raise TreeError(trajectory.start.image, "has no pixels to grow from", "Begin it in the real world.")
    crown = Crown(world, trajectory, [metric.name for metric in ground.metrics], world.encoder_for(encoder), precision)
    crown.admit([trajectory.input])
    if crown.unscored:
        raise TreeError(
            f"the start {trajectory.start.image!r}", f"cannot be scored: {crown.failures[0].message}", "Leave it out."
        )
    level = [(0, trajectory.input)]
    for depth in range(1, ground.depth + 1):
        level = crown.sprout(level, keep=depth < ground.depth)
    return crown.tree(ground, part)


def lasting(failure: Failure) -> Failure:
    """One that comes again with the same image: others are no facts of a tree."""
    if failure.kind not in OF_THE_INPUT:
        remedy = "Mend it, or leave that tool out, or raise its deadline; what has grown is kept."
        raise TreeError("a tree", f"cannot be grown: {failure.message}", remedy)
    return failure


@dataclass
class Crown:
    """The states of one start while it grows."""

    world: World
    trajectory: Trajectory
    metrics: list[str]
    encoder: Model | None
    precision: str
    places: dict[str, int] = field(default_factory=dict)  # digest → state
    sizes: list[tuple[int, int]] = field(default_factory=list)
    scores: list[list[Score]] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)  # (state, action) → child
    unscored: list[tuple[int, int, int]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def sprout(self, level: Sequence[tuple[int, Image]], keep: bool) -> list[tuple[int, Image]]:
        """Run every tool on every state of a level; the states that are new, if their images are still needed."""
        tried = [(state, image, action) for state, image in level for action in range(self.world.stop)]
        following: list[tuple[int, Image]] = []
        for first in range(0, len(tried), AT_ONCE):
            calls = []
            for state, image, action in tried[first : first + AT_ONCE]:
                if self._refused(state, action):
                    self.children[state, action] = REFUSED
                else:
                    calls.append((state, action, Call(self.world.toolbox[action].name, image)))
            fresh: dict[str, tuple[int, Image]] = {}  # by digest
            outcomes = self.world.pool.run([call for *_, call in calls])
            for (state, action, _), outcome in zip(calls, outcomes, strict=True):
                if outcome.error is not None:
                    self.children[state, action] = REFUSED - 1 - self._number(lasting(Failure.of(outcome.error)))
                    continue
                key = digest(outcome.value)
                if key not in self.places:
                    fresh.setdefault(key, (len(self.places) + len(fresh), outcome.value))
                self.children[state, action] = self.places[key] if key in self.places else fresh[key][0]
            self.admit([image for _, image in fresh.values()])
            if keep:
                following += fresh.values()
        return following

    def _refused(self, state: int, action: int) -> bool:
        """As the world's mask: only tools that enlarge change an image's size."""
        return self.world.toolbox[action].scale > 1 and self.sizes[state] != self.sizes[0]

    def _number(self, failure: Failure) -> int:
        if failure not in self.failures:
            self.failures.append(failure)
        return self.failures.index(failure)

    def admit(self, images: Sequence[Image]) -> None:
        """Score new images and look at them: they are the next states."""
        found = self.world.score([(image, self.trajectory.reference) for image in images], [self.metrics] * len(images))
        for state, (image, scores) in enumerate(zip(images, found, strict=True), start=len(self.places)):
            self.places[digest(image)] = state
            self.sizes.append((image.shape[0], image.shape[1]))
            row = []
            for column, metric in enumerate(self.metrics):
                score = scores[metric]
                if isinstance(score, Failure):
                    self.unscored.append((state, column, self._number(lasting(score))))
                    score = Score(np.nan, np.nan)
                row.append(score)
            self.scores.append(row)
        if self.encoder is not None:
            outcomes = self.world.pool.run([Call(self.encoder.name, image) for image in images])
            with np.errstate(over="ignore"):
                features = [outcome.unwrap().astype(self.precision) for outcome in outcomes]
            if not np.isfinite(features).all():
                reason = f"gives features that {self.precision} does not hold"
                raise TreeError(self.encoder.name, reason, "Grow it with --precision float32.")
            self.features += features

    def tree(self, ground: Ground, part: str) -> Tree:
        count = len(self.places)
        children = np.full((count, self.world.stop), UNKNOWN, np.int32)
        for (state, action), child in self.children.items():
            children[state, action] = child
        scores = np.array(self.scores, np.float64).reshape(count, len(self.metrics), 2)
        start = StartRecord(
            start=self.trajectory.start, part=part, record=[DegradationRecord(**entry) for entry in self.trajectory.record],
            reference_digest=self.trajectory.reference_digest, root=0,
        )  # fmt: skip
        return Tree(
            ground=ground,
            starts=[start],
            digests=np.frombuffer(bytes.fromhex("".join(self.places)), np.uint8).reshape(count, 16),
            sizes=np.array(self.sizes, np.int32),
            values=scores[..., 0],
            raws=scores[..., 1],
            features=np.stack(self.features) if self.features else np.zeros((count, 0), self.precision),
            children=children,
            unscored=np.array(self.unscored, np.int32).reshape(-1, 3),
            failures=self.failures,
        )

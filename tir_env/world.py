"""The world behind both environments: it begins episodes and advances many of them at once.

`World.begin` makes the starts, `World.step` puts all tool calls of a step in flight together, then all scorings, and writes what
happened into the trajectories. It knows nothing of spaces, observations or autoreset: `env.py` and `vector.py` add these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pool import Call, Outcome, Pool, Problem, connect
from rewards import Metric, Quality, RewardDesign, make_reward
from tir_env.degradations import Case, Suite, degrade, open_depth, open_suite
from tir_env.degradations import replay as degrade_again
from tir_env.images.operations import Image, check_image, crop_at, digest, resize_like
from tir_env.images.sources import Images, Part, Photo, open_images
from tir_env.tools import Toolbox
from tir_env.trajectory import STOP, Failure, Start, Step, Trajectory

AS_IS = Suite("as-is", (Case("as-is", ()),))


class WorldError(Problem):
    """Settings that do not fit together, or a reset option that names nothing."""


@dataclass(frozen=True)
class Pin:
    """What the caller of `reset` fixes about the start; the rest is drawn."""

    image: str | int | None = None
    case: str | int | None = None
    seed: int | None = None
    corner: tuple[int, int] | None = None


FREE = Pin()


class World:
    """Images, suite, toolbox, reward and pool, put together. All arguments take a name or an object."""

    def __init__(
        self,
        images: str | Path | Images = "skimage",
        part: Part = "train",
        suite: str | Suite = "mio100-a",
        toolbox: str | Toolbox = "pocket",
        reward: str | RewardDesign = "gain:psnr",
        metrics: Sequence[str] = (),
        horizon: int = 4,
        crop: int = 128,
        depth: str = "synthetic",
        pool: str | Pool = "local",
    ) -> None:
        if horizon < 1:
            raise WorldError("horizon", f"must be at least 1, not {horizon}", "Give the number of decisions in an episode.")
        if crop != 0 and crop < 32:  # a quarter of it (low resolution) must still be an image that tools take
            raise WorldError("crop", f"must be at least 32, or 0 for whole photographs, not {crop}", "Correct it.")
        self.images = open_images(images).part(part)
        self.suite = AS_IS if suite == "as-is" else open_suite(suite)
        self.toolbox = toolbox if isinstance(toolbox, Toolbox) else Toolbox.load(toolbox)
        self.reward = make_reward(reward)
        self.horizon, self.crop = horizon, crop
        self.depth = open_depth(depth)
        self.metrics = {name: Metric(name) for name in dict.fromkeys((*self.reward.metrics, *metrics))}
        self._check_references()
        self.owns_pool = not isinstance(pool, Pool)
        self.pool = pool if isinstance(pool, Pool) else connect(pool)
        self.pool.add(*self.toolbox, *self.metrics.values())
        self._scales = np.array([tool.scale for tool in self.toolbox])

    def _check_references(self) -> None:
        needy = [name for name, metric in self.metrics.items() if metric.needs_reference]
        if self.suite is AS_IS and needy:
            reason = f"need a clean reference, and photographs taken as they are have none: {', '.join(needy)}"
            raise WorldError("metrics", reason, "Use no-reference ones, such as reward='gain:piqe'.")

    @property
    def stop(self) -> int:
        """The index of the action that ends the episode: one past the last tool."""
        return len(self.toolbox)

    # -- starts --------------------------------------------------------------------------------------------------------------

    def draw(self, stream: int, episode: int, pin: Pin = FREE) -> Start:
        """The `episode`-th start of a stream: a pure function of the two numbers, save for what is pinned."""
        rng = np.random.Generator(np.random.PCG64([stream, episode]))
        # All draws are made whether pinned or not, so that pinning one thing leaves the others as they were.
        photo: Photo = self.images[int(rng.integers(len(self.images)))]
        case: Case = self.suite[int(rng.integers(len(self.suite)))]
        seed = int(rng.integers(2**32))
        place = rng.random(2)
        if pin.image is not None:
            photo = _pick("image", pin.image, self.images, self.images.find)
        if pin.case is not None:
            case = _pick("case", pin.case, self.suite, self.suite.case)
        height, width = photo.image.shape[:2]
        room = np.maximum(0, np.array([height, width]) - self.crop) + 1 if self.crop else np.ones(2)
        top, left = (int(v) for v in (place * room))
        return Start(
            self.images.name, photo.name, photo.digest, pin.corner or (top, left), self.crop, self.suite.name, case.name,
            seed if pin.seed is None else pin.seed,
        )  # fmt: skip

    def begin(self, starts: Sequence[Start]) -> list[Trajectory]:
        """One fresh trajectory per start, its input spoilt and scored. Equal starts (groups) are made and scored once."""
        made: dict[Start, Trajectory] = {}
        for start in starts:
            if start not in made:
                made[start] = self._begin(start)
        fresh = list(made.values())
        for trajectory, (quality, failure) in zip(fresh, self._score(fresh, list(self.metrics)), strict=True):
            if failure is not None:
                remedy = "Mend what it names, or leave that metric out: without it there is no reward."
                raise WorldError(f"the start {trajectory.start.image!r}", f"cannot be scored: {failure.message}", remedy)
            trajectory.quality = quality
        return [replace(made[start], steps=[]) for start in starts]

    def _begin(self, start: Start) -> Trajectory:
        clean = self._clean(start)
        if self.suite is AS_IS:
            return self._trajectory(start, [], clean, None)
        spoilt = degrade(clean, self.suite.case(start.case), start.seed, name=start.image, depth=self.depth)
        return self._trajectory(start, spoilt.record, spoilt.image, clean)

    def _clean(self, start: Start) -> Image:
        whole: Image = self.images.find(start.image).image
        if digest(whole) != start.digest:
            raise WorldError(
                f"image {start.image!r}", "has other pixels than the start recorded", "Use the photographs of then."
            )
        return crop_at(whole, start.crop, start.corner) if start.crop else whole

    def _trajectory(self, start: Start, record: list[dict[str, Any]], image: Image, clean: Image | None) -> Trajectory:
        tools = tuple(tool.name for tool in self.toolbox)
        return Trajectory(start, self.toolbox.name, tools, record, image, clean, digest(image), reward_name=self.reward.name)

    def enter(self, image: Image, name: str = "photo", reference: Image | None = None) -> Trajectory:
        """A trajectory for a user's own picture, taken as it is."""
        check_image(image)
        start = Start("given", name, digest(image), (0, 0), 0, AS_IS.name, AS_IS.name, 0)
        trajectory = self._trajectory(start, [], image, reference)
        [(trajectory.quality, failure)] = self._score([trajectory], list(self.metrics))
        if failure is not None:
            raise WorldError(f"image {name!r}", f"cannot be scored: {failure.message}", "Leave that metric out.")
        return trajectory

    # -- steps ---------------------------------------------------------------------------------------------------------------

    def mask(self, trajectory: Trajectory) -> np.ndarray:
        """int8 [tools + 1]: 1 where an action is allowed. An image is enlarged once in an episode at the most."""
        mask = np.ones(len(self.toolbox) + 1, np.int8)
        if any(self._scales[action] > 1 for action in trajectory.used):
            mask[:-1][self._scales > 1] = 0
        return mask

    def step(self, trajectories: Sequence[Trajectory], actions: Sequence[int]) -> list[float]:
        """One action for each trajectory, all tool calls in flight together; the rewards. Nothing a tool does raises here."""
        calls: list[Call] = []
        callers: list[int] = []
        for index, (trajectory, action) in enumerate(zip(trajectories, actions, strict=True)):
            if action != self.stop and self.mask(trajectory)[action]:
                callers.append(index)
                calls.append(Call(self.toolbox[int(action)].name, trajectory.image))
        outcomes = dict(zip(callers, self.pool.run(calls) if calls else [], strict=True))
        for index, (trajectory, action) in enumerate(zip(trajectories, actions, strict=True)):
            trajectory.steps.append(self._step(trajectory, int(action), outcomes.get(index)))
            trajectory.ended = action == self.stop or len(trajectory.steps) >= self.horizon
        self._judge(trajectories)
        return [trajectory.steps[-1].reward for trajectory in trajectories]

    def _step(self, trajectory: Trajectory, action: int, outcome: Outcome | None) -> Step:
        """What became of an action, not yet judged. By default nothing: the image stays."""
        before = trajectory.image
        height, width = before.shape[:2]
        tool = STOP if action == self.stop else self.toolbox[action].name
        step = Step(action, tool, before, trajectory.current_digest, (height, width))
        if outcome is None:
            if action != self.stop:
                message = (
                    f"{tool} would enlarge an image that was enlarged before. Choose among the actions that the mask allows."
                )
                step.failure = Failure(tool, "refused", message, 0)
            return step
        step.seconds, step.remembered = outcome.seconds, outcome.remembered
        if outcome.error is not None:
            step.failure = Failure.of(outcome.error)
            return step
        image: Image = outcome.value
        step.image, step.digest, step.size = image, digest(image), (image.shape[0], image.shape[1])
        return step

    def _judge(self, trajectories: Sequence[Trajectory]) -> None:
        """Score what the reward asks for, and the rest at the end; write qualities and rewards into the last steps."""
        ended = [t for t in trajectories if t.ended]
        fresh = [t for t in trajectories if t.steps[-1].failure is None and t.steps[-1].tool != STOP and not t.ended]
        for group, metrics in (
            (ended, list(self.metrics)),
            (fresh if self.reward.every_step else [], list(self.reward.metrics)),
        ):
            for trajectory, (quality, failure) in zip(group, self._score(group, metrics), strict=True):
                step = trajectory.steps[-1]
                step.failure = step.failure or failure
                if failure is None:
                    before = trajectory.current_quality if self.reward.every_step else trajectory.quality
                    step.quality = quality
                    if trajectory.ended:
                        trajectory.end_quality = quality
                    if step.failure is None and (step.tool != STOP or not self.reward.every_step):
                        step.reward = float(self.reward.step(before, quality))

    def _score(self, group: Sequence[Trajectory], metrics: list[str]) -> list[tuple[Quality, Failure | None]]:
        """Qualities of the current images; only what is not known yet is computed.

        Outputs of another size are resized (bicubic) to the reference before they are compared with it.
        """
        known = [trajectory.image_quality for trajectory in group]
        wanted = [[m for m in metrics if m not in have] for have in known]
        calls = []
        for trajectory, missing in zip(group, wanted, strict=True):
            image, reference = trajectory.image, trajectory.reference
            fitted = resize_like(image, reference) if reference is not None and missing else image
            for m in missing:
                item = (fitted, reference) if self.metrics[m].needs_reference else (image, None)
                calls.append(Call(self.metrics[m].name, item))
        outcomes = iter(self.pool.run(calls) if calls else [])
        results = []
        for have, missing in zip(known, wanted, strict=True):
            mine = [next(outcomes) for _ in missing]
            failure = next((Failure.of(o.error) for o in mine if o.error is not None), None)
            found = have | {m: o.value for m, o in zip(missing, mine, strict=True)}
            results.append(({} if failure else {m: found[m] for m in metrics}, failure))
        return results

    # -- again ---------------------------------------------------------------------------------------------------------------

    def remake(self, trajectory: Trajectory) -> Trajectory:
        """Replay a trajectory from its record alone; raises `TrajectoryError` where a byte differs."""
        image, reference = trajectory.input, trajectory.reference
        if trajectory.start.images != "given":
            reference = self._clean(trajectory.start)
            image = degrade_again(reference, trajectory.record, name=trajectory.start.image, depth=self.depth)
            reference = reference if trajectory.record else None
        start = None if image is None else (image, reference)
        return trajectory.replay(lambda name, img: self.pool.run([Call(name, img)])[0].unwrap(), start)

    def close(self) -> None:
        if self.owns_pool:
            self.pool.close()


def _pick(what: str, key: str | int, sequence: Sequence[Any], find: Any) -> Any:
    if isinstance(key, str):
        return find(key)
    if not 0 <= key < len(sequence):
        raise WorldError(f"{what} {key}", f"is out of range: there are {len(sequence)}", "Use an index from 0, or a name.")
    return sequence[int(key)]

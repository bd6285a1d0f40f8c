"""The world behind both environments: it begins episodes and advances many of them at once.

`World.begin` makes what `starts.py` has drawn, `World.step` puts all tool calls of a step in flight together, then all scorings, and
writes what happened into the trajectories. It knows nothing of spaces, observations or autoreset: `env.py` and `vector.py` add these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pool import Call, Model, Outcome, Pool, connect
from rewards import Quality, RewardDesign, Score, Scorer, make_reward, open_metric, paid
from tir_env.degradations import Case, CroppedDepth, DepthSource, Suite, Synthetic, degrade, open_depth, open_suite
from tir_env.degradations import replay as degrade_again
from tir_env.images.operations import Image, check_image, crop_at, digest, resize_like
from tir_env.images.sources import Images, Part, open_images
from tir_env.starts import Starting, WorldError
from tir_env.tools import Toolbox
from tir_env.trajectory import GIVEN, STOP, Failure, Start, Step, Trajectory

AS_IS = Suite("as-is", (Case("as-is", ()),))
MIN_SIDE = 32  # a quarter of it, after low resolution, is the smallest image that tools take


class World(Starting):
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
        starts: int = 0,
        depth: str = "synthetic",
        pool: str | Pool = "local",
    ) -> None:
        """`starts` limits the episodes to so many first images, spread evenly over the cases (0: each is a new one)."""
        if horizon != int(horizon) or horizon < 1:
            raise WorldError("horizon", f"must be a whole number from 1, not {horizon}", "Give the decisions of an episode.")
        if crop != 0 and (crop != int(crop) or crop < MIN_SIDE):
            raise WorldError("crop", f"must be at least {MIN_SIDE}, or 0 for whole photographs, not {crop}", "Correct it.")
        self.images = open_images(images, min_side=MIN_SIDE).part(part)
        self.suite = AS_IS if suite == "as-is" else open_suite(suite)
        self.toolbox = toolbox if isinstance(toolbox, Toolbox) else Toolbox.load(toolbox)
        self.reward = make_reward(reward)
        if starts != int(starts) or starts < 0:
            raise WorldError("starts", f"must be a whole number from 0, not {starts}", "Correct it.")
        self.horizon, self.crop, self.starts = horizon, crop, int(starts)
        self.depth = open_depth(depth)
        if isinstance(metrics, str):
            raise WorldError("metrics", f"must be several names, not the text {metrics!r}", f"Write [{metrics!r}].")
        self.metrics = {name: open_metric(name) for name in dict.fromkeys((*self.reward.metrics, *metrics))}
        self._check_references()
        self.owns_pool = not isinstance(pool, Pool)
        self.pool = pool if isinstance(pool, Pool) else connect(pool)
        self.pool.add(*self.toolbox, *self.metrics.values())
        self._scorers = dict(self.metrics)  # also those by which no episode is scored
        self._scales = np.array([tool.scale for tool in self.toolbox])

    def _check_references(self) -> None:
        needy = [name for name, metric in self.metrics.items() if metric.needs_reference]
        if needy and not all(case.stages for case in self.suite):
            reason = f"need a clean reference, and photographs taken as they are have none: {', '.join(needy)}"
            raise WorldError("metrics", reason, "Use no-reference ones, such as reward='gain:piqe'.")

    @property
    def stop(self) -> int:
        """The index of the action that ends the episode: one past the last tool."""
        return len(self.toolbox)

    # -- starts --------------------------------------------------------------------------------------------------------------

    def _made(self, starts: Iterable[Start]) -> dict[Start, Trajectory | Failure]:
        fresh = {start: self._begin(start) for start in dict.fromkeys(starts)}
        scores = self._score(list(fresh.values()), [list(self.metrics)] * len(fresh))
        made: dict[Start, Trajectory | Failure] = {}
        for (start, trajectory), (quality, failure) in zip(fresh.items(), scores, strict=True):
            trajectory.quality = quality
            made[start] = failure or trajectory
        return made

    def _begin(self, start: Start) -> Trajectory:
        case = self.suite.case(start.case)
        clean = self._clean(start)
        if not case.stages:
            return self._trajectory(start, [], clean, None)
        spoilt = degrade(clean, case, start.seed, name=start.image, depth=self._depth(start))
        return self._trajectory(start, spoilt.record, spoilt.image, clean)

    def _depth(self, start: Start) -> DepthSource:
        """Depth from outside belongs to the whole photograph as it was before anything spoilt it; the crop takes its part of it."""
        if isinstance(self.depth, Synthetic):
            return self.depth
        whole: Image = self.images.find(start.image).image
        return CroppedDepth(self.depth, whole, start.corner, start.crop or max(whole.shape))

    def _clean(self, start: Start) -> Image:
        whole: Image = self.images.find(start.image).image
        if digest(whole) != start.digest:
            raise WorldError(
                f"image {start.image!r}", "has other pixels than the start recorded", "Use the photographs of then."
            )
        return crop_at(whole, start.crop, start.corner) if start.crop else whole

    def _trajectory(self, start: Start, record: list[dict[str, Any]], image: Image, clean: Image | None) -> Trajectory:
        tools = tuple(tool.name for tool in self.toolbox)
        digests = digest(image), None if clean is None else digest(clean)
        return Trajectory(start, self.toolbox.name, tools, record, image, clean, *digests, reward_name=self.reward.name)

    def enter(self, image: Image, name: str = "photo", reference: Image | None = None) -> Trajectory:
        """A trajectory for a user's own picture, taken as it is. One that has no score can be restored, but earns no reward."""
        check_image(image)
        start = Start(GIVEN, name, digest(image), (0, 0), 0, AS_IS.name, AS_IS.name, 0)
        trajectory = self._trajectory(start, [], image, reference)
        [(trajectory.quality, trajectory.unscored)] = self._score([trajectory], [list(self.metrics)])
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
        if any(trajectory.ended for trajectory in trajectories):
            raise WorldError("step", "an episode that has ended was given an action", "Begin another one.")
        for trajectory, action in zip(trajectories, actions, strict=True):
            trajectory.steps.append(self._stay(trajectory, int(action)))
            trajectory.ended = action == self.stop or len(trajectory.steps) >= self.horizon
        self._apply([trajectory for trajectory in trajectories if trajectory.steps[-1].changed])
        self._judge(trajectories)
        return [trajectory.steps[-1].reward for trajectory in trajectories]

    def _stay(self, trajectory: Trajectory, action: int) -> Step:
        """A step that has not been taken yet: the image stays, and what is known of it still holds."""
        tool = STOP if action == self.stop else self.toolbox[action].name
        now = trajectory.pixels, trajectory.current_digest, self.size(trajectory)
        step = Step(action, tool, *now, dict(trajectory.image_quality))
        if action != self.stop and not self.mask(trajectory)[action]:
            step.failure = refusal(tool)
        return step

    def _apply(self, trajectories: Sequence[Trajectory]) -> None:
        """Run the tools that the last steps name, and write what became of the images."""
        calls = [Call(t.steps[-1].tool, t.image) for t in trajectories]
        for trajectory, outcome in zip(trajectories, self.pool.run(calls) if calls else [], strict=True):
            step = trajectory.steps[-1]
            step.seconds, step.remembered = outcome.seconds, outcome.remembered
            if outcome.error is not None:
                step.failure = Failure.of(outcome.error)
                continue
            image: Image = outcome.value
            step.image, step.digest, step.size, step.quality = image, digest(image), (image.shape[0], image.shape[1]), {}

    def size(self, trajectory: Trajectory) -> tuple[int, int]:
        """Height and width of the current image."""
        return trajectory.image.shape[0], trajectory.image.shape[1]

    def _judge(self, trajectories: Sequence[Trajectory]) -> None:
        """Score the images that the last steps led to as far as is asked for, and write their rewards."""
        scores = self._score(trajectories, [self._asked(trajectory) for trajectory in trajectories])
        for trajectory, (quality, failure) in zip(trajectories, scores, strict=True):
            step = trajectory.steps[-1]
            step.quality.update(quality)
            step.unscored = failure
            step.reward, step.valid = self._reward(trajectory)

    def _asked(self, trajectory: Trajectory) -> list[str]:
        """All metrics at the end; on the way the reward's, if it wants every step and the image is a new one."""
        if trajectory.ended:
            return list(self.metrics)
        return list(self.reward.metrics) if self.reward.every_step and trajectory.steps[-1].changed else []

    def _reward(self, trajectory: Trajectory) -> tuple[float, bool]:
        """The last step's reward, and whether it says something about the decision.

        A tool that failed is never paid for. Paid is the way from the last image whose quality is known: an image that could not be
        scored costs its own step the reward, and the next one that can be makes up for it, so that the rewards still add up to the
        whole gain; but neither of the two says what its own decision was worth.
        """
        last = trajectory.steps[-1]
        if last.failure is not None:
            return 0.0, False
        if self.reward.every_step:
            before, due = self._last_known(trajectory)
            own = self._knows(trajectory.steps[-2].quality if len(trajectory.steps) > 1 else trajectory.quality)
        else:
            before, due, own = trajectory.quality, trajectory.ended, True
        if not due:
            return 0.0, True
        if not (self._knows(before) and self._knows(last.quality)):
            return 0.0, False
        return paid(self.reward, before, last.quality), own

    def _last_known(self, trajectory: Trajectory) -> tuple[Quality, bool]:
        """The latest quality known before the last step, and whether the image changed since."""
        changed = False
        for step, state in zip(reversed(trajectory.steps), reversed([None, *trajectory.steps[:-1]]), strict=True):
            changed = changed or step.changed
            quality = trajectory.quality if state is None else state.quality
            if self._knows(quality):
                return quality, changed
        return {}, changed  # a user's own picture need have no score

    def _knows(self, quality: Quality) -> bool:
        return all(metric in quality for metric in self.reward.metrics)

    def _score(self, group: Sequence[Trajectory], asked: Sequence[list[str]]) -> list[tuple[Quality, Failure | None]]:
        """What could be found out of the current images, and the first failure. What is known already is not computed again."""
        wanted = [[m for m in metrics if m not in t.image_quality] for t, metrics in zip(group, asked, strict=True)]
        results: list[tuple[Quality, Failure | None]] = []
        for found in self._scores(group, wanted):
            failure = next((each for each in found.values() if isinstance(each, Failure)), None)
            results.append(({m: each for m, each in found.items() if isinstance(each, Score)}, failure))
        return results

    def _scores(self, group: Sequence[Trajectory], wanted: Sequence[list[str]]) -> list[dict[str, Score | Failure]]:
        return self.score([(t.image, t.reference) for t in group], wanted)

    def score(
        self, pairs: Sequence[tuple[Image, Image | None]], wanted: Sequence[Sequence[str]]
    ) -> list[dict[str, Score | Failure]]:
        """The wanted metrics of each (image, reference), all in flight together.

        Outputs of another size are resized (bicubic) to the reference before they are compared with it.
        """
        calls = []
        for (image, reference), metrics in zip(pairs, wanted, strict=True):
            fitted = resize_like(image, reference) if reference is not None and metrics else image
            for m in metrics:
                scorer = self.scorer(m)
                calls.append(Call(scorer.name, (fitted, reference) if scorer.needs_reference else (image, None)))
        outcomes = iter(self.pool.run(calls) if calls else [])
        return [{m: _score_of(next(outcomes)) for m in metrics} for metrics in wanted]

    def scorer(self, metric: str) -> Scorer:
        """A metric that can be called, whether episodes are scored by it or not."""
        if metric not in self._scorers:
            self._scorers[metric] = open_metric(metric)
            self.pool.add(self._scorers[metric])
        return self._scorers[metric]

    # -- looking -------------------------------------------------------------------------------------------------------------

    def encoder_for(self, encoder: Model | None) -> Model | None:
        """The encoder through which observers shall look, ready to be called; None for those that see the pixels."""
        if encoder is not None:
            self.pool.add(encoder)
        return encoder

    def features(self, encoder: Model, trajectories: Sequence[Trajectory]) -> np.ndarray:
        """float32 [trajectories, dim] of the current images."""
        outcomes = self.pool.run([Call(encoder.name, t.image) for t in trajectories])
        # Without features no policy can act: an encoder that fails ends the run, unlike a tool that fails.
        found = [outcome.unwrap() for outcome in outcomes]
        for each in found:
            if not isinstance(each, np.ndarray) or each.shape != (encoder.dim,):  # type: ignore[attr-defined]
                what = f"an array {list(each.shape)}" if isinstance(each, np.ndarray) else type(each).__name__
                reason = f"gave {what}, and its `dim` is {encoder.dim}"  # type: ignore[attr-defined]
                raise WorldError(f"encoder {encoder.name!r}", reason, "Return a float32 array [dim] for each image.")
        return np.stack(found).astype(np.float32)

    def peek(self, trajectories: Sequence[Trajectory], metric: str) -> np.ndarray:
        """A metric of what every tool would make of the current image, and in the last column of the image as it is.

        [trajectories, tools + 1]; -inf where the mask forbids the tool, or it or the metric fails. What an oracle may look at.
        """
        tried = [(row, int(action)) for row, t in enumerate(trajectories) for action in np.flatnonzero(self.mask(t)[:-1])]
        calls = [Call(self.toolbox[action].name, trajectories[row].image) for row, action in tried]
        made = [(key, o.value) for key, o in zip(tried, self.pool.run(calls), strict=True) if o.ok]
        images = [((row, self.stop), trajectory.image) for row, trajectory in enumerate(trajectories)] + made
        pairs = [(image, trajectories[row].reference) for (row, _), image in images]
        values = np.full((len(trajectories), self.stop + 1), -np.inf)
        for (key, _), found in zip(images, self.score(pairs, [[metric]] * len(pairs)), strict=True):
            score = found[metric]
            values[key] = score.value if isinstance(score, Score) else -np.inf
        return values

    # -- again ---------------------------------------------------------------------------------------------------------------

    def remake(self, trajectory: Trajectory) -> Trajectory:
        """Replay a trajectory from its record alone; raises `TrajectoryError` where a byte differs."""
        start = None
        if trajectory.start.images != GIVEN:
            clean = self._clean(trajectory.start)
            depth = self._depth(trajectory.start)
            spoilt = degrade_again(clean, trajectory.record, name=trajectory.start.image, depth=depth)
            start = spoilt, clean if trajectory.record else None
        return trajectory.replay(lambda name, image: self.pool.run([Call(name, image)])[0].unwrap(), start)

    def close(self) -> None:
        if self.owns_pool:
            self.pool.close()


def refusal(tool: str) -> Failure:
    """What becomes of an action that the mask forbids."""
    message = f"{tool} would enlarge an image that was enlarged before. Choose among the actions that the mask allows."
    return Failure(tool, "refused", message, 0)


def _score_of(outcome: Outcome) -> Score | Failure:
    if outcome.error is not None:
        return Failure.of(outcome.error)
    score: Score = outcome.value
    return score

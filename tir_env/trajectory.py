"""A trajectory: everything that happened in one episode, for a viewer, a replay or a learner.

It holds where the image came from, what spoilt it, and for every step the action, the image, the qualities, the reward, the failure
if there was one, and the time. It saves to a folder (JSON, images as PNG or by reference), loads, replays to the same bytes, and
draws itself.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pool import CallFailed, Problem
from rewards import Quality, Score
from tir_env.images.operations import Image, digest
from tir_env.images.reading import read_image, write_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSION = 1
STOP = "stop"


class TrajectoryError(Problem):
    """A saved trajectory that cannot be read, or that does not replay to what it recorded."""


@dataclass(frozen=True)
class Start:
    """Everything that decides an episode's first image: same start, same bytes."""

    images: str  # the source's name
    image: str  # the photograph's name in it
    digest: str  # of the whole photograph
    corner: tuple[int, int]  # of the crop
    crop: int  # side of the crop, 0 for the whole photograph
    suite: str
    case: str
    seed: int  # of the degradations


@dataclass(frozen=True)
class Failure:
    """Why a step did not happen: which model, what kind of failure (an error's class, or "refused"), and the full message."""

    model: str
    kind: str
    message: str
    attempts: int = 1

    @classmethod
    def of(cls, error: CallFailed) -> Failure:
        return cls(error.model, type(error).__name__, str(error), error.attempts)


@dataclass
class Step:
    """One decision and what came of it. After a failure `image` is the one before."""

    action: int
    tool: str  # "denoise/nlm", or "stop"
    image: Image | None = field(repr=False)
    digest: str
    size: tuple[int, int]  # height, width
    quality: Quality = field(default_factory=dict)
    reward: float = 0.0
    failure: Failure | None = None
    seconds: float = 0.0
    remembered: bool = False
    notes: dict[str, Any] = field(default_factory=dict)  # the policy's own: probabilities, text


@dataclass(eq=False)
class Trajectory:
    start: Start
    toolbox: str
    tools: tuple[str, ...] = field(repr=False)
    record: list[dict[str, Any]]  # of the degradations
    input: Image | None = field(repr=False)
    reference: Image | None = field(repr=False)
    input_digest: str
    quality: Quality = field(default_factory=dict)  # of the input
    reward_name: str = ""
    steps: list[Step] = field(default_factory=list)
    ended: bool = False
    end_quality: Quality = field(default_factory=dict)

    # -- what a policy asks --------------------------------------------------------------------------------------------------

    @property
    def image(self) -> Image:
        """The current image at its true size."""
        image = self.steps[-1].image if self.steps else self.input
        if image is None:
            raise TrajectoryError(self.start.image, "was loaded without its images", "Call replay() to make them again.")
        return image

    @property
    def current_digest(self) -> str:
        return self.steps[-1].digest if self.steps else self.input_digest

    @property
    def current_quality(self) -> Quality:
        """The last quality that is known; a failed scoring leaves the one before."""
        for step in reversed(self.steps):
            if step.quality:
                return step.quality
        return self.quality

    @property
    def image_quality(self) -> Quality:
        """What is known of the current image itself; empty if it was not scored."""
        for step in reversed(self.steps):
            if step.failure is None and step.tool != STOP:
                return step.quality
        return self.quality

    @property
    def used(self) -> set[int]:
        """Indices of the tools that were run with success."""
        return {step.action for step in self.steps if step.failure is None and step.tool != STOP}

    @property
    def actions(self) -> list[int]:
        return [step.action for step in self.steps]

    @property
    def tool_names(self) -> list[str]:
        return [step.tool for step in self.steps if step.tool != STOP]

    @property
    def total_reward(self) -> float:
        return sum(step.reward for step in self.steps)

    @property
    def failures(self) -> list[Failure]:
        return [step.failure for step in self.steps if step.failure is not None]

    def gains(self) -> dict[str, float]:
        """End minus start, for every metric scored at both."""
        return {m: self.end_quality[m].value - self.quality[m].value for m in self.end_quality if m in self.quality}

    def __eq__(self, other: object) -> bool:
        """Same start, same actions, same bytes. Timings do not count."""
        return isinstance(other, Trajectory) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((self.start, self.input_digest))

    def _identity(self) -> tuple[Any, ...]:
        steps = [(s.action, s.tool, s.digest, s.quality, s.reward, s.failure) for s in self.steps]
        return self.start, self.record, self.input_digest, self.quality, steps, self.ended

    # -- files ---------------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, images: Literal["png", "reference"] = "png") -> Path:
        """Write `trajectory.json`, and the images as PNG beside it. `images="reference"` writes none: they can be made again.

        The JSON is written last and at once, so a folder that has one is whole.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if images == "png":
            for name, image in self._pictures():
                if image is not None:
                    write_image(folder / name, image)
        data = {"version": VERSION, "images": images, **self._as_json()}
        text = json.dumps(data, indent=1, allow_nan=False)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, folder / "trajectory.json")
        return folder

    def _pictures(self) -> list[tuple[str, Image | None]]:
        steps = [(f"step-{i + 1}.png", s.image) for i, s in enumerate(self.steps) if s.failure is None and s.tool != STOP]
        return [("input.png", self.input), ("reference.png", self.reference), *steps]

    def _as_json(self) -> dict[str, Any]:
        data = {k: v for k, v in self.__dict__.items() if k not in ("input", "reference", "steps", "start")}
        steps = [{k: v for k, v in s.__dict__.items() if k not in ("image", "failure")} for s in self.steps]
        for entry, step in zip(steps, self.steps, strict=True):
            entry["failure"] = step.failure and asdict(step.failure)
        return {"start": asdict(self.start), **data, "has_reference": self.reference is not None, "steps": steps}

    @classmethod
    def load(cls, folder: str | Path) -> Trajectory:
        """Read what `save` wrote. Images saved by reference are absent until `replay`."""
        path = Path(folder) / "trajectory.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["version"] != VERSION:
                remedy = f"This version reads {VERSION}."
                raise TrajectoryError(path, f"is of version {data['version']!r}", remedy)
            return cls._from_json(data, Path(folder))
        except OSError as error:
            raise TrajectoryError(path, f"cannot be read: {error}", "Name the folder that save() wrote.") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"is no saved trajectory: {type(error).__name__}: {error}"
            raise TrajectoryError(path, reason, "It was cut short or changed by hand.") from error

    @classmethod
    def _from_json(cls, data: dict[str, Any], folder: Path) -> Trajectory:
        def picture(name: str, expected: str | None) -> Image | None:
            if data["images"] != "png":
                return None
            image = read_image(folder / name, min_side=1)
            if expected is not None and digest(image) != expected:
                raise TrajectoryError(folder / name, "is not the image that was saved", "Restore the file, or replay.")
            return image

        start = Start(**{**data["start"], "corner": tuple(data["start"]["corner"])})
        trajectory = cls(
            start, data["toolbox"], tuple(data["tools"]), data["record"],
            picture("input.png", data["input_digest"]), picture("reference.png", None) if data["has_reference"] else None,
            data["input_digest"], _quality(data["quality"]), data["reward_name"],
            ended=bool(data["ended"]), end_quality=_quality(data["end_quality"]),
        )  # fmt: skip
        current = trajectory.input
        for number, entry in enumerate(data["steps"], start=1):
            failure = Failure(**entry["failure"]) if entry["failure"] else None
            if failure is None and entry["tool"] != STOP:
                current = picture(f"step-{number}.png", entry["digest"])
            rest = {**entry, "failure": failure, "quality": _quality(entry["quality"]), "size": tuple(entry["size"])}
            trajectory.steps.append(Step(image=current, **rest))
        return trajectory

    # -- doing it again ------------------------------------------------------------------------------------------------------

    def replay(self, tools: Callable[[str, Image], Image], start: tuple[Image, Image | None] | None = None) -> Trajectory:
        """Run every step again and hold the result against what was recorded, byte for byte.

        `tools(name, image)` runs a tool; `start` gives the input and the reference where they were saved by reference
        (`World.remake` does both). Steps that failed are left failed. Returns the trajectory with all its images.
        """
        image, reference = start or (self.input, self.reference)
        if image is None:
            raise TrajectoryError(self.start.image, "was saved by reference", "Replay it with World.remake(trajectory).")
        _same(image, self.input_digest, "the input")
        steps = []
        current = image
        for number, step in enumerate(self.steps, start=1):
            if step.failure is None and step.tool != STOP:
                current = tools(step.tool, current)
                _same(current, step.digest, f"step {number} ({step.tool})")
            steps.append(Step(**{**step.__dict__, "image": current}))
        return Trajectory(**{**self.__dict__, "input": image, "reference": reference, "steps": steps})

    def figure(self, metrics: Sequence[str] | None = None) -> Figure:
        """Input, each step with its tool and scores, reference: one row of pictures."""
        from tir_env.drawing import draw_trajectory

        return draw_trajectory(self, metrics)


def _same(image: Image, expected: str, what: str) -> None:
    if digest(image) != expected:
        raise TrajectoryError(
            what, "came out with other bytes than recorded", "Another version of the tool, or another photograph?"
        )


def _quality(data: dict[str, Any]) -> Quality:
    return {metric: Score(float(value), float(raw)) for metric, (value, raw) in data.items()}


def mean_gains(trajectories: Sequence[Trajectory]) -> dict[str, tuple[float, float]]:
    """Mean gain and its standard deviation over trajectories, metric by metric."""
    gains = [t.gains() for t in trajectories]
    metrics = sorted({m for g in gains for m in g})
    columns = {m: np.array([g[m] for g in gains if m in g]) for m in metrics}
    return {m: (float(column.mean()), float(column.std())) for m, column in columns.items()}

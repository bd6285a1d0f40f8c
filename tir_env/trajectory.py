"""A trajectory: everything that happened in one episode, for a viewer, a replay or a learner.

It holds where the image came from, what spoilt it, and for every step the action, the image, the qualities, the reward, what failed,
and the time. `trajectory_file` saves and loads it; it replays to the same bytes, and draws itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pool import CallFailed, Problem
from rewards import Quality
from tir_env.images.operations import Image, digest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Natural = Annotated[int, Field(ge=0)]  # where it is read from a file
STOP = "stop"
GIVEN = "given"  # the source of pictures that a user hands over


class TrajectoryError(Problem):
    """A trajectory that cannot be saved or read, or that does not replay to what it recorded."""


@dataclass(frozen=True)
class Start:
    """Everything that decides an episode's first image: same start, same bytes."""

    images: str  # the source's name
    image: str  # the photograph's name in it
    digest: str  # of the whole photograph
    corner: tuple[Natural, Natural]  # of the crop
    crop: Natural  # side of the crop, 0 for the whole photograph
    suite: str
    case: str
    seed: int  # of the degradations


@dataclass(frozen=True)
class Failure:
    """Why a call gave nothing: which model, what kind of failure (an error's class, or "refused"), the full message, the attempts."""

    model: str
    kind: str
    message: str
    attempts: int = 1

    @classmethod
    def of(cls, error: CallFailed) -> Failure:
        return cls(error.model, type(error).__name__, error.fact, error.attempts)


@dataclass
class Step:
    """One decision and the state it led to. If the tool failed, or the decision was to stop, that is the state before."""

    action: int
    tool: str  # "denoise/nlm", or "stop"
    image: Image | None = field(repr=False)
    digest: str
    size: tuple[int, int]  # height, width
    quality: Quality = field(default_factory=dict)  # what is known of this image
    reward: float = 0.0
    valid: bool = True  # the reward says something about the decision
    failure: Failure | None = None  # of the tool
    unscored: Failure | None = None  # of a metric: the tool did its work, but how well is not known
    seconds: float = 0.0
    remembered: bool = False
    notes: dict[str, Any] = field(default_factory=dict)  # the policy's own: probabilities, text

    @property
    def changed(self) -> bool:
        """A tool ran with success: the image is another one than before."""
        return self.failure is None and self.tool != STOP


@dataclass(eq=False)
class Trajectory:
    start: Start
    toolbox: str
    tools: tuple[str, ...] = field(repr=False)
    record: list[dict[str, Any]]  # of the degradations
    input: Image | None = field(repr=False)
    reference: Image | None = field(repr=False)
    input_digest: str
    reference_digest: str | None
    quality: Quality = field(default_factory=dict)  # of the input
    reward_name: str = ""
    steps: list[Step] = field(default_factory=list)
    ended: bool = False
    unscored: Failure | None = None  # of a metric, at the input

    @property
    def image(self) -> Image:
        """The current image at its true size."""
        image = self.pixels
        if image is None:
            raise TrajectoryError(
                self.start.image, "was loaded without its images", "World.remake(trajectory) makes them again."
            )
        return image

    @property
    def pixels(self) -> Image | None:
        """The current image, or None if it is a trajectory without its images."""
        return self.steps[-1].image if self.steps else self.input

    @property
    def current_digest(self) -> str:
        return self.steps[-1].digest if self.steps else self.input_digest

    @property
    def image_quality(self) -> Quality:
        """What is known of the current image itself."""
        return self.steps[-1].quality if self.steps else self.quality

    @property
    def last_quality(self) -> Quality:
        """The last known value of every metric, whichever image it was of."""
        merged = dict(self.quality)
        for step in self.steps:
            merged.update(step.quality)
        return merged

    @property
    def end_quality(self) -> Quality:
        """Of the final image; empty while the episode goes on."""
        return self.image_quality if self.ended else {}

    def gains(self) -> dict[str, float]:
        """End minus start, for every metric known at both."""
        return {m: self.end_quality[m].value - self.quality[m].value for m in self.end_quality if m in self.quality}

    @property
    def calls(self) -> int:
        """Tool calls that the decisions cost; a policy that tried several tools for one action says so in its notes."""
        return sum(step.notes.get("tool_calls", int(step.tool != STOP)) for step in self.steps)

    @property
    def used(self) -> set[int]:
        """Indices of the tools that ran with success."""
        return {step.action for step in self.steps if step.changed}

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
        """Of tools and of metrics."""
        found = [self.unscored, *(failure for step in self.steps for failure in (step.failure, step.unscored))]
        return [failure for failure in found if failure is not None]

    def __eq__(self, other: object) -> bool:
        """Same start, same actions, same bytes, same scores. Timings and notes do not count."""
        return isinstance(other, Trajectory) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((self.start, self.input_digest))

    def _identity(self) -> tuple[Any, ...]:
        steps = [(s.action, s.tool, s.digest, s.quality, s.reward, s.valid, s.failure, s.unscored) for s in self.steps]
        return self.start, self.record, self.input_digest, self.reference_digest, self.quality, steps, self.ended

    def replay(self, tools: Callable[[str, Image], Image], start: tuple[Image, Image | None] | None = None) -> Trajectory:
        """Run every step again and hold the result against what was recorded, byte for byte.

        `tools(name, image)` runs a tool; `start` gives the input and the reference where they were saved by reference
        (`World.remake` does both). Steps that failed are left failed. Returns the trajectory with all its images.
        """
        current, reference = start or (self.input, self.reference)
        if current is None:
            raise TrajectoryError(
                self.start.image, "was loaded without its images", "World.remake(trajectory) makes them again."
            )
        image = current
        _same(image, self.input_digest, "the input")
        if reference is not None:
            _same(reference, self.reference_digest, "the reference")
        steps = []
        for number, step in enumerate(self.steps, start=1):
            if step.changed:
                current = tools(step.tool, current)
                _same(current, step.digest, f"step {number} ({step.tool})")
            steps.append(replace(step, image=current))
        return replace(self, input=image, reference=reference, steps=steps)

    def save(self, folder: str | Path, *, images: Literal["png", "reference"] = "png") -> Path:
        """Into a folder of its own; with `images="reference"` without pictures, which can be made again. All or nothing."""
        from tir_env.trajectory_file import save

        return save(self, Path(folder), images)

    @staticmethod
    def load(folder: str | Path) -> Trajectory:
        """Read what `save` wrote. Images saved by reference are absent until `World.remake`."""
        from tir_env.trajectory_file import load

        return load(Path(folder))

    def figure(self, metrics: Sequence[str] | None = None, columns: int | None = None) -> Figure:
        """Input, each step with its tool and scores, reference: one row of pictures, at least `columns` wide."""
        from tir_env.drawing import draw_trajectory

        return draw_trajectory(self, metrics, columns)


def _same(image: Image, expected: str | None, what: str) -> None:
    if digest(image) != expected:
        raise TrajectoryError(
            what,
            "came out with other bytes than recorded",
            "Another version of the tool, another photograph, or a processor that rounds otherwise?",
        )

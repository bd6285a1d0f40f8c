"""A trajectory as a folder: `trajectory.json`, and its images as PNG beside it or not at all.

A folder that is there is whole: it is written aside and renamed. What is read is checked, types, digests and all, before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, StringConstraints, ValidationError

from rewards import Score
from tir_env.files import write_aside
from tir_env.images.operations import Image, digest
from tir_env.images.reading import read_image, write_image
from tir_env.trajectory import GIVEN, Failure, Start, Step, Trajectory, TrajectoryError

VERSION = 1
JSON = "trajectory.json"
MAX_PIXELS = 512_000_000  # of a picture that this project wrote itself: a whole photograph, enlarged


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]  # it names files, too: thumbnails


class DegradationRecord(Record):
    degradation: str
    params: dict[str, int | float | str]


class StepRecord(Record):
    action: int
    tool: str
    digest: Digest
    size: tuple[int, int]
    quality: dict[str, Score]
    reward: float
    valid: bool
    failure: Failure | None
    unscored: Failure | None
    seconds: float
    remembered: bool
    notes: dict[str, JsonValue]


class TrajectoryRecord(Record):
    version: Literal[1]
    images: Literal["png", "reference"]
    start: Start
    toolbox: str
    tools: tuple[str, ...]
    record: list[DegradationRecord]
    input_digest: Digest
    reference_digest: Digest | None
    quality: dict[str, Score]
    reward_name: str
    steps: list[StepRecord]
    ended: bool
    unscored: Failure | None = None


def save(trajectory: Trajectory, folder: Path, images: Literal["png", "reference"]) -> Path:
    if images == "reference" and trajectory.start.images == GIVEN:
        remedy = "Save it with images='png': a picture that was handed over cannot be found again."
        raise TrajectoryError(trajectory.start.image, "cannot be saved by reference", remedy)
    if folder.exists() and not (folder / JSON).is_file() and any(folder.iterdir()):
        raise TrajectoryError(folder, "holds other files", "Name a folder of its own.")
    text = _as_json(trajectory, images)

    def write(new: Path) -> None:
        new.mkdir()
        for name, _, image in _pictures(trajectory) if images == "png" else ():
            if image is not None:
                write_image(new / name, image)
        (new / JSON).write_text(text, encoding="utf-8")

    return write_aside(folder, write)


def _pictures(trajectory: Trajectory) -> list[tuple[str, str, Image | None]]:
    """The file, the digest, and the image if it is there."""
    named = [("input.png", trajectory.input_digest, trajectory.input)]
    if trajectory.reference_digest is not None:
        named.append(("reference.png", trajectory.reference_digest, trajectory.reference))
    steps = enumerate(trajectory.steps, start=1)
    return [*named, *((f"step-{number}.png", step.digest, step.image) for number, step in steps if step.changed)]


def _as_json(trajectory: Trajectory, images: str) -> str:
    steps = [{k: v for k, v in step.__dict__.items() if k != "image"} for step in trajectory.steps]
    rest = {k: v for k, v in trajectory.__dict__.items() if k not in ("input", "reference", "steps")}
    data = {"version": VERSION, "images": images, **rest, "steps": steps}
    try:
        text = json.dumps(data, indent=1, allow_nan=False, default=_plain)
        TrajectoryRecord.model_validate_json(text)  # what cannot be read back is not written
    except (TypeError, ValueError) as error:  # pydantic's is a ValueError
        raise TrajectoryError(
            trajectory.start.image, f"cannot be saved: {_first(error)}", "Use plain finite values."
        ) from error
    return text


def _plain(value: Any) -> Any:
    """What JSON does not know but a policy's notes may hold."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Start | Failure):
        return value.__dict__
    raise TypeError(f"{type(value).__name__} is not JSON: {str(value)[:80]}")


def load(folder: Path) -> Trajectory:
    """With its images, if they were saved with it."""
    trajectory, images = read(folder)
    found = dict(pictures(folder, trajectory)) if images == "png" else {}
    trajectory.input, trajectory.reference = found.get(trajectory.input_digest), found.get(trajectory.reference_digest or "")
    for step in trajectory.steps:
        step.image = found.get(step.digest)
    return trajectory


def pictures(folder: Path, trajectory: Trajectory, max_pixels: int = MAX_PIXELS) -> Iterator[tuple[str, Image]]:
    """The images that were saved with it, one after the other, each with its digest and held against it."""
    for name, expected, _ in _pictures(trajectory):
        image = read_image(folder / name, min_side=1, max_pixels=max_pixels)
        if digest(image) != expected:
            raise TrajectoryError(folder / name, "is not the image that was saved", "Restore the file, or replay.")
        yield expected, image


def read(folder: Path) -> tuple[Trajectory, str]:
    """Without its images, and how they were saved."""
    path = folder / JSON
    try:
        text = path.read_text(encoding="utf-8")
        found = TrajectoryRecord.model_validate_json(text)
    except (OSError, UnicodeDecodeError) as error:
        raise TrajectoryError(path, f"cannot be read: {error}", "Name the folder that save() wrote.") from error
    except ValidationError as error:
        reason = f"is no saved trajectory of version {VERSION}: {_first(error)}"
        raise TrajectoryError(path, reason, "It was cut short, changed by hand, or written by another version.") from error

    shown = found.input_digest
    steps = []
    for number, entry in enumerate(found.steps, start=1):
        step = Step(image=None, **{name: getattr(entry, name) for name in StepRecord.model_fields})
        if step.changed:
            shown = step.digest
        elif step.digest != shown:
            reason = f"says that step {number} left the image as it was, and gives it another digest"
            raise TrajectoryError(path, reason, "It was changed by hand: restore the file.")
        steps.append(step)
    trajectory = Trajectory(
        start=found.start, toolbox=found.toolbox, tools=found.tools, record=[entry.model_dump() for entry in found.record],
        input=None, reference=None, input_digest=found.input_digest, reference_digest=found.reference_digest,
        quality=found.quality, reward_name=found.reward_name, steps=steps, ended=found.ended, unscored=found.unscored,
    )  # fmt: skip
    return trajectory, found.images


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
    return str(error)

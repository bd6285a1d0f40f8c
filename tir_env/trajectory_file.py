"""A trajectory as a folder: `trajectory.json`, and its images as PNG beside it or not at all.

A folder that is there is whole: it is written aside and renamed. What is read is checked, types, digests and all, before it is used.
"""

from __future__ import annotations

import json
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
        if images == "png":
            for name, image in _pictures(trajectory):
                write_image(new / name, image)
        (new / JSON).write_text(text, encoding="utf-8")

    return write_aside(folder, write)


def _pictures(trajectory: Trajectory) -> list[tuple[str, Image]]:
    named = [("input.png", trajectory.input), ("reference.png", trajectory.reference)]
    named += [(f"step-{number}.png", step.image) for number, step in enumerate(trajectory.steps, start=1) if step.changed]
    return [(name, image) for name, image in named if image is not None]


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
    path = folder / JSON
    try:
        text = path.read_text(encoding="utf-8")
        found = TrajectoryRecord.model_validate_json(text)
    except (OSError, UnicodeDecodeError) as error:
        raise TrajectoryError(path, f"cannot be read: {error}", "Name the folder that save() wrote.") from error
    except ValidationError as error:
        reason = f"is no saved trajectory of version {VERSION}: {_first(error)}"
        raise TrajectoryError(path, reason, "It was cut short, changed by hand, or written by another version.") from error

    def picture(name: str, expected: str | None) -> Image | None:
        if found.images == "reference" or expected is None:
            return None
        image = read_image(folder / name, min_side=1, max_pixels=MAX_PIXELS)
        if digest(image) != expected:
            raise TrajectoryError(folder / name, "is not the image that was saved", "Restore the file, or replay.")
        return image

    current = first = picture("input.png", found.input_digest)
    shown = found.input_digest
    steps = []
    for number, entry in enumerate(found.steps, start=1):
        step = Step(image=None, **{name: getattr(entry, name) for name in StepRecord.model_fields})
        if step.changed:
            current, shown = picture(f"step-{number}.png", step.digest), step.digest
        elif step.digest != shown:
            reason = f"says that step {number} left the image as it was, and gives it another digest"
            raise TrajectoryError(path, reason, "It was changed by hand: restore the file.")
        step.image = current
        steps.append(step)
    return Trajectory(
        start=found.start, toolbox=found.toolbox, tools=found.tools, record=[entry.model_dump() for entry in found.record],
        input=first, reference=picture("reference.png", found.reference_digest), input_digest=found.input_digest,
        reference_digest=found.reference_digest, quality=found.quality, reward_name=found.reward_name, steps=steps,
        ended=found.ended, unscored=found.unscored,
    )  # fmt: skip


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
    return str(error)

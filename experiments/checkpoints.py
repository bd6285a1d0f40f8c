"""A checkpoint's manifest: which run wrote it, at which iteration, and size and SHA-256 of every file in it.

It is verified before anything beside it is opened: what is torn, altered or another run's is never loaded. It proves that a checkpoint
is whole, not who made it: a run folder from a stranger is to be trusted as little as a program from one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pool import Problem
from tir_env.files import to_disk

MANIFEST = "manifest.json"
VERSION: Literal[1] = 1
CHUNK = 1 << 20  # bytes


class CheckpointError(Problem):
    """A checkpoint that cannot be written, or none that can be gone on from."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FileRecord(_Record):
    size: int
    sha256: str


class Manifest(_Record):
    version: Literal[1]
    run: str = Field(min_length=1)  # the run's own word, see `RunFolder.identity`
    writer: str  # "ppo clip_mlp"
    iteration: int
    files: dict[str, FileRecord]  # by path, with slashes


def seal(folder: Path, run: str, writer: str, iteration: int) -> None:
    """Write the manifest of what is in `folder`, and see that all of it is on the disk: a power cut leaves all or nothing."""
    files = {name: FileRecord(size=(folder / name).stat().st_size, sha256=digest(folder / name)) for name in files_in(folder)}
    made = Manifest(version=VERSION, run=run, writer=writer, iteration=iteration, files=files)
    (folder / MANIFEST).write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for path in (*folder.rglob("*"), folder):
        to_disk(path)


def fault(folder: Path, run: str, writer: str, iteration: int) -> str | None:
    """What is wrong with a checkpoint, or None. One of a newer format is an error: it may be whole, and is not to be lost."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        found = Manifest.model_validate_json(text)
    except FileNotFoundError:
        return f"it has no {MANIFEST}: an older version wrote it, or it was cut short"
    except (OSError, UnicodeDecodeError) as error:
        return f"its {MANIFEST} cannot be read: {error}"
    except ValidationError as error:
        if (version := version_of(text)) > VERSION:
            reason = f"has format version {version}, and this program reads {VERSION}"
            raise CheckpointError(folder, reason, "Go on with the version of the program that wrote it.") from error
        first = error.errors()[0]
        return f"its {MANIFEST} is damaged: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    if found.writer != writer:
        return f"it was written by {found.writer}, and this run is {writer}"
    if found.run != run:
        return "another run wrote it"
    if found.iteration != iteration:
        return f"it is of iteration {found.iteration}"
    names = sorted({*files_in(folder), *found.files})
    return next((wrong for name in names if (wrong := _fault_of(folder, name, found)) is not None), None)


def _fault_of(folder: Path, name: str, manifest: Manifest) -> str | None:
    path, expected = folder / name, manifest.files.get(name)
    if expected is None:
        return f"{name} does not belong to it"
    if path.is_symlink() or not path.is_file():
        return f"{name} is {'no plain file' if path.exists() or path.is_symlink() else 'missing'}"
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"{name} has {size:,} bytes in place of {expected.size:,}"
        return None if digest(path) == expected.sha256 else f"{name} has other contents than were written"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"


def version_of(text: str) -> int:
    """That a manifest gives itself; 0 if it is not even that."""
    try:
        version = json.loads(text)["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return version if isinstance(version, int) else 0


def files_in(folder: Path) -> list[str]:
    """All but the manifest and folders, by path, with slashes."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for path in paths if (name := path.relative_to(folder).as_posix()) != MANIFEST)


def digest(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def digest_of(place: Path) -> str:
    """Of a file, or of all that lies in a folder."""
    if place.is_file():
        return digest(place)
    return hashlib.sha256("".join(f"{digest(place / name)} {name}\n" for name in files_in(place)).encode()).hexdigest()

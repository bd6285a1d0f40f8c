"""Files that are there are whole: written aside, then renamed.

A process killed at any moment leaves the old file or the new one. A folder cannot be replaced in one go: killed in the moment between,
it leaves the old one aside, from where `sweep` puts it back.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def to_disk(path: Path) -> None:
    """A file or a folder: not only written, but there after a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_aside(path: Path, write: Callable[[Path], Any], lasting: bool = False) -> Path:
    """`write(somewhere)` makes a file or a folder; then it takes the place of `path`, a folder that of a folder alone.

    `lasting`: it is whole after a power cut, too. That takes milliseconds for each file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        _write(path, aside / "new", write)
        if lasting:
            for each in (*(aside / "new").rglob("*"), aside / "new"):
                to_disk(each)
        old = path.is_dir()  # a folder cannot be replaced by rename while it holds something
        if old and not (aside / "new").is_dir():  # what lies in there is not to be lost for a file
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        try:
            if old:
                os.replace(path, aside / "old")
            os.replace(aside / "new", path)
        except BaseException:
            if (aside / "old").exists() and not path.exists():
                os.replace(aside / "old", path)
            raise
    finally:
        if path.exists() or not (aside / "old").exists():  # else `sweep` puts it back
            shutil.rmtree(aside, ignore_errors=True)
    if lasting:
        to_disk(path.parent)
    return path


def write_first(path: Path, write: Callable[[Path], Any]) -> bool:
    """A lasting file, where there is none: of several that write it at once one does. Whether it was this one."""
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        _write(path, aside / "new", write)
        to_disk(aside / "new")
        try:
            os.link(aside / "new", path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            path.open("xb").close()
            os.replace(aside / "new", path)
    except FileExistsError:
        return False
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    to_disk(path.parent)
    return True


def _write(path: Path, aside: Path, write: Callable[[Path], Any]) -> None:
    try:
        write(aside)
    except OSError as error:
        if error.errno is not None and not error.filename:  # a write that fails, unlike an open, does not say where
            error.filename = str(path)
        raise
    except Exception as error:  # safetensors has its own for a full disk, with the system's number in its words
        if told := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from error
        raise


def sweep(folder: Path) -> None:
    """Put back what a killed process had taken out of its place in `folder`, and clear away what else it left there."""
    for aside in folder.glob(f".*-{'?' * 8}"):
        if aside.is_dir() and {each.name for each in aside.iterdir()} <= {"new", "old"}:
            place = folder / aside.name[1:-9]
            if (aside / "old").exists() and not place.exists():
                os.replace(aside / "old", place)
            shutil.rmtree(aside, ignore_errors=True)

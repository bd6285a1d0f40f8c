"""Files that are there are whole: written aside, then renamed. A process killed at any moment leaves the old one or the new one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_aside(path: Path, write: Callable[[Path], Any]) -> Path:
    """`write(somewhere)` makes a file or a folder; then it takes the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        write(aside / "new")
        old = path.is_dir()  # a folder cannot be replaced by rename while it holds something
        if old:
            os.replace(path, aside / "old")
        try:
            os.replace(aside / "new", path)
        except OSError:
            if old:
                os.replace(aside / "old", path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return path

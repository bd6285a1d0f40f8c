"""A run is one folder: config.json, log.jsonl, tensorboard/, checkpoints/, agent/, and at its end table.json, about.json, figures/,
trajectories/, thumbnails/, report.html.

A checkpoint that is there is whole, and the log never says more than can be gone on from: on opening, rows past the last checkpoint are
cut off, because their iterations will come again (and come out the same).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pool import Problem
from tir_env.files import write_aside

CONFIG, LOG, CHECKPOINTS, OWNER = "config.json", "log.jsonl", "checkpoints", "owner"
TABLE, ABOUT, TRAJECTORIES, THUMBNAILS, REPORT = "table.json", "about.json", "trajectories", "thumbnails", "report.html"
PACKAGES = ("tir-env", "ray", "torch", "transformers", "open_clip_torch", "pyiqa", "numpy")
KEEP = 2  # checkpoints

Settings = TypeVar("Settings")
Row = dict[str, float]


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, settings: Any) -> RunFolder:
        """A new run. A folder that holds one already is left alone."""
        cls.check_free(path)
        folder = cls(path)
        (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        folder.write_settings(settings)
        return folder

    @staticmethod
    def check_free(path: Path) -> None:
        if (path / CONFIG).exists():
            raise Problem(path, "holds a run already", f"Go on with it: --resume {path}. Or choose another --out.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        if not (path / CONFIG).is_file():
            raise Problem(path, "is no run", "Name the folder that run.py printed when it began.")
        return cls(path)

    # -- whose it is ---------------------------------------------------------------------------------------------------------

    def claim(self) -> str:
        """From now on only who shows this word may write: a learner whose run was killed may live on for a while."""
        word = uuid.uuid4().hex
        write_aside(self.path / OWNER, lambda path: path.write_text(word, encoding="utf-8"))
        return word

    def check_owner(self, word: str) -> None:
        if (self.path / OWNER).read_text(encoding="utf-8") != word:
            raise Problem(self.path, "is gone on with by another run", "Nothing is lost: this one ends here.")

    # -- settings ------------------------------------------------------------------------------------------------------------

    def write_settings(self, settings: Any) -> None:
        text = json.dumps(asdict(settings), indent=1, default=str) + "\n"
        write_aside(self.path / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))

    def write_about(self, begun: datetime, seconds: float, resumed: bool) -> None:
        """When it ran, for how long (the last time, if it was resumed), on what, with which versions."""
        machine = {
            "cores": f"{os.cpu_count()} cores",
            "system": f"{platform.system()} {platform.machine()}",
            "python": f"Python {platform.python_version()}",
        }
        versions = {name: version(name) for name in PACKAGES}
        about = {"begun": begun.isoformat(timespec="seconds"), "seconds": seconds, "resumed": resumed}
        text = json.dumps({**about, "machine": machine, "versions": versions}, indent=1) + "\n"
        write_aside(self.path / ABOUT, lambda path: path.write_text(text, encoding="utf-8"))

    def settings(self, kind: type[Settings]) -> Settings:
        try:
            return TypeAdapter(kind).validate_json((self.path / CONFIG).read_text(encoding="utf-8"))
        except ValidationError as error:
            problem = error.errors()[0]
            reason = f"cannot be read: {'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
            raise Problem(self.path / CONFIG, reason, "It was changed by hand, or written by another version.") from error

    # -- the log -------------------------------------------------------------------------------------------------------------

    def append(self, row: Row) -> None:
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[Row]:
        """Whole rows; the last one may have been cut short."""
        if not (self.path / LOG).exists():
            return []
        text = (self.path / LOG).read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def rewind(self, iteration: int) -> list[Row]:
        """The log up to this iteration; the rest is dropped from the file, too."""
        rows = [row for row in self.rows() if row["iteration"] <= iteration]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_aside(self.path / LOG, lambda path: path.write_text(text, encoding="utf-8"))
        return rows

    # -- checkpoints ---------------------------------------------------------------------------------------------------------

    def save_checkpoint(self, iteration: int, save: Callable[[Path], Any]) -> None:
        """`save(folder)` writes one; older ones go when it is whole."""
        write_aside(self.path / CHECKPOINTS / f"{iteration:06d}", save)
        for old in self._checkpoints()[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)

    def last_checkpoint(self) -> tuple[int, Path | None]:
        """(0, None) if there is none."""
        found = self._checkpoints()
        return (int(found[-1].name), found[-1]) if found else (0, None)

    def _checkpoints(self) -> list[Path]:
        folder = self.path / CHECKPOINTS
        return sorted(path for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def free_folder(wanted: Path) -> Path:
    """`wanted`, or with a number behind it where that holds a run already."""
    path, number = wanted, 1
    while (path / CONFIG).exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path

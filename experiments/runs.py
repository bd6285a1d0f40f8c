"""A run is one folder: config.json, log.jsonl, tensorboard/, checkpoints/, agent/, and at its end table.json, about.json, figures/,
trajectories/, thumbnails/, report.html; with --validate-every also best/. Where --resume changed settings, settings.jsonl says which,
and after which iteration.

A checkpoint is written aside, sealed and renamed, and verified before it is used; one that a disk or a person has spoilt is set aside,
and the one before it is gone on from. The log never says more than can be gone on from: rows past the last whole checkpoint are cut
off, because their iterations will come again (and come out the same).
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from experiments.checkpoints import CheckpointError, fault, seal
from experiments.console import check_folder, command_for
from pool import Problem
from pool.errors import describe, readable, without_login
from tir_env.files import sweep, to_disk, write_aside, write_first

CONFIG, LOG, CHECKPOINTS, OWNER, IDENTITY = "config.json", "log.jsonl", "checkpoints", "owner", "identity"
CHANGES = "settings.jsonl"
TABLE, ABOUT, TRAJECTORIES, THUMBNAILS, REPORT = "table.json", "about.json", "trajectories", "thumbnails", "report.html"
PACKAGES = ("tir-env", "ray", "torch", "transformers", "open_clip_torch", "pyiqa", "numpy")
AGENTS = ("agent", "best", "after-sft")
KEEP = 2  # checkpoints
BROKEN = "broken-"  # what a checkpoint that is not whole is called from then on
PLACES = ("out", "resume")  # settings that say nothing of what was computed

QUERY = re.compile(r'https?://[^\s"]*[?#]', re.IGNORECASE)
Settings = TypeVar("Settings")
Row = dict[str, float]


class _Row(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, float | bool | None] = Field(init=False)
    iteration: int = Field(ge=0, lt=2**53)


def commit() -> str:
    """Of the checkout that this code runs from, with a + where it was changed since; empty for an installed package."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):  # no git here, or one that waits for something
        return ""


@dataclass
class _Learner:
    algo: str
    policy: str | None


@dataclass
class Change:
    """Of settings: those after that iteration were other ones."""

    after: int
    settings: dict[str, tuple[Any, Any]]  # before and then, nested ones as `light.lr`


CHANGE = TypeAdapter(Change)


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole: set[Path] = set()  # checkpoints that were verified, or written here

    @classmethod
    def create(cls, path: Path, settings: Any) -> RunFolder:
        """A new run. A folder that holds one already is left alone."""
        cls.check_free(path)
        folder = cls(path)
        text = folder._as_json(settings)  # what cannot be written leaves no folder behind
        try:
            (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Problem(path, f"cannot be made: {error.strerror}", "Choose another --out.") from error
        if not write_first(path / CONFIG, lambda aside: aside.write_text(text, encoding="utf-8")):
            raise taken(path)  # by a run that began at the same time
        folder.identify()
        return folder

    @staticmethod
    def check_free(path: Path) -> None:
        check_folder(path, "--out")
        if (path / CONFIG).exists():
            raise taken(path)
        if left := left_of_a_run(path):
            reason = f"holds {left} of a run without its {CONFIG}: a new one would go on from it"
            raise Taken(path, reason, f"Put {CONFIG} back, remove the folder, or choose another --out.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        if not (path / CONFIG).is_file():
            raise Problem(path, "is no run", "Name the folder that run.py printed when it began.")
        return cls(path)

    # -- whose it is ---------------------------------------------------------------------------------------------------------

    def identify(self) -> None:
        """A word of its own, once and for all, by which it knows its checkpoints again wherever it is moved to."""
        if not (self.path / IDENTITY).exists():
            write_aside(self.path / IDENTITY, lambda path: path.write_text(uuid.uuid4().hex, encoding="utf-8"), lasting=True)

    @property
    def identity(self) -> str:
        """Empty for runs of before there was one, whose checkpoints cannot be verified either."""
        path = self.path / IDENTITY
        return _text(path) if path.exists() else ""

    @property
    def writer(self) -> str:
        """Who learns, by the settings."""
        settings = self.settings(_Learner, whole=False)
        return f"{settings.algo} {settings.policy}"

    def claim(self) -> str:
        """From now on only who shows this word may write: a learner whose run was killed may live on for a while."""
        word = uuid.uuid4().hex
        write_aside(self.path / OWNER, lambda path: path.write_text(word, encoding="utf-8"))
        return word

    def check_owner(self, word: str) -> None:
        if (self.path / OWNER).read_text(encoding="utf-8", errors="replace") != word:
            raise Problem(self.path, "is gone on with by another run", "Nothing is lost: this one ends here.")

    # -- settings ------------------------------------------------------------------------------------------------------------

    def write_settings(self, settings: Any) -> None:
        """In place of those of before. What is another one from now on is noted first."""
        text = self._as_json(settings)
        before, now = (flat(json.loads(each)) for each in (_text(self.path / CONFIG), text))
        if other := {key: (before[key], now[key]) for key in now if key in before and before[key] != now[key]}:
            lines = [*self.changes(), Change(self.last_checkpoint()[0], other)]
            log = "".join(f"{CHANGE.dump_json(each).decode()}\n" for each in lines)
            write_aside(self.path / CHANGES, lambda path: path.write_text(log, encoding="utf-8"), lasting=True)
        write_aside(self.path / CONFIG, lambda path: path.write_text(text, encoding="utf-8"), lasting=True)

    def _as_json(self, settings: Any) -> str:
        for name, value in asdict(settings).items():
            text = json.dumps(value, default=str, ensure_ascii=False)
            if readable(text) != text:
                thing = f"--{name.replace('_', '-')} {value}"
                raise Problem(
                    thing, "is no UTF-8, so that it cannot be written down", "Rename it, or link to it by another name."
                )
            if without_login(text) != text:
                thing = f"--{name.replace('_', '-')}"
                raise Problem(thing, "has an address with a password in it, which would be written down", "Leave it out.")
            if QUERY.search(text):  # often with a key in it
                thing = f"--{name.replace('_', '-')}"
                raise Problem(thing, "has an address with a query in it, which would be written down", "Leave it out.")
        return json.dumps(asdict(settings), indent=1, default=str) + "\n"

    def changes(self) -> list[Change]:
        """What --resume made other than the run was begun with, in order."""
        path = self.path / CHANGES
        try:
            return [CHANGE.validate_json(line) for line in _text(path).split("\n") if line] if path.exists() else []
        except ValidationError as error:
            raise Problem(path, "is damaged", "It was changed by hand: put back a copy of the file, or delete it.") from error

    def write_about(self, begun: datetime, seconds: float, resumed: bool, demonstrations: float = 0.0) -> None:
        """When it ran, for how long (the last time, if it was resumed), seconds of demonstrations, on what, with which versions."""
        machine = {
            "cores": f"{os.cpu_count()} cores",
            "system": f"{platform.system()} {platform.machine()}",
            "python": f"Python {platform.python_version()}",
        }
        versions = {name: _version(name) for name in PACKAGES}
        if made_of := commit():
            versions["tir-env"] += f" ({made_of})"
        spent = {"seconds": seconds, "demonstrations": demonstrations}
        about = {"begun": begun.isoformat(timespec="seconds"), **spent, "resumed": resumed}
        text = json.dumps({**about, "machine": machine, "versions": versions}, indent=1) + "\n"
        write_aside(self.path / ABOUT, lambda path: path.write_text(text, encoding="utf-8"))

    def settings(self, kind: type[Settings], whole: bool = True) -> Settings:
        """`whole`: the file has no others."""
        remedy = "It was changed by hand, or written by another version."
        try:
            text = (self.path / CONFIG).read_bytes()
            settings = TypeAdapter(kind).validate_json(text)
        except ValidationError as error:
            problem = error.errors()[0]
            reason = f"cannot be read: {'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
            raise Problem(self.path / CONFIG, reason, remedy) from error
        if whole and (unknown := flat(json.loads(text)).keys() - flat(asdict(settings)).keys()):  # type: ignore[call-overload]
            raise Problem(self.path / CONFIG, f"cannot be read: {', '.join(sorted(unknown))}: there is no such setting", remedy)
        return settings

    # -- the log -------------------------------------------------------------------------------------------------------------

    def append(self, row: Row) -> None:
        try:
            with (self.path / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise Problem(self.path / LOG, f"cannot be written: {error.strerror}", self._how_to_go_on()) from error

    def rows(self) -> list[Row]:
        """Whole rows. The last ones may have been torn: by a kill in the middle of a line, or by a power cut, which leaves zeros."""
        if not (self.path / LOG).exists():
            return []
        text = _text(self.path / LOG)
        rows, torn = [], 0
        for number, line in enumerate(text[: text.rfind("\n") + 1].split("\n")[:-1], start=1):
            try:
                row = json.loads(line)
                _Row.model_validate(row)
            except (ValueError, RecursionError):  # pydantic's is a ValueError
                torn = torn or number
                continue
            if torn:
                raise Problem(self.path / LOG, f"line {torn} is damaged", "Put back a copy of the file, or delete that line.")
            rows.append(row)
        return rows

    def rewind(self, iteration: int) -> list[Row]:
        """The log up to this iteration; the rest is dropped from the file, too."""
        rows = [row for row in self.rows() if row["iteration"] <= iteration]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_aside(self.path / LOG, lambda path: path.write_text(text, encoding="utf-8"))
        return rows

    # -- checkpoints ---------------------------------------------------------------------------------------------------------

    def save_checkpoint(self, iteration: int, save: Callable[[Path], Any], keep: int = KEEP) -> None:
        """`save(folder)` writes one; when it is whole and on the disk, older ones go."""
        path = self.path / CHECKPOINTS / f"{iteration:06d}"

        def write(aside: Path) -> None:
            save(aside)
            seal(aside, self.identity, self.writer, iteration)

        try:
            if (self.path / LOG).exists():
                to_disk(self.path / LOG)  # before the checkpoint, which must not know more than the log
            write_aside(path, write)
            to_disk(path.parent)
        except (OSError, RuntimeError) as error:  # PyTorch's way to say that a disk is full is a RuntimeError
            reason = f"cannot be written: {describe(error)}"
            raise CheckpointError(f"checkpoint {iteration}", reason, self._how_to_go_on()) from error
        self._whole.add(path)
        for old in self._checkpoints()[:-keep]:
            shutil.rmtree(old, ignore_errors=True)

    def last_checkpoint(self) -> tuple[int, Path | None]:
        """The last whole one; (0, None) if there is none."""
        for path in reversed(self._checkpoints()):
            if path in self._whole or fault(path, self.identity, self.writer, int(path.name)) is None:
                self._whole.add(path)
                return int(path.name), path
        return 0, None

    def recover(self, writer: str) -> list[str]:
        """Before a run goes on: set aside the last checkpoints as far as they are not whole. What there is to say of it.

        Where there are checkpoints and none is whole, that is an error: to begin anew is for the user to decide.
        """
        self.identify()
        for folder in (self.path, self.path / CHECKPOINTS, *(self.path / name for name in AGENTS)):
            sweep(folder)
        broken: dict[Path, str] = {}
        for path in reversed(self._checkpoints()):
            wrong = fault(path, self.identity, writer, int(path.name))
            if wrong is None:
                break
            broken[path] = wrong
        if broken and len(broken) == len(self._checkpoints()):
            found = "; ".join(f"{path.name}: {wrong}" for path, wrong in broken.items())
            remedy = "Put back a copy, or delete this folder: --resume then begins again with the run's settings."
            raise CheckpointError(self.path / CHECKPOINTS, f"holds no checkpoint to go on from ({found})", remedy)
        notes = []
        for path, wrong in broken.items():
            kept = path.with_name(f"{BROKEN}{path.name}-{uuid.uuid4().hex[:4]}")
            path.rename(kept)
            notes.append(
                f"checkpoint {int(path.name)} cannot be used: {wrong}. It is kept as {kept.name}, the one before is taken"
            )
        return notes

    def _how_to_go_on(self) -> str:
        saved = self.last_checkpoint()[0]
        return f"Iteration {saved} is saved. Put that right, then: {command_for('run.py')} --resume {self.path}"

    def _checkpoints(self) -> list[Path]:
        folder = self.path / CHECKPOINTS
        return (
            sorted(
                (path for path in folder.iterdir() if path.name.isdecimal() and path.name.isascii()),
                key=lambda path: int(path.name),
            )
            if folder.is_dir()
            else []
        )


class Taken(Problem):
    """A folder that holds a run."""


def taken(path: Path) -> Taken:
    return Taken(path, "holds a run already", f"Go on with it: --resume {path}. Or choose another --out.")


def left_of_a_run(path: Path) -> str:
    """What would be taken for a new run's own; an empty folder for checkpoints is none."""
    there = [name for name in (IDENTITY, LOG, *AGENTS) if (path / name).exists()]
    if (path / CHECKPOINTS).is_dir() and any((path / CHECKPOINTS).iterdir()):
        there.append(CHECKPOINTS)
    return ", ".join(there)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout on the path, say, that was never installed: no reason to lose a run at its end
        return "not installed"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Problem(path, f"cannot be read: {error.strerror}", "Put back a copy of the file.") from error


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they lie in the file, nested ones as `light.lr`, without `PLACES`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in PLACES:
            found |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return found


def free_folder(wanted: Path) -> Path:
    """`wanted`, or with a number behind it where that holds a run already."""
    path, number = wanted, 1
    while (path / CONFIG).exists() or left_of_a_run(path):
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path

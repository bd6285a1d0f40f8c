"""What a run folder holds, read for the report: settings, circumstances, log, table, trajectories.

What is missing is told, not guessed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from experiments.console import figures
from experiments.runs import ABOUT, CONFIG, TABLE, TRAJECTORIES, Row, RunFolder, flat
from pool import Problem
from tir_env import trajectory_file
from tir_env.trajectory import Trajectory

OF_OTHERS = {"clip_mlp": "vlm", "vlm": "light"}  # the options that a policy does not read
SHARES = ("tasks", "usage")  # of a policy in the table; no metric can be called so
SHOWN = 5000  # trajectories of a run: a page of some 40 MB, of which a browser can be asked


@dataclass
class Run:
    name: str
    folder: Path
    settings: dict[str, Any]
    about: dict[str, Any]
    rows: list[Row]
    table: dict[str, dict[str, Any]]
    cases: dict[str, dict[str, dict[str, Any]]]  # by policy, by case
    trajectories: list[Trajectory] = field(repr=False)  # without their images, of which there may be more than memory
    pictured: dict[int, Path] = field(repr=False)  # by `id` of a trajectory that was saved with its images: where
    numbers: list[int]  # of the trajectories, by the order in which they were played
    notes: list[str]  # what a reader must know is missing

    @property
    def metrics(self) -> list[str]:
        """Those of the table first, then whatever else the trajectories know."""
        known = [m for t in self.trajectories for m in t.quality if m not in SHARES]
        return list(dict.fromkeys([*self.settings.get("metrics", ()), *known]))

    @property
    def trained(self) -> str:
        return next(iter(self.table), "")

    @property
    def best_single(self) -> str:
        """The single tool that run.py found best; `by case` holds the trained policy and it."""
        return next((name for name in self.cases if name != self.trained), "")

    def flat(self) -> dict[str, str]:
        """Its settings as text, nested ones as `light.lr`; without those of the policy that did not learn."""
        unread = OF_OTHERS.get(str(self.settings.get("policy")), "")
        read = {key: value for key, value in self.settings.items() if key != unread}
        return {key: told(value) for key, value in flat(read).items()}

    def seconds(self) -> dict[str, float]:
        """Where the time went: demonstrations, training by kind of work where the log says so, the comparison at the end, the rest."""
        spent: dict[str, float] = {}
        for row in self.rows:
            known = {key: float(value) for key, value in row.items() if _is_known(value)}
            parts = {key.partition("/")[2]: value for key, value in known.items() if key.startswith("seconds/")}
            whole = known.get("seconds", 0.0)
            if not parts:
                parts = {"imitation" if "sft/loss" in row else "training": whole}
            elif whole > sum(parts.values()):
                parts["other training"] = whole - sum(parts.values())
            for kind, value in parts.items():
                spent[kind] = spent.get(kind, 0.0) + value
        played = self.settings.get("test_episodes", 0)
        timed = [row.get("seconds per image", 0.0) * row.get("episodes", played) for row in self.table.values()]
        spent["held-out comparison"] = sum(filter(_is_known, timed))
        spent["demonstrations"] = self.about.get("demonstrations", 0.0)
        rest = float(self.about.get("seconds", 0.0)) - sum(spent.values())
        if rest > 0 and not self.about.get("resumed"):
            spent["everything else"] = rest
        return {kind: value for kind, value in spent.items() if value > 0 and _is_known(value)}


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def read_run(path: Path, name: str, limit: int = SHOWN) -> Run:
    """A folder that run.py made, finished or not; of its trajectories at most `limit`."""
    folder = RunFolder.open(path)
    notes: list[str] = []
    settings = _read(path / CONFIG, Settings)
    table = _read(path / TABLE, Table) if (path / TABLE).is_file() else {}
    about = _read(path / ABOUT, About) if (path / ABOUT).is_file() else {}
    if not table:
        notes.append("There is no table: the run has not come to its end.")
    if not about:
        notes.append("Versions and date were not noted: the run has not come to its end, or an older version made it.")
    for change in folder.changes():
        other = ", ".join(f"{key} {told(then)} in place of {told(before)}" for key, (before, then) in change.settings.items())
        notes.append(f"After iteration {change.after} it was gone on with other settings: {other}.")
    trajectories, pictured, numbers, broken = _trajectories(path / TRAJECTORIES, limit)
    if table and not trajectories:
        notes.append("No trajectories were saved.")
    notes += broken
    tables = figures(table.get("rows", {})), figures(table.get("by case", {}))
    return Run(name, path, settings, about, folder.rows(), *tables, trajectories, pictured, numbers, notes)


def _trajectories(folder: Path, limit: int) -> tuple[list[Trajectory], dict[int, Path], list[int], list[str]]:
    """All that can be read, or of as many as the limit allows, spread evenly; where those are that have images; their numbers;
    lines about what is not among them."""
    names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")] if folder.is_dir() else []
    names.sort(key=lambda name: (len(name), name))  # 9999 before 10000
    chosen = [k * len(names) // limit for k in range(limit)] if len(names) > limit else range(len(names))
    found, numbers, broken = [], [], []
    pictured: dict[int, Path] = {}
    for place in chosen:
        name = names[place]
        try:
            trajectory, images = trajectory_file.read(folder / name)
        except Problem as error:
            broken.append(str(error))
            continue
        found.append(trajectory)
        numbers.append(int(name) if name.isdecimal() else place)
        if images == "png":
            pictured[id(trajectory)] = folder / name
    told_of = []
    if len(chosen) < len(names):
        told_of.append(
            f"Of {len(names):,} trajectories {len(chosen):,} are read for this page, evenly spread; tools are counted and pictures "
            "shown of these alone. report.py --trajectories reads more."
        )
    if broken:
        told_of.append(f"{len(broken)} trajectories cannot be read. The first: {broken[0]}")
    return found, pictured, numbers, told_of


class _File(BaseModel):
    """What the page relies on; what else there is, it shows as text or not at all."""

    model_config = ConfigDict(extra="allow", strict=True)


def _no_share(metric: str) -> str:
    if metric in SHARES:
        raise ValueError(f"no metric is called {metric}")
    return metric


Metric = Annotated[str, AfterValidator(_no_share)]


class Settings(_File):
    metrics: list[Metric] = []
    test_episodes: int = Field(0, ge=0, lt=2**53)
    images: str = ""
    test_images: str = ""
    toolbox: str = ""
    depth: str = "synthetic"
    horizon: int = 1
    crop: int = 0


class Figures(_File):
    """Of a policy: numbers by name, and two kinds of shares."""

    __pydantic_extra__: dict[str, float | None] = Field(init=False)
    tasks: dict[str, float] = {}
    usage: dict[str, float] = {}


class Table(_File):
    rows: dict[str, Figures] = {}
    cases: dict[str, dict[str, Figures]] = Field({}, alias="by case")


class About(_File):
    begun: datetime
    seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    demonstrations: float = Field(0.0, ge=0, allow_inf_nan=False)
    machine: dict[str, str] = {}
    versions: dict[str, str] = {}


def _read(path: Path, kind: type[_File]) -> dict[str, Any]:
    """What is in the file, if it has that form."""
    remedy = "It was cut short or changed by hand: restore it, or delete it."
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, Any] = kind.model_validate_json(json.dumps(data)).model_dump(by_alias=True, exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise Problem(path, f"holds no {kind.__name__.lower()} of a run: {where}: {first['msg']}", remedy) from error
    except (ValueError, RecursionError, OSError) as error:
        raise Problem(path, f"is no JSON file ({error})", remedy) from error
    return found


def names_of(folders: Sequence[Path]) -> list[str]:
    """Short names that differ: the last part of each path, or as much of it as is needed."""
    parts = [path.resolve().parts for path in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings that all runs have but that are not the same, a value for each run."""
    each = [run.flat() for run in runs]
    keys = [key for key in each[0] if all(key in settings for settings in each)]
    values = {key: [settings[key] for settings in each] for key in keys}
    return {key: several for key, several in values.items() if len(set(several)) > 1}


def told(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return (
        {True: "yes", False: "no"}[value]
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )

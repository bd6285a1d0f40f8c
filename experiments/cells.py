"""Long benchmarks in parts: each is computed once, kept as soon as it is there, and found again by the next call."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from agents.opening import agent_folder
from experiments.checkpoints import digest_of
from experiments.console import write_json
from experiments.runs import ABOUT, CONFIG, RunFolder
from pool import Pool, Problem, connect

PLACE = ("out", "resume", "pool")  # of a run's settings: where it runs, not what comes out
FILES = (".yaml", ".yml", ".json", ".safetensors")  # that options name, and hold what they say
SHARED = 2 << 30  # bytes of results that trainings in one process remember


def continued(path: Path, settings: Mapping[str, Any], **empty: Any) -> dict[str, Any]:
    """What an earlier call left in `path`, or {"settings": ..., **empty}. A file that belongs to other settings is refused."""
    told = json.loads(json.dumps(dict(settings), default=str))  # as it will be read again
    if not path.exists():
        return {"settings": told, **empty}
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Problem(path, f"is no JSON file ({error})", "Delete it, or name another one.") from error
    there = results.get("settings") if isinstance(results, dict) else None
    if not isinstance(there, dict):
        raise Problem(path, "holds no results of this script", "Name another file or folder.")
    if there != told:
        other = [name for name in {**there, **told} if there.get(name) != told.get(name)]
        what = ", ".join(f"{name} {there.get(name)}, not {told.get(name)}" for name in other)
        raise Problem(path, f"holds results of other settings: {what}", "Name another file or folder.")
    return {**empty, **results}


def more_options(text: str, taken: Sequence[str] = ()) -> list[str]:
    """A script's --options for run.py, but for those that it gives itself: theirs would be overridden without a word."""
    words = shlex.split(text)
    if strange := [word for word in words if word.partition("=")[0].replace("_", "-") in taken]:
        raise Problem("--options", f"holds {strange[0]}, which this script gives itself", "Use the script's own option.")
    return words


def contents_of(words: Iterable[str] = (), agents: Iterable[str] = ()) -> dict[str, str]:
    """Digests of trained agents, and of the files and modules that words name: what lies there may be another thing the next time.

    Such as a toolbox's YAML, `tree:mine.safetensors`, `agenticir:experience=mine.json`, `gain:my_module:Metric`.
    """
    places = {name: folder for name in agents if (folder := agent_folder(name)) is not None}
    for word in (*agents, *words):
        places |= {part: Path(part) for part in re.split("[=,+:]", word) if Path(part).suffix in FILES and Path(part).is_file()}
        places |= {name: place for name in re.findall(r"([A-Za-z_][\w.]*):[A-Z]\w*", word) if (place := module_file(name))}
    return {name: digest_of(place)[:16] for name, place in places.items()}


def module_file(name: str) -> Path | None:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # whoever imports it says more
        return None
    return Path(found.origin) if found is not None and found.has_location and found.origin else None


class Cells:
    """What has been computed, by name, in a JSON file that belongs to `settings`."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.done = path, continued(path, settings)

    def fill(self, name: str, compute: Callable[..., Any], *arguments: Any) -> None:
        """`compute(*arguments)`, if it is not there."""
        if name not in self.done:
            print(f"{name} ...", flush=True)
            self.done[name] = compute(*arguments)
            write_json(self.path, self.done)


def train_run(folder: Path, *options: object, share: str | None = None) -> Path:
    """A training by run.py: from the beginning, or resumed if there is some of it, unless it has ended.

    In a process of its own; with `share` in this one, its tools on the local pool of that name (`workers_for`).
    """
    from experiments.run import Run, completed, run, settings_from

    arguments = [*map(str, options), "--out", str(folder)]
    if (folder / CONFIG).exists():
        wanted, there = completed(settings_from(arguments)), RunFolder(folder).settings(Run)
        if strange := [
            f.name for f in fields(Run) if f.name not in PLACE and getattr(wanted, f.name) != getattr(there, f.name)
        ]:
            what = ", ".join(f"{name} {getattr(there, name)}, not {getattr(wanted, name)}" for name in strange)
            raise Problem(folder, f"holds a training with other settings: {what}", "Name another folder, or remove this one.")
        arguments = ["--resume", str(folder)]
    if (folder / ABOUT).exists():
        return folder
    if share is None:
        done = subprocess.run([sys.executable, str(Path(__file__).with_name("run.py")), *arguments])
        if done.returncode in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        if done.returncode:
            raise Problem(folder, f"its training ended with {done.returncode}", "What it said stands above; this call goes on.")
    else:
        run(replace(settings_from(arguments), pool="local"), share)
    return folder


@contextmanager
def workers_for(kind: str) -> Iterator[tuple[Pool, str | None]]:
    """The pool of a benchmark, and what to give to `train_run` as `share`.

    A local one is shared by its trainings and tests, which run in this process: of what several of them ask the tools for, such as
    the first steps of the same starts, the later ones find it done. A training's result is the same either way.
    """
    share = "benchmark" if kind == "local" else None
    with connect("local", name=share, cache_bytes=SHARED) if share else connect(kind) as pool:
        yield pool, share

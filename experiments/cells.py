"""Long benchmarks in parts: each is computed once, kept as soon as it is there, and found again by the next call."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.runs import CONFIG
from pool import Problem
from tir_env.files import write_aside


class Cells:
    """What has been computed, by name, in a JSON file that belongs to `settings`."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        told = json.loads(json.dumps(dict(settings), default=str))  # as it will be read again
        self.done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"settings": told}
        if self.done["settings"] != told:
            raise Problem(path, f"holds results of other settings ({self.done['settings']})", "Choose another --out.")

    def fill(self, name: str, compute: Callable[..., Any], *arguments: Any) -> None:
        """`compute(*arguments)`, if it is not there."""
        if name not in self.done:
            print(f"{name} ...", flush=True)
            self.done[name] = compute(*arguments)
            write_aside(self.path, lambda path: path.write_text(json.dumps(self.done, indent=1) + "\n"))


def train_run(folder: Path, *options: object) -> Path:
    """A training by run.py in a process of its own: from the beginning, or resumed if there is some of it."""
    known = ["--resume", folder] if (folder / CONFIG).exists() else [*options, "--out", folder]
    subprocess.run([sys.executable, str(Path(__file__).with_name("run.py")), *map(str, known)], check=True)
    return folder

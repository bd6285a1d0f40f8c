"""How every experiment script starts: a dataclass becomes the command line, and a user's mistake ends in one line, not a traceback."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro

from pool import Problem
from tir_env.files import write_aside

Settings = TypeVar("Settings")


def main(
    settings: type[Settings] | Callable[[list[str]], Settings],
    run: Callable[[Settings], int | None],
    about: str | None = None,
) -> None:
    """Parse the command line into `settings` and run. `TIR_DEBUG=1` shows the traceback of a user's mistake, too.

    A script whose defaults depend on the command line gives a function of its arguments in place of a dataclass. What `run` returns
    is the exit status.
    """
    try:
        if inspect.isfunction(settings):
            chosen = settings(sys.argv[1:])
        else:
            chosen = tyro.cli(settings, description=about)
        if status := run(chosen):
            sys.exit(status)
    except Problem as problem:
        if os.environ.get("TIR_DEBUG"):
            raise
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if os.environ.get("TIR_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def at_least(low: int, **values: int) -> None:
    """Refuse numbers below a limit, by name: `at_least(1, episodes=settings.episodes)`."""
    for name, value in values.items():
        if value < low:
            raise Problem(f"--{name}", f"must be at least {low}, not {value}", "Correct it.")


def write_json(path: Path | None, data: Any) -> None:
    """Whole or not at all, so that what a killed script leaves can be read."""
    if path is not None:
        text = json.dumps(data, indent=1, default=str) + "\n"
        write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))

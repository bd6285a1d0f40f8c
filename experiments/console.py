"""How every experiment script starts: a dataclass becomes the command line, and a user's mistake ends in one line, not a traceback."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console

from pool import Problem
from pool.console import ABOUT_DEBUG, start
from tir_env.files import write_aside

Settings = TypeVar("Settings")


def main(
    settings: type[Settings] | Callable[[list[str]], Settings],
    run: Callable[[Settings], int | None],
    about: str | None = None,
) -> None:
    """Parse the command line into `settings` and run, as `pool.console.start` starts it.

    A script whose defaults depend on the command line gives a function of its arguments in place of a dataclass. What `run` returns
    is the exit status.
    """

    def work(arguments: list[str]) -> int | None:
        chosen = settings(arguments) if inspect.isfunction(settings) else parse(settings, arguments, about)  # type: ignore[arg-type]
        check_results(chosen)
        return run(chosen)

    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)  # pyiqa's, on its own import
    start(work)


def parse(kind: type[Settings], arguments: list[str], about: str | None = None, default: Settings | None = None) -> Settings:
    """The command line as a dataclass; `about` is what --help begins with."""
    description = f"{about or ''}\n\n{ABOUT_DEBUG}"
    given: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, description=description, args=arguments, **given)


def check_results(settings: Any) -> None:
    """What a script writes at its end, perhaps after hours, must have a place when it begins."""
    json, figures = getattr(settings, "json", None), getattr(settings, "figures", None)
    if json is not None:
        check_folder(json.parent, "--json")
        if json.is_dir():
            raise Problem(json, "is a folder", "Give --json the name of a file.")
    if figures is not None:
        check_folder(figures, "--figures")


def check_folder(path: Path, option: str) -> None:
    """It is there and can be written to, or can be made."""
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise Problem(path, f"cannot be a folder: {there} is a file", f"Choose another {option}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Problem(path, f"cannot be written: you may not write to {there}", f"Choose another {option}.")


def plain_console() -> Console:
    """Prints text as it is: a folder may be called [old], a case [/b] and an agent :cat:."""
    return Console(markup=False, emoji=False)


def command_for(script: str) -> str:
    """How its user starts a script such as run.py: from the checkout, or as a command of `tir` where that is what they have."""
    if not sys.argv[0].startswith("tir ") and Path("experiments", script).is_file():
        return f"python experiments/{script}"
    from experiments.cli import COMMANDS  # not above: who is run by `-m experiments.cli` would have it twice

    module = f"experiments.{script.removesuffix('.py')}"
    return "tir " + next(name for name, known in COMMANDS.items() if known.module == module)


def at_least(low: int, **values: float) -> None:
    """Refuse numbers below a limit, by name: `at_least(1, episodes=settings.episodes)`."""
    for name, value in values.items():
        if value < low:
            raise Problem(f"--{name.replace('_', '-')}", f"must be at least {low}, not {value}", "Correct it.")


def write_json(path: Path | None, data: Any) -> None:
    """Whole or not at all, so that what a killed script leaves can be read. JSON has no word for NaN: null stands for it."""
    if path is not None:
        text = json.dumps(_each(data, _finite), indent=1, default=str, allow_nan=False) + "\n"
        write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def figures(data: Any) -> Any:
    """Results as `write_json` got them: a null among them is a NaN again."""
    return _each(data, lambda value: math.nan if value is None else value)


def _each(data: Any, change: Callable[[Any], Any]) -> Any:
    """`data` with every value in its mappings and lists changed."""
    if isinstance(data, dict):
        return {key: _each(value, change) for key, value in data.items()}
    return [_each(value, change) for value in data] if isinstance(data, list | tuple) else change(data)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""How every experiment script starts: a dataclass becomes the command line, and a user's mistake ends in one line, not a traceback."""

from __future__ import annotations

import errno
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro

from pool import Problem
from tir_env.files import write_aside

Settings = TypeVar("Settings")


DEBUG = "--debug"


def main(
    settings: type[Settings] | Callable[[list[str]], Settings],
    run: Callable[[Settings], int | None],
    about: str | None = None,
) -> None:
    """Parse the command line into `settings` and run. `--debug`, or TIR_DEBUG=1, shows the traceback of a user's mistake, too.

    A script whose defaults depend on the command line gives a function of its arguments in place of a dataclass. What `run` returns
    is the exit status.
    """
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)  # pyiqa's, on its own import
    arguments = [word for word in sys.argv[1:] if word != DEBUG]
    debug = DEBUG in sys.argv[1:] or bool(os.environ.get("TIR_DEBUG"))
    try:
        chosen = settings(arguments) if inspect.isfunction(settings) else parse(settings, arguments, about)  # type: ignore[arg-type]
        if status := run(chosen):
            sys.exit(status)
    except (Problem, OSError) as error:
        if debug:
            raise
        print(f"error: {error if isinstance(error, Problem) else problem_of(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def parse(kind: type[Settings], arguments: list[str], about: str | None = None, default: Settings | None = None) -> Settings:
    """The command line as a dataclass; `about` is what --help begins with."""
    description = f"{about or ''}\n\n{DEBUG} (or TIR_DEBUG=1) shows where an error comes from."
    given: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, description=description, args=arguments, **given)


REMEDIES = {
    errno.ENOSPC: "Make room on that disk, and start again.",
    errno.EDQUOT: "Make room within your quota, and start again.",
    errno.EACCES: "Choose a place that you may write to.",
    errno.EPERM: "Choose a place that you may write to.",
    errno.EROFS: "Choose a place that you may write to.",
    errno.ENOTDIR: "A file is where a folder is needed: choose another place.",
    errno.EEXIST: "A file is where a folder is needed: choose another place.",
    errno.EISDIR: "A folder is where a file is needed: choose another name.",
    errno.ENOENT: "Check the path.",
}


def problem_of(error: OSError) -> Problem:
    """What the system refused, with what to do about it where that is plain."""
    thing = error.filename2 or error.filename or "a file"
    return Problem(os.fsdecode(thing), error.strerror or str(error), REMEDIES.get(error.errno or 0, ""))


def at_least(low: int, **values: float) -> None:
    """Refuse numbers below a limit, by name: `at_least(1, episodes=settings.episodes)`."""
    for name, value in values.items():
        if value < low:
            raise Problem(f"--{name}", f"must be at least {low}, not {value}", "Correct it.")


def write_json(path: Path | None, data: Any) -> None:
    """Whole or not at all, so that what a killed script leaves can be read."""
    if path is not None:
        text = json.dumps(data, indent=1, default=str) + "\n"
        write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))

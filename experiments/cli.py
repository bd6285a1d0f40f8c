"""The console script `tir`: each command is the script of that name in experiments/ (or a module's own command line), as installed.

`tir --help` reads the first line of their docstrings without importing any of them, which would take seconds.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Command(NamedTuple):
    module: str
    settings: str  # in it: the dataclass, or a function of the arguments that makes one
    run: str  # in it: what is done with the settings


COMMANDS = {
    "train": Command("experiments.run", "settings_from", "run"),
    "eval": Command("experiments.evaluate", "Evaluate", "evaluate"),
    "restore": Command("experiments.restore", "Restore", "restore"),
    "compare": Command("experiments.compare", "Compare", "compare"),
    "rewards": Command("experiments.compare_rewards", "CompareRewards", "compare"),
    "tree": Command("experiments.grow_tree", "Grow", "run"),
    "report": Command("experiments.report", "Report", "run"),
    "explore": Command("experiments.explore", "Explore", "run"),
    "show": Command("experiments.show", "Sheet", "run"),
    "diversity": Command("experiments.diversity", "Diversity", "measure"),
    "tools": Command("tir_env.tools.__main__", "Command", "main"),
    "weights": Command("experiments.make_weights", "Settings", "run"),
    "mcp": Command("tir_env.mcp.__main__", "Serve", "main"),
}


def main() -> None:
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        from tir_env import __version__

        print(__version__)
    elif name in COMMANDS:
        sys.argv = [f"tir {name}", *rest]
        run(COMMANDS[name])
    else:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        print(f"error: tir {name}: is no command. {hint}Known: {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)


def run(command: Command) -> None:
    from experiments.console import main as start

    module = importlib.import_module(command.module)
    work: Callable[[Any], int | None] = getattr(module, command.run)
    start(getattr(module, command.settings), work, module.__doc__)


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {about(command.module)}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: tir COMMAND [OPTIONS]", "", *lines, "", "tir COMMAND --help has all of its options; tir --version."]
    )


def about(module: str) -> str:
    """The first line of its docstring, read from the file."""
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


if __name__ == "__main__":
    main()

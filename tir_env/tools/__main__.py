"""Look at a toolbox from the command line.

    python -m tir_env.tools list --toolbox full      what is there, what is missing and where to get it
    python -m tir_env.tools check --toolbox pocket   load every tool that is there and run it on a test image

Weight files are looked for beside the toolbox file and where TIR_WEIGHTS says.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pool.console import ABOUT_DEBUG, start
from pool.errors import Problem
from tir_env.images.generate import dead_leaves
from tir_env.images.operations import Image
from tir_env.tools.tool import Tool
from tir_env.tools.toolbox import Toolbox
from tir_env.tools.weights import weights_folder


@dataclass(frozen=True)
class ListTools:
    """Print every tool with its task, its weight file, and where to get what is missing."""

    toolbox: str = "pocket"  # pocket, full, rl-restore, or the path of a YAML file


@dataclass(frozen=True)
class CheckTools:
    """Load every tool whose weights are there and run it on a generated image. Exit status 1 if any fails."""

    toolbox: str = "pocket"  # pocket, full, rl-restore, or the path of a YAML file
    size: int = 96  # side of the test image in pixels


Command = Annotated[ListTools, tyro.conf.subcommand("list")] | Annotated[CheckTools, tyro.conf.subcommand("check")]


def main(command: Command) -> int:
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    toolbox = Toolbox.load(command.toolbox)
    if isinstance(command, ListTools):
        return list_tools(toolbox, console)
    if not 8 <= command.size <= 4096:
        raise Problem("--size", f"must be from 8 to 4096, not {command.size}", "Correct it.")
    return check_tools(toolbox, command.size, console)


def list_tools(toolbox: Toolbox, console: Console) -> int:
    title = escape(f"{toolbox.name}: {toolbox.description}")
    table = Table("tool", "scale", "engine", "weights", "ms 256x256", "source", title=title)
    missing = 0
    for tool in toolbox:
        weights = tool.engine.weights
        if weights is None:
            state = "none needed"
        elif found := weights.found():
            state = f"[green]{escape(str(found))}"
        else:
            state, missing = f"[red]missing:[/] {escape(weights.name)}", missing + 1
        cost = f"{tool.traits.cost * 1e3:.0f}" if tool.traits.cost else "-"
        source = "; ".join(text for text in (tool.source, tool.license) if text) or tool.about
        table.add_row(escape(tool.name), str(tool.scale), type(tool.engine).__name__, state, cost, escape(source))
    console.print(table)
    console.print(f"{len(toolbox)} tools: {len(toolbox) - missing} ready, {missing} without their weight file.")
    if missing:
        console.print(
            f"Weight files are looked for next to the toolbox file and in {escape(str(weights_folder()))} (TIR_WEIGHTS)."
        )
    return 0


def check_tools(toolbox: Toolbox, size: int, console: Console) -> int:
    image = dead_leaves(0, size)
    counts = {"ok": 0, "missing": 0, "failed": 0}
    for tool in toolbox:
        if tool.engine.weights is not None and not tool.engine.weights.found():
            verdict, detail = "missing", tool.engine.weights.name
        else:
            verdict, detail = _try(tool, image)
        counts[verdict] += 1
        colour = {"ok": "green", "missing": "yellow", "failed": "red"}[verdict]
        console.print(f"[{colour}]{verdict:8}[/] {escape(f'{tool.name:36}')} {escape(detail)}")
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["failed"] else 0


def _try(tool: Tool, image: Image) -> tuple[str, str]:
    try:
        tool.load()
        began = time.perf_counter()
        result = tool(image)
        spent = time.perf_counter() - began
        tool.check(image, result)
        if tool.traits.deterministic and not np.array_equal(result, tool(image)):
            return "failed", "the same image gave another result the second time; say `deterministic: false` if it must"
        if result.max() <= 1 < image.max():
            return "failed", "the result is black: does it return floats from 0 to 1? They must be from 0 to 255"
    except Exception as error:  # a user's own tool may raise anything; it is reported, and the others are still checked
        return "failed", str(error) if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
    return "ok", f"{spent * 1e3:.0f} ms, {result.shape[1]}x{result.shape[0]}"


if __name__ == "__main__":
    start(lambda arguments: main(tyro.cli(Command, args=arguments, description=f"{__doc__}\n\n{ABOUT_DEBUG}")))

"""Who is told of every iteration: TensorBoard, Weights & Biases, and the person who watches."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from experiments.runs import Row, RunFolder
from pool import Problem


class Tracker(Protocol):
    def log(self, row: Row) -> None: ...


@dataclass
class TensorBoard:
    writer: SummaryWriter

    def log(self, row: Row) -> None:
        for key, value in row.items():
            if key != "iteration" and math.isfinite(value):
                self.writer.add_scalar(key, value, int(row["iteration"]))
        self.writer.flush()


@dataclass
class Wandb:
    run: Any

    def log(self, row: Row) -> None:
        self.run.log({k: v for k, v in row.items() if k != "iteration"}, step=int(row["iteration"]))


@contextlib.contextmanager
def trackers(folder: RunFolder, wandb_mode: str, done: int) -> Iterator[list[Tracker]]:
    """TensorBoard always, Weights & Biases when asked for: one run there for one here, however often it is gone on with.

    What they hold beyond the checkpoint is dropped, or stays: what comes in its place is the same.
    """
    writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=done + 1)
    found: list[Tracker] = [TensorBoard(writer)]
    run = None
    if wandb_mode != "off":
        import wandb

        name = folder.path.resolve().name
        config = json.loads((folder.path / "config.json").read_text())
        try:
            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "tir-env"), name=name, config=config, dir=str(folder.path),
                mode=wandb_mode,
                id=folder.identity or None, resume="allow",
            )  # fmt: skip
        except wandb.errors.Error as error:
            raise Problem("--wandb online", str(error), "Log in with `wandb login`, or use --wandb offline.") from error
        found.append(Wandb(run))
    try:
        yield found
    finally:
        writer.close()
        if run is not None:
            run.finish()


@contextlib.contextmanager
def display(console: Console, iterations: int, done: int, say: Callable[[Row], str], what: str = "iteration") -> Iterator[Any]:
    """A progress bar with the last figures, as `say` puts them; where nobody watches, a line now and then."""
    columns = (
        TextColumn(what), MofNCompleteColumn(), BarColumn(bar_width=20), TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    stride = max(1, iterations // 10)
    began = time.perf_counter()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=iterations, completed=done, figures="")

        def show(row: Row) -> None:
            figures = say(row)
            number = int(row["iteration"])
            progress.update(task, completed=number, figures=figures)
            if not console.is_terminal and (number % stride == 0 or number == iterations):
                seconds = time.perf_counter() - began
                left = seconds / (number - done) * (iterations - number)
                console.print(f"{what} {number}/{iterations}  {figures}  {seconds:.0f} s, {left:.0f} s left", soft_wrap=True)

        yield show


def gains(row: Row, metrics: Sequence[str]) -> str:
    """What a row says of rewards and metrics."""
    gained = "  ".join(f"{m} {row[f'gain/{m}']:+.{2 if m == 'psnr' else 3}f}" for m in metrics)
    tried = f"  validation {metrics[0]} {value:+.2f}" if (value := row.get(f"validation/{metrics[0]}")) is not None else ""
    return f"reward {row['reward']:.3f}  {gained}{tried}  {row['tool_calls_per_second']:.0f} calls/s"

"""The training loop of the light agent: iterate, show, log, save. Killed at any moment, it goes on where the last checkpoint stands."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from ray.rllib.utils.metrics import LEARNER_RESULTS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from agents.clip_mlp.agent import ClipMlpAgent, EncoderSpec
from agents.clip_mlp.network import Actor, Shape
from agents.clip_mlp.ppo import LightPPO
from experiments.runs import Row, RunFolder
from pool import Problem

LEARNED = {  # what RLlib's learner says, in our words
    "policy_loss": "policy_loss",
    "vf_loss": "value_loss",
    "vf_explained_var": "explained_variance",
    "entropy": "entropy",
    "curr_entropy_coeff": "entropy_coefficient",
    "gradients_default_optimizer_global_norm": "gradient_norm",
}


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
    """TensorBoard always, Weights & Biases when asked for. What they hold beyond the checkpoint is dropped or written over."""
    writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=done + 1)
    found: list[Tracker] = [TensorBoard(writer)]
    run = None
    if wandb_mode != "off":
        import wandb

        name = folder.path.resolve().name
        config = json.loads((folder.path / "config.json").read_text())
        try:
            run = wandb.init(project="tir-env", name=name, config=config, dir=str(folder.path), mode=wandb_mode)  # type: ignore[arg-type]
        except wandb.errors.Error as error:
            raise Problem("--wandb online", str(error), "Log in with `wandb login`, or use --wandb offline.") from error
        found.append(Wandb(run))
    try:
        yield found
    finally:
        writer.close()
        if run is not None:
            run.finish()


def train(
    algorithm: LightPPO, folder: RunFolder, iterations: int, every: int, encoder: EncoderSpec, tools: list[str], shape: Shape,
    metrics: tuple[str, ...], wandb_mode: str, console: Console,
) -> None:  # fmt: skip
    """Iterate until `iterations`, from wherever the folder's last checkpoint stands."""
    done, checkpoint = folder.last_checkpoint()
    folder.rewind(done)
    if checkpoint is not None:
        algorithm.restore_from_path(str(checkpoint.resolve()))
        console.print(f"going on after iteration {done}")
    with trackers(folder, wandb_mode, done) as listeners, display(console, iterations, done) as show:
        for number in range(done + 1, iterations + 1):
            began = time.perf_counter()
            results = algorithm.train()
            row = row_of(algorithm, results, number, time.perf_counter() - began)
            folder.append(row)
            if number % every == 0 or number == iterations:
                folder.save_checkpoint(number, lambda path: algorithm.save_to_path(str(path.resolve())))
                export(algorithm, shape, encoder, tools).save(folder.path / "agent")
            for listener in listeners:
                listener.log(row)
            show(row, metrics)


def row_of(algorithm: LightPPO, results: dict[str, Any], number: int, seconds: float) -> Row:
    learned = results.get(LEARNER_RESULTS, {}).get("default_policy", {})
    row: Row = {"iteration": number, **algorithm.report}
    row |= {ours: float(learned[theirs]) for theirs, ours in LEARNED.items() if theirs in learned}
    return row | {"seconds": seconds, "tool_calls_per_second": row["tool_calls"] / seconds}


def export(algorithm: LightPPO, shape: Shape, encoder: EncoderSpec, tools: list[str]) -> ClipMlpAgent:
    """The agent as it is now."""
    weights = algorithm.learner_group.get_weights()["default_policy"]
    actor = Actor(shape)
    prefix = "actor."
    actor.load_state_dict({k.removeprefix(prefix): torch.tensor(v) for k, v in weights.items() if k.startswith(prefix)})
    return ClipMlpAgent(actor, encoder.open(), tools, encoder)


@contextlib.contextmanager
def display(console: Console, iterations: int, done: int) -> Iterator[Any]:
    """A progress bar with the last figures; where nobody watches, a line now and then."""
    columns = (
        TextColumn("iteration"), MofNCompleteColumn(), BarColumn(bar_width=20), TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    stride = max(1, iterations // 10)
    began = time.perf_counter()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=iterations, completed=done, figures="")

        def show(row: Row, metrics: tuple[str, ...]) -> None:
            gains = "  ".join(f"{m} {row[f'gain/{m}']:+.{2 if m == 'psnr' else 3}f}" for m in metrics)
            figures = f"reward {row['reward']:.3f}  {gains}  {row['tool_calls_per_second']:.0f} calls/s"
            number = int(row["iteration"])
            progress.update(task, completed=number, figures=figures)
            if not console.is_terminal and (number % stride == 0 or number == iterations):
                seconds = time.perf_counter() - began
                left = seconds / (number - done) * (iterations - number)
                console.print(f"iteration {number}/{iterations}  {figures}  {seconds:.0f} s, {left:.0f} s left", soft_wrap=True)

        yield show

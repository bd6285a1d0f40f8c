"""Train every weight file that ships, from generated images and scikit-image's photographs alone.

    python experiments/make_weights.py                         # all, a few hours on a laptop, minutes on a GPU
    python experiments/make_weights.py --only denoise/drunet --budget 10
    python experiments/make_weights.py --list

It saves its state every minute: run the same command again to go on. Each file gets a model card beside it.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from experiments.console import main
from experiments.training import restoration
from experiments.training.encoder import PocketClip
from experiments.training.levels import PocketLevels
from experiments.training.scorer import Scorer
from experiments.training.trainer import Job, Plan, Progress, TrainingError, train
from experiments.training.vlm import PocketVlm

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Settings:
    only: tuple[str, ...] = ()
    """names to train, wildcards allowed ("denoise/*"); all without"""
    budget: float | None = None
    """minutes in all, shared among what is trained; without, every recipe runs its own number of steps"""
    seed: int = 0
    """of pictures, degradations and first weights"""
    device: str = "auto"
    """cpu, cuda, or auto: cuda if there is one"""
    threads: int = 0
    """processor cores for the training itself (0: all); one more prepares the pictures"""
    workers: int = 1
    """processes that prepare pictures"""
    from_shipped: bool = False
    """train the files that ship further, at a lower rate, in place of new networks"""
    out: Path = ROOT
    """the project's root, below which the files and cards go to their places"""
    states: Path = Path("runs/make_weights")
    """folder for what is needed to go on after an interruption"""
    list: bool = False
    """say what there is to train, and stop"""


def jobs() -> list[Job]:
    """Everything that ships, in the order in which it is trained."""
    return [*restoration.recipes(), PocketClip(), Scorer(), PocketLevels(), PocketVlm()]


def chosen(only: tuple[str, ...]) -> list[Job]:
    known = jobs()
    for pattern in only:
        if not any(fnmatch.fnmatch(job.name, pattern) for job in known):
            raise TrainingError(f"--only {pattern}", "names nothing that ships", f"Use {', '.join(job.name for job in known)}.")
    return [job for job in known if not only or any(fnmatch.fnmatch(job.name, pattern) for pattern in only)]


def run(settings: Settings) -> None:
    console = Console(soft_wrap=True)
    selected = chosen(settings.only)
    if settings.list:
        console.print(_table(selected))
        return
    device = settings.device if settings.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    shares = sum(job.share for job in selected)
    for number, job in enumerate(selected, 1):
        budget = settings.budget * 60 * job.share / shares if settings.budget else None
        plan = Plan(settings.seed, device, budget, settings.workers, settings.states, ROOT if settings.from_shipped else None)
        title = f"[{number}/{len(selected)}] {job.name}"
        network, progress = train(job, plan, _reporter(console, title))
        figures = job.figures(network)
        console.print(f"{title}: " + ", ".join(f"{key} {value:.3f}" for key, value in figures.items()), highlight=False)
        facts = {
            "seed": settings.seed, "steps": progress.step, "minutes": round(progress.seconds / 60, 1), "device": device,
            "schedule": "by the clock (--budget)" if budget else "by steps",
            **({"begins from": "the weights that shipped before"} if settings.from_shipped else {}), "figures": figures,
        }  # fmt: skip
        job.ship(network.cpu(), settings.out, facts)


def _reporter(console: Console, title: str, every: float = 15.0) -> Callable[[Progress], None]:
    last = [0.0]

    def report(progress: Progress) -> None:
        if time.monotonic() - last[0] >= every:
            last[0] = time.monotonic()
            console.print(
                f"{title}: step {progress.step}, {progress.fraction:.0%}, loss {progress.loss:.4f}, {progress.left / 60:.1f} min left",
                highlight=False,
            )

    return report


def _table(selected: list[Job]) -> Table:
    table = Table("name", "steps", "share of a budget")
    for job in selected:
        table.add_row(job.name, f"{job.steps:,}", f"{job.share / sum(j.share for j in selected):.1%}")
    return table


if __name__ == "__main__":
    main(Settings, run, __doc__)

"""One training loop for all that ships: AdamW, warm-up and cosine, averaged weights, checkpoints, an estimate of the time left.

A `Job` says what is trained; `train` knows nothing of images. The schedule follows the number of steps, or with a budget the clock;
by steps the same seed gives the same weights on the same machine.
"""

from __future__ import annotations

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from pool.errors import Problem

SAVE_EVERY = 60.0  # seconds
WARM = 0.4


class TrainingError(Problem):
    """Training that went wrong, or a saved state that belongs to another recipe."""


class Job(ABC):
    """Something that ships and is trained. `steps`, `batch` and `rate` are its recipe; `share` its part of a time budget."""

    name: str
    steps: int
    share: float
    rate: float = 1e-3
    batch: int = 4  # items of `sample` in a batch
    decay: float = 1e-4
    average: float = 0.998  # of the weights, exponentially
    channels_last: bool = True  # convolutions are faster so
    warm: float = WARM  # of the rate, when the weights that ship are trained further
    start: str = ""  # the job whose finished network this one begins from
    fraction: float = 0.0  # how far its training is; kept by `train`

    def prepare(self, plan: Plan) -> None:  # noqa: B027 (optional)
        """Make what `sample` reads, if it reads anything; go on with what is there. Called once, before training."""

    @abstractmethod
    def network(self) -> nn.Module: ...

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Any:
        """One item of a batch, from its own generator. Runs in a worker process."""

    def collate(self, items: list[Any]) -> Any:
        """A batch of items."""
        return default_collate(items)

    @abstractmethod
    def loss(self, network: nn.Module, batch: Any) -> torch.Tensor: ...

    @abstractmethod
    def figures(self, network: nn.Module) -> dict[str, float]:
        """What the finished network reaches on pictures that it has not seen."""

    @abstractmethod
    def file(self, folder: Path) -> Path:
        """Where the weights lie below `folder`, the project's root."""

    def shipped(self, root: Path) -> dict[str, torch.Tensor]:
        """The network as it ships."""
        path = self.file(root)
        if not path.is_file():
            raise TrainingError(self.name, f"has no file to begin from: {path}", "Leave --from-shipped out.")
        return {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}

    @abstractmethod
    def ship(self, network: nn.Module, folder: Path, facts: dict[str, Any]) -> None:
        """Write the file that ships, and its model card, below `folder`."""

    def identity(self) -> dict[str, Any]:
        """What a saved state must agree with to be continued."""
        return {"name": self.name, "shapes": {k: list(v.shape) for k, v in self.network().state_dict().items()}}


@dataclass(frozen=True)
class Plan:
    """How one job is run here."""

    seed: int = 0
    device: str = "cpu"
    budget: float | None = None  # seconds for this job
    workers: int = 1
    states: Path = Path("weights-state")
    shipped: Path | None = None  # the project's root: begin from the file that ships, at a lower rate, not from nothing


@dataclass
class Progress:
    step: int = 0
    seconds: float = 0.0
    fraction: float = 0.0
    loss: float = math.nan
    history: list[tuple[int, float]] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds that are left, as far as one can tell."""
        return self.seconds * (1 - self.fraction) / self.fraction if self.fraction else math.nan


class Samples(Dataset[Any]):
    """Item i of a job: from a generator seeded by (seed, i), so it does not depend on who makes it or when."""

    def __init__(self, job: Job, seed: int) -> None:
        self.job, self.seed = job, seed

    def __getitem__(self, index: int) -> Any:
        return self.job.sample(np.random.Generator(np.random.PCG64([self.seed, index])))


def train(job: Job, plan: Plan, report: Callable[[Progress], None] = lambda progress: None) -> tuple[nn.Module, Progress]:
    """Train `job`, going on from a saved state if there is one. Returns the averaged network, ready for use."""
    job.prepare(plan)
    torch.manual_seed(plan.seed)
    device = torch.device(plan.device)
    network = job.network().to(device)
    if job.channels_last:
        network = network.to(memory_format=torch.channels_last)
    rate = job.rate
    if plan.shipped is not None:
        network.load_state_dict(job.shipped(plan.shipped))
        rate *= job.warm
    elif job.start:
        network.load_state_dict(_finished(plan, job.start, job.name))
    averaged = job.network().to(device)
    averaged.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(_groups(network, job.decay), lr=rate, betas=(0.9, 0.99))
    progress = Progress()
    path = _path(plan, job.name)
    _resume(path, job, plan, network, averaged, optimizer, progress)
    half = _half_precision(device)
    saved, began = time.monotonic(), time.monotonic() - progress.seconds
    network.train()
    for batch in _batches(job, plan, progress.step):
        progress.seconds = time.monotonic() - began
        progress.fraction = progress.seconds / plan.budget if plan.budget else progress.step / job.steps
        job.fraction = progress.fraction
        if progress.fraction >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(progress.fraction)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = job.loss(network, _to(batch, device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise TrainingError(job.name, f"its gradient is {norm.item()} at step {progress.step}", "Lower its rate.")
        optimizer.step()
        _average(averaged, network, min(job.average, (1 + progress.step) / (10 + progress.step)))
        progress.step += 1
        value = loss.item()
        progress.loss = value if math.isnan(progress.loss) else 0.98 * progress.loss + 0.02 * value
        if progress.step % 50 == 0:
            progress.history.append((progress.step, progress.loss))
            report(progress)
        if time.monotonic() - saved > SAVE_EVERY:
            _save(path, job, plan, network, averaged, optimizer, progress)
            saved = time.monotonic()
    progress.fraction = 1.0
    _save(path, job, plan, network, averaged, optimizer, progress)
    return averaged.eval(), progress


def _schedule(fraction: float) -> float:
    """The learning rate's factor: up over the first 3 %, then down a cosine to a hundredth."""
    if fraction < 0.03:
        return 0.1 + 0.9 * fraction / 0.03
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (fraction - 0.03) / 0.97))


def _groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay is for matrices and kernels, not for biases, scales and norms."""
    kernels = [p for p in network.parameters() if p.ndim >= 2]
    return [
        {"params": kernels, "weight_decay": decay},
        {"params": [p for p in network.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]


def _half_precision(device: torch.device) -> bool:
    """bfloat16 pays on a GPU, and on processors with matrix units for it; elsewhere it is slower than float32."""
    return device.type == "cuda" or torch.cpu._is_amx_tile_supported()


def _batches(job: Job, plan: Plan, done: int) -> Iterator[Any]:
    """Batches from number `done` on, without end when the clock decides."""
    last = job.steps if plan.budget is None else 10**9
    order = range(done * job.batch, last * job.batch)
    # Spawned, not forked: a fork may inherit a lock that one of torch's threads holds, and wait for it for ever.
    options: dict[str, Any] = {"prefetch_factor": 8, "multiprocessing_context": "spawn"} if plan.workers else {}
    loader = DataLoader(
        Samples(job, plan.seed), batch_size=job.batch, sampler=order, num_workers=plan.workers,
        worker_init_fn=_quiet_worker, collate_fn=job.collate, **options,
    )  # fmt: skip
    return iter(loader)


def _quiet_worker(_: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: _to(value, device) for key, value in batch.items()}
    return batch  # what a job takes to the device itself


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, keep: float) -> None:
    for mean, now in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - keep)
        else:
            mean.copy_(now)


def _save(
    path: Path, job: Job, plan: Plan, network: nn.Module, averaged: nn.Module, optimizer: Any, progress: Progress
) -> None:
    """Written beside and renamed, so that a state is whole or is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "identity": job.identity(), "seed": plan.seed, "network": network.state_dict(), "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(), "progress": vars(progress),
    }  # fmt: skip
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(state, beside)
    os.replace(beside, path)


def _path(plan: Plan, name: str) -> Path:
    return plan.states / f"{name.replace('/', '-')}.pt"


def _finished(plan: Plan, name: str, beginner: str) -> dict[str, torch.Tensor]:
    """The averaged weights of a job that has ended."""
    path = _path(plan, name)
    state = _read(path, plan) if path.exists() else None
    if state is None or state["progress"]["fraction"] < 1:
        raise TrainingError(
            beginner, f"begins from {name}, which is not finished in {plan.states}", f"Add --only {name} before it."
        )
    return state["averaged"]


def _read(path: Path, plan: Plan) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location=plan.device, weights_only=True)
        return state
    except Exception as error:  # torch.load raises many kinds for a file that is cut short or is no state
        reason = f"cannot be read ({type(error).__name__}: {str(error)[:100]})"
        raise TrainingError(path, reason, "Delete it to begin again.") from error


def _resume(
    path: Path, job: Job, plan: Plan, network: nn.Module, averaged: nn.Module, optimizer: Any, progress: Progress
) -> None:
    if not path.exists():
        return
    state = _read(path, plan)
    if state.get("identity") != job.identity() or state.get("seed") != plan.seed:
        raise TrainingError(
            path, f"was saved by another recipe or seed than {job.name!r}", "Delete it, or use another --states."
        )
    network.load_state_dict(state["network"])
    averaged.load_state_dict(state["averaged"])
    optimizer.load_state_dict(state["optimizer"])
    vars(progress).update(state["progress"])
    if progress.fraction >= 1:  # finished once: a longer budget or more steps go on from there
        progress.fraction = progress.seconds / plan.budget if plan.budget else progress.step / job.steps

"""Break the pool on purpose and count: every call must end exactly once, and no innocent one may fail.

    python -m experiments.drills.pool_faults --times 10 --json faults.json

Each drill sends 512 calls over two workers of a private Ray. Its row says how many ended well, how many of the guilty were cut
off, how many innocents failed (must be 0), how many calls ended more or less than once (must be 0), and how many workers died.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from rich.console import Console
from rich.table import Table

import pool
from experiments.console import main
from pool import Call, Model, Outcome, Pool, Traits

CALLS = 512


class Unprintable(Exception):
    """Can be neither pickled nor printed."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Invert(Model):
    """255 - image, unless the first pixel tells it to misbehave."""

    name = "invert"
    traits = Traits(memory=1 << 20, deadline=2.0)

    def run(self, items: Sequence[Any]) -> list[Any]:
        return [self._one(image) for image in items]

    def _one(self, image: np.ndarray) -> np.ndarray:
        match FAULTS.get(int(image[0, 0, 0])):
            case "die":
                os._exit(1)
            case "hang":
                time.sleep(3600)
            case "spin":
                while True:
                    pass
            case "raise":
                raise ValueError("as asked")
            case "unpicklable raise":
                raise Unprintable
            case "wrong shape":
                return image[:-1]
            case "nan":
                return np.full(image.shape, np.nan)
            case "memory":
                hoard = []
                while True:
                    hoard.append(np.ones(32 << 20, np.uint8))
                    time.sleep(0.005)
        time.sleep(0.002)
        return 255 - image

    def check(self, item: Any, result: Any) -> None:
        if result.shape != item.shape:
            raise ValueError(f"expected {item.shape}, got {result.shape}")


FAULTS = dict(enumerate(("die", "hang", "spin", "raise", "unpicklable raise", "wrong shape", "nan", "memory"), start=1))
CODES = {what: code for code, what in FAULTS.items()}


@dataclass
class Count:
    """What one drill of 512 calls came to."""

    ended_well: int = 0
    cut_off: int = 0  # guilty calls that ended in a typed error
    innocents_failed: int = 0
    not_once: int = 0  # calls that ended more or less than once
    wrong: int = 0  # results that are not 255 - image
    lost: int = 0  # workers
    seconds: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)


def images(guilty: Sequence[str], seed: int) -> tuple[list[np.ndarray], set[int]]:
    """512 images of which some carry a fault; and which."""
    rng = np.random.default_rng(seed)
    pictures = [rng.integers(100, 255, (64, 64, 3), dtype=np.uint8) for _ in range(CALLS)]
    places = rng.choice(CALLS, len(guilty), replace=False).tolist()
    for place, what in zip(places, guilty, strict=True):
        pictures[place][0, 0, 0] = CODES[what]
    return pictures, set(places)


def drill(workers: Pool, guilty: Sequence[str], seed: int, meanwhile: Callable[[Pool], None] = lambda workers: None) -> Count:
    pictures, places = images(guilty, seed)
    ends: Counter[int] = Counter()
    before, began = workers.stats().lost, time.perf_counter()
    futures = []
    for index, picture in enumerate(pictures):
        future = workers.submit(Call("invert", picture))
        future.add_done_callback(lambda _, index=index: ends.update([index]))  # type: ignore[misc]
        futures.append(future)
    meanwhile(workers)
    outcomes = [future.result() for future in futures]
    return judge(pictures, places, outcomes, ends, workers.stats().lost - before, time.perf_counter() - began)


def judge(
    pictures: list[np.ndarray], guilty: set[int], outcomes: list[Outcome], ends: Counter[int], lost: int, seconds: float
) -> Count:
    count = Count(lost=lost, seconds=seconds)
    for index, outcome in enumerate(outcomes):
        count.not_once += ends[index] != 1
        if outcome.ok:
            count.ended_well += 1
            count.wrong += not np.array_equal(outcome.value, 255 - pictures[index])
        else:
            count.cut_off += index in guilty
            count.innocents_failed += index not in guilty
            name = type(outcome.error).__name__
            count.errors[name] = count.errors.get(name, 0) + 1
    return count


def kill_three(workers: Pool) -> None:
    """kill -9, three times, whoever is at work just then."""
    for _ in range(3):
        time.sleep(0.15)
        ready = [worker.pid for worker in workers.stats().workers if worker.state == "ready" and worker.in_flight]
        if ready:
            os.kill(ready[0], signal.SIGKILL)
        time.sleep(0.3)


DRILLS: dict[str, tuple[list[str], Callable[[Pool], None]]] = {
    "kill -9 of three workers": ([], kill_three),
    "16 poisons that end their worker": (["die"] * 16, lambda workers: None),
    "a hang and a GIL spin": (["hang", "spin"], lambda workers: None),
    "raise, unpicklable raise, shape, NaN": (["raise", "unpicklable raise", "wrong shape", "nan"], lambda workers: None),
    "memory killer": (["memory"], lambda workers: None),
}


@contextmanager
def private_ray(memory: int = 0) -> Iterator[None]:
    """A Ray of our own; with `memory`, its memory killer acts when the machine uses that many bytes more than now."""
    if memory:
        machine = psutil.virtual_memory()
        threshold = (machine.total - machine.available + memory) / machine.total
        os.environ["RAY_memory_usage_threshold"] = f"{threshold:.3f}"  # noqa: SIM112
        os.environ["RAY_memory_monitor_refresh_ms"] = "50"  # noqa: SIM112
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=512 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=40,
    )
    try:
        yield
    finally:
        ray.shutdown()
        os.environ.pop("RAY_memory_usage_threshold", None)
        os.environ.pop("RAY_memory_monitor_refresh_ms", None)


@dataclass
class Arguments:
    times: int = 10
    """how often each drill is run"""
    only: str = ""
    """run only drills whose name holds this text"""
    json: Path | None = None
    """write all counts here"""


def run(arguments: Arguments) -> None:
    rows: dict[str, list[Count]] = {}
    for name, (guilty, meanwhile) in DRILLS.items():
        if arguments.only not in name:
            continue
        with private_ray(3 << 30 if name == "memory killer" else 0), pool.connect("ray", workers=2, cache_bytes=0) as workers:
            deadline = 120.0 if name == "memory killer" else 2.0
            invert = Invert()
            invert.traits = Traits(memory=1 << 20, deadline=deadline)
            workers.add(invert)
            rows[name] = [drill(workers, guilty, seed, meanwhile) for seed in range(arguments.times)]
    show(rows)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({name: [asdict(count) for count in counts] for name, counts in rows.items()}, indent=1)
        )


def show(rows: dict[str, list[Count]]) -> None:
    table = Table(
        "drill", "times", "ended well", "cut off", "innocents failed", "not once", "wrong", "lost", "seconds", "errors"
    )
    for name, counts in rows.items():
        span = [spread([getattr(count, what) for count in counts]) for what in ("ended_well", "cut_off")]
        sums = [str(sum(getattr(count, what) for count in counts)) for what in ("innocents_failed", "not_once", "wrong")]
        errors: Counter[str] = Counter()
        for count in counts:
            errors.update(count.errors)
        text = ", ".join(f"{number} {error}" for error, number in errors.items())
        rest = [spread([count.lost for count in counts]), spread([round(count.seconds, 1) for count in counts]), text]
        table.add_row(name, str(len(counts)), *span, *sums, *rest)
    Console(width=150).print(table)


def spread(values: Sequence[float]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)}-{max(values)}"


if __name__ == "__main__":
    main(Arguments, run, __doc__)

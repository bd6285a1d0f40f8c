"""What the pool hosts and what it hands back: `Model`, `Call`, `Outcome`, and the interface `Pool` of every pool.

The pool knows nothing of what a model computes. A tool, a quality metric and an image encoder are all models.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pool.errors import CallFailed


@dataclass(frozen=True)
class Traits:
    """What a model says about itself, so that a scheduler can place it."""

    memory: int = 64 << 20  # bytes it occupies once loaded (a hint)
    gpu: bool = False  # wants a GPU if there is one; every model also runs on a CPU
    half: bool = False  # its numbers stand autocast on a GPU
    batch: int = 1  # how many same-shaped items it gains from computing together on a GPU; a CPU always takes one
    deterministic: bool = True  # same item, same result: results may be remembered and merged
    deadline: float = 60.0  # seconds that one item of up to a megapixel may take; larger ones in proportion
    load_deadline: float = 300.0  # seconds that `load` may take
    cost: float = 0.0  # seconds per item at 256x256 on one core, 0 if unknown (a hint)


class Model(ABC):
    """Something that is loaded once and then called often. Subclasses are plain picklable objects until `load`.

    `run` must be a pure function of its items: a call may be executed twice (a reply can be lost after the work was done) and
    its result may be remembered. Items are views on memory that the next calls use again: copy what must outlive `run`. Two
    models with one `name` must be interchangeable. NaN is a bad result of any model; what else is, `check` says.
    """

    name: str
    traits: Traits = Traits()

    def load(self) -> None:  # noqa: B027 (optional)
        """Get ready: read weights, build the network. Called once in the process that runs the model, before `run`."""

    @abstractmethod
    def run(self, items: Sequence[Any]) -> list[Any]:
        """One result per item, in order. Raising fails the whole batch, which is then tried one by one."""

    def check(self, item: Any, result: Any) -> None:  # noqa: B027 (optional)
        """Raise `ValueError` if `result` is not what this model promises for `item`."""


class Call(NamedTuple):
    """One request: which model, on what. Items are arrays, numbers, strings, or tuples, lists and dicts of them.

    The pool reads an item where it lies: do not write into it before its future has ended.
    """

    model: str
    item: Any


@dataclass(frozen=True)
class Outcome:
    """How one call ended: with a value, or with a typed error. Never both, never neither.

    Arrays in `value` belong to the receiver but are read-only, because callers with the same question share one answer.
    """

    model: str
    value: Any = None
    error: CallFailed | None = None
    seconds: float = 0.0  # spent inside the model (0 if remembered)
    attempts: int = 1
    remembered: bool = False  # answered from the cache, or merged with an identical call in flight

    @property
    def ok(self) -> bool:
        return self.error is None

    def unwrap(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


@dataclass
class WorkerStats:
    """One worker as its router sees it."""

    slot: int
    state: str = "starting"  # starting, ready, lost
    node: str = ""
    pid: int = 0
    models: tuple[str, ...] = ()  # resident now
    in_flight: int = 0  # this router's calls on it
    calls: int = 0
    losses: int = 0  # how often it had to be replaced


@dataclass
class Stats:
    """Counters since the pool was opened."""

    calls: int = 0  # that ended, remembered ones and failures among them
    failures: int = 0
    hits: int = 0  # answered from the cache
    merges: int = 0  # joined an identical call in flight
    retries: int = 0
    queued: int = 0  # waiting now
    in_flight: int = 0  # with a worker now
    seconds: float = 0.0  # inside models, summed
    loads: int = 0  # models loaded by workers
    lost: int = 0  # workers that had to be replaced
    cached_bytes: int = 0
    p50: float = 0.0  # seconds from submit to outcome, of calls that were not remembered
    p99: float = 0.0
    by_model: dict[str, int] = field(default_factory=dict)
    workers: list[WorkerStats] = field(default_factory=list)


class Pool(ABC):
    """Runs calls of named models. `pool.connect("local" | "ray")` opens one; close it, or use it in a `with`."""

    @abstractmethod
    def add(self, *models: Model) -> None:
        """Make models callable by name. An equal model may be added again; another one of the same name raises `Problem`."""

    @abstractmethod
    def submit(self, call: Call, *, deadline: float | None = None) -> Future[Outcome]:
        """Start one call. The future always ends in an `Outcome`; only an unknown model raises, at once.

        `deadline` replaces the model's own: seconds that this call may take inside the model, waiting not counted.
        """

    def run(self, calls: Sequence[Call], *, deadline: float | None = None) -> list[Outcome]:
        """All calls in flight together; outcomes in the order of the calls."""
        futures = [self.submit(call, deadline=deadline) for call in calls]
        return [future.result() for future in futures]

    async def arun(self, calls: Sequence[Call], *, deadline: float | None = None) -> list[Outcome]:
        """`run` for asyncio: other coroutines go on meanwhile."""
        futures = [self.submit(call, deadline=deadline) for call in calls]
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    @abstractmethod
    def stats(self) -> Stats: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

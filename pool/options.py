"""What `pool.connect("ray", ...)` can be told. Every field is an option of the same name."""

from __future__ import annotations

from dataclasses import dataclass

from pool.errors import Problem


@dataclass(frozen=True)
class Options:
    workers: int | None = None  # processes; None: as many as there are GPUs, or else cores; or those that the pool has already
    cpus: float = 0.0  # cores that a worker reserves in Ray's books: 0, so that rollout processes are never kept waiting
    gpus: float | None = None  # share of a GPU per worker; None: a whole one if there are any
    memory: int = 4 << 30  # bytes of resident models per worker; beyond it the least recently used one is dropped
    threads: int = 1  # that a worker computes with
    nice: int = 4  # on top of the 15 that Ray gives its workers: a router, which feeds several of them, goes first
    address: str | None = None  # of a running Ray; None: the one this process is in, or else a new local one
    name: str | None = (
        None  # shared by every process that gives the same one, and outlives them; None: private, ends with close()
    )
    namespace: str = "pool"  # Ray namespace of the workers' names
    start_deadline: float = 120.0  # seconds that a worker process may take to start

    cache_bytes: int = 256 << 20  # of remembered results; 0 remembers nothing
    merge: bool = True  # identical calls in flight become one
    attempts: int = 3  # at a call whose worker was lost or whose model did not load
    max_pending: int = 4096  # unfinished calls of one caller; beyond it submit() waits
    keep_heap: bool = (
        True  # glibc keeps up to 512 MB that this process frees: results would be faulted in anew, 50 µs per image
    )
    breaker_seconds: float = 30.0  # that a model which failed to load `attempts` times in a row is left alone

    window: int = 2  # groups on the way to one worker: one computing, one waiting
    group_items: int = 64  # calls that travel together, at most
    group_seconds: float = 0.05  # work that travels together, at most: what a newcomer may have to wait for
    group_bytes: int = 16 << 20  # that travel together, at most

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise Problem("the pool", f"cannot have {self.workers} workers", "Give it one at least, or leave `workers` out.")

"""The worker: one process that hosts any model, computes groups of calls, and answers every item with a status and a value.

It decides nothing but what to forget when its memory budget is full; retries, routing and blame belong to the router.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from pool import execute
from pool.board import LOADING, RUNNING, Board
from pool.errors import describe
from pool.execute import Answer
from pool.model import Model

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


class Job(NamedTuple):
    """A group of calls on its way to a worker. Images stay separate buffers: Ray copies each once, into shared memory."""

    client: int
    group: int
    definitions: dict[str, bytes]  # pickled models that this worker has not seen from this client
    models: list[str]
    deadlines: list[tuple[float, float]]  # of each item: to run, to load
    items: list[Any]


class Report(NamedTuple):
    """What comes back: the answers in the order of the items, and what the router should know about the worker."""

    answers: list[Answer]
    resident: tuple[str, ...]
    loads: dict[str, float]  # seconds of the loads that succeeded


class Hello(NamedTuple):
    node: str
    pid: int
    board: str
    gpu: bool
    resident: tuple[str, ...]


def threads_wanted() -> int:
    """By the user, for this process; 0 where nothing is said. OpenMP takes a list, one number for each level."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def limit_threads(threads: int) -> None:
    """Workers share the cores of their node: each computes with its own share, whatever library it computes with."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0 if threads == 1 else threads)
    if "threadpoolctl" in sys.modules:
        sys.modules["threadpoolctl"].threadpool_limits(threads)


def keep_heap() -> None:
    """Tell glibc to keep freed memory: a group's results would otherwise be mapped, faulted in and unmapped every time.

    Measured at 256x256: 26 page faults and 0.2 ms per image less, as much as half of the light tools compute.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
            libc.mallopt(_M_TRIM_THRESHOLD, 512 << 20)


def leave_if_broken() -> None:
    """End this process if its GPU answers no more: after an illegal access every later call in it fails, at once and for good.

    The router finds out whose call it was, as with any loss, and another process takes the place.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        os._exit(1)


class Worker:
    """Wrapped in a Ray actor by `pool.fleet`; a plain class, so that tests and simulations can hold it in a thread."""

    def __init__(self, board: str, owner: str, memory: int, threads: int, node: str = "", gpu: bool = False) -> None:
        limit_threads(threads)
        keep_heap()
        self._board = Board(Path(board), owner)
        self._hello = Hello(node, os.getpid(), board, gpu, ())
        self._memory, self._threads, self._gpu = memory, threads, gpu
        self._definitions: dict[str, bytes] = {}
        self._models: OrderedDict[str, Model] = OrderedDict()  # least recently used first
        self._loads: dict[str, float] = {}

    def hello(self) -> Hello:
        return self._hello._replace(resident=tuple(self._models))

    def run(self, job: Job) -> Report:
        self._definitions.update(job.definitions)
        answers: list[Answer] = [Answer(execute.LOAD, "", 0.0)] * len(job.items)
        try:
            for name, indices in self._by_model(job.models).items():
                failure = self._need(name, job, indices)
                if failure is None:
                    self._compute(name, job, indices, answers)
                else:
                    for index in indices:
                        answers[index] = failure
        finally:
            self._disarm()
        loads, self._loads = self._loads, {}
        return Report(answers, tuple(self._models), loads)

    @staticmethod
    def _by_model(models: list[str]) -> dict[str, list[int]]:
        lines: dict[str, list[int]] = {}
        for index, name in enumerate(models):
            lines.setdefault(name, []).append(index)
        return lines

    def _compute(self, name: str, job: Job, indices: list[int], answers: list[Answer]) -> None:
        model = self._models[name]
        items = [job.items[index] for index in indices]
        # On a CPU computing together costs a CNN 1.6-2.2 times as much per image as one by one: only a GPU gets batches.
        size = model.traits.batch if self._gpu else 1
        for batch in execute.batches(items, size):
            self._arm(RUNNING, job, indices[batch[0]], len(batch), sum(job.deadlines[indices[place]][0] for place in batch))
            with execute.precision(model, self._gpu):
                found = execute.run(model, [items[place] for place in batch])
            if self._gpu and any(answer.status == execute.RAISED for answer in found):
                leave_if_broken()
            for place, answer in zip(batch, found, strict=True):
                answers[indices[place]] = answer

    def _need(self, name: str, job: Job, indices: list[int]) -> Answer | None:
        """Have the model resident, or say why not."""
        if name in self._models:
            self._models.move_to_end(name)
            return None
        self._arm(LOADING, job, indices[0], 1, job.deadlines[indices[0]][1])
        try:
            model: Model = pickle.loads(self._definitions[name])
        except Exception as cause:
            return Answer(execute.LOAD, f"unpickling it on the worker failed: {describe(cause)}", 0.0)
        self._make_room(model.traits.memory)
        answer = execute.load(model)
        if answer.status != execute.OK:
            return answer
        if self._gpu:
            execute.settle(model)
        limit_threads(self._threads)  # once more: the model may have imported the library that reads it
        self._models[name] = model
        self._loads[name] = answer.seconds
        return None

    def _make_room(self, memory: int) -> None:
        used = sum(model.traits.memory for model in self._models.values())
        evicted = False
        while self._models and used + memory > self._memory:
            used -= self._models.popitem(last=False)[1].traits.memory
            evicted = True
        if evicted:
            gc.collect()
            execute.free_memory()

    def _arm(self, phase: int, job: Job, first: int, count: int, limit: float) -> None:
        """Say what comes now, and let the kernel end this process if it takes too long.

        The default action of SIGALRM needs no Python: it ends a loop that holds the GIL and a call that hangs in C alike,
        where `ray.cancel` and any watchdog thread would wait for ever. It costs 0.7 µs.
        """
        self._board.write(phase, job.client, job.group, first, count, limit)
        signal.setitimer(signal.ITIMER_REAL, min(max(limit, 1e-3), 1e8))

    def _disarm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        self._board.idle()

"""A fleet whose workers are threads of this process, and one whose workers do what the test says: the router without Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pool.board import Record
from pool.cache import own
from pool.fleet import Hand
from pool.worker import Hello, Job, Report, Worker


class Lost(Exception):
    """What a dead worker answers."""


class ThreadFleet:
    """Real workers, each in a thread. `gate` is asked before a job runs: it may block, or raise `Lost`."""

    name, private = "threads", True

    def __init__(self, folder: Path, size: int = 2, memory: int = 4 << 30, gate: Callable[[Job], None] | None = None) -> None:
        self.folder, self.size, self.memory, self.gate = folder, size, memory, gate or (lambda job: None)
        self.jobs: list[tuple[int, Job]] = []
        self.record: Record | None = None
        self.started = 0
        self._workers: dict[str, tuple[Worker, ThreadPoolExecutor]] = {}
        self._lock = threading.Lock()

    def start(self, slot: int, closed: threading.Event) -> Hand:
        with self._lock:
            self.started += 1
            key = f"{slot}.{self.started}"
        worker = Worker(str(self.folder / key), key, self.memory, threads=1)
        # An alarm would end the tests themselves: deadlines are tested on real processes.
        worker._arm = lambda phase, job, first, count, limit: None  # type: ignore[method-assign]
        self._workers[key] = worker, ThreadPoolExecutor(1)
        return Hand(slot, None, key, Hello("here", 0, str(self.folder / key), False, ()))

    def send(self, hand: Hand, job: Job) -> Future[Report]:
        worker, executor = self._workers[hand.key]
        self.jobs.append((hand.slot, job))

        def work() -> Report:
            self.gate(job)
            return worker.run(job)

        return executor.submit(work)

    def receive(self, hand: Hand, group: int, sent: Report) -> Report:
        return sent._replace(answers=[answer._replace(value=own(answer.value)) for answer in sent.answers])

    def release(self, hand: Hand, group: int) -> None:
        """Nothing is held per group."""

    def drop(self, hand: Hand) -> None:
        """Nothing is held per worker but its thread."""

    def is_loss(self, cause: BaseException) -> bool:
        return isinstance(cause, Lost)

    def look(self, hand: Hand) -> Record | None:
        return self.record

    def node_lives(self, hand: Hand) -> bool:
        return True

    def kill(self, hand: Hand) -> None:
        self._workers[hand.key][1].shutdown(wait=False)

    def forget_boards(self) -> None:
        """The test's folder goes by itself."""

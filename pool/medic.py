"""The medic: starts workers, examines lost ones and replaces them, in threads of its own so that the router never waits.

What it finds it posts to the router's inbox; what follows from it (who is charged, who runs again) is decided there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import Any, NamedTuple, Protocol

from pool.board import IDLE, Record
from pool.errors import Problem, describe
from pool.fleet import Hand
from pool.worker import Job, Report

GRACE = 5.0  # seconds past its deadline before a worker that the kernel should have ended counts as frozen
SILENCE = 60.0  # seconds without a sign of work before it does; past all its deadlines, if it cannot be looked at
_PAUSE = 5.0  # seconds between attempts to start a worker that does not start


class Workers(Protocol):
    """What router and medic need of a fleet: `pool.fleet.Fleet`, or a stand-in for tests and simulations."""

    name: str
    size: int
    private: bool

    def start(self, slot: int, closed: threading.Event) -> Hand: ...
    def send(self, hand: Hand, job: Job) -> Future[Any]: ...
    def receive(self, hand: Hand, group: int, sent: Any) -> Report: ...
    def release(self, hand: Hand, group: int) -> None: ...
    def drop(self, hand: Hand) -> None: ...
    def is_loss(self, cause: BaseException) -> bool: ...
    def look(self, hand: Hand) -> Record | None: ...
    def node_lives(self, hand: Hand) -> bool: ...
    def kill(self, hand: Hand) -> None: ...
    def forget_boards(self) -> None: ...


class Finding(NamedTuple):
    """What was found out about a lost worker. Without a record, all that is known is whether its node lives."""

    record: Record | None
    node_lives: bool


class Ward(Protocol):
    """The router's side: all of these run on the router's thread."""

    def joined(self, hand: Hand) -> None: ...
    def examined(self, hand: Hand, finding: Finding) -> None: ...
    def unstaffed(self, slot: int, problem: Problem) -> None: ...
    def frozen(self, hand: Hand) -> None: ...


class Medic:
    def __init__(self, fleet: Workers, ward: Ward, post: Callable[[Callable[[], None]], None]) -> None:
        self._fleet, self._ward, self._post = fleet, ward, post
        self._closed = threading.Event()
        self._inspecting: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._first: Future[None] = Future()  # the first worker that is up
        self._one_settles = threading.Lock()

    def open(self, slots: Iterable[int]) -> None:
        """Start all workers; return when the first is up. Raises `Problem` if all have tried and none is."""
        failures: list[Problem] = []
        slots = list(slots)

        def start(slot: int) -> None:
            try:
                self._staff(slot)
            except Problem as problem:
                failures.append(problem)
                if len(failures) < len(slots) or not self._settle(problem):
                    self._persist(slot, problem)

        for slot in slots:
            self._thread(start, slot)
        self._first.result()

    def _settle(self, problem: Problem | None = None) -> bool:
        """How opening ended, if it had not ended before."""
        with self._one_settles:
            if self._first.done():
                return False
            if problem is None:
                self._first.set_result(None)
            else:
                self._first.set_exception(problem)
            return True

    def replace(self, hand: Hand, pending: list[Future[Any]]) -> None:
        """Find out what a lost worker was doing, make sure that it is dead, and put another in its place."""
        self._thread(self._replace, hand, pending)

    def _replace(self, hand: Hand, pending: list[Future[Any]]) -> None:
        try:
            finding = self._find_out(hand, pending)
        except Exception:  # of whatever kind: its calls must not wait for ever
            finding = Finding(None, False)
        self._post(lambda: self._ward.examined(hand, finding))
        try:
            self._staff(hand.slot)
        except Problem as problem:
            self._persist(hand.slot, problem)

    def _find_out(self, hand: Hand, pending: list[Future[Any]]) -> Finding:
        noticed = time.monotonic()
        record = self._fleet.look(hand)
        if record is not None:  # its clock ran on while we looked
            record = record._replace(elapsed=record.elapsed - (time.monotonic() - noticed))
        self._fleet.kill(hand)
        self._fleet.drop(hand)
        wait(pending, timeout=2.0)  # answers that were under way when it died are good answers
        return Finding(record, record is not None or self._fleet.node_lives(hand))

    def _staff(self, slot: int) -> None:
        """Raises `Problem` alone: anything else would end its thread, and whoever waits for the worker would wait for ever."""
        try:
            hand = self._fleet.start(slot, self._closed)
        except Problem:
            raise
        except Exception as cause:
            thing = f"worker {slot} of pool {self._fleet.name!r}"
            raise Problem(thing, f"did not start: {describe(cause)}", "Look at Ray's logs of that worker.") from cause
        if not self._closed.is_set():
            self._post(lambda: self._ward.joined(hand))
            self._settle()
        else:  # nobody else will know of it
            self._fleet.drop(hand)
            if self._fleet.private:
                self._fleet.kill(hand)

    def _persist(self, slot: int, problem: Problem) -> None:
        """Say that this slot stays empty, and go on trying."""
        while not self._closed.is_set():
            self._post(lambda problem=problem: self._ward.unstaffed(slot, problem))  # type: ignore[misc]
            if self._closed.wait(_PAUSE):
                return
            try:
                return self._staff(slot)
            except Problem as again:
                problem = again

    def inspect(self, hand: Hand, quiet: float, allowed: float) -> None:
        """Look whether a worker that has not answered for `quiet` seconds is at work or frozen.

        A worker that is merely stuck ends by its own alarm; this is for one that even that cannot end (a stopped process).
        """
        if hand.key not in self._inspecting:
            self._inspecting.add(hand.key)
            self._thread(self._inspect, hand, quiet, allowed)

    def _inspect(self, hand: Hand, quiet: float, allowed: float) -> None:
        try:
            record = self._fleet.look(hand)
        except Exception:  # of whatever kind: it cannot be looked at, and is to be looked at again
            record = None
        finally:
            self._inspecting.discard(hand.key)
        if record is None:
            frozen = quiet > allowed + SILENCE
        elif record.phase == IDLE:  # it has our work and does not begin
            frozen = min(quiet, record.elapsed) > SILENCE
        else:
            frozen = record.elapsed > record.limit + GRACE
        if frozen:
            self._post(lambda: self._ward.frozen(hand))

    def _thread(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name=f"pool-medic-{self._fleet.name}", daemon=True)
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()

    def close(self) -> None:
        self._closed.set()

    def join(self) -> None:
        """Wait for what is under way: a thread that outlived `ray.shutdown` would start another Ray by its next call."""
        for thread in self._threads:
            thread.join()

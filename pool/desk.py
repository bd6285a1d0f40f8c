"""The front desk of a router: what is known at once, which call joins which, who must wait, and how everyone is told the end.

It holds the lock that guards the queues. Futures belong to it: each caller has its own, so cancelling one cancels no other.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace

from pool.cache import ResultCache, digest
from pool.errors import CallFailed, LoadFailed, PoolClosed
from pool.metrics import Latency
from pool.model import Call, Outcome, Stats, Traits
from pool.options import Options
from pool.schedule import Line, Request, Scheduler

Ended = list[tuple[Request, Outcome]]


class Desk:
    def __init__(self, options: Options, may_wait: Callable[[], bool], feed: Callable[[], None]) -> None:
        self.options = options
        self.lock = threading.Lock()
        self.scheduler = Scheduler(options, forget=self._forget)
        self.latency, self.stats = Latency(), Stats()
        self.cache = ResultCache(options.cache_bytes)
        self.closed = ""  # why, once it is
        self._may_wait = may_wait  # says whether this thread may be made to wait
        self._feed = feed  # wakes the router if it wants work
        self.room = threading.Condition(self.lock)  # some caller has fewer than max_pending calls again
        self._flights: dict[bytes, Request] = {}  # by key: what an identical call can join
        self._pending: dict[Hashable, int] = {}  # unfinished requests by caller

    def key(self, traits: Traits, call: Call) -> bytes | None:
        """What the call is known by; None if its result may be neither shared nor remembered."""
        if not traits.deterministic or not (self.options.merge or self.options.cache_bytes):
            return None
        return digest(call.model, call.item)

    def admit(
        self, call: Call, key: bytes | None, future: Future[Outcome], who: Hashable, deadline: float | None
    ) -> Outcome | None:
        """An outcome that is known at once, or None: the future has joined a request."""
        outcome = self._known(call, key)
        if outcome is not None:
            self._count(outcome)
            return outcome
        flight = self._flights.get(key) if key is not None else None
        if flight is not None and flight.deadline == deadline:
            flight.futures.append(future)
            self.stats.merges += 1
            return None
        if self._full(who):
            self._feed()
            self.room.wait_for(lambda: not self._full(who))
            return self.admit(call, key, future, who, deadline)
        request = Request(self.scheduler.lines[call.model], call.item, key, who, deadline, time.monotonic())
        request.futures.append(future)
        self._pending[who] = self._pending.get(who, 0) + 1
        if key is not None and self.options.merge:
            self._flights.setdefault(key, request)  # with another deadline it flies beside the first
        self.scheduler.push(request)
        return None

    def _full(self, who: Hashable) -> bool:
        return self._pending.get(who, 0) >= self.options.max_pending and not self.closed and self._may_wait()

    def _known(self, call: Call, key: bytes | None) -> Outcome | None:
        if self.closed:
            return Outcome(call.model, error=PoolClosed(call.model, self.closed))
        if key is not None:
            found, value = self.cache.get(key)
            if found:
                self.stats.hits += 1
                return Outcome(call.model, value, remembered=True)
        line = self.scheduler.lines[call.model]
        if line.closed_until > time.monotonic():
            return Outcome(call.model, error=again(line.fault, line.strikes))
        return None

    def _forget(self, request: Request) -> None:
        """Nobody can join this request any more: it has ended, or every caller has cancelled."""
        if request.key is not None and self._flights.get(request.key) is request:
            del self._flights[request.key]
        left = self._pending.get(request.caller, 0) - 1
        if left > 0:
            self._pending[request.caller] = left
        else:
            self._pending.pop(request.caller, None)
        if left < self.options.max_pending:
            self.room.notify_all()

    def charge(self, request: Request, error: CallFailed, ended: Ended) -> None:
        """One attempt is gone: queue the request again, or end it."""
        request.attempts += 1
        if request.attempts >= self.options.attempts or request.line.closed_until > time.monotonic():
            ended.append((request, Outcome(request.line.name, None, again(error, request.attempts), 0.0, request.attempts)))
        else:
            self.stats.retries += 1
            self.scheduler.push_back(request)

    def strike(self, line: Line, fault: LoadFailed, ended: Ended) -> None:
        """A load failed: after three in a row nobody waits for this model until the breaker closes again."""
        line.strikes += 1
        if line.strikes >= self.options.attempts:
            line.closed_until = time.monotonic() + self.options.breaker_seconds
            line.fault = fault
            line.refused.clear()
            for request in self.scheduler.empty([line]):
                ended.append((request, Outcome(line.name, None, again(fault, line.strikes), 0.0, line.strikes)))

    def finish(self, ended: Ended) -> None:
        """Resolve the futures of requests that have ended, outside the lock: a callback may submit again."""
        now = time.monotonic()
        resolutions: list[tuple[Future[Outcome], Outcome]] = []
        with self.lock:
            for request, outcome in ended:
                self._forget(request)
                self.latency.add(now - request.began)
                self.stats.seconds += outcome.seconds
                for place, future in enumerate(request.futures):
                    told = replace(outcome, remembered=True, seconds=0.0) if place else outcome
                    self._count(told)
                    resolutions.append((future, told))
        for future, told in resolutions:
            resolve(future, told)

    def _count(self, outcome: Outcome) -> None:
        self.stats.calls += 1
        self.stats.failures += not outcome.ok
        self.stats.by_model[outcome.model] = self.stats.by_model.get(outcome.model, 0) + 1

    def snapshot(self) -> Stats:
        with self.lock:
            workers = []
            for seat, shown in zip(self.scheduler.seats.values(), self.stats.workers, strict=True):
                flying = sum(len(group.requests) for group in seat.groups.values())
                workers.append(replace(shown, models=seat.resident, in_flight=flying))
            return replace(
                self.stats,
                queued=self.scheduler.queued,
                in_flight=sum(worker.in_flight for worker in workers),
                cached_bytes=self.cache.bytes,
                p50=self.latency.quantile(0.5),
                p99=self.latency.quantile(0.99),
                by_model=dict(self.stats.by_model),
                workers=workers,
            )


def resolve(future: Future[Outcome], outcome: Outcome) -> None:
    with contextlib.suppress(InvalidStateError):  # its caller has cancelled it
        future.set_result(outcome)


def again(error: CallFailed, attempts: int) -> CallFailed:
    """The same error, after so many attempts."""
    return type(error)(error.model, error.cause, attempts, error.remedy)

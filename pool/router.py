"""The router: takes calls from any thread, sends groups of them to workers, and sees to it that each ends exactly once.

submit -> cache? -> same call in flight? -> fair queue -> group -> worker -> answers -> futures. One thread per router decides
everything after the queue; whoever submits only hashes, locks and appends. Admission and endings are `pool.desk`, who computes
what next is `pool.schedule`, whose fault a lost worker is, `pool.faults`.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, NoReturn

from pool import execute
from pool.desk import Desk, Ended, resolve
from pool.errors import BadOutput, LoadFailed, PoolClosed, Problem, WorkerLost, describe
from pool.faults import blame, brief, charge
from pool.fleet import SHORTAGES, Fleet, Hand
from pool.local import clash, definition_of, unknown
from pool.medic import GRACE, Finding, Medic, Workers
from pool.metrics import Reporter
from pool.model import Call, Model, Outcome, Pool, Stats, WorkerStats
from pool.names import Names
from pool.options import Options
from pool.schedule import Group, Line, Seat
from pool.worker import Job, Report, keep_heap

ROOM = "Free memory or disk space on its node and on this one, or run fewer workers."
_TICK = 0.5  # seconds between looks at workers that have gone quiet


class Done(NamedTuple):
    hand: Hand
    group: Group
    future: Future[Any]


Event = Callable[[], None] | Done | None  # something for the router's thread to do; None only wakes it


class Router(Pool):
    """A pool on workers in other processes. `pool.connect("ray", ...)` makes one; `pool.options.Options` says with what."""

    def __init__(self, workers: Workers, options: Options, report: Callable[[Router], Reporter] | None = None) -> None:
        self.options, self.name = options, workers.name
        self.client = int.from_bytes(os.urandom(8), "little")
        self._fleet = workers
        self._models: dict[str, Model] = {}
        self._definitions: dict[str, bytes] = {}
        self._names = Names()
        self._desk = Desk(options, may_wait=lambda: threading.current_thread() is not self._thread, feed=self._feed)
        self._scheduler, self._lock, self.latency = self._desk.scheduler, self._desk.lock, self._desk.latency
        self._hungry = True  # a worker has room and nothing waits: the next submit must wake the router
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._hands: dict[int, Hand] = {}
        self._heard: dict[int, float] = {}
        self._unstaffed: set[int] = set()  # slots whose worker does not start
        self._reporter: Reporter | None = None
        for slot in range(workers.size):
            self._scheduler.seats[slot] = Seat(slot, options.memory)
            self._desk.stats.workers.append(WorkerStats(slot))
        self._medic = Medic(workers, self, self._inbox.put)
        self._thread = threading.Thread(target=self._work, name=f"pool-router-{self.name}", daemon=True)
        self._thread.start()
        try:
            self._medic.open(range(workers.size))
        except Problem:
            self.close()
            raise
        self._reporter = report(self) if report is not None else None

    # -- the callers' side --------------------------------------------------------------------------------------------------

    def add(self, *models: Model) -> None:
        for model in models:
            if self._models.get(model.name) is model:
                continue
            definition = definition_of(model)
            with self._lock:
                if self._definitions.setdefault(model.name, definition) != definition:
                    raise clash(model.name)
                self._names.add(model.name, definition)
                self._scheduler.add(model.name, model.traits)
                self._models.setdefault(model.name, model)
        with self._lock:
            for seat in self._scheduler.seats.values():  # other clients' workers may hold them already
                self._scheduler.settle(seat, self._names.home(seat.resident))

    def submit(self, call: Call, *, deadline: float | None = None, caller: Hashable = None) -> Future[Outcome]:
        """As `Pool.submit`. Callers share the workers fairly; `caller` says who asks, the calling thread if not given.

        With `max_pending` calls unfinished a caller waits here, unless it is the router's own thread (in a callback).
        """
        return self._submit([call], deadline, caller)[0]

    def run(self, calls: Sequence[Call], *, deadline: float | None = None) -> list[Outcome]:
        return [future.result() for future in self._submit(calls, deadline, None)]

    def _submit(self, calls: Sequence[Call], deadline: float | None, caller: Hashable) -> list[Future[Outcome]]:
        who = threading.get_ident() if caller is None else caller
        keys = [self._desk.key(self._model(call.model).traits, call) for call in calls]
        futures: list[Future[Outcome]] = [Future() for _ in calls]
        known: list[tuple[Future[Outcome], Outcome]] = []
        with self._lock:
            for call, key, future in zip(calls, keys, futures, strict=True):
                outcome = self._desk.admit(call, key, future, who, deadline)
                if outcome is not None:
                    known.append((future, outcome))
            self._feed()
        for future, outcome in known:  # outside the lock: a callback may submit again
            resolve(future, outcome)
        return futures

    def _model(self, name: str) -> Model:
        if name not in self._models:
            raise unknown(name, self._models)
        return self._models[name]

    def _feed(self) -> None:
        if self._hungry and self._scheduler.queued:
            self._hungry = False
            self._inbox.put(None)

    # -- the router's thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        looked = time.monotonic()
        try:
            while not self._desk.closed:
                try:
                    event = self._inbox.get(timeout=_TICK)
                except queue.Empty:
                    event = None
                if isinstance(event, Done):
                    self._done(event)
                elif event is not None:
                    event()
                if time.monotonic() - looked > _TICK:
                    looked = time.monotonic()
                    self._examine(looked)
                self._dispatch()
        except BaseException as cause:  # a mistake in here must not leave anybody waiting
            self._end(f"the router failed: {describe(cause)}")
            raise

    def _dispatch(self) -> None:
        """Give every worker that has room a group, the idle ones first, until none has room or nothing waits."""
        seats, given = self._scheduler.seats, True
        while given:
            given = False
            for slot, hand in sorted(self._hands.items(), key=lambda pair: len(seats[pair[0]].groups)):
                with self._lock:
                    group = self._scheduler.next_group(seats[slot], time.monotonic())
                    if group is None:
                        self._hungry = True
                if group is not None:
                    self._send(hand, group)
                    given = True

    def _send(self, hand: Hand, group: Group) -> None:
        new = {request.line.name for request in group.requests} - hand.defined
        fresh = {self._names.abroad(name): self._definitions[name] for name in new}
        job = Job(
            self.client,
            group.number,
            fresh,
            [self._names.abroad(request.line.name) for request in group.requests],
            [(request.limit, request.line.traits.load_deadline) for request in group.requests],
            [request.item for request in group.requests],
        )
        try:
            group.future = self._fleet.send(hand, job)
        except Exception as cause:  # an item that cannot be pickled, or for which there is no room
            self._uncarried(hand, group, cause)
            return
        hand.defined.update(new)
        group.future.add_done_callback(lambda future: self._inbox.put(Done(hand, group, future)))

    def _done(self, event: Done) -> None:
        hand, group, future = event
        if group.closed:
            return
        cause = future.exception()
        if cause is None:
            try:
                report = self._fleet.receive(hand, group.number, future.result())
            except Exception as unreadable:  # a result's class may raise whatever it likes when it is rebuilt here
                self._uncarried(hand, group, unreadable)
            else:
                self._answered(hand, group, report)
        elif self._fleet.is_loss(cause):
            self._lose(hand)
        else:
            self._uncarried(hand, group, cause)

    def _answered(self, hand: Hand, group: Group, report: Report) -> None:
        ended: Ended = []
        with self._lock:
            if group.closed:  # while its answers were copied: its requests have ended
                return
            self._clear(hand, group, self._names.home(report.resident))
            for name, seconds in zip(self._names.home(report.loads), report.loads.values(), strict=True):
                if name in self._scheduler.lines:  # not another client's, whose job was lost after its load
                    self._scheduler.lines[name].loaded(hand.slot, seconds)
            self._desk.stats.loads += len(report.loads)
            failed: dict[Line, bool] = {}  # whether another worker is to try it
            for request, answer in zip(group.requests, report.answers, strict=True):
                if answer.status == execute.LOAD:
                    fault = LoadFailed(request.line.name, answer.value, 1, answer.remedy)
                    if request.line not in failed:
                        failed[request.line] = self._scheduler.refuse(request.line, hand.slot, time.monotonic())
                        if not failed[request.line]:
                            self._desk.strike(request.line, fault, ended)
                    if failed[request.line]:
                        self._scheduler.push_back(request)
                    else:
                        self._desk.charge(request, fault, ended)
                    continue
                if answer.seconds:
                    request.line.ran(answer.seconds)
                tries = request.attempts + 1
                if answer.status == execute.OK:
                    outcome = Outcome(request.line.name, answer.value, None, answer.seconds, tries)
                    if request.key is not None and self.options.cache_bytes:
                        self._desk.cache.put(request.key, answer.value)
                else:
                    error = execute.error_of(request.line.name, answer, tries)
                    outcome = Outcome(request.line.name, None, error, answer.seconds, tries)
                ended.append((request, outcome))
        self._desk.finish(ended)

    def _uncarried(self, hand: Hand, group: Group, cause: BaseException) -> None:
        """An item or a result did not arrive: find out whose by sending each alone. Room that was lacking may be there later."""
        ended: Ended = []
        self._fleet.release(hand, group.number)
        hand.defined.difference_update(request.line.name for request in group.requests)  # they may not have arrived either
        with self._lock:
            if group.closed:
                return
            self._clear(hand, group, self._scheduler.seats[hand.slot].resident)
            for request in group.requests:
                if not request.alone and len(group.requests) > 1:
                    request.alone = True
                    self._scheduler.push_back(request)
                elif isinstance(cause, SHORTAGES):
                    request.alone = True
                    text = f"its item or its result found no room: {brief(cause)}"
                    self._desk.charge(request, WorkerLost(request.line.name, text, 1, ROOM), ended)
                else:
                    text = f"its item or its result cannot travel between processes: {brief(cause)}"
                    tries = request.attempts + 1
                    ended.append(
                        (request, Outcome(request.line.name, None, BadOutput(request.line.name, text, tries), 0.0, tries))
                    )
        self._desk.finish(ended)

    def _clear(self, hand: Hand, group: Group, resident: tuple[str, ...]) -> None:
        seat = self._scheduler.seats[hand.slot]
        seat.groups.pop(group.number, None)
        self._scheduler.settle(seat, resident)
        self._heard[hand.slot] = time.monotonic()
        self._desk.stats.workers[hand.slot].calls += len(group.requests)

    # -- lost workers; the medic posts these to the router's thread ---------------------------------------------------------

    def _examine(self, now: float) -> None:
        for slot, hand in self._hands.items():
            groups = self._scheduler.seats[slot].groups.values()
            limits = [request.limit for group in groups for request in group.requests]
            if limits:
                quiet = now - max(self._heard[slot], min(group.sent for group in groups))
                loads = sum(group.loading.traits.load_deadline for group in groups if group.loading is not None)
                if quiet > max(limits) + GRACE:
                    self._medic.inspect(hand, quiet, sum(limits) + loads)

    def _lose(self, hand: Hand) -> None:
        if self._hands.get(hand.slot) is not hand:
            return  # known already
        del self._hands[hand.slot]
        with self._lock:
            seat = self._scheduler.seats[hand.slot]
            seat.open = False
            self._desk.stats.lost += 1
            self._desk.stats.workers[hand.slot].losses += 1
            self._desk.stats.workers[hand.slot].state = "lost"
        self._medic.replace(hand, [group.future for group in seat.groups.values()])

    def frozen(self, hand: Hand) -> None:
        self._lose(hand)

    def examined(self, hand: Hand, finding: Finding) -> None:
        """Charge the culprit, if there is one; the others go back to their old places in the queue."""
        ended: Ended = []
        with self._lock:
            seat = self._scheduler.seats[hand.slot]
            groups = list(seat.groups.values())
            seat.groups.clear()
            self._scheduler.settle(seat, ())
            verdict = blame(groups, finding, self.client)
            for group in groups:
                group.closed = True
                for request in group.requests:
                    fault = charge(verdict, request)
                    if fault is not None:
                        request.alone = True
                        self._desk.charge(request, fault, ended)
                    else:
                        self._scheduler.push_back(request)
            if verdict.kind is LoadFailed:  # last: it may empty the queue, and the others are to be in it
                line = verdict.culprits[0].line
                self._desk.strike(line, LoadFailed(line.name, verdict.cause), ended)
        self._desk.finish(ended)

    def joined(self, hand: Hand) -> None:
        self._unstaffed.discard(hand.slot)
        self._hands[hand.slot] = hand
        self._heard[hand.slot] = time.monotonic()
        with self._lock:
            seat = self._scheduler.seats[hand.slot]
            seat.open, seat.gpu = True, hand.hello.gpu
            self._scheduler.settle(seat, self._names.home(hand.hello.resident))
            self._scheduler.trust(hand.slot)
            shown = self._desk.stats.workers[hand.slot]
            shown.state, shown.node, shown.pid = "ready", hand.hello.node, hand.hello.pid

    def unstaffed(self, slot: int, problem: Problem) -> None:
        """With no worker left and none to be had, waiting would be for ever."""
        if slot not in self._unstaffed:
            logging.getLogger(__name__).warning("%s", problem)
        self._unstaffed.add(slot)
        if len(self._unstaffed) == len(self._scheduler.seats):
            with self._lock:
                waiting = self._scheduler.empty()
            errors = [WorkerLost(request.line.name, problem, max(1, request.attempts)) for request in waiting]
            self._desk.finish([(r, Outcome(r.line.name, None, error)) for r, error in zip(waiting, errors, strict=True)])

    # -- looking and leaving ------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        return self._desk.snapshot()

    def forget_results(self) -> None:
        """Empty the result cache."""
        with self._lock:
            self._desk.cache.clear()

    def close(self) -> None:
        """End every call that has not ended, and the workers if they are this pool's own."""
        try:
            self._end("the pool is closed")
            if threading.current_thread() is not self._thread:
                self._thread.join()
                self._medic.join()
                while not self._inbox.empty():  # a worker that came while the pool was closing is to be dropped, too
                    if callable(event := self._inbox.get()):
                        event()
            if self._reporter is not None:
                self._reporter.close()
        finally:
            for hand in self._hands.values():
                self._fleet.drop(hand)
            if self._fleet.private:
                for hand in self._hands.values():
                    self._fleet.kill(hand)
                self._fleet.forget_boards()

    def _end(self, reason: str) -> None:
        with self._lock:
            if self._desk.closed:
                return
            self._desk.closed = reason
            self._medic.close()
            requests = self._scheduler.empty()
            for seat in self._scheduler.seats.values():
                for group in seat.groups.values():
                    group.closed = True
                    requests += group.requests
                seat.groups.clear()
            self._desk.room.notify_all()
        self._desk.finish(
            [(r, Outcome(r.line.name, error=PoolClosed(r.line.name, reason), attempts=r.attempts)) for r in requests]
        )
        self._inbox.put(None)

    def __reduce__(self) -> NoReturn:
        hint = f'Send its name, and open it there with pool.connect("ray", name={self.name!r}).'
        raise Problem(f"pool {self.name!r}", "cannot be pickled: it holds threads and futures of this process", hint)


def open_router(options: Options) -> Router:
    if options.keep_heap:
        keep_heap()
    return Router(Fleet(options), options, Reporter)

"""The router when something breaks: lost workers, failed loads, what cannot travel, closing."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from pool import BadOutput, Call, Problem, Traits, WorkerLost, connect
from pool.board import LOADING, RUNNING, Record
from pool.execute import LOAD, Answer
from pool.fleet import Hand
from pool.medic import SILENCE, Medic
from pool.options import Options
from pool.router import Router
from pool.schedule import Request, Scheduler, Seat
from pool.worker import Job, Report
from tests.pool.models import Add, Resident, Troubled, Unloadable
from tests.pool.stand_in import Lost, ThreadFleet
from tests.pool.test_router import Gate, router


def test_the_culprit_alone_is_charged_and_is_cut_off_after_three_attempts(tmp_path: Path) -> None:
    fleet = ThreadFleet(tmp_path, size=2)

    def gate(job: Job) -> None:
        if "poison" in job.items:
            first = job.items.index("poison")
            fleet.record = Record(RUNNING, job.client, job.group, first, 1, 0.1, 60.0)
            raise Lost

    fleet.gate = gate
    with router(fleet) as pool:
        pool.add(Add(1))
        items: list[Any] = [*range(100), "poison", *range(100, 200)]
        outcomes = pool.run([Call("add1", item) for item in items])
        bad = outcomes.pop(100)
        assert [outcome.value for outcome in outcomes] == list(range(1, 201))
        assert (type(bad.error).__name__, bad.attempts) == ("WorkerLost", 3)
        assert pool.stats().lost == 3
    alone = [job.items for _, job in fleet.jobs if "poison" in job.items]
    assert [len(group) for group in alone[1:]] == [1, 1]


def test_without_a_record_the_oldest_group_is_suspected_and_runs_one_by_one(tmp_path: Path) -> None:
    fleet = ThreadFleet(tmp_path, size=1)

    def gate(job: Job) -> None:
        if "poison" in job.items:
            raise Lost

    fleet.gate = gate
    with router(fleet) as pool:
        pool.add(Add(1))
        outcomes = pool.run([Call("add1", item) for item in [*range(30), "poison", *range(30, 60)]])
        assert [outcome.ok for outcome in outcomes] == [True] * 30 + [False] + [True] * 30


def test_one_unreadable_result_costs_one_call(tmp_path: Path) -> None:
    class Odd(ThreadFleet):
        def receive(self, hand: Hand, group: int, sent: Report) -> Report:
            return super().receive(hand, group, pickle.loads(pickle.dumps(sent)))

    with router(Odd(tmp_path)) as pool:
        pool.add(Troubled())
        calls = [Call("troubled", ("fine", index)) for index in range(40)]
        calls.insert(20, Call("troubled", ("unreadable", 1)))
        outcomes = pool.run(calls)
        bad = outcomes.pop(20)
        assert [outcome.value for outcome in outcomes] == [(index,) for index in range(40)]
        assert isinstance(bad.error, BadOutput)
        assert pool.run([Call("troubled", ("fine", "again"))])[0].ok


def test_once_the_breaker_is_open_no_more_workers_die_in_a_load(tmp_path: Path) -> None:
    class Deadly(ThreadFleet):
        def look(self, hand: Hand) -> Record | None:
            job = [job for slot, job in self.jobs if slot == hand.slot][-1]
            return Record(LOADING, job.client, job.group, 0, 1, 0.1, 60.0)

    def gate(job: Job) -> None:
        raise Lost

    with router(Deadly(tmp_path, gate=gate), breaker_seconds=3600.0) as pool:
        pool.add(Add(1))
        outcomes = pool.run([Call("add1", index) for index in range(200)])
        assert {type(outcome.error).__name__ for outcome in outcomes} == {"LoadFailed"}
        assert 3 <= pool.stats().lost <= 4  # the other worker may be at it when the third is lost


@pytest.mark.parametrize("kind", [MemoryError, OSError, ObjectStoreFullError, OutOfDiskError])
def test_want_of_room_passes(tmp_path: Path, kind: type[Exception]) -> None:
    class Full(ThreadFleet):
        times = 0

        def send(self, hand: Hand, job: Job) -> Future[Report]:
            if "large" in job.items and self.times > 0:
                self.times -= 1
                raise kind("no room")
            return super().send(hand, job)

    fleet = Full(tmp_path)
    with router(fleet) as pool:
        pool.add(Resident("any"))
        for times, ok in ((2, True), (4, False)):  # one may go to a group, in which nobody is charged
            fleet.times = times
            pool.forget_results()
            outcomes = pool.run([Call("any", item) for item in [*range(20), "large"]])
            assert [outcome.ok for outcome in outcomes] == [True] * 20 + [ok]
        assert type(outcomes[-1].error) is WorkerLost
        assert "found no room" in str(outcomes[-1].error)
        assert pool.stats().lost == 0


def test_a_breaker_opens_for_a_model_that_does_not_load(tmp_path: Path) -> None:
    fleet = ThreadFleet(tmp_path)
    with router(fleet, breaker_seconds=3600.0) as pool:
        pool.add(Unloadable("broken", "raise"), Add(1))
        outcomes = pool.run([Call("broken", index) for index in range(50)] + [Call("add1", 1)])
        assert outcomes.pop().ok
        assert {type(outcome.error).__name__ for outcome in outcomes} == {"LoadFailed"}
        assert "Download it." in str(outcomes[0].error)
        jobs = len(fleet.jobs)
        assert not pool.submit(Call("broken", "later")).result().ok
        assert len(fleet.jobs) == jobs


def test_a_breaker_closes_again(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    with router(ThreadFleet(tmp_path), breaker_seconds=0.0) as pool:
        pool.add(Unloadable("late", f"missing {weights}"))
        assert not pool.submit(Call("late", 1)).result().ok
        weights.touch()
        assert pool.submit(Call("late", 1)).result().value == 1


class Lacking(ThreadFleet):
    """Its worker 1 cannot load "picky"."""

    def start(self, slot: int, closed: threading.Event) -> Hand:
        hand = super().start(slot, closed)
        worker = self._workers[hand.key][0]
        need = worker._need

        def lacks(name: str, job: Job, indices: list[int]) -> Answer | None:
            return Answer(LOAD, "no weights", 0.0) if name.startswith("picky") else need(name, job, indices)

        if slot == 1:
            worker._need = lacks  # type: ignore[method-assign]
        return hand


def test_what_one_worker_cannot_load_another_runs(tmp_path: Path) -> None:
    fleet = Lacking(tmp_path)
    with router(fleet, attempts=1) as pool:
        pool.add(Troubled("picky"))
        assert all(outcome.ok for outcome in pool.run([Call("picky", ("sleep", 0.005, index)) for index in range(60)]))
        assert pool.stats().retries == 0
    assert [slot for slot, _ in fleet.jobs].count(1) == 1


def test_a_suspect_goes_to_a_worker_that_can_load_its_model() -> None:
    scheduler = Scheduler(Options(), forget=lambda request: None)
    scheduler.add("picky", Traits())
    line = scheduler.lines["picky"]
    for slot in range(2):
        scheduler.seats[slot] = Seat(slot, 1 << 40)
        scheduler.seats[slot].open = True
    assert scheduler.refuse(line, 1, now=0.0)
    suspect = Request(line, 0, None, "me", None, 0.0)
    suspect.futures.append(Future())
    suspect.alone = True
    scheduler.push_back(suspect)
    assert scheduler.next_group(scheduler.seats[1], now=1.0) is None
    scheduler.seats[0].open = False  # with nobody else left it may as well try
    assert scheduler.next_group(scheduler.seats[1], now=1.0) is not None
    assert not scheduler.refuse(line, 1, now=2.0)


def test_another_suspect_does_not_wait_behind_one_that_is_refused_here_and_a_minute_later_that_is_tried_again() -> None:
    scheduler = Scheduler(Options(), forget=lambda request: None)
    for name in ("picky", "plain"):
        scheduler.add(name, Traits())
    for slot in range(4):
        scheduler.seats[slot] = Seat(slot, 1 << 40)
        scheduler.seats[slot].open = True
    assert scheduler.refuse(scheduler.lines["picky"], 1, now=0.0)
    for name in ("picky", "plain"):
        suspect = Request(scheduler.lines[name], 0, None, "me", None, 0.0)
        suspect.futures.append(Future())
        suspect.alone = True
        scheduler.push_back(suspect)
    group = scheduler.next_group(scheduler.seats[1], now=1.0)
    assert group is not None
    assert [request.line.name for request in group.requests] == ["plain"]
    scheduler.seats[1].groups.clear()
    assert scheduler.next_group(scheduler.seats[1], now=59.0) is None
    assert scheduler.next_group(scheduler.seats[1], now=61.0) is not None


def test_closing_ends_every_call(tmp_path: Path) -> None:
    gate = Gate()
    with router(ThreadFleet(tmp_path, size=1, gate=gate)) as pool:
        pool.add(Add(1))
        futures = [pool.submit(Call("add1", index)) for index in range(200)]
        gate.waiting.acquire()
    assert {type(future.result().error).__name__ for future in futures} == {"PoolClosed"}
    assert type(pool.submit(Call("add1", 1)).result().error).__name__ == "PoolClosed"
    gate.open.set()


def test_a_pool_may_be_closed_while_an_answer_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copying, closed = threading.Event(), threading.Event()
    failures: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)

    class Slow(ThreadFleet):
        def receive(self, hand: Hand, group: int, sent: Report) -> Report:
            copying.set()
            closed.wait(60)
            return super().receive(hand, group, sent)

    with router(Slow(tmp_path)) as pool:
        pool.add(Add(1))
        future = pool.submit(Call("add1", 1))
        future.add_done_callback(lambda _: closed.set())
        assert copying.wait(60)
    assert type(future.result().error).__name__ == "PoolClosed"
    assert pool.stats().calls == 1
    assert failures == []


def test_workers_end_though_closing_fails(tmp_path: Path) -> None:
    killed: list[int] = []

    class Mortal(ThreadFleet):
        def kill(self, hand: Hand) -> None:
            killed.append(hand.slot)
            super().kill(hand)

    class Torn:
        def close(self) -> None:
            raise OSError("no space left")

    pool = Router(Mortal(tmp_path), Options(), lambda router: Torn())  # type: ignore[arg-type, return-value]
    with pytest.raises(OSError, match="no space left"):
        pool.close()
    assert sorted(killed) == [0, 1]


def test_a_pool_without_workers_says_so(tmp_path: Path) -> None:
    class Nobody(ThreadFleet):
        def start(self, slot: int, closed: threading.Event) -> Any:
            raise Problem("worker", "did not start", "Look.")

    with pytest.raises(Problem, match="did not start"):
        Router(Nobody(tmp_path), Options())


def test_a_worker_that_cannot_be_looked_at_is_looked_at_again(tmp_path: Path) -> None:
    frozen: list[Hand] = []

    class Blind(ThreadFleet):
        def look(self, hand: Hand) -> Any:
            raise OSError("no such board")

    class Patient:
        def frozen(self, hand: Hand) -> None:
            frozen.append(hand)

    fleet = Blind(tmp_path)
    hand = fleet.start(0, threading.Event())
    medic = Medic(fleet, Patient(), lambda event: event())  # type: ignore[arg-type]
    for quiet in (100.0, 2 * SILENCE + 1):
        medic.inspect(hand, quiet, allowed=SILENCE)
        medic.join()
    assert frozen == [hand]


def test_no_number_of_workers_below_one() -> None:
    with pytest.raises(Problem, match="cannot have 0 workers"):
        connect("ray", workers=0)


def test_a_worker_that_starts_at_its_second_try_opens_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pool.medic._PAUSE", 0.01)
    up = threading.Event()

    class Odd(ThreadFleet):
        tries = 0

        def start(self, slot: int, closed: threading.Event) -> Any:
            if slot:  # slow, and in vain
                up.wait(5.0)
                raise Problem("worker 1", "did not start", "Look.")
            self.tries += 1
            if self.tries == 1:
                raise Problem("worker 0", "did not start", "Look.")
            return super().start(slot, closed)

    with router(Odd(tmp_path, size=2)) as pool:
        assert not up.is_set()
        up.set()
        pool.add(Add(1))
        assert [outcome.value for outcome in pool.run([Call("add1", 1)])] == [2]


def test_whatever_a_worker_raises_when_it_starts_is_a_problem(tmp_path: Path) -> None:
    class Odd(ThreadFleet):
        def start(self, slot: int, closed: threading.Event) -> Any:
            raise OSError("no space left")

    with pytest.raises(Problem, match=r"worker . of pool 'threads': did not start: OSError: no space left"):
        Router(Odd(tmp_path, size=2), Options())


def test_a_call_ends_though_its_lost_worker_can_be_neither_examined_nor_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(ThreadFleet):
        def start(self, slot: int, closed: threading.Event) -> Any:
            if self.started:
                raise OSError("no space left")
            return super().start(slot, closed)

        def look(self, hand: Hand) -> Any:
            raise OSError("no such board")

    def gate(job: Job) -> None:
        raise Lost

    with router(Odd(tmp_path, size=1, gate=gate)) as pool:
        pool.add(Add(1))
        outcome = pool.submit(Call("add1", 1)).result(timeout=15)
        assert "no space left" in str(outcome.error)
    assert "did not start: OSError: no space left" in caplog.text

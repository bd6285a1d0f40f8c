"""The router on stand-in workers: single flight, cancelling, fairness, backpressure, affinity, blame."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pool import BadOutput, Call, LocalPool, Outcome, Problem, Traits, UnknownModel, connect
from pool.board import RUNNING, Record
from pool.execute import LOAD, Answer
from pool.fleet import Hand
from pool.options import Options
from pool.router import Router
from pool.schedule import Request, Scheduler, Seat
from pool.worker import Job, Report
from tests.pool.models import Add, Count, Resident, Troubled, Unloadable
from tests.pool.stand_in import Lost, ThreadFleet


class Gate:
    """Holds back all jobs until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = threading.Semaphore(0)

    def __call__(self, job: Job) -> None:
        self.waiting.release()
        self.open.wait()


@contextmanager
def router(fleet: ThreadFleet, **options: Any) -> Iterator[Router]:
    with Router(fleet, Options(**options)) as opened:
        assert isinstance(opened, Router)
        yield opened


def test_outcomes_come_in_the_order_of_the_calls(tmp_path: Path) -> None:
    with router(ThreadFleet(tmp_path)) as pool:
        pool.add(Add(1), Add(2))
        calls = [Call(f"add{1 + index % 2}", index) for index in range(300)]
        assert [outcome.value for outcome in pool.run(calls)] == [index + 1 + index % 2 for index in range(300)]
        assert pool.stats().calls == 300
        assert pool.stats().by_model == {"add1": 150, "add2": 150}


def test_asyncio(tmp_path: Path) -> None:
    with router(ThreadFleet(tmp_path)) as pool:
        pool.add(Add(1))
        outcomes = asyncio.run(pool.arun([Call("add1", index) for index in range(10)]))
        assert [outcome.value for outcome in outcomes] == list(range(1, 11))


def test_unknown_models_raise_at_once_and_models_that_cannot_be_pickled_are_refused(tmp_path: Path) -> None:
    with router(ThreadFleet(tmp_path)) as pool:
        with pytest.raises(UnknownModel, match=r"pool\.add"):
            pool.submit(Call("nobody", 1))
        model = Add(1)
        model.lock = threading.Lock()  # type: ignore[attr-defined]
        with pytest.raises(Problem, match="cannot be pickled"):
            pool.add(model)


@pytest.mark.parametrize("kind", ["router", "local"])
def test_an_equal_model_may_be_added_again_and_another_of_its_name_is_refused(tmp_path: Path, kind: str) -> None:
    pool = Router(ThreadFleet(tmp_path), Options()) if kind == "router" else LocalPool()
    with pool:
        pool.add(Add(1, name="add"))
        pool.add(Add(1, name="add"))
        with pytest.raises(Problem, match="as another model of the same name"):
            pool.add(Add(2, name="add"))
        assert pool.run([Call("add", 1)])[0].unwrap() == 2


def test_identical_calls_are_computed_once_and_equal_results_are_shared(tmp_path: Path) -> None:
    gate = Gate()
    with router(ThreadFleet(tmp_path, size=1, gate=gate)) as pool:
        pool.add(Count("count"))
        futures = [pool.submit(Call("count", np.zeros(3))) for _ in range(5)]
        gate.open.set()
        outcomes = [future.result() for future in futures]
        assert [outcome.value for outcome in outcomes] == [1] * 5
        assert [outcome.remembered for outcome in outcomes] == [False, True, True, True, True]
        assert pool.submit(Call("count", np.zeros(3))).result().remembered
        assert (pool.stats().merges, pool.stats().hits, pool.stats().calls) == (4, 1, 6)
        pool.forget_results()
        assert pool.run([Call("count", np.zeros(3))])[0].value == 2


def test_random_models_are_neither_merged_nor_remembered(tmp_path: Path) -> None:
    with router(ThreadFleet(tmp_path, size=1)) as pool:
        pool.add(Count("dice", deterministic=False))
        assert sorted(outcome.value for outcome in pool.run([Call("dice", 0)] * 4)) == [1, 2, 3, 4]


def test_failures_are_not_remembered(tmp_path: Path) -> None:
    with router(ThreadFleet(tmp_path)) as pool:
        pool.add(Troubled())
        for _ in range(2):
            outcome = pool.submit(Call("troubled", ("raise",))).result()
            assert not outcome.ok
            assert not outcome.remembered


def test_results_cannot_be_written_to(tmp_path: Path) -> None:
    with router(ThreadFleet(tmp_path)) as pool:
        pool.add(Add(1))
        value = pool.submit(Call("add1", np.zeros(3))).result().value
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 5


def test_cancelling_one_caller_cancels_no_other(tmp_path: Path) -> None:
    gate = Gate()
    fleet = ThreadFleet(tmp_path, size=1, gate=gate)
    with router(fleet, window=1) as pool:
        pool.add(Add(1), Add(2))
        first = pool.submit(Call("add1", 0))
        gate.waiting.acquire()
        shared = [pool.submit(Call("add2", 1)) for _ in range(2)]
        dropped = pool.submit(Call("add2", 2))
        assert shared[0].cancel()
        assert dropped.cancel()
        gate.open.set()
        assert first.result().value == 1
        assert shared[1].result().value == 3
        assert pool.submit(Call("add2", 2)).result().value == 4  # and a cancelled call can be made again
    assert [item for _, job in fleet.jobs for item in job.items].count(2) == 1


def test_callers_share_the_workers_fairly(tmp_path: Path) -> None:
    gate = Gate()
    fleet = ThreadFleet(tmp_path, size=1, gate=gate)
    with router(fleet, window=1, group_items=4, cache_bytes=0, merge=False) as pool:
        pool.add(Add(1))
        futures = [pool.submit(Call("add1", ("plug",)), caller="plug")]
        gate.waiting.acquire()
        futures += [pool.submit(Call("add1", index), caller="many") for index in range(40)]
        futures += [pool.submit(Call("add1", 100 + index), caller="few") for index in range(4)]
        gate.open.set()
        wait(futures)
    order = [item for _, job in fleet.jobs for item in job.items]
    assert max(order.index(100 + index) for index in range(4)) <= 10


def test_a_caller_with_too_many_unfinished_calls_waits_and_others_do_not(tmp_path: Path) -> None:
    gate = Gate()
    with router(ThreadFleet(tmp_path, size=1, gate=gate), max_pending=3) as pool:
        pool.add(Add(1))
        ended: list[list[Outcome]] = []
        many = threading.Thread(target=lambda: ended.append(pool.run([Call("add1", index) for index in range(20)])))
        many.start()
        gate.waiting.acquire()
        other = [pool.submit(Call("add1", 100 + index), caller="other") for index in range(3)]
        last = time.monotonic() + 60
        while pool.stats().queued + pool.stats().in_flight < 6:
            assert time.monotonic() < last, pool.stats()
        assert many.is_alive()
        gate.open.set()
        many.join()
        assert [outcome.value for outcome in ended[0]] == list(range(1, 21))
        assert [future.result().value for future in other] == [101, 102, 103]


def test_a_callback_may_submit(tmp_path: Path) -> None:
    with router(ThreadFleet(tmp_path), max_pending=1) as pool:
        pool.add(Add(1))
        seen: list[int] = []
        ended = threading.Event()

        def follow(outcome: Outcome) -> None:
            seen.append(outcome.value)
            if outcome.value == 50:
                ended.set()
            else:
                pool.submit(Call("add1", outcome.value)).add_done_callback(lambda future: follow(future.result()))

        pool.submit(Call("add1", 0)).add_done_callback(lambda future: follow(future.result()))
        assert ended.wait(60)
        assert seen == list(range(1, 51))


def test_few_calls_are_spread_over_the_workers(tmp_path: Path) -> None:
    fleet = ThreadFleet(tmp_path, size=2)
    with router(fleet) as pool:
        pool.add(Troubled())
        pool.run([Call("troubled", ("sleep", 0.02, index)) for index in range(24)])
        fleet.jobs.clear()
        pool.run([Call("troubled", ("sleep", 0.02, -1 - index)) for index in range(8)])
        assert {slot for slot, _ in fleet.jobs} == {0, 1}


def test_models_stay_where_they_are(tmp_path: Path) -> None:
    fleet = ThreadFleet(tmp_path, size=2, memory=4 << 20)
    with router(fleet, memory=4 << 20, cache_bytes=0, merge=False) as pool:
        pool.add(*(Resident(f"m{index}", load=0.02) for index in range(8)))
        for _ in range(5):
            pool.run([Call(f"m{index % 8}", index) for index in range(64)])
        assert pool.stats().loads <= 24  # plain LRU would load at nearly every group


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


def test_closing_ends_every_call(tmp_path: Path) -> None:
    gate = Gate()
    with router(ThreadFleet(tmp_path, size=1, gate=gate)) as pool:
        pool.add(Add(1))
        futures = [pool.submit(Call("add1", index)) for index in range(200)]
        gate.waiting.acquire()
    assert {type(future.result().error).__name__ for future in futures} == {"PoolClosed"}
    assert type(pool.submit(Call("add1", 1)).result().error).__name__ == "PoolClosed"
    gate.open.set()


def test_a_pool_without_workers_says_so(tmp_path: Path) -> None:
    class Nobody(ThreadFleet):
        def start(self, slot: int, closed: threading.Event) -> Any:
            raise Problem("worker", "did not start", "Look.")

    with pytest.raises(Problem, match="did not start"):
        Router(Nobody(tmp_path), Options())


def test_no_number_of_workers_below_one() -> None:
    with pytest.raises(Problem, match="cannot have 0 workers"):
        connect("ray", workers=0)


def test_whatever_a_worker_raises_when_it_starts_is_a_problem(tmp_path: Path) -> None:
    class Odd(ThreadFleet):
        def start(self, slot: int, closed: threading.Event) -> Any:
            raise OSError("no space left")

    with pytest.raises(Problem, match=r"worker . of pool 'threads': did not start: OSError: no space left"):
        Router(Odd(tmp_path, size=2), Options())


def test_a_call_ends_though_its_lost_worker_can_be_neither_examined_nor_replaced(tmp_path: Path) -> None:
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


def test_a_deadline_grows_with_what_is_to_be_done(tmp_path: Path) -> None:
    """A network that takes 20 s for a megapixel does not hang when it takes minutes for sixteen."""
    fleet = ThreadFleet(tmp_path, size=1)
    with router(fleet) as pool:
        pool.add(Add(1))
        for side, deadline in ((512, None), (4096, None), (2048, 7.0)):
            assert pool.submit(Call("add1", np.zeros((side, side, 3), np.uint8)), deadline=deadline).result().ok
    limits = [job.deadlines[0][0] for _, job in fleet.jobs]
    assert limits == [60.0, pytest.approx(16 * 60, rel=1e-3), 7.0]

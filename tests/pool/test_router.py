"""The router on stand-in workers: single flight, cancelling, fairness, backpressure, affinity."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pool import Call, LocalPool, Outcome, Problem, Traits, UnknownModel
from pool.fleet import Hand
from pool.options import Options
from pool.router import Router
from pool.schedule import Request, Scheduler, Seat
from pool.worker import Job
from tests.pool.models import Add, Count, Resident, Troubled
from tests.pool.stand_in import ThreadFleet


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


def test_what_the_workers_hold_already_is_known(tmp_path: Path) -> None:
    class Shared(ThreadFleet):
        held: tuple[str, ...] = ()

        def start(self, slot: int, closed: threading.Event) -> Hand:
            hand = super().start(slot, closed)
            hand.hello = hand.hello._replace(resident=self.held)
            return hand

    with router(Shared(tmp_path, size=1)) as pool:
        pool.add(Add(1))
        Shared.held = (pool._names.abroad("add1"),)
    with router(Shared(tmp_path, size=1)) as pool:
        until = time.monotonic() + 60
        while not pool.stats().workers[0].models:
            assert time.monotonic() < until
        pool.add(Add(1))
        assert pool.stats().workers[0].models == ("add1",)
        assert pool._scheduler.lines["add1"].hosts == {0}


def test_a_few_calls_do_not_wait_behind_the_long_load_of_another_model() -> None:
    scheduler = Scheduler(Options(), forget=lambda request: None)
    for slot in range(2):
        scheduler.seats[slot] = Seat(slot, 1 << 40)
        scheduler.seats[slot].open = True

    def ask(name: str, now: float) -> None:
        request = Request(scheduler.lines[name], 0, None, "me", None, now)
        request.futures.append(Future())
        scheduler.push(request)

    first, second = scheduler.seats.values()
    for name in ("quick", "slow"):
        scheduler.add(name, Traits(cost=0.01))
    scheduler.lines["quick"].loaded(0, 1.0)
    ask("quick", 0.0)
    assert scheduler.next_group(first, now=0.0) is not None
    ask("quick", 0.1)
    assert scheduler.next_group(second, now=10.0) is None  # its host is loading it: that is waited for
    first.groups.clear()
    scheduler.settle(first, ("quick",))
    assert scheduler.next_group(first, now=10.0) is not None
    first.groups.clear()
    ask("slow", 10.0)
    assert scheduler.next_group(first, now=10.0) is not None
    ask("quick", 11.0)
    assert scheduler.next_group(second, now=14.9) is None
    assert scheduler.next_group(second, now=15.1) is not None


def test_a_deadline_grows_with_what_is_to_be_done(tmp_path: Path) -> None:
    """A network that takes 20 s for a megapixel does not hang when it takes minutes for sixteen."""
    fleet = ThreadFleet(tmp_path, size=1)
    with router(fleet) as pool:
        pool.add(Add(1))
        for side, deadline in ((512, None), (4096, None), (2048, 7.0)):
            assert pool.submit(Call("add1", np.zeros((side, side, 3), np.uint8)), deadline=deadline).result().ok
    limits = [job.deadlines[0][0] for _, job in fleet.jobs]
    assert limits == [60.0, pytest.approx(16 * 60, rel=1e-3), 7.0]

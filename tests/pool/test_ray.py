"""The pool on real Ray workers: faults, shared workers, other processes, the live table."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from rich.console import Console

import pool
from pool import Call, Model, Problem, top
from pool.fleet import Fleet
from pool.options import Options
from pool.router import Router
from tests.pool.models import Add, Resident, Troubled, Unloadable

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def workers(cluster: None) -> Iterator[Router]:
    with pool.connect("ray", workers=2) as opened:
        assert isinstance(opened, Router)
        opened.add(Add(1), Troubled(), Unloadable("dies loading", "die"), Unloadable("hangs loading", "hang", 0.5))
        yield opened


def pids_of(client: Router, within: float = 60.0) -> set[int]:
    """Of all workers, once each has told its own: a busy machine starts them one after another."""
    last = time.monotonic() + within
    while not all(pids := [worker.pid for worker in client.stats().workers]) and time.monotonic() < last:
        time.sleep(0.05)
    return set(pids)


def test_images_go_there_and_back(workers: Router) -> None:
    images = [np.full((64, 48, 3), index, np.uint8) for index in range(100)]
    outcomes = workers.run([Call("add1", image) for image in images])
    for image, outcome in zip(images, outcomes, strict=True):
        np.testing.assert_array_equal(outcome.unwrap(), image + 1)
        assert outcome.value.dtype == np.uint8
    assert workers.run([Call("add1", images[0])])[0].remembered


def test_items_and_results_too_large_for_the_arena_go_through_ray(cluster: None) -> None:
    with pool.connect("ray", workers=1, group_bytes=1 << 16) as small:
        small.add(Add(1))
        image = np.zeros((700, 1000, 3), np.uint8)  # the arena has 1 MB to spare
        np.testing.assert_array_equal(small.submit(Call("add1", image)).result().unwrap(), image + 1)


def test_whoever_clears_shared_memory_away_ends_no_call(cluster: None) -> None:
    """As systemd does with a user's, when that user logs out."""
    images = [np.full((64, 48, 3), index, np.uint8) for index in range(20)]
    with pool.connect("ray", workers=1, cache_bytes=0) as one:
        assert isinstance(one, Router)
        one.add(Add(1), Troubled())

        def right() -> bool:
            outcomes = one.run([Call("add1", image) for image in images])
            return all(np.array_equal(outcome.unwrap(), image + 1) for image, outcome in zip(images, outcomes, strict=True))

        assert right()
        for _ in range(2):
            before = set(Path("/dev/shm").glob(f"pool-*{one.name}-*"))
            assert {path.suffix for path in before} >= {".arena"}
            for path in before:
                path.unlink()
            assert right()
            after = set(Path("/dev/shm").glob(f"pool-*{one.name}-*.arena"))
            assert len(after) == 1, "a new one is made, for speed"
            assert not after & before
        [died] = one.run([Call("troubled", ("die",))])
        assert type(died.error).__name__ == "WorkerLost"
        assert right()


@pytest.mark.parametrize(
    ("what", "error", "attempts"),
    [
        ("raise", "ModelRaised", 1),
        ("unpicklable raise", "ModelRaised", 1),
        ("exit", "ModelRaised", 1),
        ("nan", "BadOutput", 1),
        ("shape", "BadOutput", 1),
        ("lock", "BadOutput", 1),
        ("die", "WorkerLost", 3),
        ("kill", "WorkerLost", 3),
        ("hang", "DeadlineExceeded", 3),
        ("spin", "DeadlineExceeded", 3),
    ],
)
def test_one_fault_among_innocents(workers: Router, what: str, error: str, attempts: int) -> None:
    workers.forget_results()
    calls = [Call("troubled", ("fine", index)) for index in range(40)]
    calls.insert(20, Call("troubled", (what,)))
    outcomes = workers.run(calls)
    bad = outcomes.pop(20)
    assert [outcome.value for outcome in outcomes] == [(index,) for index in range(40)]
    assert type(bad.error).__name__ == error
    assert bad.attempts == attempts
    assert pickle.loads(pickle.dumps(bad.error)).attempts == attempts


@pytest.mark.parametrize("name", ["dies loading", "hangs loading"])
def test_a_load_that_ends_its_worker_is_cut_off(workers: Router, name: str) -> None:
    outcomes = workers.run([Call(name, index) for index in range(10)] + [Call("add1", 0.5)])
    assert outcomes.pop().value == 1.5
    assert {type(outcome.error).__name__ for outcome in outcomes} == {"LoadFailed"}


def test_a_deadline_can_be_given_per_call(workers: Router) -> None:
    assert not workers.submit(Call("troubled", ("sleep", 30)), deadline=0.3).result().ok
    assert workers.submit(Call("troubled", ("sleep", 1.7)), deadline=30.0).result().ok


def test_items_that_cannot_travel_fail_alone(workers: Router) -> None:
    outcomes = workers.run([Call("troubled", ("fine", item)) for item in (1, threading.Lock(), 2)])
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    assert "travel" in str(outcomes[1].error)


@pytest.mark.parametrize("size", [1, 20 << 20])  # through the arena, and through Ray
def test_results_that_cannot_be_read_fail_alone(workers: Router, size: int) -> None:
    workers.forget_results()
    lost = workers.stats().lost
    outcomes = workers.run([Call("troubled", what) for what in (("fine", 1), ("unreadable", size), ("fine", 2))])
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    assert "its result cannot travel" in str(outcomes[1].error)
    assert workers.stats().lost == lost


def ready(client: Router, within: float = 60.0) -> None:
    """Until all workers are there, those that take a lost one's place among them."""
    last = time.monotonic() + within
    while any(worker.state != "ready" or not worker.pid for worker in client.stats().workers):
        assert time.monotonic() < last, client.stats().workers
        time.sleep(0.05)


def test_a_worker_stopped_by_a_signal_is_replaced(workers: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pool.medic.GRACE", 0.5)
    monkeypatch.setattr("pool.medic.SILENCE", 1.0)
    monkeypatch.setattr("pool.router.GRACE", 0.5)
    ready(workers)
    pid = workers.stats().workers[0].pid
    assert pid > 0, "0 would be this test's own processes"
    futures = [workers.submit(Call("troubled", ("sleep", 0.2, index))) for index in range(10)]
    os.kill(pid, signal.SIGSTOP)
    assert all(future.result().ok for future in futures)
    assert pid not in {worker.pid for worker in workers.stats().workers if worker.state == "ready"}


def test_workers_compute_with_the_threads_they_were_given(workers: Router) -> None:
    class Threads(Model):
        name = "threads"

        def load(self) -> None:
            import cv2
            import torch

            self.counts = (lambda: torch.get_num_threads(), lambda: cv2.getNumThreads())

        def run(self, items: Any) -> list[Any]:
            return [tuple(count() for count in self.counts)] * len(items)

    workers.add(Threads())
    assert workers.submit(Call("threads", 0)).result().unwrap() == (1, 1)


def test_nothing_is_left_in_shared_memory(cluster: None) -> None:
    def ours(name: str) -> list[str]:
        return [path.name for path in Path("/dev/shm").glob(f"pool-*{name}-*")]

    with pool.connect("ray", workers=1) as one:
        assert isinstance(one, Router)
        one.add(Add(1), Troubled())
        assert one.submit(Call("add1", 1)).result().ok
        assert not one.submit(Call("troubled", ("die",))).result().ok
        assert len(ours(one.name)) <= 2  # a board, and an arena if the new worker is up
    assert ours(one.name) == []


def test_two_routers_share_named_workers_and_outlive_each_other(cluster: None) -> None:
    first = pool.connect("ray", workers=2, name="shared")
    second = pool.connect("ray", name="shared")
    try:
        for client in (first, second):
            client.add(Resident("where"), Troubled())
        pids = pids_of(first)
        assert len(pids) == 2
        for client in (first, second):
            outcomes = client.run([Call("where", index) for index in range(50)])
            assert {outcome.unwrap()[1] for outcome in outcomes} <= pids
        poison = first.submit(Call("troubled", ("die",)))
        innocents = second.run([Call("troubled", ("sleep", 0.01, index)) for index in range(100)])
        assert all(outcome.ok for outcome in innocents)
        assert type(poison.result().error).__name__ == "WorkerLost"
        first.close()
        assert second.submit(Call("where", 1000)).result().ok
    finally:
        first.close()
        second.close()
        pool.dissolve("shared")
    with pytest.raises(Problem, match="no worker"):
        pool.dissolve("shared")


def test_two_clients_may_mean_different_models_by_one_name(cluster: None) -> None:
    first = pool.connect("ray", workers=1, name="namesakes")
    second = pool.connect("ray", name="namesakes")
    try:
        first.add(Add(1, name="add"))
        second.add(Add(100, name="add"))
        for number in range(3):
            assert first.run([Call("add", number)])[0].unwrap() == number + 1
            assert second.run([Call("add", number)])[0].unwrap() == number + 100
        assert first.stats().workers[0].models[-1:] == ("add",)
    finally:
        first.close()
        second.close()
        top.main(["--dissolve", "namesakes"])
    with pytest.raises(Problem, match="no worker"):
        pool.dissolve("namesakes")


def test_a_worker_for_which_there_is_no_room_says_what_is_lacking(cluster: None) -> None:
    fleet = Fleet(Options(workers=1, gpus=2.0, start_deadline=2.0))
    with pytest.raises(Problem, match=r"did not start: it needs 2 GPU, and 0 of Ray's 0 are free. Free some"):
        fleet.start(0, threading.Event())


def test_another_process_finds_the_pool_by_its_name(workers: Router) -> None:
    @ray.remote(num_cpus=0)
    def elsewhere(name: str) -> tuple[int, int]:
        with pool.connect("ray", name=name) as there:
            there.add(Add(1))
            return os.getpid(), there.submit(Call("add1", 41)).result().unwrap()

    pid, value = ray.get(elsewhere.remote(workers.name))
    assert value == 42
    assert pid != os.getpid()
    assert workers.submit(Call("add1", 43)).result().unwrap() == 44


def test_top_shows_routers_and_workers(workers: Router) -> None:
    workers.submit(Call("add1", 5)).result()
    assert workers._reporter is not None
    workers._reporter.show(workers.stats())
    console = Console(record=True, width=200)
    console.print(top.render(top.snapshots()))
    text = console.export_text()
    assert workers.name in text
    assert "add1" in text
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "pool.top", "--once", "--address", address]
    assert workers.name in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_options_are_checked() -> None:
    with pytest.raises(Problem, match="speed"):
        pool.connect("ray", speed=9)
    with pytest.raises(Problem, match="not one of"):
        pool.connect("slurm")

"""Shared memory between a client and a worker: what goes in comes out, lanes stay apart, nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from pool import arena
from pool.arena import Arena, sweep


@pytest.fixture
def shared() -> Iterator[Arena]:
    made = Arena.create("test-arena", lanes=2, size=1 << 16)
    if made is None:
        pytest.skip("no shared memory on this machine")
    yield made
    made.remove()


def test_a_second_process_would_see_what_the_first_packed(shared: Arena) -> None:
    other = Arena(shared.path, 2, 1 << 16)
    lane = shared.free[1]
    thing = {"a": np.arange(100, dtype=np.float32).reshape(4, 25), "b": [np.zeros(0), "text"], "c": np.arange(20)[::2]}
    parcel = shared.pack(thing, lane.there, lane.size)
    assert parcel is not None
    back = other.unpack(parcel)
    for name in "ac":
        np.testing.assert_array_equal(back[name], thing[name])
    assert back["b"][1] == "text"
    assert not back["a"].flags.writeable


def test_other_users_cannot_read_it(shared: Arena) -> None:
    assert shared.path.stat().st_mode & 0o777 == 0o600


def test_lanes_do_not_overlap(shared: Arena) -> None:
    arrays = [np.full(60_000, value, np.uint8) for value in range(4)]
    starts = [start for lane in shared.free for start in (lane.there, lane.back)]
    parcels = [shared.pack(array, start, 1 << 16) for array, start in zip(arrays, starts, strict=True)]
    for array, parcel in zip(arrays, parcels, strict=True):
        assert parcel is not None
        np.testing.assert_array_equal(shared.unpack(parcel), array)


def test_what_does_not_fit_or_cannot_be_pickled_goes_another_way(shared: Arena) -> None:
    lane = shared.free[0]
    assert shared.pack(np.zeros((1 << 16) + 1, np.uint8), lane.there, lane.size) is None
    assert shared.pack(threading.Lock(), lane.there, lane.size) is None


def test_memory_that_is_promised_is_not_promised_again(shared: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing lies in a new arena, and the system counts its pages as free."""
    length = 2 * 2 * (1 << 16)
    assert arena.promised() >= length
    free = arena.promised() + 4 * length - 1
    monkeypatch.setattr(arena.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert Arena.create("test-next", lanes=2, size=1 << 16) is None
    free += 1
    made = Arena.create("test-next", lanes=2, size=1 << 16)
    assert made is not None
    made.remove()


def test_an_arena_is_not_swept_before_it_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = arena.fcntl.flock

    def late(*arguments: object) -> None:
        monkeypatch.setattr(arena.fcntl, "flock", lock)
        sweep()  # another process's, just now
        lock(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(arena.fcntl, "flock", late)
    made = Arena.create("test-new", lanes=1, size=1 << 12)
    assert made is not None
    assert made.path.exists()
    made.remove()


def test_arenas_of_the_living_are_spared_and_those_of_the_dead_removed(shared: Arena) -> None:
    left = shared.path.with_name("pool-test-dead.arena")
    left.write_bytes(b"x")
    sweep()
    assert shared.path.exists()
    assert not left.exists()


def test_without_room_there_is_no_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))  # type: ignore[attr-defined]
    assert Arena.create("test-none", lanes=2, size=1 << 16) is None

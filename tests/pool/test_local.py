"""A local pool with a name: what all users of a process share, and when it ends."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pool import BadOutput, Call, PoolClosed, Problem, connect
from pool.local import AGAIN, CACHE, SharedPool
from tests.pool.models import Add, Count, Unloadable


def test_who_gives_the_same_name_shares_models_and_results() -> None:
    with connect("local", name="a") as first, connect("local", name="a") as second, connect("local", name="b") as other:
        first.add(Count("count"))
        assert first.run([Call("count", 5)])[0].value == 1
        again = second.run([Call("count", 5), Call("count", 6)])
        assert [(outcome.value, outcome.remembered) for outcome in again] == [(1, True), (2, False)]
        assert first.stats() == second.stats()
        with pytest.raises(Problem, match=r"is not in this pool"):
            other.submit(Call("count", 5))


def test_it_ends_with_its_last_user() -> None:
    first, second = connect("local", name="a"), connect("local", name="a")
    first.add(Add(1))
    first.close()
    first.close()
    assert isinstance(first.run([Call("add1", 1)])[0].error, PoolClosed)
    assert second.run([Call("add1", 1)])[0].value == 2
    second.close()
    assert isinstance(second.run([Call("add1", 1)])[0].error, PoolClosed)
    with connect("local", name="a") as anew, pytest.raises(Problem, match="which holds \\[\\]"):
        anew.submit(Call("add1", 1))


def test_what_did_not_load_is_given_another_try_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, now = tmp_path / "weights.pt", [100.0]
    monkeypatch.setattr("pool.local.time.monotonic", lambda: now[0])
    with connect("local") as pool:
        pool.add(Unloadable("needy", f"missing {weights}"))
        assert not pool.run([Call("needy", 1)])[0].ok
        weights.touch()
        now[0] += AGAIN - 1
        assert not pool.run([Call("needy", 1)])[0].ok
        now[0] += 2
        assert pool.run([Call("needy", 1)])[0].value == 1
        assert pool.stats().loads == 2


def test_a_copy_keeps_its_own_books() -> None:
    with connect("local", name="a") as pool:
        assert isinstance(pool, SharedPool)
        pool.add(Add(1))
        own = copy.deepcopy(pool)
        assert own.run([Call("add1", 1)])[0].value == 2
        assert (own.stats().calls, pool.stats().calls) == (1, 0)


def test_a_result_that_cannot_be_copied_costs_one_call() -> None:
    class Odd(tuple):
        def __new__(cls, first: int, second: int) -> Odd:
            return super().__new__(cls, (first, second))

    class Gives(Count):
        def run(self, items: Sequence[Any]) -> list[Any]:
            return [Odd(item, item) if item else item for item in items]

    with connect("local") as pool:
        pool.add(Gives("odd"))
        good, bad = pool.run([Call("odd", 0), Call("odd", 1)])
        assert good.ok
        assert isinstance(bad.error, BadOutput)


def test_the_first_user_says_how_much_is_remembered() -> None:
    with connect("local", name="a", cache_bytes=0) as pool, connect("local", name="a", cache_bytes=CACHE) as other:
        pool.add(Count("count"))
        assert [each.run([Call("count", 5)])[0].value for each in (pool, other)] == [1, 2]

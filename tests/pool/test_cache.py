"""Keys: equal exactly when the calls are; results: the receiver's own and read-only; memory: within the budget."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.cache import ResultCache, digest, own, weigh

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
items = st.recursive(
    scalars, lambda part: st.lists(part, max_size=3) | st.tuples(part, part) | st.dictionaries(st.text(), part)
)


@given(items)
def test_an_item_has_one_key_per_model(item: object) -> None:
    assert digest("a", item) == digest("a", item)
    assert digest("a", item) != digest("b", item)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        ((1, 2), [1, 2]),
        (1, 1.0),
        (True, 1),
        ("1", 1),
        (b"x", "x"),
        ([[], 1], [[1]]),
        ({"a": 1}, {"a": 2}),
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8)),
        (np.zeros(4, np.uint8), np.zeros(4, np.int8)),
        (np.zeros(0), np.zeros((0, 1))),
        (np.float32(1), np.float64(1)),
    ],
)
def test_different_items_have_different_keys(one: object, other: object) -> None:
    assert digest("m", one) != digest("m", other)


def test_the_layout_of_an_array_does_not_matter() -> None:
    image = np.arange(24).reshape(4, 6)
    assert digest("m", image[:, ::2]) == digest("m", image[:, ::2].copy())


def test_items_without_bytes_of_their_own_have_no_key() -> None:
    assert digest("m", [1, object()]) is None
    assert digest("m", np.array([None])) is None


@dataclass
class Held:
    array: np.ndarray


def test_own_copies_and_locks_every_array() -> None:
    pair = namedtuple("pair", "a b")
    source = np.ones(3)
    mine = own({"x": pair(source, [source, "text"])})
    source[:] = 2
    assert mine["x"].a.tolist() == [1, 1, 1]
    assert mine["x"].b[1] == "text"
    with pytest.raises(ValueError, match="read-only"):
        mine["x"].b[0][0] = 5


def test_own_copies_what_a_class_of_a_models_own_holds() -> None:
    source = np.ones(3)
    mine = own([Held(source)])
    source[:] = 2
    assert mine[0].array.tolist() == [1, 1, 1]


def test_the_cache_forgets_the_least_recently_used_and_keeps_its_budget() -> None:
    value = np.zeros(1000, np.uint8)
    cache = ResultCache(3 * weigh(value))
    for key in (b"a", b"b", b"c"):
        cache.put(key, value)
    assert cache.get(b"a")[0]
    cache.put(b"d", value)
    assert [cache.get(key)[0] for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert cache.bytes == 3 * weigh(value)
    cache.put(b"e", np.zeros(10_000, np.uint8))
    assert not cache.get(b"e")[0]
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_none_can_be_remembered() -> None:
    cache = ResultCache(1000)
    cache.put(b"k", None)
    assert cache.get(b"k") == (True, None)

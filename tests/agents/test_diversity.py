from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.diversity import diversity, tasks_of, tool_entropy
from pool import Problem

A, B, C, D = ("denoise/a", "dejpeg/a"), ("dejpeg/a", "denoise/a"), ("denoise/b", "dejpeg/a"), ("denoise/a",)
PLANS = st.lists(st.sampled_from(["denoise/a", "denoise/b", "dejpeg/a", "dejpeg/b", "dehaze/a"]), max_size=3).map(tuple)
GROUPS = st.lists(st.lists(PLANS, min_size=1, max_size=8), min_size=1, max_size=4)


def test_by_hand() -> None:
    # Pairs of the first group: AB (order), AC (tool), AD, BC (order), BD, CD; the second has none.
    found = diversity([[A, A, B, C, D], [D, D, D]])
    assert found["distinct"] == (4 + 1) / 2
    assert found["identical"] == (2 + 3) / 8
    assert found["order"] == 2 / 6
    assert found["tool"] == 1 / 6
    # denoise: a 3 + 1 + 3 = 7, b 1; dejpeg: a 4. H(denoise) counts for 8 of 12.
    even = -(7 / 8 * math.log(7 / 8) + 1 / 8 * math.log(1 / 8))
    assert found["tool_entropy"] == pytest.approx(8 / 12 * even)


def test_the_same_tasks_less_often_are_no_other_order() -> None:
    found = diversity([[("denoise/a", "denoise/a", "dejpeg/a"), ("dejpeg/a", "denoise/a", "dejpeg/a")]])
    assert (found["order"], found["tool"], found["distinct"]) == (0, 0, 2)


def test_entropy_is_that_of_an_even_choice_where_all_tools_come_up_alike() -> None:
    assert tool_entropy(["denoise/a", "denoise/b", "denoise/c", "denoise/d"]) == pytest.approx(math.log(4))
    assert tool_entropy(["denoise/a", "dejpeg/a", "dehaze/a"]) == tool_entropy([]) == 0


def test_groups_without_rollouts_are_refused() -> None:
    for groups in ([], [[A], []]):
        with pytest.raises(Problem, match="hold no rollouts"):
            diversity(groups)


@given(GROUPS)
def test_shares_are_shares_and_exclude_each_other(groups: list[list[tuple[str, ...]]]) -> None:
    found = diversity(groups)
    assert 0 <= found["order"] + found["tool"] <= 1
    assert 0 <= found["identical"] <= 1
    assert 1 <= found["distinct"] <= max(map(len, groups))
    assert 0 <= found["tool_entropy"] <= math.log(2) + 1e-9  # two tools a task at the most


@given(GROUPS, st.randoms())
def test_no_order_of_groups_or_rollouts_matters(groups: list[list[tuple[str, ...]]], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = [random.sample(group, len(group)) for group in random.sample(groups, len(groups))]
    assert diversity(shuffled) == pytest.approx(diversity(groups))


@given(PLANS, st.integers(2, 8))
def test_a_group_of_one_plan_has_no_diversity(plan: tuple[str, ...], times: int) -> None:
    found = diversity([[plan] * times])
    assert found["distinct"] == found["identical"] == 1
    assert found["order"] == found["tool"] == 0


@given(st.lists(PLANS, min_size=2, max_size=6))
def test_renaming_every_tool_of_a_plan_is_tool_diversity(plans: list[tuple[str, ...]]) -> None:
    longest = max(plans, key=len)
    renamed = tuple(f"{task}/new" for task in tasks_of(longest))
    assert diversity([[longest, renamed]])["tool"] == (1 if longest else 0)

"""Blame: from what was found to who is charged."""

from __future__ import annotations

import numpy as np
import pytest

from pool import Traits
from pool.board import IDLE, LOADING, RUNNING, Record
from pool.errors import DeadlineExceeded, LoadFailed, WorkerLost
from pool.faults import FREE_LOSSES, blame, charge
from pool.medic import Finding
from pool.schedule import Group, Line, Request

ME = 7
LINES = [Line("a", Traits()), Line("b", Traits())]
GROUPS = [
    Group(number, [Request(LINES[index % 2], index, None, "me", None, 0.0) for index in range(4)], None, 0.0)
    for number in (1, 2)
]


def record(phase: int, first: int = 2, size: int = 1, elapsed: float = 1.0, client: int = ME, group: int = 1) -> Record:
    return Record(phase, client, group, first, size, elapsed, 10.0)


@pytest.mark.parametrize(
    ("found", "items", "kind"),
    [
        (record(RUNNING), [2], WorkerLost),
        (record(RUNNING, first=0, group=2), [0], WorkerLost),
        (record(RUNNING, elapsed=10.0), [2], DeadlineExceeded),
        (record(RUNNING, first=0, size=2), [0, 2], WorkerLost),  # a batch of model a shares the suspicion
        (record(LOADING), [2], LoadFailed),
        (record(IDLE), [], WorkerLost),
        (record(RUNNING, client=8), [], WorkerLost),  # another client's call
        (record(RUNNING, group=9), [], WorkerLost),  # a group that has ended
        (None, [0, 1, 2, 3], WorkerLost),  # no record: the oldest group
    ],
)
def test_blame(found: Record | None, items: list[int], kind: type) -> None:
    verdict = blame(GROUPS, Finding(found, True), ME)
    assert [request.item for request in verdict.culprits] == items
    assert verdict.kind is kind


def test_of_a_batch_only_its_own_items_are_suspected() -> None:
    """Of six images of one model two were computed together; a third has another size, the rest came before and after."""
    sides = (4, 4, 8, 4, 4, 4)
    requests = [Request(LINES[0], np.zeros((side, side)), None, "me", None, 0.0) for side in sides]
    verdict = blame([Group(1, requests, None, 0.0)], Finding(record(RUNNING, first=1, size=2), True), ME)
    assert [requests.index(culprit) for culprit in verdict.culprits] == [1, 3]


def test_who_meets_too_many_losses_is_not_told_anothers_fault() -> None:
    verdict = blame(GROUPS, Finding(record(LOADING), True), ME)
    innocent = Request(LINES[1], 0, None, "me", None, 0.0)
    told = [charge(verdict, innocent) for _ in range(FREE_LOSSES)]
    assert told[:-1] == [None] * (FREE_LOSSES - 1)
    assert type(told[-1]) is WorkerLost
    assert told[-1].cause == f"its workers were lost {FREE_LOSSES} times"
    assert type(charge(verdict, verdict.culprits[0])) is LoadFailed


def test_nobody_is_blamed_for_a_node() -> None:
    assert blame(GROUPS, Finding(None, False), ME).culprits == []

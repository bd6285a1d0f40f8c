"""Whose fault it is when a worker is lost: pure functions from what was found to who is charged with an attempt.

A charged request runs alone from then on and is cut off after three attempts. All others go back to the queue free of charge.
"""

from __future__ import annotations

from typing import NamedTuple

from pool.board import IDLE, LOADING
from pool.errors import CallFailed, DeadlineExceeded, LoadFailed, WorkerLost, describe
from pool.execute import shape
from pool.medic import Finding
from pool.schedule import Group, Request

FREE_LOSSES = (
    8  # that a request may meet blamelessly; then it is suspected, or a fault that leaves no trace would go round for ever
)


class Verdict(NamedTuple):
    culprits: list[Request]
    kind: type[CallFailed]
    cause: str


def blame(groups: list[Group], finding: Finding, client: int) -> Verdict:
    """Judge the groups, oldest first, that were with the worker when it was lost."""
    record = finding.record
    if record is None:
        if not finding.node_lives or not groups:
            return Verdict([], WorkerLost, "its node was lost")
        return Verdict(groups[0].requests, WorkerLost, "the process died and left no record; the oldest group is suspected")
    mine = {group.number: group for group in groups} if record.client == client else {}
    group = mine.get(record.group)
    if record.phase == IDLE or group is None:
        return Verdict([], WorkerLost, "the process died between calls, or under another client's call")
    first = group.requests[record.first]
    late = record.elapsed >= record.limit
    if record.phase == LOADING:
        text = f"load() took more than {record.limit:g} s" if late else "the process died in load()"
        return Verdict([first], LoadFailed, text)
    # A batch is computed as one, so its members share the suspicion.
    alike = [r for r in group.requests[record.first :] if r.line is first.line and shape(r.item) == shape(first.item)]
    batch = alike[: record.size]
    if late:
        return Verdict(batch, DeadlineExceeded, f"it was still at work after {record.limit:g} s")
    return Verdict(batch, WorkerLost, f"the process died {record.elapsed:.1f} s into the call")


def charge(verdict: Verdict, request: Request) -> CallFailed | None:
    """What a request with the lost worker is told; None: nothing. Who met too many losses answers for them, not for a culprit."""
    name = request.line.name
    if request in verdict.culprits:
        return verdict.kind(name, verdict.cause)
    request.losses += 1
    return None if request.losses < FREE_LOSSES else WorkerLost(name, f"its workers were lost {request.losses} times")


def brief(cause: BaseException) -> str:
    """What happened in a remote process: the last line of its traceback."""
    lines = describe(getattr(cause, "cause", None) or cause).strip().splitlines()
    return lines[-1] if lines else type(cause).__name__

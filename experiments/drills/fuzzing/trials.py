"""How an input is fed and how it may end: in a result, or in a typed error that names thing, reason and remedy. Nothing else."""

from __future__ import annotations

import faulthandler
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pool import Problem

Trial = Callable[[], object]
"""Reads one input. It raises a `Problem`, or returns one, or a word for the kind of result, or anything else: a result."""
Trials = Callable[[random.Random, Path], Generator[Trial]]
"""Inputs without end, made from a generator of random numbers, in a folder of their own. An input is written before its trial."""

SHOWN = 5  # of what is wrong, of each part
PATIENCE = 20  # times the seconds of computing: on a clock, as other programs may keep the machine busy


class Hang(BaseException):
    """An input took too long. Not an `Exception`, so that no handler swallows it."""


@dataclass
class Ends:
    """How a part's inputs ended."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    inputs: int = 0


def feed(trials: Iterable[Trial], count: int | None, seconds: float) -> Ends:
    """The first `count` trials, or all; each may compute for so many seconds. One that waits for ever ends the drill at once."""
    ends = Ends()

    def alarm(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, alarm)
    try:
        for number, trial in enumerate(islice(trials, count)):
            began = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, seconds)
            faulthandler.dump_traceback_later(PATIENCE * seconds, exit=True)
            try:
                kind, fault = judge(trial())
            except Problem as problem:
                kind, fault = judge(problem)
            except Hang:
                kind, fault = "hang", f"took more than {seconds} s"
            except BaseException as error:
                kind, fault = type(error).__name__, f"{type(error).__name__}: {error} ({place_of(error)})"
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                faulthandler.cancel_dump_traceback_later()
            ends.slowest = max(ends.slowest, time.process_time() - began)
            ends.inputs += 1
            if fault:
                ends.wrong.append(f"input {number}: {fault}")
            else:
                ends.counts[kind] += 1
    finally:
        signal.signal(signal.SIGPROF, before)
    return ends


def judge(end: object) -> tuple[str, str]:
    """The kind of a result or of a typed error, and what is wrong with it."""
    if not isinstance(end, Problem):
        return end if isinstance(end, str) else "result", ""
    if not (end.thing and end.reason and end.remedy):
        return "", f"an error without thing, reason or remedy: {end!r}"
    return type(end).__name__, ""


def place_of(error: BaseException) -> str:
    """The last line of ours that it went through."""
    root = Path(__file__).parents[3]
    place, trace = "outside", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(root) and "fuzzing" not in file.parts:
            place = f"{file.relative_to(root)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def mutated_bytes(rng: random.Random, data: bytes, others: tuple[bytes, ...] = ()) -> bytes:
    """Cut short, altered, spliced, doubled, blown up, emptied or replaced."""
    raw = bytearray(data)
    kind = rng.randrange(8)
    if not raw or kind == 0:
        return bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 10, 1000))))
    if kind == 1:
        return bytes(raw[: rng.randrange(len(raw))])
    if kind == 2:
        start = rng.randrange(len(raw))
        return bytes(raw[:start]) + rng.randbytes(rng.randrange(1, 500)) + bytes(raw[start:])
    if kind == 3:
        other = rng.choice(others or (data,))
        return bytes(raw[: rng.randrange(len(raw))]) + other[rng.randrange(max(1, len(other))) :]
    if kind == 4:  # what a power cut leaves
        start = rng.randrange(len(raw))
        raw[start:] = bytes(len(raw) - start)
        return bytes(raw)
    if kind == 5:
        for _ in range(rng.randrange(1, 8)):  # the header, where sizes and kinds are
            raw[rng.randrange(min(64, len(raw)))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        return bytes(raw)
    for _ in range(rng.choice((1, 3, 20, 200))):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)

"""Which image an episode begins with: drawn from two numbers, and drawn again where it can have no score."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pool import Problem
from pool.errors import BadOutput, LoadFailed, ModelRaised
from tir_env.degradations import Case, Suite
from tir_env.images.sources import Images, Photo
from tir_env.trajectory import Failure, Start, Trajectory

AGAIN = 2  # more times that a start is scored where that failed for what may pass: one lost worker must not end a training
DRAWS = 20  # of a start, before it is an error that it has no score
OF_THE_INPUT = (BadOutput.__name__, ModelRaised.__name__)  # failures that come again with the same image
LASTING = (*OF_THE_INPUT, LoadFailed.__name__)

log = logging.getLogger(__name__)


class WorldError(Problem):
    """Settings that do not fit together, a reset option that names nothing, or a start that cannot be had."""


@dataclass(frozen=True)
class Pin:
    """What the caller of `reset` fixes about the start; the rest is drawn."""

    image: str | int | None = None
    case: str | int | None = None
    seed: int | None = None
    corner: tuple[int, int] | None = None


FREE = Pin()


class Starting(ABC):
    """The part of a world that chooses its episodes' starts and begins them."""

    images: Images
    suite: Suite
    crop: int
    starts: int

    def draw(self, stream: int, episode: int, pin: Pin = FREE) -> Start:
        """The `episode`-th start of a stream: a pure function of the two numbers, save for what is pinned."""
        if stream < 0:
            raise WorldError("seed", f"must not be negative, and is {stream}", "Use 0, 1, 2 ...")
        return self._start(np.random.Generator(np.random.PCG64([stream, episode])), pin)

    def _in_turn(self, stream: int, episode: int) -> Start:
        """Of a limited set of starts each comes once, in an order of the stream's, before any comes again."""
        passed, place = divmod(episode, self.starts)
        rng = np.random.default_rng([stream, passed])
        return self._start(rng, FREE, int(rng.permutation(self.starts)[place]))

    def _start(self, rng: np.random.Generator, pin: Pin, number: int | None = None) -> Start:
        if self.starts and number is None:
            number = int(rng.integers(self.starts))
        if number is not None:
            rng = np.random.Generator(np.random.PCG64(number))
        # All draws are made whether pinned or not, so that pinning one thing leaves the others as they were.
        photo: Photo = self.images[int(rng.integers(len(self.images)))]
        case: Case = self.suite[int(rng.integers(len(self.suite)))]
        if number is not None:
            case = self.suite[number % len(self.suite)]
        seed = int(rng.integers(2**32))
        place = rng.random(2)
        if pin.image is not None:
            photo = pick("image", pin.image, self.images, self.images.find)
        if pin.case is not None:
            case = pick("case", pin.case, self.suite, self.suite.case)
        height, width = photo.image.shape[:2]
        room = np.maximum(0, np.array([height, width]) - self.crop) if self.crop else np.zeros(2, int)
        corner = pin.corner or (int(place[0] * (room[0] + 1)), int(place[1] * (room[1] + 1)))
        if not (0 <= corner[0] <= room[0] and 0 <= corner[1] <= room[1]):
            reason = f"leaves no {self.crop}x{self.crop} crop of {photo.name!r} ({height}x{width})"
            raise WorldError(f"corner {corner}", reason, f"Choose (top, left) from (0, 0) to ({room[0]}, {room[1]}).")
        return Start(
            self.images.name, photo.name, photo.digest, corner, self.crop, self.suite.name, case.name,
            seed if pin.seed is None else pin.seed,
        )  # fmt: skip

    def draw_many(self, stream: int, episodes: Iterable[int], pin: Pin = FREE, in_turn: bool = False) -> list[Start]:
        """As `draw`, of which each can be begun: see `open`."""
        return [trajectory.start for trajectory in self.open([(stream, episode) for episode in episodes], pin, in_turn)]

    def open(self, places: Sequence[tuple[int, int]], pin: Pin = FREE, in_turn: bool = False) -> list[Trajectory]:
        """The starts of these streams and episodes, begun. One that has no score, as a black crop may have none, is drawn again.

        `in_turn`, which knows no pins: where `starts` limits them, each comes once before any comes again.
        """
        starts = {place: self._in_turn(*place) if in_turn and self.starts else self.draw(*place, pin) for place in places}
        made = self._scored(starts.values())
        for attempt in range(1, DRAWS):
            again = {}
            for place, start in starts.items():
                failure = made[start]
                if isinstance(failure, Failure) and failure.kind in OF_THE_INPUT:
                    log.info("%s cannot be scored and is drawn again: %s", start, failure.message)
                    again[place] = self._start(np.random.Generator(np.random.PCG64([*place, attempt])), pin)
            if not again:
                break
            starts |= again
            made |= self._scored(again.values())
        return [_fresh(starts[place], made) for place in places]

    def begin(self, starts: Sequence[Start]) -> list[Trajectory]:
        """One fresh trajectory per start, its input spoilt and scored. Equal starts (groups) are made and scored once."""
        made = self._scored(starts)
        return [_fresh(start, made) for start in starts]

    def _scored(self, starts: Iterable[Start]) -> dict[Start, Trajectory | Failure]:
        made = self._made(starts)
        for _ in range(AGAIN):
            again = [start for start, found in made.items() if isinstance(found, Failure) and found.kind not in LASTING]
            if not again:
                break
            log.warning("%d starts could not be scored, and are tried again", len(again))
            made |= self._made(again)
        return made

    @abstractmethod
    def _made(self, starts: Iterable[Start]) -> dict[Start, Trajectory | Failure]:
        """A trajectory of each, spoilt and scored, or why it has no score."""


def begun(start: Start, found: Trajectory | Failure) -> Trajectory:
    if isinstance(found, Failure):
        remedy = "Mend what it names, or leave that metric out: without it there is no reward."
        raise WorldError(f"the start {start.image!r}", f"cannot be scored: {found.message}", remedy)
    return found


def _fresh(start: Start, made: Mapping[Start, Trajectory | Failure]) -> Trajectory:
    return replace(begun(start, made[start]), steps=[])


def pick(what: str, key: str | int, sequence: Sequence[Any], find: Any) -> Any:
    if isinstance(key, str):
        return find(key)
    if not 0 <= key < len(sequence):
        raise WorldError(f"{what} {key}", f"is out of range: there are {len(sequence)}", "Use an index from 0, or a name.")
    return sequence[int(key)]

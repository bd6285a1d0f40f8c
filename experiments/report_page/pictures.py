"""Small pictures of what a trajectory went through, kept in the run's folder under the digest of the image that each shows.

run.py keeps them while it has the images. Where they are missing, they are made again from the record, and only if every byte comes
out as recorded: a report never shows pixels that are not those of the scores beside them. What a folder names may be a stranger's
program or file, so unasked they are made with what ships alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from experiments.report_page.reading import Run
from experiments.runs import CONFIG, THUMBNAILS
from pool import Problem
from pool.errors import describe
from tir_env import trajectory_file
from tir_env.degradations.depth import FALLBACK
from tir_env.files import write_aside
from tir_env.images.operations import Image
from tir_env.images.reading import MAX_PIXELS
from tir_env.tools import Toolbox
from tir_env.trajectory import GIVEN, Trajectory
from tir_env.world import World

SIDE = 384  # of a thumbnail, at most
QUALITY = 90
LARGEST = 1 << 20  # bytes of a thumbnail
WORST = 12  # trajectories of each metric whose pictures go first
BASE64 = 4 / 3


def keep(folder: Path, trajectories: Sequence[Trajectory]) -> None:
    """Thumbnails of trajectories that have their images, into a run's folder."""
    for trajectory in trajectories:
        for digest, image in images_of(trajectory):
            if not place(folder, digest).exists():
                _write(place(folder, digest), thumbnail(image))


def place(folder: Path, digest: str) -> Path:
    return folder / THUMBNAILS / f"{digest}.webp"


@dataclass
class Album:
    """Thumbnails by digest, as many as the limit allows, and what to tell of those that are not there."""

    pictures: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    size: float = 0.0  # in the HTML file, in bytes


def gather(run: Run, limit: float, remake: bool = False) -> Album:
    """The run's thumbnails, up to `limit` bytes of HTML; those that were not kept are made again and kept.

    `remake`: by the run's own toolbox and depth, too.
    """
    album, studio, reasons, left_out = Album(), Studio(run, remake), Counter[str](), 0
    for trajectory in in_order(run.trajectories, run.metrics):
        if left_out:
            left_out += 1
            continue
        try:
            pictures = pictures_of(run.folder, trajectory, studio)
        except Problem as problem:
            reasons[str(problem)] += 1
            continue
        new = {digest: picture for digest, picture in pictures.items() if digest not in album.pictures}
        size = sum(map(len, new.values())) * BASE64
        if album.size + size > limit:
            left_out += 1
            continue
        album.pictures |= new
        album.size += size
    studio.close()
    for reason, count in reasons.most_common(3):
        album.notes.append(f"{count} of {len(run.trajectories)} trajectories have no pictures: {reason}")
    if left_out:
        shown = len(run.trajectories) - left_out - reasons.total()
        album.notes.append(
            f"Pictures of {shown} of {len(run.trajectories)} trajectories fit into {limit / 1e6:.3g} MB: those with failures and "
            f"the {WORST} worst of each metric, then in the order of play. Figures are shown of all. --megabytes changes it."
        )
    return album


def pictures_of(folder: Path, trajectory: Trajectory, studio: Studio) -> dict[str, bytes]:
    """A trajectory's thumbnails: as they were kept, or made again, and then kept if they can be."""
    kept = {d: picture for d in digests_of(trajectory) if (picture := _kept(place(folder, d))) is not None}
    if len(kept) == len(digests_of(trajectory)):
        return kept
    made = {digest: thumbnail(image) for digest, image in studio.images(trajectory)}
    if os.access(folder, os.W_OK) and not (folder / THUMBNAILS).is_symlink():
        for digest, picture in made.items():
            with contextlib.suppress(OSError):  # a folder may lie in its place: it is shown all the same
                _write(place(folder, digest), picture)
    return made


def _kept(path: Path) -> bytes | None:
    """A thumbnail that is one: a folder from elsewhere may have links to the reader's own files in its place."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(file, "rb") as opened:
            if path.parent.is_symlink() or not stat.S_ISREG(os.fstat(file).st_mode):
                return None
            data = opened.read(LARGEST + 1)
        with Pillow.open(io.BytesIO(data), formats=["WEBP"]) as picture:
            if len(data) > LARGEST or max(picture.size) > SIDE:
                return None
            picture.load()
    except Exception:  # it is not there, or damaged: Pillow raises many kinds
        return None
    return data


@contextlib.contextmanager
def _told(thing: object, reason: str) -> Iterator[None]:
    """What a stranger's figures lead to is a `Problem`, whatever it is."""
    try:
        yield
    except Problem:
        raise
    except Exception as error:
        raise Problem(
            thing, f"{reason}: {describe(error)}", "It was changed by hand, or written by another version."
        ) from error


class Studio:
    """A trajectory's images: those that were saved with it, or made again with the run's photographs and tools."""

    def __init__(self, run: Run, remake: bool = False) -> None:
        self.run, self.remake = run, remake
        self._opened = False
        self._refused: Problem | None = None

    @cached_property
    def world(self) -> World:
        settings = self.run.settings
        toolbox, depth = settings.get("toolbox", ""), settings.get("depth", FALLBACK)
        for name, ships in ((f"toolbox {toolbox}", toolbox in Toolbox.names()), (f"depth {depth}", depth == FALLBACK)):
            if not (ships or self.remake):
                reason = "does not ship, and what others made may do harm"
                raise Problem(name, reason, "If you trust this run: report.py --remake.")
        self._opened = True
        # All of the photographs, of which a trajectory knows its own by name and digest.
        return World(
            settings.get("test_images") or settings.get("images", ""), "all", "as-is", toolbox, "gain:piqe",
            horizon=int(settings.get("horizon", 1)), crop=int(settings.get("crop", 0)), depth=depth, pool="local",
        )  # fmt: skip

    def images(self, trajectory: Trajectory) -> Iterator[tuple[str, Image]]:
        """One after the other, with their digests; raises a `Problem` where one is damaged or comes out with other bytes."""
        if (folder := self.run.pictured.get(id(trajectory))) is not None:
            return trajectory_file.pictures(folder, trajectory, MAX_PIXELS)
        return images_of(self._again(trajectory))

    def _again(self, trajectory: Trajectory) -> Trajectory:
        if trajectory.start.images == GIVEN:
            raise Problem(
                "pictures that were given by hand", "cannot be found again", "Save such trajectories with their images."
            )
        if self._refused is not None:
            raise self._refused
        try:
            with _told(self.run.folder / CONFIG, "names no world that opens"):
                world = self.world
        except Problem as problem:
            self._refused = problem  # it will not open the next time, either
            raise
        with _told(trajectory.start.image, "cannot be made again"):
            return world.remake(trajectory)

    def close(self) -> None:
        if self._opened and self._refused is None:
            self.world.close()


def in_order(trajectories: Sequence[Trajectory], metrics: Sequence[str]) -> list[Trajectory]:
    """Failures, then the worst of every metric, then the others as they were played."""
    first = [t for t in trajectories if t.failures]
    for metric in metrics:
        known = [(t, gain) for t in trajectories if (gain := t.gains().get(metric)) is not None]
        first += [t for t, _ in sorted(known, key=lambda pair: pair[1])[:WORST]]
    unique = {id(t): t for t in (*first, *trajectories)}
    return list(unique.values())


def images_of(trajectory: Trajectory) -> Iterator[tuple[str, Image]]:
    """Every image that it holds, with its digest."""
    states = [(trajectory.input_digest, trajectory.input), *((s.digest, s.image) for s in trajectory.steps)]
    if trajectory.reference_digest is not None:
        states.append((trajectory.reference_digest, trajectory.reference))
    for digest, image in states:
        if image is not None:
            yield digest, image


def digests_of(trajectory: Trajectory) -> list[str]:
    known = [trajectory.input_digest, *(step.digest for step in trajectory.steps), trajectory.reference_digest]
    return list(dict.fromkeys(digest for digest in known if digest is not None))


def _write(path: Path, picture: bytes) -> None:
    write_aside(path, lambda aside: aside.write_bytes(picture))


def thumbnail(image: Image) -> bytes:
    """WebP, at its true size or reduced to fit."""
    picture = Pillow.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((SIDE, SIDE), Pillow.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()

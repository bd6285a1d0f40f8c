"""Shared memory between one client and one worker on its node: images cross in one copy, without Ray's object store.

Ray's object store costs a group two objects to create, seal, map and free, and fresh pages to fault in. Here the same pages are
used again and again: Ray carries the call and says where the bytes lie. What does not fit, and what goes to another node, goes
through the object store.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_ROOM = Path("/dev/shm")
_ALIGN = 64


class Parcel(NamedTuple):
    """A pickled object whose arrays lie in an arena."""

    pickled: bytes
    places: list[tuple[int, int]]  # (start, length) of each array


class Lane(NamedTuple):
    """One group's part of an arena: there is the way to the worker, back the way from it."""

    there: int
    back: int
    size: int  # of each


class Arena:
    """`lanes` parts of twice `size` bytes. Whoever creates it locks its file: an unlocked one was left by a dead process."""

    def __init__(self, path: Path, lanes: int, size: int, create: bool = False) -> None:
        self.path = path
        length = 2 * lanes * size
        hidden = path.with_suffix(".new")  # from `sweep`, until it is locked
        if create:  # images will lie in it, and /dev/shm is everybody's
            self._file = os.fdopen(os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file.fileno(), length)
            hidden.rename(path)
        else:
            self._file = path.open("r+b")
        self._memory = memoryview(mmap.mmap(self._file.fileno(), length))
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self.free = [Lane(2 * lane * size, (2 * lane + 1) * size, size) for lane in range(lanes)]

    @staticmethod
    def create(name: str, lanes: int, size: int) -> Arena | None:
        """A new arena, or None where there is no shared memory to spare (four times as much must be free)."""
        if not os.access(_ROOM, os.W_OK) or shutil.disk_usage(_ROOM).free - promised() < 8 * lanes * size:
            return None
        return Arena(_ROOM / f"pool-{name}.arena", lanes, size, create=True)

    def pack(self, thing: Any, start: int, size: int) -> Parcel | None:
        """Put a thing's arrays into memory from `start`; None if they do not fit into `size` or the thing cannot be pickled."""
        buffers: list[pickle.PickleBuffer] = []
        try:
            pickled = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
        except Exception:
            return None  # Ray tries with cloudpickle, and its error says what is wrong
        views = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
        if sum(view.nbytes + _ALIGN for view in views) > size:
            return None
        places = []
        for view in views:
            self._bytes[start : start + view.nbytes] = view
            places.append((start, view.nbytes))
            start += -(-view.nbytes // _ALIGN) * _ALIGN
        return Parcel(pickled, places)

    def unpack(self, parcel: Parcel) -> Any:
        """The thing, its arrays read-only views on this memory."""
        buffers = [self._memory[start : start + length].toreadonly() for start, length in parcel.places]
        return pickle.loads(parcel.pickled, buffers=buffers)

    def remove(self) -> None:
        """Take the name away; the memory goes when the last view on it does."""
        self.path.unlink(missing_ok=True)


def promised() -> int:
    """Bytes of arenas that nothing lies in yet: the system counts them as free, and whoever fills them in vain dies of it."""
    held = 0
    for path in _ROOM.glob("pool-*.arena"):
        with contextlib.suppress(OSError):  # gone meanwhile
            found = path.stat()
            held += max(0, found.st_size - found.st_blocks * 512)
    return held


def sweep() -> None:
    """Remove arenas whose creators are dead."""
    for path in _ROOM.glob("pool-*.arena"):
        try:
            with path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except OSError:
            continue  # in use, another user's, or gone

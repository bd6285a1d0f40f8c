"""A worker's last words: which item it is on, written to shared memory before it starts, so that they outlive the process.

When a worker dies, its group has up to 64 suspects and one culprit. The board names the culprit, so nobody else is charged.
Two writes of 0.5 µs per item; a file in /dev/shm holds the worker's record and its predecessor's.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

IDLE, LOADING, RUNNING = range(3)

_RECORD = struct.Struct("<32sQQQQQdd")  # owner, phase, client, group, first item, items, began, limit
_SIZE = _RECORD.size


class Record(NamedTuple):
    """What a worker was doing when it was last heard of. `elapsed` counts up to the moment of reading."""

    phase: int
    client: int
    group: int
    first: int
    size: int
    elapsed: float
    limit: float


def place(namespace: str, pool: str, slot: int) -> Path:
    """Where the worker in this slot of this user's pool keeps its board: one file a slot, however often the worker is replaced."""
    shared = Path("/dev/shm")
    room = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return room / f"pool-{os.getuid()}-{namespace}-{pool}-{slot}.board"


class Board:
    """The writing end."""

    def __init__(self, path: Path, owner: str) -> None:
        before = path.read_bytes()[:_SIZE] if path.exists() else b""
        path.write_bytes(bytes(_SIZE) + before.ljust(_SIZE, b"\0"))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 2 * _SIZE)
        self._owner = owner.encode()[:32]
        self.idle()

    def write(self, phase: int, client: int, group: int, first: int, count: int, limit: float) -> None:
        _RECORD.pack_into(self._memory, 0, self._owner, phase, client, group, first, count, time.time(), limit)

    def idle(self) -> None:
        self.write(IDLE, 0, 0, 0, 0, 0.0)


def read(path: Path, owner: str) -> Record | None:
    """The record of one worker, alive or dead; None if it left none or two have come after it."""
    try:
        memory = path.read_bytes()
    except FileNotFoundError:
        return None
    for start in (0, _SIZE):
        if len(memory) >= start + _SIZE:
            name, phase, client, group, first, count, began, limit = _RECORD.unpack_from(memory, start)
            if name.rstrip(b"\0") == owner.encode()[:32]:
                return Record(phase, client, group, first, count, time.time() - began, limit)
    return None

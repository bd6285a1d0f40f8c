"""Models that behave, and models that do not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from pool import Model, Problem, Traits


class Add(Model):
    """Adds a number to an array."""

    def __init__(self, number: int = 1, name: str = "", **traits: Any) -> None:
        self.number, self.name = number, name or f"add{number}"
        self.traits = Traits(**{"memory": 1 << 20, **traits})

    def run(self, items: Sequence[Any]) -> list[Any]:
        return [item + self.number for item in items]


class Count(Model):
    """Says how often this process has run it: a model whose result must not be shared unless it claims to be deterministic."""

    def __init__(self, name: str, deterministic: bool = True) -> None:
        self.name, self.calls = name, 0
        self.traits = Traits(memory=1 << 20, deterministic=deterministic)

    def run(self, items: Sequence[Any]) -> list[Any]:
        self.calls += len(items)
        return [self.calls] * len(items)


class Batch(Model):
    """Says how many items were computed together; refuses negative ones."""

    name = "batch"
    traits = Traits(memory=1 << 20, batch=4)

    def run(self, items: Sequence[Any]) -> list[Any]:
        if any(np.min(item) < 0 for item in items):
            raise ValueError("negative")
        return [len(items)] * len(items)


class Unprintable(Exception):
    """Can neither be pickled nor printed."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unreadable(Exception):
    """Can be pickled, and not be read again: its `args` do not rebuild it."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class Troubled(Model):
    """Does what its item says: (what, ...)."""

    def __init__(self, name: str = "troubled", **traits: Any) -> None:
        self.name = name
        self.traits = Traits(**{"memory": 1 << 20, "deadline": 1.5, **traits})

    def run(self, items: Sequence[Any]) -> list[Any]:
        return [self._do(item) for item in items]

    def _do(self, item: Any) -> Any:
        match item[0]:
            case "raise":
                raise ValueError("as asked")
            case "unpicklable raise":
                raise Unprintable
            case "exit":
                raise SystemExit(3)
            case "die":
                os._exit(1)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
            case "spin":
                while True:
                    pass
            case "nan":
                return np.array([1.0, np.nan])
            case "shape":
                return np.zeros((2, 2))
            case "lock":
                return threading.Lock()
            case "unreadable":
                return Unreadable("as", "asked"), np.zeros(item[1], np.uint8)
            case "sleep":
                time.sleep(item[1])
        return item[1:]

    def check(self, item: Any, result: Any) -> None:
        if item[0] == "shape" and result.shape != (3, 3):
            raise ValueError(f"expected (3, 3), got {result.shape}")


class Unloadable(Model):
    """Cannot be loaded: raises a Problem, or ends or hangs its process."""

    def __init__(self, name: str, how: str, load_deadline: float = 1.0) -> None:
        self.name, self.how = name, how
        self.traits = Traits(memory=1 << 20, load_deadline=load_deadline)

    def load(self) -> None:
        if self.how == "die":
            os._exit(1)
        if self.how == "hang":
            time.sleep(3600)
        if self.how.startswith("missing ") and os.path.exists(self.how.removeprefix("missing ")):
            return
        raise Problem("weights.pt", "is not there", "Download it.")

    def run(self, items: Sequence[Any]) -> list[Any]:
        return list(items)


class Resident(Model):
    """Returns its name and the process it runs in; takes a while to load."""

    def __init__(self, name: str, memory: int = 1 << 20, load: float = 0.0) -> None:
        self.name, self._load, self.traits = name, load, Traits(memory=memory)

    def load(self) -> None:
        time.sleep(self._load)

    def run(self, items: Sequence[Any]) -> list[Any]:
        return [(self.name, os.getpid())] * len(items)

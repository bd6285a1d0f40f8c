"""The in-process pool: same interface, same outcomes, no Ray. For tests, debugging and small jobs on one core."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, ClassVar

import cloudpickle

from pool import execute
from pool.cache import ResultCache, digest, own
from pool.errors import BadOutput, PoolClosed, Problem, UnknownModel, describe
from pool.model import Call, Model, Outcome, Pool, Stats

CACHE = 256 << 20  # bytes of results to remember
AGAIN = 30.0  # seconds after which a model that did not load is given another try, as on Ray


def unknown(name: str, known: Iterable[str]) -> UnknownModel:
    return UnknownModel(f"model {name!r}", f"is not in this pool, which holds {sorted(known)}", "Add it with pool.add(model).")


def definition_of(model: Model) -> bytes:
    """The model as it travels; two models that travel alike are one."""
    try:
        return cloudpickle.dumps(model)
    except Exception as cause:
        raise Problem(f"model {model.name!r}", f"cannot be pickled: {describe(cause)}", "Open files in load().") from cause


def clash(name: str) -> Problem:
    reason = "is in this pool already, as another model of the same name"
    return Problem(f"model {name!r}", reason, "Give one of them another name, or use two pools.")


def closed(call: Call) -> Outcome:
    return Outcome(call.model, error=PoolClosed(call.model, "the pool is closed"))


class LocalPool(Pool):
    """Runs every call at once, in the calling thread. A deadline cannot be enforced without a second process, so none is."""

    def __init__(self, cache_bytes: int = CACHE) -> None:
        self._models: dict[str, Model] = {}
        self._definitions: dict[str, bytes] = {}
        self._loaded: dict[str, tuple[execute.Answer, float]] = {}  # with when that was
        self._cache = ResultCache(cache_bytes)
        self._lock = threading.RLock()  # models need not be thread-safe, and a callback may submit again
        self._stats = Stats()
        self._closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy keeps its own books and loads its models again: they travel without what load() built."""
        return _copy, (self._cache.budget, list(self._models.values()), self._closed)

    def add(self, *models: Model) -> None:
        for model in models:
            if model.name not in self._models:
                self._models[model.name], self._definitions[model.name] = model, definition_of(model)
            elif self._models[model.name] is not model and self._definitions[model.name] != definition_of(model):
                raise clash(model.name)

    def submit(self, call: Call, *, deadline: float | None = None) -> Future[Outcome]:
        if call.model not in self._models:
            raise unknown(call.model, self._models)
        future: Future[Outcome] = Future()
        with self._lock:
            outcome = self._outcome(call)
            self._stats.calls += 1
            self._stats.failures += not outcome.ok
            self._stats.hits += outcome.remembered
            self._stats.seconds += outcome.seconds
            self._stats.by_model[call.model] = self._stats.by_model.get(call.model, 0) + 1
        future.set_result(outcome)
        return future

    def _outcome(self, call: Call) -> Outcome:
        if self._closed:
            return closed(call)
        model = self._models[call.model]
        key = digest(call.model, call.item) if model.traits.deterministic and self._cache.budget else None
        if key is not None:
            found, value = self._cache.get(key)
            if found:
                return Outcome(call.model, value, remembered=True)
        answer, when = self._loaded.get(call.model, (None, 0.0))
        if answer is None or (answer.status != execute.OK and time.monotonic() > when + AGAIN):
            answer = execute.load(model)
            self._loaded[call.model] = answer, time.monotonic()
            self._stats.loads += 1
        if answer.status == execute.OK:
            [answer] = execute.run(model, [call.item])
        if answer.status != execute.OK:
            return Outcome(call.model, error=execute.error_of(call.model, answer), seconds=answer.seconds)
        try:
            value = own(answer.value)
        except Exception as cause:  # a class of the model's own that cannot be rebuilt
            error = BadOutput(call.model, f"its result cannot be copied: {describe(cause)}")
            return Outcome(call.model, error=error, seconds=answer.seconds)
        if key is not None:
            self._cache.put(key, value)
        return Outcome(call.model, value, seconds=answer.seconds)

    def stats(self) -> Stats:
        return replace(self._stats, by_model=dict(self._stats.by_model), cached_bytes=self._cache.bytes)

    def close(self) -> None:
        self._closed = True


class SharedPool(Pool):
    """One user's hold on the local pool that this process knows by a name; it ends when its last user has closed it."""

    _known: ClassVar[dict[str, tuple[LocalPool, int]]] = {}  # by name, with the number of users
    _naming: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, name: str, cache_bytes: int = CACHE) -> None:
        self.name, self._closed = name, False
        with self._naming:
            self._pool, users = self._known.get(name) or (LocalPool(cache_bytes), 0)
            self._known[name] = self._pool, users + 1

    def __reduce__(self) -> tuple[Any, ...]:
        return self._pool.__reduce__()

    def add(self, *models: Model) -> None:
        self._pool.add(*models)

    def submit(self, call: Call, *, deadline: float | None = None) -> Future[Outcome]:
        if not self._closed:
            return self._pool.submit(call, deadline=deadline)
        future: Future[Outcome] = Future()
        future.set_result(closed(call))
        return future

    def stats(self) -> Stats:
        return self._pool.stats()

    def close(self) -> None:
        with self._naming:
            if self._closed:
                return
            self._closed = True
            _, users = self._known[self.name]
            if users > 1:
                self._known[self.name] = self._pool, users - 1
            else:
                del self._known[self.name]
                self._pool.close()


def _copy(cache_bytes: int, models: list[Model], closed: bool) -> LocalPool:
    pool = LocalPool(cache_bytes)
    pool.add(*models)
    pool._closed = closed
    return pool

"""The in-process pool: same interface, same outcomes, no Ray. For tests, debugging and small jobs on one core."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from pool import execute
from pool.cache import ResultCache, digest, own
from pool.errors import PoolClosed, UnknownModel
from pool.model import Call, Model, Outcome, Pool, Stats


def unknown(name: str, known: Iterable[str]) -> UnknownModel:
    return UnknownModel(f"model {name!r}", f"is not in this pool, which holds {sorted(known)}", "Add it with pool.add(model).")


class LocalPool(Pool):
    """Runs every call at once, in the calling thread. A deadline cannot be enforced without a second process, so none is."""

    def __init__(self, cache_bytes: int = 256 << 20) -> None:
        self._models: dict[str, Model] = {}
        self._loaded: dict[str, execute.Answer] = {}
        self._cache = ResultCache(cache_bytes)
        self._lock = threading.RLock()  # models need not be thread-safe, and a callback may submit again
        self._stats = Stats()
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": {}}  # models travel without what load() built, so a copy loads them again

    def add(self, *models: Model) -> None:
        for model in models:
            self._models.setdefault(model.name, model)

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
            return Outcome(call.model, error=PoolClosed(call.model, "the pool is closed"))
        model = self._models[call.model]
        key = digest(call.model, call.item) if model.traits.deterministic and self._cache.budget else None
        if key is not None:
            found, value = self._cache.get(key)
            if found:
                return Outcome(call.model, value, remembered=True)
        if call.model not in self._loaded:
            self._loaded[call.model] = execute.load(model)
            self._stats.loads += 1
        answer = self._loaded[call.model]
        if answer.status == execute.OK:
            [answer] = execute.run(model, [call.item])
        if answer.status != execute.OK:
            return Outcome(call.model, error=execute.error_of(call.model, answer), seconds=answer.seconds)
        value = own(answer.value)
        if key is not None:
            self._cache.put(key, value)
        return Outcome(call.model, value, seconds=answer.seconds)

    def stats(self) -> Stats:
        return replace(self._stats, by_model=dict(self._stats.by_model), cached_bytes=self._cache.bytes)

    def close(self) -> None:
        self._closed = True

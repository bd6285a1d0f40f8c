"""The in-process pool: same interface, same outcomes, no Ray. For tests, debugging and small jobs on one core."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from pool.errors import BadOutput, CallFailed, LoadFailed, ModelRaised, PoolClosed, Problem, UnknownModel
from pool.model import Call, Model, Outcome, Pool, Stats


def unknown(name: str, known: Iterable[str]) -> UnknownModel:
    return UnknownModel(f"model {name!r}", f"is not in this pool, which holds {sorted(known)}", "Add it with pool.add(model).")


class LocalPool(Pool):
    """Runs every call at once, in the calling thread. A deadline cannot be enforced without a second process, so none is."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._loaded: dict[str, LoadFailed | None] = {}
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
        future.set_result(self._run(call))
        return future

    def _run(self, call: Call) -> Outcome:
        error: CallFailed | None
        if self._closed:
            return Outcome(call.model, error=PoolClosed(call.model, "the pool is closed"))
        model = self._models[call.model]
        value, error, began = None, self._load(model), time.perf_counter()
        if error is None:
            try:
                [value] = model.run([call.item])
            except Exception as cause:
                error = ModelRaised(model.name, f"{type(cause).__name__}: {cause}")
            else:
                try:
                    model.check(call.item, value)
                except ValueError as cause:
                    value, error = None, BadOutput(model.name, cause)
        seconds = time.perf_counter() - began
        self._stats.calls += 1
        self._stats.failures += error is not None
        self._stats.seconds += seconds
        self._stats.by_model[model.name] = self._stats.by_model.get(model.name, 0) + 1
        return Outcome(model.name, value, error, seconds)

    def _load(self, model: Model) -> LoadFailed | None:
        if model.name not in self._loaded:
            try:
                model.load()
                self._loaded[model.name] = None
            except Problem as cause:
                self._loaded[model.name] = LoadFailed(model.name, f"{cause.thing}: {cause.reason}", remedy=cause.remedy)
            except Exception as cause:
                self._loaded[model.name] = LoadFailed(model.name, f"{type(cause).__name__}: {cause}")
        return self._loaded[model.name]

    def stats(self) -> Stats:
        return replace(self._stats, by_model=dict(self._stats.by_model))

    def close(self) -> None:
        self._closed = True

"""What the pool is measured against, each behind one method: run these calls, 512 in flight, and say how long each one took."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import ray
from ray.util import ActorPool

import pool
from experiments.bench_models import light, mix, photographs
from pool import Call, Model, Pool

WORKERS = 2


class Rival(Protocol):
    name: str

    def run(self, calls: Sequence[Call], flying: int) -> list[float]:
        """Seconds from the start of each call to its result."""

    def close(self) -> None: ...


# -- the limit ---------------------------------------------------------------------------------------------------------------


def _compute(connection: Any, counter: Any, tools: str, size: int, images: int) -> None:
    models = load(tools)
    pictures = photographs(size, images)
    connection.send("ready")
    while (work := connection.recv()) is not None:
        times = []
        while True:
            with counter.get_lock():
                index = counter.value
                counter.value += 1
            if index >= len(work):
                break
            began = time.perf_counter()
            name, picture = work[index]
            models[name].run([pictures[picture]])
            times.append(time.perf_counter() - began)
        connection.send(times)


def load(tools: str) -> dict[str, Model]:
    models = {model.name: model for model in (light() if tools == "light" else mix())}
    for model in models.values():
        model.load()
        model.run(photographs(64, 1))
    cv2.setNumThreads(0)
    return models


class Limit:
    """Two processes that share an index and move no pixels: what the cores can do."""

    name = "limit"

    def __init__(self, tools: str, size: int, images: list[np.ndarray]) -> None:
        context = multiprocessing.get_context("spawn")
        self._places = {id(image): place for place, image in enumerate(images)}
        self._counter = context.Value("q", 0)
        self._pipes, self._processes = [], []
        for _ in range(WORKERS):
            here, there = context.Pipe()
            process = context.Process(target=_compute, args=(there, self._counter, tools, size, len(images)), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def run(self, calls: Sequence[Call], flying: int) -> list[float]:
        work = [(call.model, self._places[id(call.item)]) for call in calls]
        self._counter.value = 0
        for pipe in self._pipes:
            pipe.send(work)
        return [seconds for pipe in self._pipes for seconds in pipe.recv()]

    def close(self) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join()


# -- Ray's own ways ----------------------------------------------------------------------------------------------------------


class Instance:
    """A service instance: one process that hosts all tools, so that no rival is kept waiting for a certain one."""

    def __init__(self, tools: str) -> None:
        self._models = load(tools)

    def ready(self) -> bool:
        return True

    def run(self, name: str, image: np.ndarray) -> Any:
        return self._models[name].run([image])[0]


def instances(tools: str) -> list[Any]:
    actors: list[Any] = [ray.remote(Instance).options(num_cpus=0).remote(tools) for _ in range(WORKERS)]
    ray.get([actor.ready.remote() for actor in actors])
    return actors


class ActorPoolRival:
    """`ray.util.ActorPool`, one call per image."""

    name = "ActorPool"

    def __init__(self, tools: str) -> None:
        self._actors = instances(tools)

    def run(self, calls: Sequence[Call], flying: int) -> list[float]:
        workers, times = ActorPool(self._actors), []
        began: dict[int, float] = {}

        def start(index: int) -> None:
            began[index] = time.perf_counter()
            workers.submit(lambda actor, at: actor.run.remote(calls[at].model, calls[at].item), index)

        for index in range(min(flying, len(calls))):
            start(index)
        for index in range(len(calls)):
            workers.get_next_unordered()
            times.append(time.perf_counter() - began[index])  # in order of submission, near enough: ActorPool keeps a queue
            if index + flying < len(calls):
                start(index + flying)
        return times

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)


class Allocator:
    """The paper's allocation: under a lock, a request gets a free instance, keeps it while it runs, and releases it."""

    def __init__(self, count: int) -> None:
        self._free = [True] * count
        self._changed = asyncio.Condition()

    async def acquire(self) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: any(self._free))
            index = self._free.index(True)
            self._free[index] = False
            return index

    async def release(self, index: int) -> None:
        async with self._changed:
            self._free[index] = True
            self._changed.notify()


class LockAllocator:
    """512 coroutines that ask an allocator for an instance, call it, and give it back."""

    name = "lock allocator"

    def __init__(self, tools: str) -> None:
        self._actors = instances(tools)
        self._allocator: Any = ray.remote(Allocator).options(num_cpus=0, max_concurrency=1024).remote(WORKERS)

    def run(self, calls: Sequence[Call], flying: int) -> list[float]:
        return asyncio.run(self._run(calls, flying))

    async def _run(self, calls: Sequence[Call], flying: int) -> list[float]:
        times: list[float] = []
        waiting = iter(calls)

        async def caller() -> None:
            for call in waiting:
                began = time.perf_counter()
                index = await self._allocator.acquire.remote()
                try:
                    await self._actors[index].run.remote(call.model, call.item)
                finally:
                    await self._allocator.release.remote(index)
                times.append(time.perf_counter() - began)

        await asyncio.gather(*(caller() for _ in range(flying)))
        return times

    def close(self) -> None:
        for actor in (*self._actors, self._allocator):
            ray.kill(actor)


class Serve:
    """Ray Serve with `@serve.batch`."""

    name = "Ray Serve"

    def __init__(self, tools: str) -> None:
        from ray import serve

        @serve.deployment(num_replicas=WORKERS, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=512)
        class Service:
            def __init__(self) -> None:
                self._models = load(tools)

            @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
            async def batched(self, calls: list[tuple[str, np.ndarray]]) -> list[np.ndarray]:
                return [self._models[name].run([image])[0] for name, image in calls]

            async def __call__(self, name: str, image: np.ndarray) -> np.ndarray:
                result: np.ndarray = await self.batched((name, image))
                return result

        self._serve = serve
        deployment: Any = Service
        self._handle = serve.run(deployment.bind(), name="bench", route_prefix=None)

    def run(self, calls: Sequence[Call], flying: int) -> list[float]:
        times: list[float] = []
        waiting, lock = iter(calls), threading.Lock()

        def caller() -> None:
            while True:
                with lock:
                    call = next(waiting, None)
                if call is None:
                    return
                began = time.perf_counter()
                self._handle.remote(call.model, call.item).result()
                times.append(time.perf_counter() - began)

        threads = [threading.Thread(target=caller) for _ in range(flying)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return times

    def close(self) -> None:
        self._serve.shutdown()


# -- ours --------------------------------------------------------------------------------------------------------------------


class Ours:
    """The pool: every call that ends starts the next one."""

    name = "pool"

    def __init__(self, tools: str, name: str = "pool", **options: Any) -> None:
        self.name = name
        self.pool: Pool = pool.connect("ray", workers=WORKERS, **options)
        self.pool.add(*(light() if tools == "light" else mix()))
        self.pool.run([Call(model, image) for model in load(tools) for image in photographs(64, 16, seed=9)])

    def run(self, calls: Sequence[Call], flying: int) -> list[float]:
        self.pool.forget_results()  # type: ignore[attr-defined]
        return closed_loop(self.pool, calls, flying)

    def close(self) -> None:
        self.pool.close()


def closed_loop(workers: Pool, calls: Sequence[Call], flying: int) -> list[float]:
    times: list[float] = []
    waiting, ended = iter(calls), threading.Event()

    def start(call: Call) -> None:
        began = time.perf_counter()
        workers.submit(call).add_done_callback(lambda future: end(began, future.result().unwrap()))

    def end(began: float, _: Any) -> None:
        times.append(time.perf_counter() - began)
        call = next(waiting, None)
        if call is not None:
            start(call)
        elif len(times) == len(calls):
            ended.set()

    for call in [call for _, call in zip(range(flying), waiting, strict=False)]:
        start(call)
    ended.wait()
    return times

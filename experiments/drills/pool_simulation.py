"""A cluster too large to have at hand: the pool's own scheduler in simulated time, with the router's measured costs.

    python -m experiments.drills.pool_simulation --calls 1000000 --routers 1 2 4 --json simulation.json

128 GPU workers, 40 tools of 10-60 ms per image, a worker holds 12 of them, a load takes 5 s, 4,096 calls in flight. A router is
one thread that spends so much time per call and per group (as measured on one core); all routers share all workers.
What it shows: how busy workers and routers are, and from where on one router is too few.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.console import main
from pool import Outcome, Traits
from pool.options import Options
from pool.schedule import Group, Request, Scheduler, Seat


@dataclass
class Arguments:
    calls: int = 1_000_000
    """in all"""
    routers: tuple[int, ...] = (1, 2, 4, 8)
    """how many routers share the workers, one run each"""
    workers: int = 128
    """GPU workers"""
    tools: int = 40
    """models"""
    resident: int = 12
    """of them that fit into a worker"""
    fastest: float = 0.010
    """seconds per image of the fastest tool, in a batch"""
    slowest: float = 0.060
    """seconds per image of the slowest tool"""
    load: float = 5.0
    """seconds that loading takes"""
    flying: int = 4096
    """calls in flight"""
    per_call: float = 120e-6
    """seconds of a router per call"""
    per_group: float = 1.5e-3
    """seconds of a router per group, Ray's share included"""
    seed: int = 0
    """of the order of calls"""
    json: Path | None = None
    """write all figures here"""


@dataclass
class Worker:
    """Computes groups in the order in which they come, from whichever router."""

    models: OrderedDict[str, None] = field(default_factory=OrderedDict)
    queue: deque[tuple[int, Seat, Group]] = field(default_factory=deque)
    busy: bool = False
    worked: float = 0.0
    loaded: float = 0.0
    loads: int = 0


@dataclass
class Result:
    routers: int
    calls: int
    seconds: float  # simulated
    speed: float  # calls per second
    worker_share: float  # of their time that workers compute
    load_share: float  # of their time that workers load
    router_share: float  # of their time that routers are busy
    group: float  # calls per group
    loads: int
    p50: float
    p99: float
    scheduler: float  # real seconds per call spent in the scheduler's own code


class Simulation:
    def __init__(self, arguments: Arguments, routers: int) -> None:
        self.a, self.routers = arguments, routers
        rng = np.random.default_rng(arguments.seed)
        self.costs = np.geomspace(arguments.fastest, arguments.slowest, arguments.tools)
        self.picks = rng.integers(0, arguments.tools, arguments.calls)
        options = Options(memory=arguments.resident)
        self.schedulers = [Scheduler(options, forget=lambda request: None) for _ in range(routers)]
        for scheduler in self.schedulers:
            for tool in range(arguments.tools):
                scheduler.add(f"tool{tool}", Traits(memory=1, gpu=True, batch=8, cost=float(self.costs[tool])))
            for slot in range(arguments.workers):
                seat = scheduler.seats[slot] = Seat(slot, arguments.resident)
                seat.open = seat.gpu = True
        self.waiting: Future[Outcome] = Future()  # a request that nobody waits for would be dropped
        self.workers = [Worker() for _ in range(arguments.workers)]
        self.free_at = [0.0] * routers  # when a router's thread is free again
        self.router_time = [0.0] * routers
        self.events: list[tuple[float, int, str, tuple[int, Seat, Group]]] = []
        self.number = self.submitted = self.ended = self.groups = 0
        self.latencies = np.zeros(arguments.calls, np.float32)
        self.real = 0.0

    def at(self, when: float, what: str, parcel: tuple[int, Seat, Group]) -> None:
        self.number += 1
        heapq.heappush(self.events, (when, self.number, what, parcel))

    def submit(self, router: int, now: float) -> None:
        if self.submitted < self.a.calls:
            scheduler = self.schedulers[router]
            line = scheduler.lines[f"tool{self.picks[self.submitted]}"]
            self.submitted += 1
            request = Request(line, 0, None, "caller", None, now)
            request.futures.append(self.waiting)
            scheduler.push(request)

    def spend(self, router: int, now: float, seconds: float) -> float:
        self.free_at[router] = max(now, self.free_at[router]) + seconds
        self.router_time[router] += seconds
        return self.free_at[router]

    def dispatch(self, router: int, now: float) -> None:
        scheduler = self.schedulers[router]
        for slot in range(self.a.workers):
            seat = scheduler.seats[slot]
            while (group := scheduler.next_group(seat, now)) is not None:
                self.groups += 1
                sent = self.spend(router, now, self.a.per_group + len(group.requests) * self.a.per_call / 2)
                self.at(sent, "arrive", (router, seat, group))

    def begin(self, worker: Worker, now: float) -> None:
        """Start the next group, if there is one: load what it needs, then compute."""
        if worker.busy or not worker.queue:
            return
        router, seat, group = worker.queue.popleft()
        worker.busy = True
        load = work = 0.0
        for request in group.requests:
            name = request.line.name
            if name not in worker.models:
                while len(worker.models) >= self.a.resident:
                    worker.models.popitem(last=False)
                worker.models[name] = None
                worker.loads += 1
                load += self.a.load
                request.line.loaded(seat.slot, self.a.load)
            worker.models.move_to_end(name)
            work += request.line.traits.cost
        worker.worked += work
        worker.loaded += load
        self.at(now + load + work, "done", (router, seat, group))

    def run(self) -> Result:
        began = 0.0
        for index in range(self.a.flying):
            self.submit(index % self.routers, 0.0)
        for router in range(self.routers):
            self.dispatch(router, 0.0)
        now = 0.0
        while self.events:
            now, _, what, (router, seat, group) = heapq.heappop(self.events)
            worker = self.workers[seat.slot]
            if what == "arrive":
                worker.queue.append((router, seat, group))
                self.begin(worker, now)
                continue
            if what == "done":
                worker.busy = False
                self.begin(worker, now)
                told = self.spend(router, now, len(group.requests) * self.a.per_call / 2)
                self.at(told, "told", (router, seat, group))
                continue
            began = time.perf_counter()
            seat.groups.pop(group.number)
            self.schedulers[router].settle(seat, tuple(worker.models))
            for request in group.requests:
                self.latencies[self.ended] = now - request.began
                self.ended += 1
                self.submit(router, now)
            self.dispatch(router, now)
            self.real += time.perf_counter() - began
        if self.ended != self.a.calls:
            raise RuntimeError(f"{self.ended} of {self.a.calls} calls ended")
        everyone = now * len(self.workers)
        return Result(
            self.routers,
            self.ended,
            now,
            self.ended / now,
            sum(worker.worked for worker in self.workers) / everyone,
            sum(worker.loaded for worker in self.workers) / everyone,
            max(self.router_time) / now,
            self.ended / self.groups,
            sum(worker.loads for worker in self.workers),
            float(np.quantile(self.latencies, 0.5)),
            float(np.quantile(self.latencies, 0.99)),
            self.real / self.ended,
        )


def run(arguments: Arguments) -> None:
    results = [Simulation(arguments, routers).run() for routers in arguments.routers]
    headings = (
        "routers",
        "calls/s",
        "workers compute",
        "workers load",
        "busiest router",
        "calls/group",
        "loads",
        "p50 s",
        "p99 s",
    )
    table = Table(*headings, "scheduler µs/call")
    for one in results:
        shares = (f"{share:.0%}" for share in (one.worker_share, one.load_share, one.router_share))
        times = (f"{one.p50:.2f}", f"{one.p99:.2f}", f"{1e6 * one.scheduler:.0f}")
        table.add_row(str(one.routers), f"{one.speed:.0f}", *shares, f"{one.group:.1f}", str(one.loads), *times)
    Console(width=140).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in results], indent=1))


if __name__ == "__main__":
    main(Arguments, run, __doc__)

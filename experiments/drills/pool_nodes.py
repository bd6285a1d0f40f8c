"""Lose more than a worker: a node of two, the router's own process; and see whether 20,000 calls leave anything behind.

    python -m experiments.drills.pool_nodes --times 10 --json nodes.json

Must be 0: innocents that failed, calls that ended more or less than once. Must be flat: memory of driver, workers, Ray.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import ray
from ray._private import internal_api
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

import pool
from experiments.console import main
from experiments.drills.pool_faults import Count, Invert, drill, private_ray, show
from pool import Call, Pool, Traits

_CLIENT = """
import sys, time
from experiments.drills.pool_faults import images
import pool
from experiments.drills.pool_nodes import invert
with pool.connect("ray", address=sys.argv[1], name="drill", workers=2) as workers:
    workers.add(invert())
    for picture in images([], 1)[0]:
        workers.submit(pool.Call("invert", picture), caller="drill")
    print("sent", flush=True)
    time.sleep(60)
"""


def invert() -> Invert:
    model = Invert()
    model.traits = Traits(memory=1 << 20, deadline=30.0)
    return model


def node_dies(seed: int) -> Count:
    """Two nodes with one worker each; half a second into 512 calls the second node is gone."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": 256 << 20}
    )
    second = cluster.add_node(num_cpus=2, object_store_memory=256 << 20)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        with pool.connect("ray", workers=2, cpus=1.0, cache_bytes=0) as workers:
            workers.add(invert())
            while any(worker.state != "ready" for worker in workers.stats().workers):
                time.sleep(0.1)
            if len({worker.node for worker in workers.stats().workers}) < 2:
                raise RuntimeError("Ray put both workers on one node")

            def lose(_: Pool) -> None:
                time.sleep(0.3)
                cluster.remove_node(second, allow_graceful=False)

            return drill(workers, [], seed, lose)
    finally:
        ray.shutdown()
        cluster.shutdown()


def router_dies(seed: int, address: str) -> Count:
    """Another process sends 512 calls and is killed; the workers live on, and we find them by name and send 512 of our own."""
    client = subprocess.Popen([sys.executable, "-c", _CLIENT, address], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    if client.stdout.readline().strip() != "sent":
        raise RuntimeError("the other process did not start")
    time.sleep(0.2)
    os.kill(client.pid, signal.SIGKILL)
    client.wait()
    with pool.connect("ray", name="drill", cache_bytes=0) as workers:
        workers.add(invert())
        return drill(workers, [], seed)


@dataclass
class Memory:
    """Megabytes after so many calls."""

    calls: int
    driver: float
    workers: float
    store: float


def leftovers(calls: int, block: int = 2000) -> list[Memory]:
    """20,000 distinct images through a pool with its default cache."""
    rng, seen = np.random.default_rng(0), []
    with pool.connect("ray", workers=2, cache_bytes=64 << 20) as workers:
        workers.add(invert())
        for done in range(block, calls + 1, block):
            for outcome in workers.run([Call("invert", rng.integers(100, 255, (128, 128, 3), np.uint8)) for _ in range(block)]):
                outcome.unwrap()
            del outcome
            gc.collect()
            time.sleep(1.0)  # Ray frees objects and counts them in its own time
            mega = 1 << 20
            there = sum(psutil.Process(worker.pid).memory_info().rss for worker in workers.stats().workers) / mega
            plasma = re.search(r"Plasma memory usage (\d+) MiB", internal_api.memory_summary(stats_only=True))
            if plasma is None:
                raise RuntimeError("Ray does not say how full its object store is")
            seen.append(Memory(done, psutil.Process().memory_info().rss / mega, there, float(plasma.group(1))))
    return seen


@dataclass
class Arguments:
    times: int = 10
    """how often each drill is run"""
    calls: int = 20_000
    """of the memory drill"""
    only: str = ""
    """run only: node, router or memory"""
    json: Path | None = None
    """write all counts here"""


def run(arguments: Arguments) -> None:
    rows: dict[str, list[Count]] = {}
    seen: list[Memory] = []
    if arguments.only in ("", "node"):
        rows["a node of two dies"] = [node_dies(seed) for seed in range(arguments.times)]
    if arguments.only in ("", "router"):
        with private_ray():
            address = ray.get_runtime_context().gcs_address
            rows["the router's process dies"] = [router_dies(seed, address) for seed in range(arguments.times)]
            pool.dissolve("drill")
    if arguments.only in ("", "memory"):
        with private_ray():
            seen = leftovers(arguments.calls)
    if rows:
        show(rows)
    if seen:
        table = Table("calls", "driver MB", "workers MB", "object store MB")
        for row in seen:
            table.add_row(*(f"{value:.0f}" for value in asdict(row).values()))
        Console(width=100).print(table)
    if arguments.json:
        found = {name: [asdict(count) for count in counts] for name, counts in rows.items()}
        arguments.json.write_text(json.dumps({**found, "memory": [asdict(row) for row in seen]}, indent=1))


if __name__ == "__main__":
    main(Arguments, run, __doc__)

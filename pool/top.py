"""A live table of every pool in a running Ray: `python -m pool.top`, or `--once` for one look; `--dissolve NAME` ends a pool's workers.

Routers write a snapshot into Ray's key-value store once a second; this reads them and costs the pools nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import ray
from ray.experimental import internal_kv
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from pool.console import ABOUT_DEBUG, start
from pool.fleet import dissolve, join_ray
from pool.metrics import NAMESPACE

_STALE = 10.0  # seconds after which a silent router counts as gone


def snapshots() -> list[dict[str, Any]]:
    """What every living router last said about itself."""
    found = []
    for key in internal_kv._internal_kv_list(b"pool:", namespace=NAMESPACE):
        value = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
        if value is not None:  # it may have closed since
            found.append(json.loads(value))
    return sorted((one for one in found if time.time() - one["time"] < _STALE), key=lambda one: (one["pool"], one["pid"]))


def render(found: list[dict[str, Any]]) -> Group | str:
    """One table of routers and one of workers."""
    if not found:
        return "no pool is open in this Ray"
    routers = Table(
        "pool", "router", "calls/s", "calls", "queued", "in flight", "shared", "p50 ms", "p99 ms", "retries", "failures"
    )
    workers = Table("pool", "worker", "state", "pid", "in flight", "calls", "lost", "resident models")
    for one in found:
        shared = (one["hits"] + one["merges"]) / max(1, one["calls"])
        times = (f"{1e3 * one['p50']:.1f}", f"{1e3 * one['p99']:.1f}")
        row = (f"{one['speed']:.0f}", one["calls"], one["queued"], one["in_flight"], f"{shared:.0%}", *times)
        routers.add_row(one["pool"], f"{one['host']}:{one['pid']}", *map(str, row), str(one["retries"]), str(one["failures"]))
        for worker in one["workers"]:
            cells = (worker["slot"], worker["state"], worker["pid"], worker["in_flight"], worker["calls"], worker["losses"])
            workers.add_row(one["pool"], *map(str, cells), " ".join(worker["models"]))
    return Group(routers, workers)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m pool.top", description=f"{__doc__} {ABOUT_DEBUG}")
    parser.add_argument("--address", default="auto", help="of the Ray to look at; the one on this machine if not given")
    parser.add_argument("--once", action="store_true", help="print one look and leave")
    parser.add_argument(
        "--dissolve", metavar="NAME", help="end the workers of that pool, such as those of a run that was killed"
    )
    arguments = parser.parse_args(words)
    if not ray.is_initialized():
        join_ray(arguments.address)
    if arguments.dissolve:
        dissolve(arguments.dissolve)
    elif arguments.once:
        console = Console()
        console.width = max(console.width, 160)  # a log has no width of its own
        console.print(render(snapshots()))
    else:
        with Live(render(snapshots()), refresh_per_second=2, screen=False) as live:
            while True:
                time.sleep(0.5)
                live.update(render(snapshots()))


if __name__ == "__main__":
    start(main)

"""Eyes: a latency histogram, 0.3 µs per call, and a thread that shows a router's counters to Ray and to `pool.top`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import threading
import time
from typing import Any, Protocol

import ray
from ray.experimental import internal_kv
from ray.util.metrics import Counter, Gauge, Histogram

from pool.model import Stats

NAMESPACE = b"pool"  # of Ray's key-value store
_STEP = 1.15  # ratio of neighbouring bucket borders: a quantile is right within 7 %
_SHORTEST = 1e-5
_BUCKETS = 130  # up to about 13 minutes
_SAMPLES = 100  # latencies per second that are shown to Ray's histogram: each costs 4 µs


class Latency:
    """A histogram with logarithmic buckets."""

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS

    def add(self, seconds: float) -> None:
        bucket = int(math.log(seconds / _SHORTEST) / math.log(_STEP)) if seconds > _SHORTEST else 0
        self.counts[min(bucket, _BUCKETS - 1)] += 1

    def quantile(self, share: float) -> float:
        wanted, seen = share * sum(self.counts), 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return self.middle(bucket)
        return 0.0

    @staticmethod
    def middle(bucket: int) -> float:
        return _SHORTEST * _STEP ** (bucket + 0.5)


def key(pool: str, client: int) -> bytes:
    return f"pool:{pool}:{client:016x}".encode()


class Watched(Protocol):
    """What a reporter needs of a router."""

    name: str
    client: int
    latency: Latency

    def stats(self) -> Stats: ...


class Reporter:
    """Once a second: Ray metrics (Prometheus reads them) and a snapshot under the client's key."""

    def __init__(self, router: Watched, period: float = 1.0) -> None:
        self._pool, self._client, self._stats, self._latency = router.name, router.client, router.stats, router.latency
        self._period = period
        self._closed = threading.Event()
        self._before, self._shown = Stats(), list(self._latency.counts)
        names = {"calls": "that ended", "failures": "that ended in an error", "hits": "answered from the cache"}
        names |= {"merges": "merged with one in flight", "retries": "tried again", "loads": "of models", "lost": "workers"}
        self._counters = {name: Counter(f"pool_{name}", f"pool: {name} {text}", ("pool",)) for name, text in names.items()}
        self._gauges = {name: Gauge(f"pool_{name}", f"pool: calls {name}", ("pool",)) for name in ("queued", "in_flight")}
        borders = [0.001 * 2**power for power in range(18)]
        self._histogram = Histogram("pool_latency_seconds", "pool: submit to outcome (a sample)", borders, ("pool",))
        for metric in (*self._counters.values(), *self._gauges.values(), self._histogram):
            metric.set_default_tags({"pool": router.name})
        self._thread = threading.Thread(target=self._work, name=f"pool-reporter-{router.name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._closed.wait(self._period) and ray.is_initialized():
            self.show(self._stats())

    def show(self, stats: Stats) -> None:
        for name, counter in self._counters.items():
            if grown := getattr(stats, name) - getattr(self._before, name):
                counter.inc(grown)
        for name, gauge in self._gauges.items():
            gauge.set(getattr(stats, name))
        self._sample()
        speed = (stats.calls - self._before.calls) / self._period
        self._before = stats
        snapshot: dict[str, Any] = dataclasses.asdict(stats)
        snapshot |= {"pool": self._pool, "time": time.time(), "host": socket.gethostname(), "pid": os.getpid(), "speed": speed}
        internal_kv._internal_kv_put(key(self._pool, self._client), json.dumps(snapshot).encode(), namespace=NAMESPACE)

    def _sample(self) -> None:
        counts = list(self._latency.counts)
        grown = [now - then for now, then in zip(counts, self._shown, strict=True)]
        self._shown = counts
        stride = max(1, math.ceil(sum(grown) / _SAMPLES))
        for bucket, count in enumerate(grown):
            for _ in range(math.ceil(count / stride)):
                self._histogram.observe(self._latency.middle(bucket))

    def close(self) -> None:
        self._closed.set()
        if ray.is_initialized():
            internal_kv._internal_kv_del(key(self._pool, self._client), namespace=NAMESPACE)

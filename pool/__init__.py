"""A model-call pool: many callers, few processes, no lost call. It knows nothing of what its models compute."""

from typing import Any

from pool.errors import (
    BadOutput,
    CallFailed,
    DeadlineExceeded,
    LoadFailed,
    ModelRaised,
    PoolClosed,
    Problem,
    UnknownModel,
    WorkerLost,
)
from pool.local import LocalPool, SharedPool
from pool.model import Call, Model, Outcome, Pool, Stats, Traits, WorkerStats


def connect(kind: str = "local", **options: Any) -> Pool:
    """Open a pool: "local" runs in this process, "ray" in worker processes on one or many machines.

    Options of "local": `cache_bytes`, and `name`: in one process, all that give the same name share its models and results. Those
    of "ray" are the fields of `pool.options.Options`; the ones to know are `workers`, `gpus` (share per worker), `memory` (of
    resident models per worker), `name` (processes that give the same name share the workers) and `address` (of a running Ray;
    without it the pool uses the Ray that this process is in, or starts one here).
    """
    if kind not in ("local", "ray"):
        raise Problem(f"pool {kind!r}", "is not one of: local, ray", 'Use pool.connect("local") or pool.connect("ray").')
    if kind == "local":
        known = ["cache_bytes", "name"]
    else:
        from pool.options import Options

        known = list(Options.__dataclass_fields__)
    if strange := sorted(set(options) - set(known)):
        raise Problem(f"option {', '.join(strange)} of pool {kind!r}", "is not known", f"Known are: {', '.join(known)}.")
    if kind == "local":
        return SharedPool(**options) if "name" in options else LocalPool(**options)
    from pool.router import open_router  # here, so that a local pool does without Ray's import of a second

    return open_router(Options(**options))


def dissolve(name: str, namespace: str = "pool") -> None:
    """End the workers of a pool that was opened with a name: closing it leaves them to its other users."""
    from pool.fleet import dissolve as end

    end(name, namespace)


__all__ = [
    "BadOutput", "Call", "CallFailed", "DeadlineExceeded", "LoadFailed", "LocalPool", "Model", "ModelRaised", "Outcome",
    "Pool", "PoolClosed", "Problem", "Stats", "Traits", "UnknownModel", "WorkerLost", "WorkerStats",
    "connect", "dissolve",
]  # fmt: skip

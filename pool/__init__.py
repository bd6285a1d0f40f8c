"""A model-call pool: many callers, few processes, no lost call. It knows nothing of what its models compute."""

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
from pool.local import LocalPool
from pool.model import Call, Model, Outcome, Pool, Stats, Traits


def connect(kind: str = "local") -> Pool:
    """Open a pool: "local" runs in this process."""
    if kind == "local":
        return LocalPool()
    raise Problem(f"pool {kind!r}", "is not one of: local", 'Use pool.connect("local").')


__all__ = [
    "BadOutput", "Call", "CallFailed", "DeadlineExceeded", "LoadFailed", "LocalPool", "Model", "ModelRaised", "Outcome",
    "Pool", "PoolClosed", "Problem", "Stats", "Traits", "UnknownModel", "WorkerLost", "connect",
]  # fmt: skip

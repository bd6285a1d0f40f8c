"""Where a script's tools run: the same options for every script that does not train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pool import Pool, Problem, connect


@dataclass(frozen=True)
class ToolPool:
    pool: Literal["local", "ray"] = "local"
    """Where the tools run: in this process, or in worker processes on Ray."""
    workers: int | None = None
    """Worker processes on Ray; not given: one for each GPU, or else for each core."""
    worker_memory: float | None = None
    """GiB of models that a worker keeps; not given: 4. The one used least recently goes first. DeQA-Score alone takes 16."""
    ray_address: str | None = None
    """Ray to join: auto finds this machine's, or HOST:PORT; not given: one starts here."""

    def open(self, **local: Any) -> Pool:
        """`local`: options of a pool in this process."""
        if self.pool == "local":
            if (self.workers, self.worker_memory, self.ray_address) != (None, None, None):
                raise Problem("--workers, --worker-memory, --ray-address", "are for a pool on Ray", "Add --pool ray.")
            return connect("local", **local)
        return connect("ray", **on_ray(self.workers, self.worker_memory), address=self.ray_address)


def on_ray(workers: int | None, gib: float | None) -> dict[str, Any]:
    """Options of a pool on Ray, from those of the command line."""
    if workers is not None and workers < 1:
        raise Problem("--workers", f"must be at least 1, not {workers}", "Correct it.")
    if gib is not None and not 0 < gib < float("inf"):
        raise Problem("--worker-memory", f"must be more than 0 and finite, not {gib:g}", "Correct it: it is in GiB.")
    return {"workers": workers} | ({} if gib is None else {"memory": int(gib * 2**30)})

"""Where a script's tools run: the same options for every script that does not train."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from pool import Pool, Problem, connect


@dataclass(frozen=True)
class ToolPool:
    pool: Literal["local", "ray"] = "local"
    """Where the tools run: in this process, or in worker processes on Ray."""
    workers: int | None = None
    """Worker processes on Ray; not given: one for each GPU, or else for each core."""
    worker_gpus: float | None = None
    """GPUs of each worker, such as 0.25; not given: one where Ray has any."""
    worker_memory: float | None = None
    """GiB of models that a worker keeps; not given: 4. The one used least recently goes first. DeQA-Score alone takes 16."""
    ray_address: str | None = None
    """Ray to join: auto finds this machine's, or HOST:PORT; not given: one starts here."""

    def open(self, **local: Any) -> Pool:
        """`local`: options of a pool in this process."""
        if self.pool == "local":
            if (self.workers, self.worker_gpus, self.worker_memory, self.ray_address) != (None, None, None, None):
                flags = "--workers, --worker-gpus, --worker-memory, --ray-address"
                raise Problem(flags, "are for a pool on Ray", "Add --pool ray.")
            return connect("local", **local)
        return connect("ray", **on_ray(self.workers, self.worker_memory, self.worker_gpus), address=self.ray_address)


def on_ray(workers: int | None, gib: float | None, gpus: float | None) -> dict[str, Any]:
    """Options of a pool on Ray, from those of the command line."""
    if workers is not None and workers < 1:
        raise Problem("--workers", f"must be at least 1, not {workers}", "Correct it.")
    if gib is not None and not 0 < gib < float("inf"):
        raise Problem("--worker-memory", f"must be more than 0 and finite, not {gib:g}", "Correct it: it is in GiB.")
    if gpus is not None and not 0 <= gpus < float("inf"):
        raise Problem("--worker-gpus", f"must be at least 0 and finite, not {gpus:g}", "Correct it.")
    return {"workers": workers, "gpus": gpus} | ({} if gib is None else {"memory": int(gib * 2**30)})


def beside_learners(options: dict[str, Any], learners: float, there: float, most: float) -> dict[str, Any]:
    """`on_ray`'s options for a pool that leaves the learners so many of Ray's GPUs: both would wait for ever for what the other has.

    Ray has `there`, and its autoscaler may bring it to `most`, for which somebody must ask.
    """
    share, workers = options["gpus"], options["workers"]
    spare = max(0.0, (there if workers is None else most) - learners)
    if share is None:  # a whole one, or as many to a GPU as are wanted
        share = 1 / max(1, math.ceil((workers or 1) / int(spare))) if spare >= 1 else 0.0
    if not share:
        return options | {"gpus": 0.0}
    whole, rest = divmod(spare, 1)
    room = int(spare / share + 1e-9) if share >= 1 else int(whole) * int(1 / share + 1e-9) + int(rest / share + 1e-9)
    workers = room if workers is None else workers
    if not 1 <= workers <= room:
        reason = f"{max(workers, 1)} of {share:g} GPUs each do not fit into the {spare:g} that the learners leave"
        raise Problem(
            "the pool's workers", reason, "Give fewer --workers, a smaller --worker-gpus (0: they compute on the CPU)."
        )
    return options | {"gpus": share, "workers": workers}

"""What the pool costs and saves, against the limit and against Ray's own ways, interleaved in one process tree.

    python -m experiments.bench_pool --json pool.json                       # throughput: LIGHT and MIX tools at 256x256
    python -m experiments.bench_pool --work groups --images my_photographs   # cache and single flight on GRPO-like groups

The limit is two processes that share an index and move no pixels: what two cores can do. Ratios are to the same round's limit.
All calls of a round are distinct, so the pool's cache is on and never helps, except in the group workload.
"""

from __future__ import annotations

import logging
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
from PIL import Image
from rich.console import Console
from rich.table import Table

import pool
from experiments.bench_models import light, mix, photographs
from experiments.bench_rivals import ActorPoolRival, Limit, LockAllocator, Ours, Rival, Serve
from experiments.console import at_least, main, write_json
from pool import Call, Pool


@dataclass
class Arguments:
    work: Literal["throughput", "groups"] = "throughput"
    """throughput against rivals, or groups with and without cache"""
    tools: Literal["light", "mix"] = "light"
    """light: 0.05-2 ms per image at 256x256; mix: 1-50 ms"""
    size: int = 256
    """images are size x size"""
    pictures: int = 512
    """distinct images; every tool is called on every one"""
    flying: int = 512
    """calls in flight"""
    rounds: int = 5
    """interleaved rounds, each in a new order"""
    warm: int = 1
    """rounds before them that are not counted"""
    only: str = ""
    """run only rivals whose names hold this text, beside the limit"""
    images: Path | None = None
    """folder of photographs for the groups; scikit-image's own if not given"""
    seed: int = 0
    """of orders, crops and policies"""
    json: Path | None = None
    """write all figures here"""


@dataclass
class Row:
    """One contestant's rounds."""

    name: str
    speeds: list[float] = field(default_factory=list)  # calls per second
    ratios: list[float] = field(default_factory=list)  # to the limit of the same round
    p50: list[float] = field(default_factory=list)  # seconds
    p99: list[float] = field(default_factory=list)


def contestants(arguments: Arguments, images: list[np.ndarray]) -> list[Rival]:
    makers: list[tuple[str, Callable[[], Rival]]] = [
        ("pool", lambda: Ours(arguments.tools)),
        # On the rivals' terms, who do not hash: nothing merged or remembered.
        ("pool as rivals", lambda: Ours(arguments.tools, "pool as rivals", merge=False, cache_bytes=0)),
        ("ActorPool", lambda: ActorPoolRival(arguments.tools)),
        ("lock allocator", lambda: LockAllocator(arguments.tools)),
    ]
    try:
        import ray.serve  # noqa: F401

        makers.append(("Ray Serve", lambda: Serve(arguments.tools)))
    except ImportError:
        Console().print("Ray Serve is not installed: left out")
    chosen = [make() for name, make in makers if arguments.only in name]
    return [Limit(arguments.tools, arguments.size, images), *chosen]


def throughput(arguments: Arguments) -> list[Row]:
    images = photographs(arguments.size, arguments.pictures)
    names = [model.name for model in (light() if arguments.tools == "light" else mix())]
    calls = [Call(name, image) for name in names for image in images]
    rng = random.Random(arguments.seed)
    rng.shuffle(calls)
    rivals = contestants(arguments, images)
    rows = {rival.name: Row(rival.name) for rival in rivals}
    for round_ in range(arguments.warm + arguments.rounds):
        speeds: dict[str, float] = {}
        for rival in rng.sample(rivals, len(rivals)):
            began = time.perf_counter()
            times = sorted(rival.run(calls, arguments.flying))
            speeds[rival.name] = len(calls) / (time.perf_counter() - began)
            if len(times) != len(calls):
                raise RuntimeError(f"{rival.name} answered {len(times)} of {len(calls)} calls")
            if round_ >= arguments.warm:
                rows[rival.name].p50.append(times[len(times) // 2])
                rows[rival.name].p99.append(times[int(0.99 * len(times))])
        if round_ >= arguments.warm:
            for name, speed in speeds.items():
                rows[name].speeds.append(speed)
                rows[name].ratios.append(speed / speeds["limit"])
    for rival in rivals:
        rival.close()
    return list(rows.values())


# -- groups: 64 images x 8 rollouts x 4 turns ---------------------------------------------------------------------------------


def rollouts(images: list[np.ndarray], workers: Pool, peak: float, seed: int) -> tuple[float, int]:
    """All rollouts step together, as GRPO makes them do; a policy picks a tool with `peak` times the odds for its favourite.

    Returns the seconds and a checksum over all images, which must not depend on whether results were shared.
    """
    names = [model.name for model in mix()]
    rng = np.random.default_rng(seed)
    favourites = rng.permutation(len(names))
    states = [image for image in images for _ in range(8)]
    began, check = time.perf_counter(), 0
    for turn in range(4):
        odds = np.ones(len(names))
        odds[favourites[turn]] = peak
        picks = rng.choice(len(names), len(states), p=odds / odds.sum())
        outcomes = workers.run([Call(names[pick], state) for pick, state in zip(picks, states, strict=True)])
        states = [outcome.unwrap() for outcome in outcomes]
        check = hash((check, *(int(state.astype(np.int64).sum()) for state in states)))
    return time.perf_counter() - began, check


def real_photographs(folder: Path | None, count: int = 64, size: int = 128) -> list[np.ndarray]:
    if folder is None:
        return photographs(size, count)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))[:count]
    if len(files) < count:
        raise pool.Problem(str(folder), f"holds {len(files)} photographs, {count} are needed", "Give another --images folder.")
    crops = []
    for file in files:
        image = np.asarray(Image.open(file).convert("RGB"))
        top, left = ((extent - size) // 2 for extent in image.shape[:2])
        crops.append(np.ascontiguousarray(image[top : top + size, left : left + size]))
    return crops


def groups(arguments: Arguments) -> list[dict[str, Any]]:
    images = real_photographs(arguments.images)
    shared = pool.connect("ray", workers=2)
    plain = pool.connect("ray", workers=2, cache_bytes=0, merge=False)
    found = []
    for workers in (shared, plain):
        workers.add(*mix())
        workers.run([Call(model.name, image) for model in mix() for image in photographs(64, 8)])
    for label, peak in (("flat", 1.0), ("peaked", 20.0)):
        for round_ in range(arguments.rounds):
            seconds: dict[str, float] = {}
            checks = set()
            before = shared.stats()
            for name, workers in random.Random(arguments.seed + round_).sample([("shared", shared), ("plain", plain)], 2):
                shared.forget_results()  # type: ignore[attr-defined]
                seconds[name], check = rollouts(images, workers, peak, arguments.seed + round_)
                checks.add(check)
            after = shared.stats()
            answered = after.hits + after.merges - before.hits - before.merges
            share = answered / (after.calls - before.calls)
            gain = seconds["plain"] / seconds["shared"]
            found.append({"policy": label, "round": round_, "gain": gain, "equal": len(checks) == 1, "share": share, **seconds})
    shared.close()
    plain.close()
    return found


# -- tables ------------------------------------------------------------------------------------------------------------------


def show(rows: list[Row]) -> None:
    table = Table("", "calls/s", "of the limit", "spread", "p50 ms", "p99 ms")
    for row in rows:
        middle = [statistics.median(values) for values in (row.speeds, row.ratios)]
        times = [f"{1e3 * statistics.median(values):.1f}" for values in (row.p50, row.p99)]
        table.add_row(row.name, f"{middle[0]:.0f}", f"{middle[1]:.3f}", f"{min(row.ratios):.3f}-{max(row.ratios):.3f}", *times)
    Console(width=100).print(table)


def show_groups(found: list[dict[str, Any]]) -> None:
    table = Table("policy", "gain", "spread", "answered without computing", "equal results")
    for label in ("flat", "peaked"):
        rounds = [one for one in found if one["policy"] == label]
        gains = [one["gain"] for one in rounds]
        share = statistics.median(one["share"] for one in rounds)
        equal = all(one["equal"] for one in rounds)
        spread = f"{min(gains):.2f}-{max(gains):.2f}"
        table.add_row(label, f"{statistics.median(gains):.2f}", spread, f"{share:.0%}", str(equal))
    Console(width=100).print(table)


def bench(arguments: Arguments) -> None:
    at_least(1, rounds=arguments.rounds)
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=2 << 30,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    if arguments.work == "throughput":
        rows = throughput(arguments)
        show(rows)
        figures: list[Any] = [asdict(row) for row in rows]
    else:
        figures = groups(arguments)
        show_groups(figures)
    write_json(arguments.json, {"arguments": asdict(arguments), "figures": figures})


if __name__ == "__main__":
    main(Arguments, bench, __doc__)

"""Does it matter which tool is chosen? The best first step on every image of every case, and what a fixed choice loses to it.

    python experiments/bench_choice.py --images FOLDER --json choice.json

Every tool is tried once on every (case, image). Printed are: how often each tool is the best first step of all, and for each task,
over the cases that hold its degradation, what the tool that is best on average loses (PSNR) to the best of the task for each image.
Results are kept case by case in the JSON file: run it again to go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.bench_tools import one_core, scores
from experiments.cells import continued
from experiments.console import at_least, main, write_json
from pool import Call, connect
from tir_env.degradations import degrade, open_suite
from tir_env.images.operations import crop_at
from tir_env.images.sources import open_images
from tir_env.tools import MADE_FOR, Toolbox

NOTHING = "(nothing)"


@dataclass
class Settings:
    images: str
    """a folder of clean photographs, or skimage"""
    suites: tuple[str, ...] = ("mio100-a", "mio100-b", "mio100-c")
    """whose cases"""
    toolbox: str = "pocket"
    """by name, or a YAML file; tools without their weights are left out"""
    crop: int = 128
    """side of the window from each image's middle; 0: the whole image"""
    limit: int = 0
    """only the first so many images; 0: all"""
    seed: int = 0
    """of the degradations"""
    pool: str = "local"
    """local, or ray for all cores"""
    json: Path = Path("out/bench_choice.json")
    """figures, and PSNR gains by case, image and tool; an existing file is continued, also with tools that are new"""


def run(settings: Settings) -> None:
    at_least(0, crop=settings.crop, limit=settings.limit)
    one_core()
    toolbox = Toolbox.load(settings.toolbox).with_weights_only()
    photos = list(open_images(settings.images))
    photos = photos[: settings.limit or len(photos)]
    cases = {case.name: case for suite in settings.suites for case in open_suite(suite)}
    told = {key: getattr(settings, key) for key in ("images", "suites", "toolbox", "crop", "seed")}
    results = continued(settings.json, told, gains={})
    gains: dict[str, list[dict[str, float]]] = results["gains"]
    with connect(settings.pool, cache_bytes=0) as pool:
        pool.add(*toolbox)
        for number, (name, case) in enumerate(cases.items()):
            rows = gains.setdefault(name, [])
            rows += [{} for _ in range(len(photos) - len(rows))]
            for index, (photo, row) in enumerate(zip(photos, rows, strict=False)):  # of a longer file the first ones
                missing = [tool.name for tool in toolbox if tool.name not in row]
                if not missing:
                    continue
                clean = photo.image
                if settings.crop:
                    corner = tuple(max(0, (side - settings.crop) // 2) for side in clean.shape[:2])
                    clean = np.ascontiguousarray(crop_at(clean, settings.crop, (corner[0], corner[1])))
                seed = (settings.seed * 1009 + number) * 1_000_003 + index
                spoilt = degrade(clean, case, seed, name=photo.name).image
                before = scores(spoilt, clean)[0]
                outcomes = pool.run([Call(name, spoilt) for name in missing])
                row |= {o.model: scores(o.unwrap(), clean)[0] - before for o in outcomes}
            write_json(settings.json, results)
    results["figures"] = figures(toolbox, {name: gains[name][: len(photos)] for name in cases})
    write_json(settings.json, results)
    show(results["figures"])


def figures(toolbox: Toolbox, gains: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """`gains`: for each case, for each image, what each tool gained in dB."""
    names = [tool.name for tool in toolbox]
    every = [row for rows in gains.values() for row in rows]
    best = [max([NOTHING, *names], key=lambda name: row.get(name, 0.0)) for row in every]
    first = {name: best.count(name) / len(best) for name in [*names, NOTHING]}
    tasks = {}
    for task in toolbox.tasks:
        own = [tool.name for tool in toolbox if tool.task == task]
        rows = [row for case, case_rows in gains.items() if MADE_FOR[task] in case.split("+") for row in case_rows]
        if not rows or len(own) < 2:
            continue
        table = np.array([[row[name] for name in own] for row in rows])  # [images, tools]
        fixed = int(table.mean(axis=0).argmax())
        losses = table.max(axis=1) - table[:, fixed]
        tasks[task] = {
            "fixed": own[fixed], "gain": float(table[:, fixed].mean()), "best": float(table.max(axis=1).mean()),
            "loss": float(losses.mean()), "loss_std": float(losses.std()), "images": len(rows),
            "wins": {name: float((table.argmax(axis=1) == i).mean()) for i, name in enumerate(own)},
        }  # fmt: skip
    return {"first": first, "tasks": tasks, "loss": float(np.mean([task["loss"] for task in tasks.values()]))}


def show(figures: dict[str, Any]) -> None:
    console = Console()
    first = Table("tool", "best first step", title="share of (case, image) in which a tool is the best first step")
    for name, share in sorted(figures["first"].items(), key=lambda item: -item[1]):
        first.add_row(name, f"{share:.1%}")
    tasks = Table(
        "task", "best fixed tool", "its gain", "best per image", "loss", "std", "images", "best of its task in", title="dB"
    )
    for task, row in figures["tasks"].items():
        wins = ", ".join(f"{name.split('/')[1]} {share:.0%}" for name, share in row["wins"].items())
        numbers = [f"{row[key]:.2f}" for key in ("gain", "best", "loss", "loss_std")]
        tasks.add_row(task, row["fixed"].split("/")[1], *numbers, str(row["images"]), wins)
    console.print(first, tasks)
    console.print(f"loss of the best fixed tool per task, mean over tasks: {figures['loss']:.2f} dB", highlight=False)


if __name__ == "__main__":
    main(Settings, run, __doc__)

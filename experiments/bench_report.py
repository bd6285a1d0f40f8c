"""How large a report is, and how fast it opens, filters and scrolls in a real browser, for runs of few and of many trajectories.

    python experiments/bench_report.py --trajectories 96 2000 --json report.json

Each run is played by a random agent with the pocket tools on generated photographs, as run.py would leave it. Needs Chromium with its
chromedriver, and selenium (`pip install -e ".[test]"`). You see one line for each run; times are medians in milliseconds.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from agents.agent import observer_for, play
from agents.training_free.bounds import FixedAgent, RandomAgent
from experiments.console import at_least, main, write_json
from experiments.report import MEGABYTES, write_report
from experiments.report_page.browser import NARROW, WIDE, chromium
from experiments.report_page.pictures import keep
from experiments.reporting import by_case, summary
from experiments.run import Run
from experiments.runs import TABLE, TRAJECTORIES, RunFolder
from tir_env.world import World

AT_ONCE = 64
REPEATS = 5
# What a script in the page measures: the time until what follows has been drawn.
TIMED = """
const done = arguments[arguments.length - 1];
const began = performance.now();
%s
requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
"""
FILTER = "const s = document.querySelector('#filters [name=order]'); s.value = s.value === 'worst' ? 'played' : 'worst';"
FILTER += "s.dispatchEvent(new Event('change', {bubbles: true}));"
SEARCH = "const s = document.querySelector('#filters [name=text]'); s.value = s.value ? '' : 'dejpeg';"
SEARCH += "s.dispatchEvent(new Event('input', {bubbles: true}));"
SCROLL = "document.querySelector('#list').scrollTop = Math.random() * document.querySelector('#list .spacer').clientHeight;"
NEXT = "document.querySelector('#list').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown', bubbles: true}));"
ACTIONS = {"sort": FILTER, "search": SEARCH, "scroll": SCROLL, "next": NEXT}


@dataclass
class Bench:
    trajectories: tuple[int, ...] = (96, 2000)
    """How many trajectories the runs have."""
    crop: int = 64
    """Side of their images."""
    megabytes: float = MEGABYTES
    """Room for pictures."""
    seed: int = 0
    """Decides what is played."""
    folder: Path | None = None
    """Keep the runs here; what is there is not played again."""
    json: Path | None = None
    """Write all figures here."""


def make(folder: Path, count: int, settings: Bench) -> Path:
    """A run's folder with so many trajectories."""
    if (folder / TABLE).exists():
        return folder
    run = replace(Run(), policy="clip_mlp", crop=settings.crop, test_episodes=count, images="generated:40", test_images="")
    world = World("generated:40", "test", run.suite, run.toolbox, run.reward, run.metrics, run.horizon, run.crop, pool="local")
    made = RunFolder.create(folder, run)
    for k in range(1, 201):
        made.append({"iteration": k, "reward": math.log(k), "entropy": 1 / k, "seconds": 1.0, "gain/psnr": math.log(k) / 2})
    agent = RandomAgent(settings.seed)
    played = []
    for first in track(range(0, count, AT_ONCE), f"playing {count}", transient=True):
        starts = world.draw_many(settings.seed, range(first, min(count, first + AT_ONCE)))
        batch = play(world, observer_for(agent, world), agent, starts)
        keep(folder, batch)
        for number, trajectory in enumerate(batch, start=first):
            trajectory.save(folder / TRAJECTORIES / f"{number:04d}", images="reference")
        played += batch
    idle = FixedAgent([], world.stop, "")
    nothing = play(world, observer_for(idle, world), idle, [t.start for t in played[:AT_ONCE]])
    rows = {"random": summary(played, run.metrics, 0.0), "no tool": summary(nothing, run.metrics, 0.0)}
    write_json(folder / TABLE, {"rows": rows, "by case": {"random": by_case(played, run.metrics)}})
    return folder


def measure(report: Path) -> dict[str, Any]:
    """Loading on a wide and on a narrow screen, then what a reader does."""
    figures: dict[str, Any] = {}
    with chromium() as browser:
        browser.driver.set_script_timeout(60)
        for name, size in (("wide", WIDE), ("narrow", NARROW)):
            loads = []
            for _ in range(REPEATS):
                browser.screen(size)
                browser.open(report)
                loads.append(browser.js("return performance.timing.loadEventEnd - performance.timing.navigationStart"))
            figures[f"load {name}"] = float(np.median(loads))
        browser.screen(WIDE)
        for name, code in ACTIONS.items():
            took = [browser.driver.execute_async_script(TIMED % code) for _ in range(2 * REPEATS)]
            figures[name] = float(np.median(took))
        figures["rows in the page"] = len(browser.all("[role=option]"))
        figures["complaints"] = browser.complaints()
    return figures


def run(settings: Bench) -> None:
    at_least(1, **{"trajectories": min(settings.trajectories, default=0), "crop": settings.crop})
    at_least(0, seed=settings.seed)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in settings.trajectories:
            folder = make((settings.folder or Path(scratch)) / str(count), count, settings)
            began = time.perf_counter()
            report = write_report((folder,), megabytes=settings.megabytes)
            seconds = time.perf_counter() - began
            figures = {"megabytes": report.stat().st_size / 1e6, "seconds to write": seconds, **measure(report)}
            results[str(count)] = figures
            told = "  ".join(f"{name} {value:.3g}" for name, value in figures.items() if isinstance(value, int | float))
            print(f"{count} trajectories: {told}")
    write_json(settings.json, results)


if __name__ == "__main__":
    main(Bench, run, __doc__)

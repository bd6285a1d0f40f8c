"""What a warm pool is worth to a training-free agent: AgenticIR here, and as in its own repository, a process for every tool call.

    python experiments/bench_reload.py --images FOLDER --part all --json reload.json

The same agent restores the same images twice, in turns: once with tools that stay loaded, once with tools that start a Python of
their own, load their weights, compute one image and end. Both must end with the same bytes. You see seconds for one image of each,
their ratio with its spread over images, and how many tool calls it took.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from agents.agent import finish, observer_for
from agents.opening import open_agent
from experiments.console import at_least, main, write_json
from experiments.grids import Grid, spread
from pool import Problem, connect
from tir_env.images.sources import Part
from tir_env.tools import Tool, Toolbox
from tir_env.world import World

ONCE = """
import sys
import numpy as np
from tir_env.tools import Toolbox
toolbox, tool, source, target = sys.argv[1:]
made = Toolbox.load(toolbox)[tool]
made.load()
np.save(target, made.run([np.load(source)])[0])
"""


@dataclass
class Bench:
    images: str = "skimage"
    """Clean photographs: skimage, generated:COUNT, a folder, or several joined by commas."""
    part: Part = "test"
    """Which part of them; all for photographs that no training saw."""
    agent: str = "agenticir"
    """The training-free agent."""
    suite: str = "mio100-a"
    """What spoils the images."""
    toolbox: str = "pocket"
    """The tools, by a name or a YAML file."""
    crop: int = 128
    """Side of the crop, 0 for whole photographs."""
    horizon: int = 6
    """Steps in an episode."""
    count: int = 10
    """Images."""
    seed: int = 0
    """Decides photographs, crops and degradations."""
    json: Path | None = None
    """Write all figures here."""


@dataclass(frozen=True)
class Fresh:
    """An engine that starts a process for every image, and knows nothing afterwards."""

    toolbox: str
    name: str
    weights: None = None

    def load(self, tool: Tool) -> Any:
        def run(batch: np.ndarray) -> np.ndarray:
            return np.stack([self._one(image) for image in batch])

        return run

    def _one(self, image: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.npy", Path(folder) / "out.npy"
            np.save(source, image)
            command = [sys.executable, "-c", ONCE, self.toolbox, self.name, str(source), str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"the process of {self.name} ended with {done.returncode}: {done.stderr[-500:]}")
            made: np.ndarray = np.load(target)
            return made


def bench(settings: Bench) -> None:
    at_least(1, count=settings.count)
    warm = Toolbox.load(settings.toolbox).with_weights_only()
    fresh = Toolbox(warm.name, [Tool(t.task, t.model, Fresh(settings.toolbox, t.name), scale=t.scale, tile=0) for t in warm])
    rows: list[dict[str, Any]] = []
    with connect("local") as one, connect("local") as other:
        worlds = [
            World(
                settings.images, settings.part, settings.suite, toolbox, "final:psnr", ("psnr",), settings.horizon,
                settings.crop, pool=pool,
            )
            for toolbox, pool in ((warm, one), (fresh, other))
        ]  # fmt: skip
        agents = [open_agent(settings.agent, world, settings.seed) for world in worlds]
        timed(worlds[0], agents[0], settings.count, settings.seed)  # loads what stays loaded
        for number in track(range(settings.count), "restoring", transient=True):
            found = [timed(world, agent, number, settings.seed) for world, agent in zip(worlds, agents, strict=True)]
            if found[0][1] != found[1][1]:
                raise Problem("the two", f"differ at image {number}", "Report it: this is a bug.")
            rows.append({"warm": found[0][0], "fresh": found[1][0], "calls": found[0][2]})
    ratios = np.array([row["fresh"] / row["warm"] for row in rows])
    grid = Grid(f"{settings.agent}, {settings.count} images: mean ± standard deviation", ["", "seconds for one image"])
    for name, label in (("warm", "tools that stay loaded"), ("fresh", "a process for every call")):
        seconds = np.array([row[name] for row in rows])
        grid.add(label, spread(seconds, 2))
    grid.add("ratio", spread(ratios, 0))
    grid.add("tool calls", f"{np.mean([row['calls'] for row in rows]):.1f}")
    Console().print(grid.terminal())
    write_json(settings.json, {"settings": asdict(settings), "images": rows, "ratio": list(ratios)})


def timed(world: World, agent: Any, number: int, seed: int) -> tuple[float, str, int]:
    """Seconds, the digest of the result, and how many tool calls it took."""
    [trajectory] = world.begin([world.draw(seed, number)])
    began = time.perf_counter()
    finish(world, observer_for(agent, world), agent, [trajectory])
    seconds = time.perf_counter() - began
    return seconds, trajectory.current_digest, trajectory.calls


if __name__ == "__main__":
    main(Bench, bench, __doc__)

"""AgenticIR's self-exploration: try every order of tasks with every tool on training images, and write down what survived.

    python experiments/explore.py --out experience.json
    python experiments/evaluate.py --agent agenticir:experience=experience.json

The suites say which tasks come together. You see how far it is, then for each pair of tasks which order leaves less. The experience
that ships (for the pocket toolbox) was made by this script with its defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.markup import escape
from rich.progress import track

from agents.training_free.experience import Experience, explore
from agents.training_free.eyes import PocketEye
from experiments.console import at_least, main, plain_console
from experiments.tool_pool import ToolPool
from tir_env.starts import Pin
from tir_env.tools import Toolbox
from tir_env.world import World


@dataclass
class Explore:
    out: Path
    """The experience, as a JSON file."""
    suites: tuple[str, ...] = ("mio100-a", "mio100-b", "mio100-c")
    """Which degradations come together: names of suites, YAML files, or cases such as rain+haze."""
    images: str = "skimage"
    """Clean photographs, of which the train part is used: skimage, generated:COUNT, a folder, or several joined by commas."""
    toolbox: str = "pocket"
    """The tools."""
    crop: int = 64
    """Side of the random crop; 0 for whole photographs."""
    depth: str = "synthetic"
    """Depth for haze: synthetic, folder:PATH (a map for each photograph) or model:ID."""
    each: int = 8
    """Starts of each case."""
    seed: int = 0
    """Decides photographs, crops and degradations."""
    tool_pool: tyro.conf.OmitArgPrefixes[ToolPool] = field(default_factory=ToolPool)
    """Where the tools run."""


def run(settings: Explore) -> None:
    at_least(1, each=settings.each)
    console = plain_console()
    toolbox = Toolbox.load(settings.toolbox).with_weights_only()
    made_from = (
        f"{settings.each} starts of each case of {', '.join(settings.suites)}; {settings.images}, {settings.crop} pixels"
    )
    experience = Experience(toolbox=toolbox.name, perceiver=PocketEye.name, made_from=made_from)
    with settings.tool_pool.open() as pool:
        for suite in settings.suites:
            world = World(
                settings.images, "train", suite, toolbox, "final:piqe", (), len(toolbox.tasks), settings.crop,
                depth=settings.depth, pool=pool,
            )  # fmt: skip
            eye = PocketEye(world)
            for number in track(range(settings.each * len(world.suite)), escape(suite), console=console, transient=True):
                case = world.suite[number % len(world.suite)].name
                explore(world, eye, world.draw_many(settings.seed, [number], Pin(case=case)), experience)
    experience.save(settings.out)
    console.print(experience.told())
    console.print(f"wrote {settings.out}")


if __name__ == "__main__":
    main(Explore, run, __doc__)

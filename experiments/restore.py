"""Restore your own photographs with a trained agent, at full size.

    python experiments/restore.py photo.jpg --agent out/run
    python experiments/restore.py FOLDER --agent out/run --out restored

For each picture you get the result as PNG and a figure of the steps: which tool was applied, and what it did. No clean reference is
needed; the scores in the figure are no-reference ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import track

from agents.agent import finish, observer_for
from agents.opening import open_agent
from experiments.console import main
from experiments.evaluate import trained_with
from experiments.run import Run
from pool import connect
from tir_env.drawing import save_figure
from tir_env.images import write_image
from tir_env.images.sources import folder as pictures_in
from tir_env.tools import Toolbox
from tir_env.world import World


@dataclass
class Restore:
    photo: Annotated[Path, tyro.conf.Positional]
    """A picture, or a folder of pictures."""
    agent: str
    """The folder of a run, a training-free agent such as agenticir, a tool such as denoise/drunet, or several in a row joined by +."""
    out: Path = Path("out/restored")
    """Where the results go: NAME.png and NAME-steps.png."""
    toolbox: str | None = None
    """The tools; not given: the run's, or else pocket."""
    horizon: int | None = None
    """Decisions for each picture; not given: the run's, or else 3."""
    metrics: tuple[str, ...] = ("piqe",)
    """No-reference qualities to show."""
    pool: Literal["local", "ray"] = "local"
    """Where the tools run: in this process, or in worker processes on Ray."""


def restore(settings: Restore) -> None:
    known = trained_with(settings.agent) or Run()
    toolbox = Toolbox.load(settings.toolbox or known.toolbox).with_weights_only()
    horizon = known.horizon if settings.horizon is None else settings.horizon
    photos = pictures_in(settings.photo)
    settings.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    for problem in photos.problems:
        console.print(f"left out {problem}")
    with connect(settings.pool) as pool:
        world = World(photos, "all", "as-is", toolbox, f"final:{settings.metrics[0]}", settings.metrics, horizon, 0, pool=pool)
        agent = open_agent(settings.agent, world)
        observer = observer_for(agent, world)
        for photo in track(photos, "restoring", console=console, transient=True, disable=not console.is_terminal):
            trajectory = world.enter(photo.image, photo.name)
            finish(world, observer, agent, [trajectory])
            name = Path(photo.name).with_suffix("").as_posix().replace("/", "-")
            write_image(settings.out / f"{name}.png", trajectory.image)
            save_figure(trajectory.figure(settings.metrics), settings.out / f"{name}-steps.png")
            scores = "  ".join(
                f"{m} {trajectory.quality[m].raw:.2f} -> {score.raw:.2f}" for m, score in trajectory.end_quality.items()
            )
            console.print(f"{photo.name}: {' > '.join(trajectory.tool_names) or 'left as it is'}   {scores}")
            for failure in trajectory.failures:
                console.print(f"  {failure.message}")
    console.print(f"wrote {settings.out}")


if __name__ == "__main__":
    main(Restore, restore, __doc__)

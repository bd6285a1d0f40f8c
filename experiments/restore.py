"""Restore your own photographs with a trained agent, at full size.

    python experiments/restore.py photo.jpg --agent out/run
    python experiments/restore.py FOLDER --agent out/run --out restored

For each picture you get the result as PNG and a figure of the steps: which tool was applied, and what it did. No clean reference is
needed; the scores in the figure are no-reference ones. Your pictures are never written over, earlier results only with --overwrite.

PNG, JPEG, WebP, TIFF and BMP are read, others (HEIC) passed over. The orientation in EXIF is applied; other metadata and colour
profiles are not kept: convert to sRGB first. An agent with enlarging tools may make 16 times the pixels, beyond 64 million without
scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import track

from agents.agent import finish, observer_for
from agents.opening import open_agent
from experiments.console import at_least, main, plain_console
from experiments.evaluate import trained_with
from experiments.run import Run
from experiments.tool_pool import ToolPool
from pool import Pool, Problem
from rewards import Quality
from tir_env.drawing import save_figure
from tir_env.images import Image, write_image
from tir_env.images.sources import FileReader, Photo
from tir_env.images.sources import folder as pictures_in
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World

DEFAULT_OUT = Path("out/restored")


@dataclass
class Restore:
    photo: Annotated[Path, tyro.conf.Positional]
    """A picture, or a folder of pictures."""
    agent: str
    """The folder of a run, a training-free agent such as agenticir, a tool such as denoise/drunet, several in a row joined by +, or
    your own as module:Class."""
    out: Path = DEFAULT_OUT
    """Where the results go: NAME.png and NAME-steps.png; the default gets a number behind it where it holds one of them already."""
    overwrite: bool = False
    """Write over earlier results."""
    toolbox: str | None = None
    """The tools; not given: the run's, or else pocket."""
    horizon: int | None = None
    """Decisions for each picture; not given: the run's, or else 3."""
    metrics: tuple[str, ...] = ("piqe",)
    """No-reference qualities to show."""
    tool_pool: tyro.conf.OmitArgPrefixes[ToolPool] = field(default_factory=ToolPool)
    """Where the tools run."""


class Restorer:
    """An agent by name, ready for pictures as they are: the plug-in of `tir_env.mcp`, too."""

    def __init__(
        self, agent: str, toolbox: str | None, horizon: int | None, pool: Pool, metrics: Sequence[str] = ("piqe",)
    ) -> None:
        known = trained_with(agent) or Run()
        self.toolbox = Toolbox.load(toolbox or known.toolbox).with_weights_only()
        steps = known.horizon if horizon is None else horizon
        self.world = World("generated:1", "all", "as-is", self.toolbox, f"final:{metrics[0]}", metrics, steps, 0, pool=pool)
        self.agent = open_agent(agent, self.world)
        self.observer = observer_for(self.agent, self.world)
        self.name = self.agent.name

    def restore(self, image: Image, name: str = "photo") -> Trajectory:
        trajectory = self.world.enter(image, name)
        finish(self.world, self.observer, self.agent, [trajectory])
        return trajectory


def restore(settings: Restore) -> int:
    """The exit status is 1 where some picture could not be restored; the others are."""
    at_least(1, metrics=len(settings.metrics))
    photos, failed = pictures_in(settings.photo), 0
    names = output_names([photo.name for photo in photos])
    out = folder_for(settings, photos, names.values())
    out.mkdir(parents=True, exist_ok=True)
    console = plain_console()
    for problem in photos.problems:
        console.print(f"left out {problem}", soft_wrap=True)
    with settings.tool_pool.open() as pool:
        restorer = Restorer(settings.agent, settings.toolbox, settings.horizon, pool, settings.metrics)
        for photo in track(photos, "restoring", console=console, transient=True, disable=not console.is_terminal):
            try:
                trajectory = restorer.restore(photo.image, photo.name)
            except Problem as problem:
                console.print(f"{photo.name}: not restored: {problem}", soft_wrap=True)
                failed += 1
                continue
            name = names[photo.name]
            write_image(out / f"{name}.png", trajectory.image)
            save_figure(trajectory.figure(settings.metrics), out / f"{name}-steps.png")
            scores = "  ".join(
                f"{m} {raw(trajectory.quality, m)} -> {raw(trajectory.end_quality, m)}" for m in trajectory.last_quality
            )
            tools = " > ".join(trajectory.tool_names) or "left as it is"
            console.print(f"{photo.name}: {tools}   {scores}", soft_wrap=True)
            if trajectory.steps[-1].notes.get("cut"):
                console.print(
                    "  cut short: the agent had no room to say more, or said too much that was no call", soft_wrap=True
                )
            for message in dict.fromkeys(failure.message for failure in trajectory.failures):
                console.print(f"  {message}", soft_wrap=True)
    if failed < len(photos):
        console.print(f"wrote {out}", soft_wrap=True)
    return 1 if failed or photos.problems else 0


def raw(quality: Quality, metric: str) -> str:
    return f"{quality[metric].raw:.2f}" if metric in quality else "none"


def folder_for(settings: Restore, photos: Iterable[Photo], names: Iterable[str]) -> Path:
    """Where the results go: in the place of none of the pictures, nor of earlier results unless that is wanted."""
    files = [f"{name}{what}.png" for name in names for what in ("", "-steps")]
    out, number = settings.out, 1
    while settings.out == DEFAULT_OUT and not settings.overwrite and any((out / file).exists() for file in files):
        number += 1
        out = DEFAULT_OUT.with_name(f"{DEFAULT_OUT.name}-{number}")
    originals = {Path(photo.read.path).resolve() for photo in photos if isinstance(photo.read, FileReader)}
    for place in (out / file for file in files):
        if place.resolve() in originals:
            raise Problem(place, "is one of the pictures, which the result would be written over", "Choose another --out.")
        if place.exists() and not settings.overwrite:
            raise Problem(place, "is there already", "Choose another --out, or add --overwrite.")
    return out


def output_names(photos: Sequence[str]) -> dict[str, str]:
    """What each result is called: as its picture, without folder and suffix; those that would be called alike are numbered."""
    wanted = {photo: Path(photo).with_suffix("").as_posix().replace("/", "-") for photo in photos}
    names: dict[str, str] = {}
    # Whoever is alone with a name keeps it; the others give way, also to the files that show the steps.
    for photo in sorted(photos, key=lambda photo: sum(name == wanted[photo] for name in wanted.values())):
        name, number = wanted[photo], 1
        while {name, f"{name}-steps"} & {taken for each in names.values() for taken in (each, f"{each}-steps")}:
            number += 1
            name = f"{wanted[photo]}-{number}"
        names[photo] = name
    return names


if __name__ == "__main__":
    main(Restore, restore, __doc__)

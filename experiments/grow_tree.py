"""Grow a tree: run every sequence of tools on some starts, once, and keep all that an agent can ever see or be paid for.

    python experiments/grow_tree.py --out out/tree.safetensors                        as the one that ships was grown
    python experiments/grow_tree.py --toolbox mine.yaml --suite mio100-b --images FOLDER --depth 2 --out mine.safetensors
    python experiments/run.py --env tree:mine.safetensors                             train on it, in seconds

You see which start is being grown and how long it will take. Stopped or killed at any moment, run again it goes on: finished starts
lie beside the file in a folder until all are there. The starts of the train and the test part are of different photographs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console

from agents.clip_mlp.agent import EncoderSpec
from experiments.cells import contents_of, continued
from experiments.console import at_least, main, plain_console, write_json
from experiments.tool_pool import ToolPool
from experiments.tracking import display
from pool import Pool, Problem
from tir_env.images.sources import Part
from tir_env.starts import Pin
from tir_env.tools import Toolbox
from tir_env.trajectory import Start
from tir_env.tree.file import Tree
from tir_env.tree.growing import ground_of, grow
from tir_env.world import World

SETTINGS = "settings.json"


@dataclass
class Grow:
    out: Path
    """The file to write, such as tree.safetensors."""
    depth: int = 3
    """The longest sequence of tools."""
    train: int = 5
    """Starts of each case on photographs of the train part."""
    test: int = 2
    """Starts of each case on photographs of the test part."""
    images: str = "skimage,generated:16"
    """Clean photographs: skimage, generated:COUNT, a folder, or several joined by commas."""
    suite: str = "small"
    """What spoils them."""
    toolbox: str = "small"
    """The tools; those without their weights are left out."""
    metrics: tuple[str, ...] = ("psnr", "ssim", "fsim", "gmsd", "pocket-deqa", "piqe")
    """Qualities of every state; rewards can be made of these alone."""
    crop: int = 64
    """Side of the random crop; 0 for whole photographs."""
    haze: str = "synthetic"
    """Depth for haze: synthetic, folder:PATH (a map for each photograph) or model:ID."""
    encoder: str = "pocket-clip"
    """The frozen image encoder; none keeps no features (for oracles)."""
    pretrained: str = ""
    """open_clip's tag or a local file for its weights."""
    precision: Literal["float16", "float32"] = "float16"
    """Of the features. Rewards are always exact."""
    seed: int = 0
    """Decides photographs, crops and degradations."""
    tool_pool: tyro.conf.OmitArgPrefixes[ToolPool] = field(default_factory=ToolPool)
    """Where the tools run."""


def run(settings: Grow) -> None:
    at_least(1, depth=settings.depth, metrics=len(settings.metrics))
    at_least(0, train=settings.train, test=settings.test, seed=settings.seed)
    if settings.out.exists():
        raise Problem(settings.out, "is there already", "Name another file.")
    parts = settings.out.with_name(f"{settings.out.name}.parts")
    left_out = (
        "out",
        "tool_pool",
        *(["haze"] if settings.haze == Grow.haze else []),
    )  # as in parts of before there was another
    asked = {k: v for k, v in asdict(settings).items() if k not in left_out}
    told = continued(parts / SETTINGS, asked | contents_of([settings.toolbox, settings.suite]))
    write_json(parts / SETTINGS, told)
    torch.set_num_threads(1)
    console = plain_console()
    with settings.tool_pool.open(cache_bytes=0) as pool:  # no image is met twice
        trees = grow_all(settings, parts, pool, console)
    whole = Tree.joined(trees)
    whole.save(settings.out)
    shutil.rmtree(parts)
    size = settings.out.stat().st_size / 1e6
    console.print(f"{settings.out}: {len(whole.starts)} starts, {len(whole)} states, {size:.1f} MB", soft_wrap=True)


def grow_all(settings: Grow, parts: Path, pool: Pool, console: Console) -> list[Tree]:
    """The tree of every start, grown now or by an earlier call."""
    toolbox = Toolbox.load(settings.toolbox).with_weights_only()
    worlds = {
        part: World(
            settings.images, part, settings.suite, toolbox, f"gain:{settings.metrics[0]}", settings.metrics, settings.depth,
            settings.crop, depth=settings.haze, pool=pool,
        )
        for part, count in counts(settings).items() if count
    }  # fmt: skip
    if not worlds:
        raise Problem("--train and --test", "are both 0", "Ask for some starts.")
    encoder = None if settings.encoder == "none" else EncoderSpec(settings.encoder, settings.pretrained).open()
    wanted = [
        (part, start) for part, world in worlds.items() for start in starts_of(world, counts(settings)[part], settings.seed)
    ]
    trees: list[Tree] = []
    done = sum((parts / name_of(number)).exists() for number in range(len(wanted)))
    with display(console, len(wanted), done, lambda row: f"{row['states']:.0f} states", "start") as show:
        for number, (part, start) in enumerate(wanted):
            path = parts / name_of(number)
            if not path.exists():
                world, began = worlds[part], time.perf_counter()
                told = {"images": settings.images, "suite": settings.suite, "toolbox": settings.toolbox}
                told |= {"haze": settings.haze}
                ground = ground_of(world, settings.depth, encoder, **told)
                [trajectory] = world.begin([start])
                grow(world, trajectory, ground, encoder, part, settings.precision).save(path)
                done += 1
                show({"iteration": done, "states": sum(map(len, trees)), "seconds": time.perf_counter() - began})
            trees.append(Tree.load(path))
    return trees


def counts(settings: Grow) -> dict[Part, int]:
    return {"train": settings.train, "test": settings.test}


def starts_of(world: World, count: int, seed: int) -> Iterator[Start]:
    """As many of each case, each on a photograph that is drawn."""
    for case in range(len(world.suite)):
        yield from world.draw_many(seed + case, range(count), Pin(case=case))


def name_of(number: int) -> str:
    return f"{number:05d}.safetensors"


if __name__ == "__main__":
    main(Grow, run, __doc__)

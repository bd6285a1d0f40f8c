"""Contact sheets, to be looked at: `show.py cases`, `show.py extremes`, `show.py tools`.

    python experiments/show.py cases --suite mio100-a --image photo.jpg     every case of a suite
    python experiments/show.py extremes                                     each degradation at its mildest and strongest
    python experiments/show.py tools --toolbox pocket --image photo.jpg     each tool on what it is for

Without --image it is one of scikit-image's, without --out the sheet goes to out/.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from skimage.metrics import peak_signal_noise_ratio

from experiments.console import at_least, main
from tir_env.degradations import Case, Setting, Stage, degrade, open_depth, open_suite
from tir_env.drawing import draw_tiles, save_figure
from tir_env.images import Image, read_image
from tir_env.images.operations import resize_like
from tir_env.images.sources import open_images
from tir_env.tools import MADE_FOR, Toolbox

EXTREMES: dict[str, tuple[dict[str, Setting], ...]] = {
    "noise": ({"kind": "gaussian", "sigma": 20.0}, {"kind": "gaussian", "sigma": 50.0}, {"kind": "poisson", "scale": 1.0},
              {"kind": "poisson", "scale": 3.0}),
    "jpeg": ({"quality": 29}, {"quality": 10}),
    "dark": ({"kind": "shift", "shift": 30}, {"kind": "shift", "shift": 49}, {"kind": "gamma", "gamma": 0.7},
             {"kind": "gamma", "gamma": 0.5}, {"kind": "stretch", "peak": 149}, {"kind": "stretch", "peak": 100}),
    "haze": ({"beta": 0.6, "airlight": 0.7}, {"beta": 1.8, "airlight": 1.0}),
    "motion blur": ({"radius": 10, "sigma": 3.0, "angle": 30.0}, {"radius": 15, "sigma": 8.0, "angle": 30.0}),
    "defocus blur": ({"radius": 3, "alias": 0.1}, {"radius": 6, "alias": 0.5}),
    "rain": ({"value": 50, "length": 20, "angle": -30}, {"value": 99, "length": 39, "angle": 29}),
    "low resolution": ({},),
}  # fmt: skip


@dataclass
class Cases:
    """Every case of a suite on one photograph."""

    suite: str = "mio100-a"
    """A suite's name, a YAML file, or a case such as rain+haze."""
    image: Path | None = None
    """A photograph; without one, scikit-image's astronaut."""
    seed: int = 0
    """Decides what is drawn."""
    depth: str = "synthetic"
    """Depth for haze: synthetic, folder:PATH or model:ID."""
    out: Path = Path("out/cases.png")
    """Where the sheet goes."""


@dataclass
class Extremes:
    """Each degradation at the mildest and the strongest that the sources draw."""

    image: Path | None = None
    """A photograph; without one, scikit-image's astronaut."""
    seed: int = 0
    """Decides the noise, the rain and the depth."""
    out: Path = Path("out/extremes.png")
    """Where the sheet goes."""


@dataclass
class Tools:
    """Each tool of a toolbox on the degradation that it is for."""

    toolbox: str = "pocket"
    """pocket, full, rl-restore, or a YAML file. Tools without their weights are left out."""
    image: Path | None = None
    """A photograph; without one, scikit-image's astronaut."""
    case: str = ""
    """One case for all tools, such as noise+jpeg; by default each tool gets what it is for."""
    seed: int = 0
    """Decides what is drawn."""
    out: Path = Path("out/tools.png")
    """Where the sheet goes."""


def cases(settings: Cases) -> None:
    clean, name = photograph(settings.image)
    depth = open_depth(settings.depth)
    tiles = [(clean, "clean", name, False)]
    for case in open_suite(settings.suite):
        spoilt = degrade(clean, case, settings.seed, name=name, depth=depth)
        tiles.append((spoilt.image, case.name, describe(spoilt.record), False))
    finish(tiles, settings.out, columns=4)


def extremes(settings: Extremes) -> None:
    clean, name = photograph(settings.image)
    tiles = [(clean, "clean", name, False)]
    for degradation, extremes_of in EXTREMES.items():
        for pinned in extremes_of:
            spoilt = degrade(clean, Case(degradation, (Stage(degradation, pinned),)), settings.seed, name=name)
            tiles.append((spoilt.image, degradation, describe(spoilt.record), False))
    finish(tiles, settings.out, columns=6)


def tools(settings: Tools) -> None:
    clean, name = photograph(settings.image)
    tiles = [(clean, "clean", name, False)]
    shown: set[str] = set()
    for tool in track(sorted(Toolbox.load(settings.toolbox).with_weights_only(), key=lambda t: t.task), "tools"):
        case = settings.case or MADE_FOR[tool.task]
        spoilt = degrade(clean, Case.parse(case), settings.seed, name=name).image
        if case not in shown:
            tiles.append((spoilt, case, f"psnr {psnr(spoilt, clean):.2f}", True))
            shown.add(case)
        restored = tool(spoilt)
        change = psnr(restored, clean) - psnr(spoilt, clean)
        tiles.append((restored, tool.name, f"psnr {change:+.2f}", False))
    finish(tiles, settings.out, columns=6)


def photograph(path: Path | None) -> tuple[Image, str]:
    if path is None:
        photo = open_images("skimage").find("astronaut")
        return photo.image, photo.name
    return read_image(path), path.name


def psnr(image: Image, clean: Image) -> float:
    fitted = resize_like(image, clean)
    return float(peak_signal_noise_ratio(clean, fitted)) if not np.array_equal(clean, fitted) else float("inf")


def describe(record: list[dict[str, Any]]) -> str:
    """One line a degradation, seeds left out."""
    lines = []
    for entry in record:
        params = {k: v for k, v in entry["params"].items() if "seed" not in k}
        lines.append(", ".join(v if isinstance(v, str) else f"{k} {v:.3g}" for k, v in params.items()))
    return "\n".join(line for line in lines if line)


def finish(tiles: list[tuple[Image, str, str, bool]], out: Path, columns: int) -> None:
    save_figure(draw_tiles(tiles, columns=min(columns, len(tiles))), out, dpi=140)
    print(f"wrote {out}: {len(tiles)} pictures")


Sheet = Cases | Extremes | Tools


def run(settings: Sheet) -> None:
    at_least(0, seed=settings.seed)
    if isinstance(settings, Cases):
        cases(settings)
    elif isinstance(settings, Extremes):
        extremes(settings)
    else:
        tools(settings)


if __name__ == "__main__":
    main(Sheet, run, __doc__)  # type: ignore[arg-type]

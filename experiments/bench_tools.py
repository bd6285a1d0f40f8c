"""What each tool is good for: every tool on the degradation that it is for, on every image of a folder.

    python experiments/bench_tools.py --images FOLDER --toolbox pocket --json tools.json

Prints the mean change of PSNR and SSIM (over RGB; the metric `ssim` is of the luma) with its spread over the images, the share of
images that became better, and seconds an image on one core. Results are kept image by image in the JSON file: run it again to go on, or
with a larger --limit.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from experiments.cells import continued
from experiments.console import main, write_json
from tir_env.degradations import Case, degrade
from tir_env.images.operations import Image, resize_like
from tir_env.images.sources import open_images
from tir_env.tools import MADE_FOR, Tool, Toolbox

SIZES = {"128x128": (128, 128), "256x256": (256, 256), "480x320": (320, 480)}  # name: (height, width)
BEST_PSNR = 60.0  # dB, for images that are equal or nearly so


@dataclass(frozen=True)
class Options:
    images: str
    """A folder of clean photographs, or skimage."""
    toolbox: str = "pocket"
    """By name, or the path of a YAML file; tools without their weights are left out."""
    json: Path = Path("out/bench_tools.json")
    """Image-by-image results; an existing file is continued."""
    limit: int = 0
    """Only the first so many images; 0: all."""
    seed: int = 0
    """Of the degradations."""


def bench(options: Options) -> None:
    one_core()
    toolbox = Toolbox.load(options.toolbox).with_weights_only()
    photos = list(open_images(options.images))
    photos = photos[: options.limit or len(photos)]
    told = {"images": options.images, "toolbox": options.toolbox, "seed": options.seed}
    results = continued(options.json, told, images={}, seconds={})
    for number, photo in enumerate(photos):
        missing = [tool for tool in toolbox if photo.name not in results["images"].get(tool.name, {})]
        for task in {tool.task for tool in missing}:
            spoilt = degrade(photo.image, Case.parse(MADE_FOR[task]), options.seed * 1_000_003 + number, name=photo.name).image
            before = scores(spoilt, photo.image)
            for tool in missing:
                if tool.task == task:
                    results["images"].setdefault(tool.name, {})[photo.name] = gains(tool, spoilt, photo.image, before)
        if missing:
            write_json(options.json, results)
    for tool in toolbox:
        if tool.name not in results["seconds"]:
            results["seconds"][tool.name] = seconds(tool, photos[0].image, options.seed)
    write_json(options.json, results)
    names = {photo.name for photo in photos}
    console = Console()
    Console(width=None if console.is_terminal else 140).print(table(toolbox, results, names))


def one_core() -> None:
    cv2.setNumThreads(1)
    import torch

    torch.set_num_threads(1)


def scores(image: Image, reference: Image) -> tuple[float, float]:
    """PSNR (at most 60 dB) and scikit-image's SSIM over RGB; another size is made the reference's by bicubic interpolation first."""
    image = resize_like(image, reference)
    if np.array_equal(image, reference):
        return BEST_PSNR, 1.0
    psnr = min(BEST_PSNR, float(peak_signal_noise_ratio(reference, image, data_range=255)))
    return psnr, float(structural_similarity(reference, image, channel_axis=2, data_range=255))


def gains(tool: Tool, spoilt: Image, reference: Image, before: tuple[float, float]) -> dict[str, float]:
    result = tool(spoilt)
    tool.check(spoilt, result)
    psnr, ssim = scores(result, reference)
    return {"psnr": psnr - before[0], "ssim": ssim - before[1]}


def seconds(tool: Tool, photo: Image, seed: int, repeats: int = 5) -> dict[str, float]:
    """Median seconds of one call at each size, on a spoilt image."""
    photo = photo if photo.shape[1] >= photo.shape[0] else np.ascontiguousarray(photo.swapaxes(0, 1))
    out = {}
    for name, (height, width) in SIZES.items():
        clean = np.pad(photo, ((0, max(0, height - len(photo))), (0, max(0, width - photo.shape[1])), (0, 0)), mode="reflect")
        # Low resolution would shrink the image below the size that is asked for, so super-resolution is timed on a clean one.
        spoilt = clean = np.ascontiguousarray(clean[:height, :width])
        if tool.scale == 1:
            spoilt = degrade(clean, Case.parse(MADE_FOR[tool.task]), seed).image
        tool(spoilt)
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            tool(spoilt)
            times.append(time.perf_counter() - began)
        out[name] = statistics.median(times)
    return out


def table(toolbox: Toolbox, results: dict[str, Any], names: set[str]) -> Table:
    view = Table("tool", "dPSNR", "std", "better", "dSSIM (RGB)", "std", "better", *(f"ms {size}" for size in SIZES), "images")
    for tool in toolbox:
        rows = [row for name, row in results["images"].get(tool.name, {}).items() if name in names]
        if not rows:
            continue
        cells = []
        for metric, digits in (("psnr", 2), ("ssim", 3)):
            values = np.array([row[metric] for row in rows])
            cells += [f"{values.mean():+.{digits}f}", f"{values.std():.{digits}f}", f"{(values > 0).mean():.0%}"]
        times = [f"{results['seconds'][tool.name][size] * 1e3:.1f}" for size in SIZES]
        view.add_row(tool.name, *cells, *times, str(len(rows)))
    return view


if __name__ == "__main__":
    main(Options, bench, __doc__)

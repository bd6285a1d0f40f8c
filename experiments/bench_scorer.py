"""Is the shipped scorer fit to be a reward? pocket-deqa on photographs that it has not seen, beside piqe and entropy.

    python experiments/bench_scorer.py --images FOLDER --json scorer.json

For each photograph: do scores rank degraded versions as PSNR and SSIM (over RGB) do; do over-sharpened and over-smoothed versions rank
below the clean one; do scores rise and fall with PSNR when a right or a wrong tool is used. Results are kept image by image in the JSON
file: run it again to go on, or with a larger --limit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata, spearmanr

from experiments.bench_tools import SIZES, one_core, scores
from experiments.cells import continued
from experiments.console import main, write_json
from experiments.training.variants import MIXED, SINGLE, WEAK, sharpen, smooth
from pool import Model
from rewards.pocket_deqa import PocketDeqa
from rewards.quality import Metric
from tir_env.degradations import Case, degrade
from tir_env.images.operations import Image
from tir_env.images.sources import open_images
from tir_env.tools import MADE_FOR, Tool, Toolbox

TRUTH = ("psnr", "ssim")
RIVALS = ("piqe", "entropy")
WEAK_CASES = tuple(Case(f"weak {name}", (stage,)) for name, stage in WEAK.items())
SHARPEN = (0.5, 1.0, 2.0, 4.0, 8.0)  # amounts of unsharp masking, radius 1.5
SMOOTH = (0.7, 1.0, 1.5, 2.5, 4.0)  # Gaussian sigmas, pixels
REPEATED = {"sharpened": ("defocus_deblur/unsharp",), "smoothed": ("denoise/median", "denoise/tv", "denoise/bilateral")}
TIMES = 3
MATTERS = 0.2  # dB: smaller changes of PSNR are neither up nor down


@dataclass(frozen=True)
class Options:
    images: str
    """A folder of clean photographs, or skimage."""
    toolbox: str = "pocket"
    """By name, or the path of a YAML file; tools without their weights are left out."""
    json: Path = Path("out/bench_scorer.json")
    """Image-by-image results; an existing file is continued."""
    limit: int = 0
    """Only the first so many images; 0: all."""
    mixed: int = 8
    """Mixed degradations of each image, beside its single and weak ones."""
    tools: int = 4
    """Degraded versions of each image on which a right and a wrong tool are tried."""
    seed: int = 0
    """Of the degradations and the choice of tools."""


def bench(options: Options) -> None:
    one_core()
    toolbox = Toolbox.load(options.toolbox).with_weights_only()
    photos = list(open_images(options.images))
    photos = photos[: options.limit or len(photos)]
    told = {name: getattr(options, name) for name in ("images", "seed", "mixed", "tools", "toolbox")}
    results = continued(options.json, told, images={})
    scorer, rivals = PocketDeqa(), [Metric(name) for name in RIVALS]
    for model in (scorer, *rivals):
        model.load()
    for number, photo in enumerate(photos):
        if photo.name not in results["images"]:
            rng = np.random.Generator(np.random.PCG64([options.seed, number]))
            results["images"][photo.name] = {
                "degraded": list(degraded(photo.image, options, rng, [scorer, *rivals])),
                "overdone": overdone(photo.image, toolbox, scorer),
                "tools": list(tried(photo.image, options, rng, toolbox, scorer)),
            }
            write_json(options.json, results)
    results["ms"] = {size: milliseconds(scorer, photos[0].image, *SIZES[size]) for size in ("128x128", "480x320")}
    results["summary"] = summary([results["images"][photo.name] for photo in photos])
    write_json(options.json, results)
    console = Console()
    Console(width=None if console.is_terminal else 120).print(table(results, len(photos)))


def degraded(clean: Image, options: Options, rng: np.random.Generator, models: list[Model]) -> Iterator[dict[str, Any]]:
    """One row for each degraded version: PSNR and SSIM, and what every model says."""
    mixed = [MIXED[i] for i in rng.choice(len(MIXED), size=min(options.mixed, len(MIXED)), replace=False)]
    for case in (*SINGLE, *WEAK_CASES, *mixed):
        image = degrade(clean, case, int(rng.integers(2**32))).image
        values = {model.name.removeprefix("quality/"): rate(model, image) for model in models}
        yield {"case": case.name, **dict(zip(TRUTH, scores(image, clean), strict=True)), **values}


def overdone(clean: Image, toolbox: Toolbox, scorer: Model) -> dict[str, Any]:
    """The clean image's score, and those of over-sharpened and over-smoothed versions, by tools again and again, too."""
    rows: dict[str, dict[str, float]] = {
        "sharpened": {f"amount {amount:g}": rate(scorer, sharpen(clean, amount, 1.5)) for amount in SHARPEN},
        "smoothed": {f"sigma {sigma:g}": rate(scorer, smooth(clean, sigma)) for sigma in SMOOTH},
    }
    for way, names in REPEATED.items():
        for name in names:
            if name in toolbox:
                rows[way][f"{TIMES} x {name}"] = rate(scorer, again(toolbox[name], clean, TIMES))
    return {"clean": rate(scorer, clean), **rows}


def tried(
    clean: Image, options: Options, rng: np.random.Generator, toolbox: Toolbox, scorer: Model
) -> Iterator[dict[str, Any]]:
    """On some degraded versions a tool made for what is wrong, and one made for something else: how PSNR and the score change."""
    for index in rng.choice(len(SINGLE), size=min(options.tools, len(SINGLE)), replace=False):
        case = SINGLE[int(index)]
        image = degrade(clean, case, int(rng.integers(2**32))).image
        before, score = scores(image, clean)[0], rate(scorer, image)
        for right in (True, False):
            fit = [tool for tool in toolbox if (MADE_FOR[tool.task] == case.name) == right and (right or tool.scale == 1)]
            if fit:
                tool = fit[int(rng.integers(len(fit)))]
                result = tool(image)
                gains = {"psnr": scores(result, clean)[0] - before, "score": rate(scorer, result) - score}
                yield {"case": case.name, "tool": tool.name, "right": right, **gains}


def again(tool: Tool, image: Image, times: int) -> Image:
    for _ in range(times):
        image = tool(image)
    return image


def rate(model: Any, image: Image) -> float:
    [score] = model.run([(image, None)])
    return float(score.value)


def milliseconds(model: Any, photo: Image, height: int, width: int, repeats: int = 7) -> float:
    photo = photo if photo.shape[1] >= photo.shape[0] else np.ascontiguousarray(photo.swapaxes(0, 1))
    room = ((0, max(0, height - photo.shape[0])), (0, max(0, width - photo.shape[1])), (0, 0))
    image = np.ascontiguousarray(np.pad(photo, room, mode="reflect")[:height, :width])
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        rate(model, image)
        times.append((time.perf_counter() - began) * 1e3)
    return float(np.median(times[1:]))


# --- what it comes to -----------------------------------------------------------------------------------------------------------------


def summary(images: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything as [mean, std over images], but the correlations across images, which are one number over all rows."""
    out: dict[str, Any] = {}
    names = ("pocket-deqa", *RIVALS)
    for name in names:
        for truth in (*TRUTH, "both"):
            each = [correlation(image["degraded"], name, truth) for image in images]
            pooled = correlation([row for image in images for row in image["degraded"]], name, truth)
            out[f"{name}: rank correlation with {truth}"] = {"within": _mean(each), "across": pooled}
    ceiling = [spearmanr(*([row[truth] for row in image["degraded"]] for truth in TRUTH)).statistic for image in images]
    out["psnr: rank correlation with ssim"] = {"within": _mean(ceiling)}
    for way in REPEATED:
        below = [np.mean([score < image["overdone"]["clean"] for score in image["overdone"][way].values()]) for image in images]
        out[f"{way} below clean"] = _mean(below)
        for name in images[0]["overdone"][way]:
            out[f"{way} below clean, {name}"] = _mean(
                [image["overdone"][way][name] < image["overdone"]["clean"] for image in images]
            )
    clearly = [[row for row in image["tools"] if abs(row["psnr"]) >= MATTERS] for image in images]
    for kind, wanted in (("all", (True, False)), ("right", (True,)), ("wrong", (False,))):
        agree = [
            np.mean([(row["psnr"] > 0) == (row["score"] > 0) for row in chosen])
            for rows in clearly
            if (chosen := [row for row in rows if row["right"] in wanted])
        ]
        out[f"{kind} tools: score and psnr agree"] = _mean(agree)
    return out


def correlation(rows: list[dict[str, Any]], name: str, truth: str) -> float:
    """Spearman's, with PSNR, SSIM, or the mean of the ranks that the two give."""
    target = sum(rankdata([row[t] for row in rows]) for t in TRUTH) if truth == "both" else [row[truth] for row in rows]
    return float(spearmanr([row[name] for row in rows], target).statistic)


def _mean(values: Any) -> list[float]:
    return [float(np.mean(values)), float(np.std(values))]


def table(results: dict[str, Any], count: int) -> Table:
    view = Table(
        "figure", "mean", "std", "across images", title=f"pocket-deqa on {count} images of {results['settings']['images']}"
    )
    for name, value in results["summary"].items():
        within, across = (value["within"], value.get("across")) if isinstance(value, dict) else (value, None)
        view.add_row(name, f"{within[0]:.3f}", f"{within[1]:.3f}", "" if across is None else f"{across:.3f}")
    for size, value in results["ms"].items():
        view.add_row(f"ms for {size}", f"{value:.1f}", "", "")
    return view


if __name__ == "__main__":
    main(Options, bench, __doc__)

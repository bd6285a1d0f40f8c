"""What the encoder sees: zero-shot detection and severity of each degradation, and what a linear probe reads from its features.

    python experiments/bench_encoder.py --images FOLDER --json encoder.json

Every photograph is spoilt by every case once: not at all, by each of the eight degradations alone, and by the papers' mixed cases
(MiO100 A-C, Restore-R1 I-IV), parameters as the papers draw them. For a degradation the positives are the images whose case holds
it, the negatives all others, clean ones among them; `alone`: the same over images with at most one degradation. The rank of
severities is Spearman's against the parameter that was drawn: `alone` over weak to strong ones of this degradation only (see
`experiments/training/encoder.py`: WEAK), `mixed` over the positives. The probe is a logistic regression for all eight, trained on
the features of half of the photographs, tested on the others; beside it the same network with random weights. Spread: standard
deviation over bootstrap samples of photographs, and for the probe over splits (and over random weights).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from agents.encoder import Encoder
from agents.training_free.perceive import NAMES, perceive, prompts, prototypes
from experiments.console import at_least, main, write_json
from experiments.training import captions
from experiments.training.encoder import MIXED, WEAK, PocketClip, write_folder
from experiments.training.measures import auc, linear_probe, rank_correlation
from tir_env.degradations.suites import Case, Stage, degrade
from tir_env.images.operations import Image
from tir_env.images.sources import Photo, open_images

DEGRADATIONS = tuple(NAMES)
SIZES = {"8x8": (8, 8), "32x32": (32, 32), "128x128": (128, 128), "480x320": (320, 480), "1920x1080": (1080, 1920)}
Values = NDArray[np.float64]


@dataclass
class Settings:
    images: str
    """a folder of clean photographs, or skimage"""
    model: str = "pocket-clip"
    """any encoder: pocket-clip, an open_clip architecture, local-dir:FOLDER, hf-hub:OWNER/NAME"""
    pretrained: str = ""
    """tag or weight file, for an architecture by name"""
    limit: int = 0
    """only the first so many photographs; 0: all"""
    seed: int = 0
    """of degradations, splits, bootstrap and random weights"""
    splits: int = 5
    """of the photographs, for the probe"""
    random: int = 3
    """networks of random weights beside it (pocket-clip's configuration)"""
    json: Path | None = None
    """where the figures go"""


@dataclass
class Seen:
    """All images of the benchmark as encoders saw them: one row an image."""

    photo: NDArray[np.int64]
    case: NDArray[np.int64]  # into `cases()`; -1 for the images of one degradation, weak to strong
    severity: Values  # [images, degradations]
    features: list[Values]  # of each encoder, [images, dim]

    def rows(self, chosen: NDArray[Any]) -> Seen:
        return Seen(self.photo[chosen], self.case[chosen], self.severity[chosen], [f[chosen] for f in self.features])


def cases() -> list[Case]:
    """Clean, the eight alone, the mixed ones of the papers without repetition."""
    mixed = {case.degradations: case for case in MIXED}
    return [Case("clean", ()), *(Case.parse(name) for name in DEGRADATIONS), *mixed.values()]


def spoilt(photo: Photo, number: int, seed: int) -> Iterator[tuple[int, Image, Values]]:
    """Every image that is made of one photograph: (case, image, severities)."""
    for index, case in enumerate(cases()):
        made = degrade(photo.image, case, (seed * 1_000_003 + number) * 1000 + index, name=photo.name)
        yield index, made.image, captions.severities(made.record).astype(np.float64)
    rng = np.random.Generator(np.random.PCG64([seed, number]))
    for name in DEGRADATIONS:
        if name != "low resolution":  # which has no parameter
            settings = ({}, *WEAK[name])[int(rng.integers(1 + len(WEAK[name])))]
            made = degrade(photo.image, Case(name, (Stage(name, settings),)), int(rng.integers(2**32)), name=photo.name)
            yield -1, made.image, captions.severities(made.record).astype(np.float64)


def look(photos: Sequence[Photo], encoders: Sequence[Encoder], seed: int) -> Seen:
    numbers, kinds, severities = [], [], []
    features: list[list[Any]] = [[] for _ in encoders]
    for number, photo in enumerate(track(photos, "photographs", console=Console(stderr=True))):
        for kind, image, severity in spoilt(photo, number, seed):
            numbers.append(number)
            kinds.append(kind)
            severities.append(severity)
            for encoder, rows in zip(encoders, features, strict=True):
                rows += encoder.run([image])
    stacked = [np.stack(rows).astype(np.float64) for rows in features]
    return Seen(np.array(numbers), np.array(kinds), np.stack(severities), stacked)


def zero_shot(seen: Seen, scores: Values) -> dict[str, dict[str, float]]:
    """Per degradation: AUC over all cases and alone, rank of the severity alone and mixed."""
    single, wide = (seen.case >= 0) & (seen.case <= len(DEGRADATIONS)), seen.case < 0
    out = {}
    for index, name in enumerate(DEGRADATIONS):
        there, score, truth = seen.severity[:, index] > 0, scores[:, index], seen.severity[:, index]
        mixed = there & (seen.case > len(DEGRADATIONS))
        out[name] = {
            "auc": auc(score[~wide], there[~wide]),
            "auc alone": auc(score[single], there[single]),
            "rank alone": rank_correlation(score[wide & there], truth[wide & there]),
            "rank mixed": rank_correlation(score[mixed], truth[mixed]),
        }
    return out


def bootstrap(seen: Seen, scores: Values, rng: np.random.Generator, times: int = 50) -> dict[str, dict[str, float]]:
    """Standard deviations of `zero_shot` over samples of the photographs with replacement."""
    count = int(seen.photo.max()) + 1
    members = [np.flatnonzero(seen.photo == photo) for photo in range(count)]
    draws = []
    for _ in range(times):
        chosen = np.concatenate([members[photo] for photo in rng.integers(count, size=count)])
        draws.append(zero_shot(seen.rows(chosen), scores[chosen]))
    return {name: {key: float(np.std([draw[name][key] for draw in draws])) for key in draws[0][name]} for name in DEGRADATIONS}


def probe(seen: Seen, features: Values, split: np.random.Generator) -> list[float]:
    """AUC for each degradation on the photographs that the probe was not trained on."""
    photos = split.permutation(int(seen.photo.max()) + 1)
    train = np.isin(seen.photo, photos[: len(photos) // 2]) & (seen.case >= 0)
    test = ~np.isin(seen.photo, photos[: len(photos) // 2]) & (seen.case >= 0)
    there = seen.severity > 0
    logits = linear_probe(features[train], there[train], features[test])
    return [auc(logits[:, index], there[test, index]) for index in range(len(DEGRADATIONS))]


def milliseconds(encoder: Encoder, seed: int, repeats: int = 5) -> dict[str, float]:
    """Median time of one image on one core, or on the GPU if there is one. A core's time does not count what other programs take."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    rng, out = np.random.default_rng(seed), {}
    for name, shape in SIZES.items():
        image = rng.integers(0, 256, (*shape, 3), np.uint8)
        times = []
        for _ in range(repeats + 1):
            began = clock()
            encoder.run([image])
            times.append(clock() - began)
        out[name] = float(np.median(times[1:])) * 1e3
    return out


def random_encoders(count: int, seed: int, folder: Path) -> list[Encoder]:
    """pocket-clip's configuration with random weights, through the same files and loading."""
    encoders = []
    for index in range(count):
        torch.manual_seed(seed + index)
        write_folder(PocketClip().network(), folder / str(index))
        encoders.append(Encoder(f"local-dir:{folder / str(index)}"))
    return encoders


def run(settings: Settings) -> None:
    at_least(0, limit=settings.limit, seed=settings.seed, random=settings.random)
    at_least(2, splits=settings.splits)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    photos = list(open_images(settings.images))
    photos = photos[: settings.limit or len(photos)]
    encoder = Encoder(settings.model, settings.pretrained)
    with tempfile.TemporaryDirectory() as folder:
        encoders = [encoder, *random_encoders(settings.random, settings.seed, Path(folder))]
        seen = look(photos, encoders, settings.seed)
    scores = perceive(seen.features[0], prototypes(encoder.encode_text(prompts())), encoder.scale)
    probes = np.array(
        [
            [probe(seen, features, np.random.default_rng([settings.seed, split])) for split in range(settings.splits)]
            for features in seen.features
        ]
    )  # [encoders, splits, degradations]
    figures = {
        "settings": {**vars(settings), "json": str(settings.json)},
        "photographs": len(photos),
        "images": len(seen.photo),
        "zero shot": zero_shot(seen, scores),
        "zero shot std": bootstrap(seen, scores, np.random.default_rng(settings.seed)),
        "probe": _spread(probes[:1]),
        "probe of random weights": _spread(probes[1:]) if settings.random else {},
        "milliseconds": milliseconds(encoder, settings.seed),
    }
    write_json(settings.json, figures)
    _print(figures)


def _spread(values: Values) -> dict[str, dict[str, float]]:
    """[encoders, splits, degradations] to a mean and a standard deviation each."""
    flat = values.reshape(-1, values.shape[-1])
    return {
        name: {"auc": float(column.mean()), "std": float(column.std())}
        for name, column in zip(DEGRADATIONS, flat.T, strict=True)
    }


def _print(figures: dict[str, Any]) -> None:
    console = Console()
    wide = Console(width=None if console.is_terminal else 140)
    table = Table("degradation", "AUC", "AUC alone", "rank alone", "rank mixed", "probe", "probe, random weights")
    for name in DEGRADATIONS:
        row, std = figures["zero shot"][name], figures["zero shot std"][name]
        cells = ["-" if np.isnan(value) else f"{value:.3f} ± {std[key]:.3f}" for key, value in row.items()]
        for which in ("probe", "probe of random weights"):
            cells.append(f"{figures[which][name]['auc']:.3f} ± {figures[which][name]['std']:.3f}" if figures[which] else "-")
        table.add_row(name, *cells)
    wide.print(table)
    good = sum(row["auc"] >= 0.9 for row in figures["zero shot"].values())
    wide.print(
        f"{good} of {len(DEGRADATIONS)} reach an AUC of 0.9, over {figures['images']} images of {figures['photographs']} photographs"
    )
    wide.print("ms an image: " + ", ".join(f"{size} {value:.1f}" for size, value in figures["milliseconds"].items()))


if __name__ == "__main__":
    main(Settings, run, __doc__)

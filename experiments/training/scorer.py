"""The quality scorer that ships, pocket-deqa: DeQA-Score's recipe (arXiv:2501.11561) with measures in the place of people.

Labels are Gaussian soft labels of what PSNR, SSIM and GMSD agree on (`ratings.py`); pictures are many variants of the same clean one
(`variants.py`), made once and kept. The loss is DeQA-Score's: KL to the soft labels, and a fidelity loss on pairs of one picture.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.progress import track
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import nn

from experiments.training import ratings
from experiments.training.cards import write_card
from experiments.training.pictures import Pictures, turn
from experiments.training.trainer import Job, Plan, TrainingError
from experiments.training.variants import Maker, Variant, without_tools
from pool.errors import describe
from rewards.levels import LEVELS, expectation, soft_labels
from rewards.scorer_network import VIEW, ScorerNetwork, statistics
from tir_env.images.operations import Image, crop_at
from tir_env.images.sources import generated, skimage_photos
from tir_env.tools import Toolbox


@dataclass
class Scorer(Job):
    """A batch is `batch` clean pictures, `group` variants of each, seen in the same view: whole, or a crop, turned, recoloured.

    The network's statistics are fixed, so they are computed once for each view; what is trained are the layers behind them.
    """

    name: str = "pocket-deqa"
    toolboxes: tuple[str, ...] = ("pocket", "classical")
    # What is soft, flat or strange is no 5.
    pictures: Pictures = field(
        default_factory=lambda: Pictures(most=0.6, light=0.3, colour=0.3, collages=0.5, levels=0.85, flaws=True)
    )
    count: int = 400  # clean pictures with what tools make of their variants
    views: int = 4  # of each of them
    plain: int = 1600  # clean pictures without, in one view each: far cheaper, and it takes many to know what pictures are like
    touched: float = 0.35  # how many of a batch are of the first kind
    steps: int = 2500
    share: float = 15.0
    rate: float = 2e-3
    decay: float = 1e-2
    batch: int = 16
    group: int = 8
    size: int = 96  # of a crop
    pairs: float = 2.0  # weight of the loss on pairs
    photos: float = 0.7
    files: tuple[Path, ...] = ()  # of numbers
    plain_files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        self._read: dict[Path, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": {}}

    def prepare(self, plan: Plan) -> None:
        """Files for each clean picture: its variants, and what the network's statistics make of their views; the last alone for
        plain ones. Interrupted, it goes on; with a budget it takes two thirds of it at most, since the training itself needs little.
        """
        folder = plan.states / f"{self.name}-pictures-{plan.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        touched = [folder / f"{index:05d}.numbers.npz" for index in range(self.count)]
        plain = [folder / f"plain-{index:05d}.numbers.npz" for index in range(self.plain)]
        until = time.monotonic() + plan.budget * 2 / 3 if plan.budget else float("inf")
        # Alternating, so that there are some of each whenever time is up.
        wanted = sorted((index / len(paths), index, path) for paths in (touched, plain) for index, path in enumerate(paths))
        tasks = [(self, plan.seed, index, path, until) for _, index, path in wanted if not path.exists()]
        about = f"{self.name}: pictures"
        if plan.workers > 1 and len(tasks) > plan.workers:
            # Spawned: a forked child of a process whose PyTorch has threads may hang.
            with ProcessPoolExecutor(plan.workers, get_context("spawn"), _quiet) as workers:
                deque(track(workers.map(_make, tasks), about, total=len(tasks)), maxlen=0)
        elif tasks:
            deque(track(map(_make, tasks), about, total=len(tasks)), maxlen=0)
        self.files, self.plain_files = (tuple(path for path in paths if path.exists()) for paths in (touched, plain))

    def network(self) -> nn.Module:
        return ScorerNetwork()

    def sample(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        files = self.files if rng.random() < self.touched or not self.plain_files else self.plain_files
        path = files[int(rng.integers(len(files)))]
        if path not in self._read:
            numbers, labels = read_arrays(path, "numbers", "labels")
            self._read[path] = numbers, labels, soft_labels(labels[..., 0], labels[..., 1]).astype(np.float32)
        numbers, labels, soft = self._read[path]
        view = int(rng.integers(numbers.shape[1]))
        chosen = rng.choice(np.arange(1, len(numbers)), self.group, replace=False)
        if rng.random() < 0.9:
            chosen[0] = 0  # the clean one
        scores, spreads = labels[chosen, view].T
        return {
            "numbers": torch.from_numpy(numbers[chosen, view]),  # [group, statistics]
            "scores": torch.from_numpy(scores),
            "spreads": torch.from_numpy(spreads),
            "labels": torch.from_numpy(soft[chosen, view]),  # [group, 5]
        }

    def loss(self, network: Any, batch: Any) -> torch.Tensor:
        logits = (
            network.judge(batch["numbers"].flatten(0, 1)).float().unflatten(0, batch["scores"].shape)
        )  # [pictures, group, 5]
        kl = nn.functional.kl_div(logits.log_softmax(-1), batch["labels"], reduction="none").sum(-1).mean()
        return kl + self.pairs * fidelity(logits, batch["scores"], batch["spreads"])

    def figures(self, network: nn.Module) -> dict[str, float]:
        """Over variants of held-out pictures. Rank correlations are within a picture, as a reward needs them."""
        maker, rows, below = Maker(tools_of(self.toolboxes)), [], []
        device, errors = next(network.parameters()).device, []
        for index, clean in enumerate(held_out()):
            variants = maker.make(clean, np.random.Generator(np.random.PCG64([78, index])))
            maps = [ratings.measure(v.image, clean) for v in variants]
            values = np.array([[*ratings.measures(m)[:2], ratings.label(m)[0]] for m in maps])
            images = torch.from_numpy(np.stack([v.image for v in variants])).permute(0, 3, 1, 2).float().div(255)
            with torch.inference_mode():
                scores = expectation(network(images.to(device)).float()).cpu().numpy()
            rows.append([spearmanr(scores, values[:, column]).statistic for column in range(3)])
            errors.append(scores - values[:, 2])
            below.append([scores[i] < scores[0] for i in range(1, len(scores)) if values[i, 2] < 4.8])
        psnr, ssim, target = np.array(rows).T
        return {
            "rank correlation with PSNR": float(psnr.mean()),
            "rank correlation with SSIM": float(ssim.mean()),
            "rank correlation with the label": float(target.mean()),
            "its std over pictures": float(target.std()),
            "error of the score (RMS)": float(np.sqrt(np.mean(np.concatenate(errors) ** 2))),
            "variants below the clean picture": float(np.mean(np.concatenate(below))),
        }

    def file(self, folder: Path) -> Path:
        return folder / "rewards" / "weights" / f"{self.name}.safetensors"

    def ship(self, network: nn.Module, folder: Path, facts: dict[str, Any]) -> None:
        path = self.file(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {key: value.contiguous() for key, value in network.state_dict().items()}, path, metadata={"recipe": self.name}
        )
        size = sum(parameter.numel() for parameter in network.parameters())
        recipe = {
            "architecture": f"statistics of fixed filters at four scales, three layers behind them, {size:,} parameters",
            "labels": f"{_raters()}, each mapped to 1..5; std from their disagreement (`ratings.py`)",
            "pictures": f"{len(self.files)} clean ones with {_census(self.files)}; without tools {len(self.plain_files)} more, "
            f"with {_census(self.plain_files)} (`variants.py`)",
            "tools": f"those of {' and '.join(self.toolboxes)}, digests {_toolboxes(self.files)}",
            "loss": f"KL to Gaussian soft labels + {self.pairs:g} x fidelity loss on the pairs of one picture",
            "batch": f"{self.batch} pictures x {self.group} variants, {self.views} views each (whole, and crops of {self.size} pixels)",
        }  # fmt: skip
        about = "A no-reference quality score 1 to 5 after DeQA-Score's recipe, in small: a reward for pocket runs."
        write_card(path, self.name, about, recipe, facts)


def fidelity(logits: torch.Tensor, scores: torch.Tensor, spreads: torch.Tensor) -> torch.Tensor:
    """DeQA-Score's loss on pairs, here all pairs of one picture: 1 - sqrt(p q) - sqrt((1 - p)(1 - q)), with p and q how likely
    the first is the better one by label and by prediction, both taken as normal (Thurstone). [pictures, group, 5], [pictures, group].
    """
    levels = logits.new_tensor(LEVELS)
    probabilities = logits.softmax(-1)
    means = probabilities @ levels
    variances = (probabilities * (levels - means[..., None]) ** 2).sum(-1)
    p, q = _better(scores, spreads**2), _better(means, variances)
    loss = 1 - torch.sqrt(p * q + 1e-6) - torch.sqrt((1 - p) * (1 - q) + 1e-6)
    first, second = torch.triu_indices(scores.shape[-1], scores.shape[-1], offset=1)
    return loss[..., first, second].mean()


def _better(means: torch.Tensor, variances: torch.Tensor) -> torch.Tensor:
    """[..., group] to [..., group, group]: Φ((mean_i - mean_j) / sqrt(var_i + var_j))."""
    spread = torch.sqrt(variances[..., :, None] + variances[..., None, :] + 1e-4)
    return torch.special.ndtr((means[..., :, None] - means[..., None, :]) / spread)


def held_out() -> list[Image]:
    """Clean pictures that no training picture is cut from: two crops of scikit-image's validation photographs, and generated ones."""
    rng = np.random.Generator(np.random.PCG64(79))
    crops = []
    for photo in [*skimage_photos().part("validation"), *generated(6, seed=993, size=VIEW)]:
        height, width = photo.image.shape[:2]
        for _ in range(1 if height == width == VIEW else 3):
            crops.append(
                crop_at(photo.image, VIEW, (int(rng.integers(height - VIEW + 1)), int(rng.integers(width - VIEW + 1))))
            )
    return crops


def read_arrays(path: Path, *names: str) -> tuple[np.ndarray, ...]:
    try:
        with np.load(path) as made:
            return tuple(made[name] for name in names)
    except Exception as error:  # numpy and zipfile raise many kinds for a file that is cut short
        raise TrainingError(path, f"cannot be read ({describe(error)[:100]})", "Delete it; it is made again.") from error


# --- making the pictures, in processes of their own ----------------------------------------------------------------------------------


def _quiet() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@cache
def _maker(names: tuple[str, ...]) -> tuple[Maker, str]:
    toolbox = tools_of(names)
    return Maker(toolbox), toolbox_digest(toolbox)


def _make(task: tuple[Scorer, int, int, Path, float]) -> None:
    """The variants of one picture, and the statistics and labels of its views, for the file of numbers `path`."""
    job, seed, index, path, until = task
    if time.monotonic() > until:
        return
    if path.name.startswith("plain"):
        rng = np.random.Generator(np.random.PCG64([seed, 3000, index]))
        clean = job.pictures.draw(rng, VIEW, job.photos)
        made = _measured(without_tools(clean, rng), clean)
        sizes = [VIEW if rng.random() < 0.6 else job.size]
    else:
        pictures = path.with_name(f"{index:05d}.npz")
        if not pictures.exists():
            maker, digest = _maker(job.toolboxes)
            rng = np.random.Generator(np.random.PCG64([seed, 1000, index]))
            clean = job.pictures.draw(rng, VIEW, job.photos)
            _write(pictures, **_measured(maker.make(clean, rng), clean), toolbox=np.array(digest))
        made = dict(zip(names := ("images", "maps", "kinds", "toolbox"), read_arrays(pictures, *names), strict=True))
        rng = np.random.Generator(np.random.PCG64([seed, 2000, index]))
        sizes = [VIEW, *[job.size] * (job.views - 1)]
    seen = [view(made["images"], made["maps"], size, rng) for size in sizes]
    numbers, labels = (np.stack(parts, axis=1) for parts in zip(*seen, strict=True))
    _write(path, numbers=numbers, labels=labels, **{key: made[key] for key in ("kinds", "toolbox") if key in made})


def _measured(variants: Sequence[Variant], clean: Image) -> dict[str, np.ndarray]:
    return {
        "images": np.stack([v.image for v in variants]),
        "maps": np.stack([ratings.measure(v.image, clean) for v in variants]),
        "kinds": np.array([v.kind for v in variants]),
        "made": np.array([v.made for v in variants]),
    }


def view(images: np.ndarray, maps: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One crop of all variants, turned and with its colours exchanged: statistics [K, all], score and spread [K, 2]."""
    top, left = (int(v) for v in rng.integers(VIEW - size + 1, size=2))
    way, colours = int(rng.integers(8)), rng.permutation(3)
    crops = np.stack([turn(crop_at(image, size, (top, left)), way)[..., colours] for image in images])
    with torch.inference_mode():
        numbers = statistics(torch.from_numpy(crops).permute(0, 3, 1, 2).float().div(255)).numpy()
    row, column, blocks = round(top / ratings.BLOCK), round(left / ratings.BLOCK), size // ratings.BLOCK
    labels = [ratings.label(each[:, row : row + blocks, column : column + blocks]) for each in maps]
    return numbers, np.array(labels, np.float32)


def _write(path: Path, **arrays: np.ndarray) -> None:
    """Beside it and renamed, so that a file is whole or is not there."""
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    with beside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    beside.replace(path)


def tools_of(names: Sequence[str]) -> Toolbox:
    """The tools of several toolboxes, those of one name once; the ones whose weights are not there are left out."""
    tools = {tool.name: tool for name in names for tool in Toolbox.load(name).with_weights_only()}
    return Toolbox("+".join(names), tools.values())


def toolbox_digest(toolbox: Toolbox) -> str:
    """Which tools with which weights: eight hex digits."""
    parts = []
    for tool in toolbox:
        file = tool.engine.weights.found() if tool.engine.weights else None
        parts.append(f"{tool.name} {hashlib.sha256(file.read_bytes()).hexdigest() if file else ''}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _raters() -> str:
    return " + ".join(f"{weight:g} {name}" for weight, name in zip(ratings.WEIGHTS, ("PSNR", "SSIM", "GMSD"), strict=True))


def _census(files: Sequence[Path]) -> str:
    kinds = Counter(str(kind) for path in files for kind in np.load(path)["kinds"])
    return ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common() if kind != "clean")


def _toolboxes(files: Sequence[Path]) -> str:
    digests = Counter(str(np.load(path)["toolbox"]) for path in files)
    return ", ".join(f"{digest} ({number} pictures)" for digest, number in digests.most_common())

"""pocket-levels: trained to tell how much blur, noise and JPEG a patch has, in RL-Restore's levels, and how far it is from clean."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from agents.levels import POCKET
from agents.levels_network import TOLD, LevelsNetwork
from experiments.training.cards import write_card
from experiments.training.pictures import Pictures
from experiments.training.scorer import held_out
from experiments.training.trainer import Job
from rewards.scorer_network import statistics
from tir_env.degradations import Case, degrade
from tir_env.degradations.suites import Stage
from tir_env.images.operations import Image

SIDES = (48, 63, 63, 63, 80)  # pixels; 63 is RL-Restore's
MIDDLE, SPAN = np.array([5, 5, 5, 24]), np.array([3, 3, 3, 4])  # of what is told, so that the targets are about -1..1
MOST_PSNR = 40.0


@dataclass
class PocketLevels(Job):
    """A batch is `batch` clean patches, `group` versions of each, all levels equally likely."""

    name: str = POCKET
    pictures: Pictures = field(default_factory=lambda: Pictures(most=0.8, light=0.5, colour=0.5, collages=0.3, levels=0.5))
    steps: int = 4000
    share: float = 12.0
    rate: float = 2e-3
    decay: float = 1e-2
    batch: int = 4
    group: int = 16
    channels_last: bool = False

    def network(self) -> nn.Module:
        return LevelsNetwork()

    def sample(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        clean = self.pictures.draw(rng, int(rng.choice(SIDES)))
        numbers, targets = spoilt(clean, self.group, rng)
        return {"numbers": numbers, "targets": targets}

    def loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        told = network(batch["numbers"].flatten(0, 1))
        return nn.functional.smooth_l1_loss(told, batch["targets"].flatten(0, 1), beta=0.5)

    def figures(self, network: nn.Module) -> dict[str, float]:
        """Mean errors, in levels and dB, on pictures that it has not seen; how far the levels told go with the true ones."""
        rng = np.random.Generator(np.random.PCG64(83))
        device = next(network.parameters()).device
        made = [spoilt(clean[:63, :63], 16, rng) for clean in held_out() for _ in range(4)]
        with torch.inference_mode():
            told = network(torch.cat([numbers for numbers, _ in made]).to(device)).cpu().numpy()
        true = torch.cat([targets for _, targets in made]).numpy()
        errors = np.abs(told - true).mean(axis=0) * SPAN
        figures = {f"error of {name}": float(error) for name, error in zip(TOLD, errors, strict=True)}
        figures |= {f"correlation of {name}": float(np.corrcoef(told[:, i], true[:, i])[0, 1]) for i, name in enumerate(TOLD)}
        return figures

    def file(self, folder: Path) -> Path:
        return folder / "agents" / "weights" / self.name / "model.safetensors"

    def ship(self, network: nn.Module, folder: Path, facts: dict[str, Any]) -> None:
        path = self.file(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {key: value.contiguous() for key, value in network.state_dict().items()}, path, metadata={"recipe": self.name}
        )
        size = sum(parameter.numel() for parameter in network.parameters())
        recipe = {
            "architecture": f"statistics of fixed filters at four scales, three layers behind them, {size:,} parameters",
            "targets": "RL-Restore's levels of blur, noise and JPEG, 0 to 10 each, in this order; the PSNR, at most "
            f"{MOST_PSNR:g} dB",
            "loss": "smooth L1, of each scaled to about -1..1",
            "batch": f"{self.batch} patches of {min(SIDES)} to {max(SIDES)} pixels x {self.group} versions",
        }  # fmt: skip
        about = "An encoder of the light agent: it sees how much blur, noise and JPEG a small image has."
        write_card(path, self.name, about, recipe, facts)


def spoilt(clean: Image, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` versions of a patch: their statistics [count, all], and what is to be told of them [count, 4]."""
    levels = rng.integers(11, size=(count, 3))
    images = [degrade(clean, case(*each), int(rng.integers(2**32))).image for each in levels]
    errors = np.array([((image.astype(np.float32) - clean) ** 2).mean() for image in images])
    psnrs = np.minimum(MOST_PSNR, 10 * np.log10(255**2 / np.maximum(errors, 1e-3)))
    with torch.inference_mode():
        numbers = statistics(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(255))
    targets = (np.concatenate([levels, psnrs[:, None]], axis=1) - MIDDLE) / SPAN
    return numbers.clone(), torch.from_numpy(targets.astype(np.float32))


def case(blur: int, noise: int, jpeg: int) -> Case:
    settings = {"level blur": blur, "level noise": noise, "level jpeg": jpeg}
    return Case("levels", tuple(Stage(name, {"level": int(level)}) for name, level in settings.items()))

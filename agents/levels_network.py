"""The network of pocket-levels: statistics of an image to features, and from these to its levels. Imported on `load` only."""

from __future__ import annotations

import torch
from torch import nn

from agents.levels import DIM
from rewards.scorer_network import ScorerNetwork

MOST = 4.0  # standard deviations: what lies further out counts as that
WIDTH = 256
TOLD = ("blur", "noise", "jpeg", "psnr")


class LevelsNetwork(nn.Module):
    """[N, statistics] to [N, 4]: the levels of blur, noise and JPEG, and the PSNR, each scaled to about -1..1."""

    def __init__(self) -> None:
        super().__init__()
        numbers = ScorerNetwork().norm.num_features
        self.norm = nn.BatchNorm1d(numbers, affine=False)
        self.layers = nn.Sequential(
            nn.Linear(numbers, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(WIDTH, DIM), nn.LayerNorm(DIM, elementwise_affine=False),
        )  # fmt: skip
        self.told = nn.Sequential(nn.ReLU(), nn.Linear(DIM, len(TOLD)))

    def features(self, numbers: torch.Tensor) -> torch.Tensor:
        """[N, DIM]"""
        return self.layers(self.norm(numbers).clamp(-MOST, MOST))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.told(self.features(numbers))

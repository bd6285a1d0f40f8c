"""The network of pocket-deqa: an image of any size to five logits, excellent to bad.

Plain residual blocks that look at every pixel; what the stages see on average over the image goes to two small layers. Imports
PyTorch, so it is imported on `load` only.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (32, 64, 96, 128)
SMALL, VIEW = 96, 128  # pixels


class Block(nn.Module):
    """Two 3x3 convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(y)))


class ScorerNetwork(nn.Module):
    """[N, 3, H, W] in 0..1 to [N, 5] logits. Strides 2, 4, 8, 16; mean and spread of every stage's channels over the image."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, hidden: int = 128) -> None:
        super().__init__()
        stages = []
        for before, width in zip((3, *widths), widths, strict=False):
            enter = nn.Sequential(
                nn.Conv2d(before, width, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            )
            stages.append(nn.Sequential(enter, Block(width)))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Sequential(nn.Linear(2 * sum(widths), hidden), nn.ReLU(), nn.Linear(hidden, 5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x, seen = image * 2 - 1, []
        for stage in self.stages:
            x = stage(x)
            flat = x.flatten(2).float()
            seen += [flat.mean(2), flat.var(2, correction=0).add(1e-4).sqrt()]
        return self.head(torch.cat(seen, dim=1))


def as_seen(image: torch.Tensor) -> torch.Tensor:
    """Small pictures are enlarged by a whole factor, bicubic, as a viewer enlarges them: a thumbnail is not a sharp photograph.

    A picture whose shorter side is under `SMALL` comes to `VIEW` or more; any other is left as it is. DeQA-Score, too, scores on a
    canvas of one size; here large pictures keep all their detail. [N, 3, H, W] in 0..1.
    """
    height, width = image.shape[-2:]
    if min(height, width) >= SMALL:
        return image
    factor = math.ceil(VIEW / min(height, width))
    size = (height * factor, width * factor)
    return F.interpolate(image, size=size, mode="bicubic", antialias=True).clamp(
        0, 1
    )  # antialias: MATLAB's and Pillow's kernel

"""The network of pocket-deqa: an image of any size to five logits, excellent to bad.

Fixed filters at four scales and the statistics of what they give, as in BRISQUE (Mittal et al., 2012), then a small trained network.
Statistics are means and quantiles over the image at its full resolution. Imports PyTorch, so it is imported on `load` only.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

SCALES = 4
SMALL, VIEW, CANVAS = 96, 128, 256  # pixels
GREY = (0.299, 0.587, 0.114)
FILTERS = (  # first and second differences along rows, columns and diagonals; Laplacian
    ((0, 0, 0), (0, -1, 1), (0, 0, 0)), ((0, 0, 0), (0, -1, 0), (0, 1, 0)),
    ((0, 0, 0), (0, -1, 0), (0, 0, 1)), ((0, 0, 0), (0, -1, 0), (1, 0, 0)),
    ((0, 0, 0), (1, -2, 1), (0, 0, 0)), ((0, 1, 0), (0, -2, 0), (0, 1, 0)),
    ((0, 1, 0), (1, -4, 1), (0, 1, 0)), ((1, -2, 1), (-2, 4, -2), (1, -2, 1)),
)  # fmt: skip
SAMPLED = 1 << 14  # values of which quantiles are taken


class ScorerNetwork(nn.Module):
    """[N, 3, H, W] in 0..1 to [N, 5] logits."""

    def __init__(self, widths: tuple[int, int] = (256, 64)) -> None:
        super().__init__()
        first, second = widths
        self.norm = nn.BatchNorm1d(statistics(torch.zeros(1, 3, VIEW, VIEW)).shape[1])
        self.layers = nn.Sequential(
            nn.Linear(self.norm.num_features, first), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(first, second), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(second, 5),
        )  # fmt: skip

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.judge(statistics(image))

    def judge(self, numbers: torch.Tensor) -> torch.Tensor:
        """What `statistics` gives to logits. What lies far outside of all that was trained on counts as its edge."""
        return self.layers(self.norm(numbers).clamp(-4, 4))


def as_seen(image: torch.Tensor) -> torch.Tensor:
    """Small pictures are enlarged by a whole factor, bicubic, as a viewer enlarges them: a thumbnail is not a sharp photograph.

    A picture whose shorter side is under `SMALL` comes to `CANVAS` or more; any other is left as it is. DeQA-Score, too, scores on a
    canvas of one size; here large pictures keep all their detail. [N, 3, H, W] in 0..1.
    """
    height, width = image.shape[-2:]
    if min(height, width) >= SMALL:
        return image
    factor = math.ceil(CANVAS / min(height, width))
    size = (height * factor, width * factor)
    return F.interpolate(image, size=size, mode="bicubic", antialias=True).clamp(
        0, 1
    )  # antialias: MATLAB's and Pillow's kernel


# --- statistics: pure functions of [N, 3, H, W] in 0..1, each to [N, some] ----------------------------------------------------------


def statistics(image: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] to [N, all]: what is told apart by them is said at each part."""
    grey = (image * image.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
    parts = [_tones(image, grey), _colours(image), *_blocks(grey)]
    for _ in range(SCALES):
        parts.append(_structure(grey))
        grey = F.avg_pool2d(grey, 2)
    return torch.cat(parts, dim=1)


def _tones(image: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
    """Darkness, haze (a dark channel that is bright), clipped and flat tones, contrast that is not the same everywhere."""
    low, high = image.amin(1, keepdim=True), image.amax(1, keepdim=True)
    dark = -F.max_pool2d(-low, 7, stride=2, padding=3)
    shares = [(low < 1 / 510).flatten(1).float().mean(1), (high > 1 - 1 / 510).flatten(1).float().mean(1)]
    regions = F.adaptive_avg_pool2d(grey, 4).flatten(1)
    spread = _log(F.adaptive_avg_pool2d(grey**2, 4).flatten(1) - regions**2)
    return torch.cat(
        [
            _quantiles(grey, (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)), _quantiles(dark, (0.05, 0.5, 0.95)),
            _quantiles(high, (0.05, 0.5, 0.95)), _quantiles(high - low, (0.1, 0.5, 0.9)), torch.stack(shares, 1),
            regions.std(1, keepdim=True), spread.mean(1, keepdim=True), spread.std(1, keepdim=True), spread.amin(1, keepdim=True),
        ], dim=1,
    )  # fmt: skip


def _colours(image: torch.Tensor) -> torch.Tensor:
    """Noise and false colours: detail of the colours beside that of the brightness, at two scales; casts."""
    red, green, blue = image.split(1, dim=1)
    opponents = torch.cat([red - green, (red + green) / 2 - blue], dim=1)
    parts = [opponents.mean((2, 3)), _log(opponents.var((2, 3), correction=0))]
    for _ in range(2):
        detail = image[..., 1:] - image[..., :-1]
        energy = (detail**2).mean((2, 3))
        together = torch.stack([(detail[:, i] * detail[:, j]).mean((1, 2)) for i, j in ((0, 1), (0, 2), (1, 2))], dim=1)
        scale = torch.stack([energy[:, i] * energy[:, j] for i, j in ((0, 1), (0, 2), (1, 2))], dim=1)
        parts += [_log(energy), together / (scale.sqrt() + 1e-6)]
        image = F.avg_pool2d(image, 2)
    return torch.cat(parts, dim=1)


def _blocks(grey: torch.Tensor) -> list[torch.Tensor]:
    """JPEG's and mosaics' borders: steps between neighbours by their place modulo 8; how many neighbours are equal."""
    parts = []
    for picture in (grey, grey.transpose(2, 3)):
        steps = (picture[..., 1:] - picture[..., :-1]).abs()
        columns = steps.mean((1, 2))
        width = columns.shape[1] // 8 * 8
        phases = _log(columns[:, :width].unflatten(1, (-1, 8)).mean(1), 1e-4).sort(dim=1).values
        flat = (steps < 0.5 / 255).flatten(1).float().mean(1, keepdim=True)
        parts += [phases[:, 1:] - phases[:, :-1], phases[:, -1:] - phases[:, :1], flat]
    return parts


def _structure(grey: torch.Tensor) -> torch.Tensor:
    """Blur, noise, ringing and sharpening: energies and tails of derivatives, and of brightness normalised by its neighbourhood."""
    filters = grey.new_tensor(FILTERS)[:, None]
    responses = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), filters).flatten(2)
    energy = (responses**2).mean(2)
    tails = _log((responses**4).mean(2), 1e-10) - 2 * _log(energy, 1e-5)
    across, down = responses[:, 0], responses[:, 1]
    tilt = (energy[:, 0] - energy[:, 1]) ** 2 + 4 * (across * down).mean(1) ** 2
    one_way = tilt.sqrt() / (energy[:, 0] + energy[:, 1] + 1e-6)  # motion blur, rain
    mean = _blur(grey)
    sigma = (_blur(grey**2) - mean**2).clamp(min=0).sqrt()
    normal = (grey - mean) / (sigma + 1 / 255)
    normals = [(normal**2).mean((2, 3)), normal.abs().mean((2, 3)), (normal**4).mean((2, 3))]
    products = [
        normal[..., :, :-1] * normal[..., :, 1:], normal[..., :-1, :] * normal[..., 1:, :],
        normal[..., :-1, :-1] * normal[..., 1:, 1:], normal[..., :-1, 1:] * normal[..., 1:, :-1],
    ]  # fmt: skip
    pairs = [value for p in products for value in (p.mean((2, 3)), (p**2).mean((2, 3)), (p * p.abs()).mean((2, 3)))]
    return torch.cat(
        [
            _log(energy), tails, one_way[:, None], *normals, *pairs,
            _log(_quantiles(sigma, (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)), 1e-3),
            _log(_quantiles(responses[:, 6].abs(), (0.1, 0.5, 0.9, 0.99)), 1e-3),
        ], dim=1,
    )  # fmt: skip


def _blur(values: torch.Tensor) -> torch.Tensor:
    """Gaussian, sigma 7/6, 7 taps each way; borders repeated."""
    taps = torch.exp(-(torch.arange(-3, 4, device=values.device, dtype=values.dtype) ** 2) / (2 * (7 / 6) ** 2))
    taps = taps / taps.sum()
    padded = F.pad(values, (3, 3, 3, 3), mode="replicate")
    return F.conv2d(F.conv2d(padded, taps[None, None, None, :]), taps[None, None, :, None])


def _log(values: torch.Tensor, floor: float = 1e-6) -> torch.Tensor:
    return (values.clamp(min=0) + floor).log()


def _quantiles(values: torch.Tensor, at: tuple[float, ...]) -> torch.Tensor:
    """[N, ...] to [N, len(at)], from every k-th value of large images."""
    flat = values.flatten(1)
    flat = flat[:, :: max(1, flat.shape[1] // SAMPLED) | 1].contiguous()
    return torch.quantile(flat, flat.new_tensor(at), dim=1).T

"""Image operations as pool models, for benchmarks and drills: eight of 0.05-2 ms and eight of 1-50 ms at 256x256 on a core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from pool import Model, Traits

Image = np.ndarray  # uint8 [H, W, 3]
_GAMMA = (255 * (np.arange(256) / 255) ** 0.8).astype(np.uint8)
_SHARP = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32)


def gamma(x: Image) -> Image:
    return cv2.LUT(x, _GAMMA)


def gauss(x: Image) -> Image:
    return cv2.GaussianBlur(x, (5, 5), 1.0)


def sharpen(x: Image) -> Image:
    return cv2.filter2D(x, -1, _SHARP)


def median(x: Image) -> Image:
    return cv2.medianBlur(x, 5)


def unsharp(x: Image) -> Image:
    return cv2.addWeighted(x, 1.5, cv2.GaussianBlur(x, (0, 0), 2.0), -0.5, 0)


def bilateral(x: Image) -> Image:
    return cv2.bilateralFilter(x, 5, 30, 30)


def clahe(x: Image) -> Image:
    lab = cv2.cvtColor(x, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def white_balance(x: Image) -> Image:
    mean = x.reshape(-1, 3).mean(0)
    return np.clip(x * (mean.mean() / np.maximum(mean, 1)), 0, 255).astype(np.uint8)


def wide_bilateral(x: Image) -> Image:
    return cv2.bilateralFilter(x, 7, 30, 30)


def wider_bilateral(x: Image) -> Image:
    return cv2.bilateralFilter(x, 15, 30, 30)


def dehaze(x: Image) -> Image:
    dark = cv2.erode(x.min(2), np.ones((15, 15), np.uint8))
    air = max(1.0, float(dark.max()))
    through = np.maximum(cv2.GaussianBlur((1 - 0.9 * dark / air).astype(np.float32), (0, 0), 8), 0.1)
    return np.clip((x.astype(np.float32) - air) / through[..., None] + air, 0, 255).astype(np.uint8)


def wavelet(x: Image) -> Image:
    from skimage.restoration import denoise_wavelet

    return (255 * np.clip(denoise_wavelet(x / 255.0, channel_axis=-1), 0, 1)).astype(np.uint8)


def total_variation(x: Image) -> Image:
    from skimage.restoration import denoise_tv_chambolle

    return (255 * np.clip(denoise_tv_chambolle(x / 255.0, 0.05, max_num_iter=10, channel_axis=-1), 0, 1)).astype(np.uint8)


def nlm(x: Image) -> Image:
    return cv2.fastNlMeansDenoisingColored(x, None, 5, 5, 3, 11)


class Operation(Model):
    """A function image -> image as a model."""

    def __init__(self, function: Callable[[Image], Image], cost: float = 0.0) -> None:
        self.name, self.function = function.__name__, function
        self.traits = Traits(memory=1 << 20, cost=cost)

    def load(self) -> None:
        cv2.setNumThreads(0)

    def run(self, items: Sequence[Any]) -> list[Any]:
        return [self.function(item) for item in items]

    def check(self, item: Any, result: Any) -> None:
        if result.shape != item.shape or result.dtype != np.uint8:
            raise ValueError(f"expected uint8 {item.shape}, got {result.dtype} {result.shape}")


class Network(Model):
    """A small convolutional denoiser with random weights: what it computes does not matter here, only what it costs."""

    name = "network"
    traits = Traits(memory=8 << 20)

    def load(self) -> None:
        import torch
        from torch import nn

        torch.set_num_threads(1)
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
        self.network = nn.Sequential(*body, nn.Conv2d(16, 3, 3, padding=1)).eval()

    def run(self, items: Sequence[Any]) -> list[Any]:
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(np.stack(items)).permute(0, 3, 1, 2).float() / 255
            y = (x + self.network(x)).clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1)
        return list(y.contiguous().numpy())


def light() -> list[Model]:
    return [Operation(function) for function in (gamma, gauss, sharpen, median, unsharp, bilateral, clahe, white_balance)]


def mix() -> list[Model]:
    functions = (white_balance, wide_bilateral, dehaze, wavelet, wider_bilateral, total_variation, nlm)
    return [*map(Operation, functions), Network()]


def photographs(size: int, count: int, seed: int = 0) -> list[Image]:
    """Distinct noisy crops of the photographs that ship with scikit-image."""
    from skimage import data

    rng = np.random.default_rng(seed)
    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    images = []
    for index in range(count):
        source = sources[index % len(sources)]
        side = int(rng.integers(128, min(source.shape[:2])))
        top, left = (int(rng.integers(0, extent - side + 1)) for extent in source.shape[:2])
        crop = cv2.resize(source[top : top + side, left : left + side], (size, size)).astype(np.int16)
        images.append(np.clip(crop + rng.integers(-20, 21, crop.shape, dtype=np.int16), 0, 255).astype(np.uint8))
    return images

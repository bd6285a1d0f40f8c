"""For rain: streaks are thin, bright, alike in all three channels, and all lean one way."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from tir_env.images.operations import Image, quantize
from tir_env.tools.classical.filters import guided

Plane = NDArray[np.float32]


def directional(image: Image, width: int = 9, length: int = 15, share: float = 1.5) -> Image:
    """What is brighter than anything across the streaks, as far as it goes on along them, is taken away from all channels."""
    values = image.astype(np.float32)
    angle = lean(image)
    excess = _excess(values, segment(width, angle + 90))
    along = segment(length, angle).astype(np.float32)
    persistent = np.asarray(cv2.filter2D(excess, -1, along / along.sum(), borderType=cv2.BORDER_REFLECT_101))
    return quantize(values - np.minimum(excess, share * persistent)[..., None])


def guided_residual(image: Image, width: int = 7, radius: int = 8, flat: float = 0.01) -> Image:
    """What rises above a base that a guided filter builds on the rain-free (opened) image, shared by all channels, is taken away."""
    values = image.astype(np.float32) / np.float32(255)
    across = np.ones((1, width), np.uint8)
    opened = np.stack([cv2.morphologyEx(values[..., c], cv2.MORPH_OPEN, across) for c in range(3)], axis=2)
    excess = (values - opened).min(axis=2)
    grey = values.mean(axis=2)
    base = guided(opened.mean(axis=2), grey, radius, flat)
    rain = np.minimum(excess, np.maximum(grey - base, 0) + excess / 2)
    return quantize((values - rain[..., None]) * 255)


def lean(image: Image, step: int = 5, limit: int = 60) -> int:
    """The streaks' angle from the vertical in degrees: along it, averages of the bright detail stand out most (third moment)."""
    common = image.min(axis=2).astype(np.float32)
    detail = common - cv2.GaussianBlur(common, (0, 0), 3)

    def strength(angle: int) -> float:
        along = segment(21, angle).astype(np.float32)
        mean = np.asarray(cv2.filter2D(detail, -1, along / along.sum(), borderType=cv2.BORDER_REFLECT_101))
        return float((np.maximum(mean, 0) ** 3).mean())

    return max(range(-limit, limit + 1, step), key=strength)


@lru_cache(maxsize=256)
def segment(length: int, angle: int) -> NDArray[np.uint8]:
    """A line of ones through the middle of a length x length square (made odd), at this angle from the vertical."""
    half = length // 2
    mask = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
    steps = np.linspace(-half, half, 4 * length)
    rows = np.rint(half + steps * math.cos(math.radians(angle))).astype(int)
    columns = np.rint(half + steps * math.sin(math.radians(angle))).astype(int)
    mask[rows, columns] = 1
    return mask


def _excess(values: NDArray[np.float32], across: NDArray[np.uint8]) -> Plane:
    """White top-hat, the least of the three channels: rain lights all of them alike, coloured detail does not."""
    hats = [values[..., c] - cv2.morphologyEx(values[..., c], cv2.MORPH_OPEN, across) for c in range(3)]
    return np.asarray(np.min(hats, axis=0))

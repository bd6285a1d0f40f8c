"""For haze: the transmission t is estimated from a prior on haze-free photographs, and I = J t + A (1 - t) solved for J."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tir_env.images.operations import Image, from_unit, to_unit
from tir_env.tools.classical.filters import guided

Plane = NDArray[Any]  # float32 [H, W]


def dark_channel(image: Image, patch: int = 15, keep: float = 0.95, lowest: float = 0.3) -> Image:
    """Dark channel prior (He et al., 2009): near any pixel of a clear photograph some channel is almost black."""
    values = to_unit(image)
    dark = _erode(values.min(axis=2), patch)
    light = _airlight(values, dark)
    transmission = 1 - keep * _erode((values / light).min(axis=2), patch)
    transmission = guided(cv2.cvtColor(values, cv2.COLOR_RGB2GRAY), transmission, 30, 1e-3)
    return _solve(values, transmission, light, lowest)


def colour_attenuation(image: Image, patch: int = 15, strength: float = 1.6, lowest: float = 0.3) -> Image:
    """Colour attenuation prior (Zhu et al., 2015): haze makes bright and pale, so depth is linear in V and S of HSV."""
    values = to_unit(image)
    brightness = values.max(axis=2)
    saturation = (brightness - values.min(axis=2)) / np.maximum(brightness, np.float32(1e-6))
    depth = (0.121779 + 0.959710 * brightness - 0.780245 * saturation).astype(np.float32)
    depth = guided(cv2.cvtColor(values, cv2.COLOR_RGB2GRAY), _erode(depth, patch), 30, 1e-3)
    light = _airlight(values, depth)
    return _solve(values, np.exp(-strength * depth), light, lowest)


def _erode(values: Plane, patch: int) -> Plane:
    return np.asarray(cv2.erode(values, np.ones((patch, patch), np.uint8)))


def _airlight(values: NDArray[np.float32], haziness: Plane) -> NDArray[np.float32]:
    """The mean colour of the haziest thousandth of the pixels, kept off black."""
    count = max(1, haziness.size // 1000)
    haziest = np.argpartition(haziness.ravel(), -count)[-count:]
    return np.maximum(values.reshape(-1, 3)[haziest].mean(axis=0), np.float32(0.05))


def _solve(values: NDArray[np.float32], transmission: Plane, light: NDArray[np.float32], lowest: float) -> Image:
    return from_unit((values - light) / np.clip(transmission, lowest, 1)[..., None] + light)

"""For dark images. The first three are AgenticIR's own, to the byte: each changes only the V of HSV."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from tir_env.images.operations import Image, quantize

Plane = NDArray[np.uint8]


def clahe(image: Image, clip: float = 2.0, grid: int = 8) -> Image:
    """Contrast-limited adaptive histogram equalisation of V on grid x grid regions."""
    equaliser = cv2.createCLAHE(clipLimit=clip, tileGridSize=(grid, grid))
    return _on_value(image, lambda value: np.asarray(equaliser.apply(value), np.uint8))


def gamma(image: Image, exponent: float = 2 / 3) -> Image:
    """V to the power of 2/3."""
    levels = np.rint((np.arange(256) / 255.0) ** exponent * 255).astype(np.uint8)
    return _on_value(image, lambda value: levels[value])


def shift(image: Image, amount: int = 40) -> Image:
    """V plus 40, cut at 255."""
    levels = np.clip(np.arange(256) + amount, 0, 255).astype(np.uint8)
    return _on_value(image, lambda value: levels[value])


def _on_value(image: Image, change: Callable[[Plane], Plane]) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = change(np.ascontiguousarray(hsv[..., 2]))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)  # type: ignore[return-value]


def stretch(image: Image, low: float = 0.1, high: float = 99.9) -> Image:
    """One gain and offset for all channels, so that V spans the full range: undoes a linear darkening. Percentiles set the ends."""
    value = image.max(axis=2)
    bottom, top = np.percentile(value, [low, high])
    if top - bottom < 1:
        return image.copy()
    return quantize((image.astype(np.float32) - bottom) * (255 / (top - bottom)))

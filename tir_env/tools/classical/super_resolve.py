"""Four times as large. Plain bicubic is not among them: outputs are scored at the reference's size through it, so it gains nothing."""

from __future__ import annotations

import cv2
import numpy as np

from tir_env.images.operations import Image, quantize, resize_bicubic


def lanczos(image: Image, scale: int = 4, radius: float = 2.0, amount: float = 0.6) -> Image:
    """Lanczos, then unsharp masking."""
    size = (image.shape[1] * scale, image.shape[0] * scale)
    large = np.asarray(cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_LANCZOS4))
    return quantize(large + amount * (large - cv2.GaussianBlur(large, (0, 0), radius)))


def back_projection(image: Image, scale: int = 4, rounds: int = 4) -> Image:
    """Bicubic, corrected until shrinking it gives the input again (Irani and Peleg, 1991)."""
    height, width = image.shape[:2]
    small = image.astype(np.float64)
    large = resize_bicubic(small, height * scale, width * scale)
    for _ in range(rounds):
        large += resize_bicubic(small - resize_bicubic(large, height, width), height * scale, width * scale)
    return quantize(large)

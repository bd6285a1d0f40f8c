"""For JPEG artefacts: blocks and ringing. The quality of the compression is found in the pixels, and sets the strength."""

from __future__ import annotations

import cv2
import numpy as np

from tir_env.images.operations import Image, quantize
from tir_env.tools.classical.denoise import OPPONENT, shifted_dct_threshold

QUALITIES = (*range(5, 50), *range(50, 96, 5))


def shifted(image: Image, step: int = 2) -> Image:
    """Compressed again on shifted block grids and averaged (Nosratinia, 2001): what blocks add, other blocks take away."""
    quality = estimate_quality(image)
    height, width = image.shape[:2]
    padded = np.pad(image, ((8, 8), (8, 8), (0, 0)), mode="symmetric")
    total = np.zeros(image.shape, np.float32)
    offsets = [(top, left) for top in range(0, 8, step) for left in range((top // step) % 2, 8, step)]
    for top, left in offsets:
        window = np.ascontiguousarray(padded[top : top + height + 8, left : left + width + 8])
        total += recompress(window, quality)[8 - top : 8 - top + height, 8 - left : 8 - left + width]
    return quantize(total / len(offsets))


def dct(image: Image, strength: float = 1.3, step: int = 2) -> Image:
    """Small coefficients of shifted 8x8 cosine transforms set to zero; the threshold follows the quantisation step."""
    values = image.astype(np.float32) @ OPPONENT.T
    threshold = max(strength * coarseness(estimate_quality(image)), 1e-3)
    return quantize(shifted_dct_threshold(values, threshold, step) @ OPPONENT)


def coarseness(quality: int) -> float:
    """The scale of the quantisation table at this quality, in grey levels: 10 at quality 50, 50 at quality 10."""
    return 500 / quality if quality < 50 else 20 - quality / 5


def estimate_quality(image: Image) -> int:
    """The lowest quality at which compressing again changes little: JPEG is almost its own fixed point. 95 if there is none."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    flat = grey.astype(np.float32)
    errors = [float(np.square(recompress(grey, quality).astype(np.float32) - flat).mean()) for quality in QUALITIES]
    for i, error in enumerate(errors[:-2]):
        if error < 0.7 * errors[i + 2] and error <= errors[i + 1]:
            return QUALITIES[i]
    return QUALITIES[-1]


def recompress(image: Image, quality: int) -> Image:
    """Through JPEG at this quality and back; colour or grey."""
    colour = image.ndim == 3
    encoded, data = cv2.imencode(".jpg", image[..., ::-1] if colour else image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE) if encoded else None
    if decoded is None:
        raise ValueError(f"the JPEG encoder refused an image of {image.shape[1]}x{image.shape[0]} pixels")
    return np.ascontiguousarray(decoded[..., ::-1] if colour else decoded, np.uint8)

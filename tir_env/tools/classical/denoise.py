"""For noise: filters whose strength follows the noise that they find in the image."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from skimage.restoration import denoise_tv_chambolle, denoise_wavelet, estimate_sigma

from tir_env.images.operations import Image, from_unit, quantize, to_unit

QUIET = 0.5  # grey levels; below this there is nothing to remove


def noise_level(image: Image) -> float:
    """Standard deviation of the noise in grey levels: the median of the finest wavelet coefficients, mean over the channels."""
    sigma = float(np.mean(estimate_sigma(image.astype(np.float32), channel_axis=2)))
    return sigma if np.isfinite(sigma) else 0.0  # an image without any coefficient but zero has no median


def nlm(image: Image, strength: float = 0.7, colour: float = 0.9) -> Image:
    """Non-local means: each pixel becomes a mean of pixels whose surroundings look alike."""
    sigma = noise_level(image)
    if sigma < QUIET:
        return image.copy()
    return cv2.fastNlMeansDenoisingColored(image, None, strength * sigma, colour * sigma, 5, 15)  # type: ignore[return-value]


def bilateral(image: Image, strength: float = 5.0, radius: float = 3.0) -> Image:
    """A mean over near pixels of like colour."""
    sigma = noise_level(image)
    values = image.astype(np.float32)
    return quantize(cv2.bilateralFilter(values, 9, max(strength * sigma, 1e-3), radius))


def median(image: Image, side: int = 5) -> Image:
    """The median of a side x side neighbourhood, channel by channel."""
    return np.asarray(cv2.medianBlur(image, side), np.uint8)


def total_variation(image: Image, strength: float = 1.0) -> Image:
    """The image of least total variation near this one (Chambolle)."""
    sigma = noise_level(image)
    if sigma < QUIET:
        return image.copy()
    return from_unit(denoise_tv_chambolle(to_unit(image), weight=strength * sigma / 255, max_num_iter=60, channel_axis=2))


def wavelet(image: Image) -> Image:
    """Wavelet coefficients shrunk by BayesShrink in YCbCr."""
    # The noise is estimated inside, channel by channel: it is weaker in Cb and Cr than in Y.
    values = denoise_wavelet(
        to_unit(image), wavelet="sym4", mode="soft", method="BayesShrink", convert2ycbcr=True, channel_axis=2
    )
    return from_unit(np.asarray(values))


def dct(image: Image, strength: float = 3.2, step: int = 2) -> Image:
    """Small coefficients of the 8x8 cosine transform set to zero, averaged over shifted block grids (Yu and Sapiro, 2011)."""
    sigma = noise_level(image)
    if sigma < QUIET:
        return image.copy()
    values = image.astype(np.float32) @ OPPONENT.T
    return quantize(shifted_dct_threshold(values, strength * sigma, step) @ OPPONENT)


# Orthonormal: grey, red-blue, and green against both. Noise keeps its level, and colour detail is mostly in the first.
OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32) / np.sqrt(np.array([[3], [2], [6]], np.float32))


def shifted_dct_threshold(values: NDArray[Any], threshold: float, step: int, size: int = 8) -> NDArray[Any]:
    """Hard thresholding in size x size blocks, mean over grids shifted by `step`, weighted by how sparse each block became."""
    height, width, channels = values.shape
    padded = np.pad(values, ((size, size + -height % size), (size, size + -width % size), (0, 0)), mode="symmetric")
    total, weight = np.zeros_like(padded), np.zeros_like(padded)
    rows, columns = padded.shape[0] // size - 1, padded.shape[1] // size - 1
    for top in range(0, size, step):
        for left in range(0, size, step):
            window = np.s_[top : top + rows * size, left : left + columns * size]
            blocks = padded[window].reshape(rows, size, columns, size, channels).transpose(0, 2, 4, 1, 3)
            spectrum = dctn(blocks, axes=(3, 4), norm="ortho")
            kept = np.abs(spectrum) > threshold
            kept[..., 0, 0] = True
            share = 1 / kept.sum(axis=(3, 4), keepdims=True, dtype=np.float32)
            blocks = idctn(spectrum * kept, axes=(3, 4), norm="ortho") * share
            total[window] += blocks.transpose(0, 3, 1, 4, 2).reshape(rows * size, columns * size, channels)
            weight[window] += (
                np.broadcast_to(share, blocks.shape).transpose(0, 3, 1, 4, 2).reshape(rows * size, columns * size, channels)
            )
    inside = np.s_[size : size + height, size : size + width]  # corners of the padding may be in no block
    return total[inside] / weight[inside]

"""What a picture is worth, measured against the clean one: three full-reference measures as raters, and what they agree on.

DeQA-Score learns from people's ratings, a mean and a spread for each image. Here PSNR, SSIM and GMSD rate, each through a monotone
map to 1 (bad) to 5 (equal to the clean image); the label is their mean, and its spread how far they disagree:

| rating | PSNR, dB | 1 - SSIM | GMSD |
|---|---|---|---|
| 5 | 40 and more | 0.01 and less | 0.004 and less |
| 4 | 32.5 | 0.032 | 0.0126 |
| 3 | 25 | 0.1 | 0.04 |
| 2 | 17.5 | 0.32 | 0.126 |
| 1 | 10 and less | 1 and more | 0.4 and more |

PSNR counts linearly, the other two by their logarithms, as PSNR itself is the logarithm of an error. All three are made of means over
places, so a picture is measured once, in small blocks, and any crop of it is rated from its own blocks.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from tir_env.images.operations import Image

BLOCK = 4  # pixels a side
SPREAD = 0.3  # of a rating on which all raters agree
WEIGHTS = np.array([0.5, 0.4, 0.1])  # of PSNR, SSIM, GMSD in the label: the last mostly agrees with the second

Maps = NDArray[np.float32]  # [4, H / BLOCK, W / BLOCK]: squared error, SSIM, gradient similarity and its square


def measure(image: Image, clean: Image) -> Maps:
    """Both uint8 [H, W, 3] with sides divisible by `BLOCK`."""
    error = ((image.astype(np.float32) - clean) ** 2).mean(axis=2)
    _, similarity = structural_similarity(clean, image, channel_axis=2, data_range=255, full=True)
    gradients = gradient_similarity(image, clean)
    half = BLOCK // 2
    return np.stack(
        [_blocks(error, BLOCK), _blocks(similarity.mean(axis=2), BLOCK), _blocks(gradients, half), _blocks(gradients**2, half)]
    ).astype(np.float32)


def gradient_similarity(image: Image, clean: Image, c: float = 170.0) -> NDArray[np.float32]:
    """GMS of the brightness at half size, [H / 2, W / 2] (Xue et al., "Gradient Magnitude Similarity Deviation", 2014, eqs. 1-4)."""
    prewitt = np.array([[1, 0, -1]] * 3, np.float32) / 3
    magnitudes = []
    for picture in (image, clean):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        grey = np.asarray(cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.float32)
        magnitudes.append(np.hypot(cv2.filter2D(grey, -1, prewitt), cv2.filter2D(grey, -1, prewitt.T)))
    first, second = magnitudes
    return np.asarray((2 * first * second + c) / (first**2 + second**2 + c), np.float32)


def measures(maps: Maps) -> NDArray[np.float64]:
    """[3]: PSNR in dB (at most 100), SSIM, GMSD."""
    error, ssim, similarity, squared = maps.astype(np.float64).mean(axis=(1, 2))
    psnr = 10 * np.log10(255**2 / max(error, 255**2 / 1e10))
    return np.array([psnr, ssim, np.sqrt(max(squared - similarity**2, 0.0))])


def ratings(psnr: float, ssim: float, gmsd: float) -> NDArray[np.float64]:
    """[3] in 1..5: what each rater says; the table above."""
    by_psnr = 1 + (psnr - 10) / 7.5
    by_ssim = 1 - 2 * np.log10(max(1 - ssim, 1e-9))
    by_gmsd = 1 - 2 * np.log10(max(gmsd, 1e-9) / 0.4)
    return np.clip([by_psnr, by_ssim, by_gmsd], 1, 5)


def label(maps: Maps) -> tuple[float, float]:
    """The score 1..5 and its spread."""
    each = ratings(*measures(maps))
    score = float(WEIGHTS @ each)
    return score, float(np.sqrt(SPREAD**2 + WEIGHTS @ (each - score) ** 2))


def _blocks(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    height, width = values.shape
    return values.reshape(height // side, side, width // side, side).mean(axis=(1, 3))

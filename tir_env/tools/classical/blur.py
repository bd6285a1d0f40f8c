"""Which blur an image has: kernels of the benchmark's two blurs, and how well each explains the image's spectrum.

A photograph's power spectrum falls like c / |f|^a. Blurred by H, with white noise on top, it is c (|H|^2 / |f|^a + r). Every
candidate H is judged by the likelihood (Whittle) of the measured spectrum under that model, over a few a and r, c in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from tir_env.images.operations import Image

Array = NDArray[np.float64]
WINDOW = 64  # the spectrum is a mean over windows of this side
SLOPES = (1.8, 2.2, 2.6, 3.0)  # a
NOISES = tuple(10.0 ** np.arange(-8, 0))  # r: noise power against the photograph's at the window's lowest frequency
POINT = np.ones((1, 1))


@dataclass(frozen=True)
class Blur:
    """A kernel, and the photograph and noise that explain the image best with it."""

    kernel: Array  # odd sides, sum 1; its middle entry belongs to the pixel itself
    index: int  # of the kernel among the candidates
    slope: float  # a
    noise: float  # r
    sigma: float  # the noise in grey levels

    @property
    def none(self) -> bool:
        return self.kernel.size == 1


def estimate(image: Image, kernels: Sequence[Array]) -> Blur:
    """The most likely of the kernels. One of them may be `POINT`: no blur."""
    power, energy = spectrum(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64))
    if power.max() < 1e-6:  # a flat image shows no blur
        return Blur(POINT, 0, SLOPES[0], NOISES[0], 0.0)
    side = power.shape[0]
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    used = (frequency > 1.5 / side) & (frequency < 0.5)  # the lowest are the window's own, the corners mostly noise
    measured, falling = power[used] + 1e-9, (side * frequency[used])
    gains = np.stack([np.abs(transfer(kernel, (side, side)))[used] ** 2 for kernel in kernels])
    best: tuple[float, Blur] | None = None
    for slope in SLOPES:
        prior = gains * falling**-slope
        for noise in NOISES:
            model = prior + noise
            scale = (measured / model).mean(axis=1)
            likelihood = -np.log(scale) - np.log(model).mean(axis=1)
            k = int(likelihood.argmax())
            if best is None or likelihood[k] > best[0]:
                sigma = math.sqrt(scale[k] * noise / energy)
                best = float(likelihood[k]), Blur(kernels[k], k, slope, noise, sigma)
    assert best is not None
    return best[1]


def transfer(kernel: Array, shape: tuple[int, int]) -> NDArray[np.complex128]:
    """The kernel's transform on a periodic grid (half plane); a kernel larger than the grid wraps around."""
    grid = np.zeros(shape)
    reach_y, reach_x = kernel.shape[0] // 2, kernel.shape[1] // 2
    ys = np.arange(-reach_y, reach_y + 1) % shape[0]
    xs = np.arange(-reach_x, reach_x + 1) % shape[1]
    np.add.at(grid, (ys[:, None], xs[None, :]), kernel)
    return fft.rfft2(grid)


def spectrum(grey: Array) -> tuple[Array, float]:
    """Mean power over half-overlapping Hann windows (Welch), [side, side // 2 + 1], and what white noise of variance 1 gives."""
    side = min(WINDOW, *grey.shape)
    hann = np.hanning(side + 2)[1:-1]
    window = hann[:, None] * hann[None, :]
    tops, lefts = (sorted({*range(0, length - side + 1, max(1, side // 2)), length - side}) for length in grey.shape)
    stack = np.stack([grey[y : y + side, x : x + side] for y in tops for x in lefts])
    stack = (stack - stack.mean(axis=(1, 2), keepdims=True)) * window
    return (np.abs(fft.rfft2(stack)) ** 2).mean(axis=0), float((window**2).sum())


# --- out of focus -------------------------------------------------------------------------------------------------------------


@lru_cache
def disks(radii: tuple[int, ...] = (2, 3, 4, 5, 6, 7)) -> tuple[Array, ...]:
    """No blur, and disks of these radii."""
    return (POINT, *(disk(radius) for radius in radii))


def disk(radius: int) -> Array:
    """A disk of ones, its edge softened by a 3x3 Gaussian; small ones have a hard edge, as in AgenticIR."""
    reach = radius + 1
    grid = np.arange(-reach, reach + 1)
    kernel = (grid[:, None] ** 2 + grid[None, :] ** 2 <= radius**2).astype(np.float64)
    if radius > 3:
        kernel = np.asarray(cv2.GaussianBlur(kernel, (3, 3), 0.5, borderType=cv2.BORDER_CONSTANT), np.float64)
    return kernel / kernel.sum()


# --- motion -------------------------------------------------------------------------------------------------------------------

TRAILS = ((10, 3.0), (15, 5.0), (15, 8.0))  # (radius, sigma) of AgenticIR


@lru_cache(maxsize=4096)
def trail(radius: int, sigma: float, angle: int) -> Array:
    """The one-sided trail exp(-i^2 / 2 sigma^2), i = 0 ... 2 radius, from the middle leftwards along the angle, on whole pixels."""
    reach = 2 * radius
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    i = np.arange(reach + 1)
    down = np.ceil(i * math.sin(math.radians(angle)) - 0.5).astype(int)
    left = np.ceil(i * math.cos(math.radians(angle)) - 0.5).astype(int)
    np.add.at(kernel, (reach - down, reach - left), np.exp(-(i**2) / (2 * sigma**2)))
    return kernel / kernel.sum()


def motion(image: Image) -> tuple[Blur, int]:
    """The most likely trail and its angle, in steps of 1 degree, from -90 to 90 as AgenticIR draws it.

    A spectrum cannot tell a trail from its mirror image, so the other half circle is not tried; no blur is the first candidate.
    """
    coarse = range(-90, 90, 4)
    blur = estimate(image, _bank(tuple(coarse)))
    if blur.none:
        return blur, 0
    angle = coarse[(blur.index - 1) % len(coarse)]
    near = tuple(range(angle - 4, angle + 5))
    blur = estimate(image, _bank(near)[1:])
    angle = near[blur.index % len(near)]
    if not -90 <= angle <= 90:  # a step beyond an end is the mirror image of one at the other end
        angle = (angle + 90) % 180 - 90
        blur = Blur(np.ascontiguousarray(blur.kernel[::-1, ::-1]), blur.index, blur.slope, blur.noise, blur.sigma)
    return blur, angle


@lru_cache(maxsize=64)
def _bank(angles: tuple[int, ...]) -> tuple[Array, ...]:
    return (POINT, *(trail(radius, sigma, angle) for radius, sigma in TRAILS for angle in angles))

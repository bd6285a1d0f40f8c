"""For blurred images: the kernel is estimated (see blur.py), then undone. Each method comes for defocus and for motion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from tir_env.images.operations import Image, from_unit, quantize, to_unit
from tir_env.tools.classical import blur
from tir_env.tools.classical.blur import Blur

Border = Literal["mirror", "edge"]
Planes = NDArray[Any]  # float32 [channels, H, W] in 0..1


def defocus_wiener(image: Image, strength: float = 1.0) -> Image:
    return _defocus(image, lambda found: wiener(image, found, "mirror", strength))


def defocus_richardson_lucy(image: Image, iterations: int = 25) -> Image:
    return _defocus(image, lambda found: lucy(image, found, "mirror", iterations))


def defocus_sparse(image: Image, fidelity: float = 1.0) -> Image:
    return _defocus(image, lambda found: sparse(image, found, "mirror", fidelity))


def defocus_unsharp(image: Image, radius: float = 4.0, amount: float = 0.8) -> Image:
    """Unsharp masking: nothing is estimated, so nothing can be estimated wrongly."""
    values = image.astype(np.float32)
    return quantize(values + amount * (values - cv2.GaussianBlur(values, (0, 0), radius)))


def motion_wiener(image: Image, strength: float = 10.0) -> Image:
    return _motion(image, lambda found: wiener(image, found, "edge", strength))


def motion_richardson_lucy(image: Image, iterations: int = 25) -> Image:
    return _motion(image, lambda found: lucy(image, found, "edge", iterations))


def motion_sparse(image: Image, fidelity: float = 1.0) -> Image:
    return _motion(image, lambda found: sparse(image, found, "edge", fidelity))


def _defocus(image: Image, undo: Callable[[Blur], Image]) -> Image:
    found = blur.estimate(image, blur.disks())
    return image.copy() if found.none else undo(found)


def _motion(image: Image, undo: Callable[[Blur], Image]) -> Image:
    found, angle = blur.motion(image)
    if found.none:
        return image.copy()
    result = undo(found)
    if abs(angle) < 84:
        return result
    # Next to the vertical a trail and its mirror image are both likely. The wrong one leaves ghosts: a larger total variation.
    flipped = Blur(np.ascontiguousarray(found.kernel[::-1, ::-1]), found.index, found.slope, found.noise, found.sigma)
    return min(result, undo(flipped), key=_variation)


def _variation(image: Image) -> float:
    values = image.astype(np.float32)
    return float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean())


# --- undoing a known blur -------------------------------------------------------------------------------------------------------


def wiener(image: Image, found: Blur, border: Border, strength: float) -> Image:
    """The linear estimate of least error for a photograph of power 1 / |f|^a under noise of power r (both come with the blur)."""
    planes, window = _extend(_planes(image), found, border)
    shape = planes.shape[1:]
    gain = blur.transfer(found.kernel, shape).astype(np.complex64)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    doubt = (strength * found.noise * (blur.WINDOW * frequency) ** found.slope).astype(np.float32)
    restored = fft.irfft2(fft.rfft2(planes) * (gain.conj() / (np.abs(gain) ** 2 + doubt)), shape)
    return from_unit(restored[window].transpose(1, 2, 0))


def sparse(image: Image, found: Blur, border: Border, fidelity: float, steps: int = 6) -> Image:
    """Total-variation deconvolution by half-quadratic splitting (Wang et al., 2008): shrink the gradients, solve, tighten."""
    planes, window = _extend(_planes(image), found, border)
    shape = planes.shape[1:]
    # 15,000 where only rounding disturbs the image (0.3 grey levels), less as the noise grows.
    weight = np.float32(fidelity * 1.5e4 * min(1.0, (0.3 / max(found.sigma, 1e-6)) ** 2))
    gain = blur.transfer(found.kernel, shape).astype(np.complex64)
    across = fft.rfft2(np.array([[1, -1]], np.float32), shape)
    down = fft.rfft2(np.array([[1], [-1]], np.float32), shape)
    spectrum = fft.rfft2(planes)
    data, data_gain = weight * gain.conj() * spectrum, weight * np.abs(gain) ** 2
    gradient_gain = np.abs(across) ** 2 + np.abs(down) ** 2
    tightness = np.float32(1)
    for _ in range(steps):
        gx, gy = fft.irfft2(spectrum * across, shape), fft.irfft2(spectrum * down, shape)
        length = np.sqrt((gx**2 + gy**2).sum(axis=0))
        keep = np.maximum(1 - 1 / (tightness * np.maximum(length, np.float32(1e-9))), 0)
        pull = across.conj() * fft.rfft2(gx * keep) + down.conj() * fft.rfft2(gy * keep)
        spectrum = (data + tightness * pull) / (data_gain + tightness * gradient_gain)
        tightness *= np.float32(2.83)
    return from_unit(fft.irfft2(spectrum, shape)[window].transpose(1, 2, 0))


def lucy(image: Image, found: Blur, border: Border, iterations: int) -> Image:
    """Richardson-Lucy on the luminance; few iterations, as they stand in for regularisation.

    Not scikit-image's: that one takes what lies beyond the border for black, and its rings reach far into the image.
    """
    values = cv2.cvtColor(to_unit(image), cv2.COLOR_RGB2YCrCb)
    planes, window = _extend(values[None, ..., 0], found, border)
    shape = planes.shape[1:]
    gain = blur.transfer(found.kernel, shape).astype(np.complex64)
    tiny = np.float32(1e-3)
    guess = planes = np.maximum(planes, tiny)
    for _ in range(iterations):
        ratio = planes / np.maximum(fft.irfft2(fft.rfft2(guess) * gain, shape), tiny)
        guess = guess * np.maximum(fft.irfft2(fft.rfft2(ratio) * gain.conj(), shape), 0)
    values[..., 0] = guess[window][0]
    return from_unit(cv2.cvtColor(values, cv2.COLOR_YCrCb2RGB))


def _planes(image: Image) -> Planes:
    return np.ascontiguousarray(to_unit(image).transpose(2, 0, 1))


def _extend(planes: Planes, found: Blur, border: Border) -> tuple[Planes, tuple[slice, slice, slice]]:
    """A periodic continuation, and where the image lies in it.

    A symmetric kernel on a mirrored image is exactly a periodic one on the mirrored double. For any other the edge pixels are
    drawn out as far as the kernel reaches, and then led to a common mean.
    """
    height, width = planes.shape[1:]
    if border == "mirror":
        planes = np.pad(planes, ((0, 0), (0, height - 2), (0, width - 2)), mode="reflect")
        return planes, np.s_[:, :height, :width]
    reach = found.kernel.shape[0] // 2
    planes = np.pad(planes, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    margins = [fft.next_fast_len(side + reach, real=True) - side for side in planes.shape[1:]]
    ramps = [(margin // 2, margin - margin // 2) for margin in margins]
    led = [np.pad(plane, ramps, mode="linear_ramp", end_values=float(plane.mean())) for plane in planes]
    top, left = ramps[0][0] + reach, ramps[1][0] + reach
    return np.stack(led), np.s_[:, top : top + height, left : left + width]

"""Small pure functions on images. An image is uint8 [H, W, 3] in RGB, of any size; floats live only inside tools and metrics."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image as Pillow

Image = NDArray[np.uint8]
Array = NDArray[Any]

# Added before every rounding, so that values which are ties in exact arithmetic (x.5 ± 1e-12) round alike on every machine.
_TIE = 1e-7


def check_image(image: object) -> None:
    """Raise `ValueError`, saying what is wrong, unless `image` is uint8 [H, W, 3] with H, W >= 1."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"expected an array uint8 [H, W, 3], got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")


def quantize(values: Array) -> Image:
    """Float values on the 0..255 scale to uint8: clip, round half up. Values that are not finite are refused, never cast."""
    if not np.isfinite(values).all():
        bad = int(np.size(values) - np.count_nonzero(np.isfinite(values)))
        raise ValueError(f"{bad} of {np.size(values)} values are not finite")
    return np.floor(np.clip(values, 0, 255) + (0.5 + _TIE)).astype(np.uint8)


def to_unit(image: Image) -> NDArray[np.float32]:
    """uint8 0..255 to float32 0..1."""
    return image.astype(np.float32) / np.float32(255)


def from_unit(values: Array) -> Image:
    """Float 0..1 to uint8; see `quantize`."""
    return quantize(np.asarray(values, np.float64) * 255)


def digest(image: Image) -> str:
    """128-bit content hash of the pixels and the shape: equal images have equal digests."""
    hasher = xxhash.xxh3_128(repr(image.shape).encode())
    hasher.update(np.ascontiguousarray(image))
    return hasher.hexdigest()


def fit(image: Image, canvas: int) -> Image:
    """The whole image in a [canvas, canvas, 3] square: scaled down if too large, centred on black if too small, never enlarged."""
    height, width = image.shape[:2]
    if (height, width) == (canvas, canvas):
        return image
    scale = canvas / max(height, width)
    if scale < 1:
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        if (height, width) == (canvas, canvas):
            return image
    out = np.zeros((canvas, canvas, 3), np.uint8)
    top, left = (canvas - height) // 2, (canvas - width) // 2
    out[top : top + height, left : left + width] = image
    return out


def resize_bicubic(values: Array, height: int, width: int) -> NDArray[np.float64]:
    """MATLAB's `imresize(x, [height width])`: bicubic (a = -0.5), widened when shrinking, symmetric at the borders.

    `values` is [H, W] or [H, W, C] of any dtype. Pillow's filter is the same but cuts the kernel at the border, hence the padding.
    """
    values = np.asarray(values, np.float32)
    old_height, old_width = values.shape[:2]
    pad_y, pad_x = (4 * math.ceil(max(1.0, old / new)) for old, new in ((old_height, height), (old_width, width)))
    padding = [(pad_y, pad_y), (pad_x, pad_x)] + [(0, 0)] * (values.ndim - 2)
    padded = np.pad(values, padding, mode="symmetric")
    box = (pad_x, pad_y, pad_x + old_width, pad_y + old_height)
    planes = padded[..., None] if padded.ndim == 2 else padded
    out = [_resize_plane(planes[..., c], height, width, box) for c in range(planes.shape[-1])]
    return out[0] if values.ndim == 2 else np.stack(out, axis=-1)


def _resize_plane(plane: Array, height: int, width: int, box: tuple[int, int, int, int]) -> NDArray[np.float64]:
    # Pillow clips the kernel to the picture, not to the box, so the mirrored border is used as MATLAB uses it.
    pillow = Pillow.fromarray(np.ascontiguousarray(plane), mode="F")
    return np.asarray(pillow.resize((width, height), Pillow.Resampling.BICUBIC, box=box), np.float64)


def quarter(image: Image) -> Image:
    """MATLAB's `imresize(image, 0.25)`: sides become ceil(side / 4)."""
    height, width = image.shape[:2]
    new_height, new_width = math.ceil(height / 4), math.ceil(width / 4)
    # With a given scale MATLAB keeps the scale exact where the side is no multiple of 4: mirror up to the next multiple first.
    full = np.pad(image, ((0, new_height * 4 - height), (0, new_width * 4 - width), (0, 0)), mode="symmetric")
    return quantize(resize_bicubic(full, new_height, new_width))


def resize_like(image: Image, reference: Image) -> Image:
    """Bicubic to the reference's size; the same array if it has it already. How outputs of another size are scored."""
    if image.shape == reference.shape:
        return image
    return quantize(resize_bicubic(image, *reference.shape[:2]))


def crop(image: Image, size: int, rng: np.random.Generator) -> tuple[Image, tuple[int, int]]:
    """A random size x size window (less where the image is smaller) and its top-left corner."""
    height, width = image.shape[:2]
    top = int(rng.integers(0, max(1, height - size + 1)))
    left = int(rng.integers(0, max(1, width - size + 1)))
    return crop_at(image, size, (top, left)), (top, left)


def crop_at(image: Image, size: int, corner: tuple[int, int]) -> Image:
    top, left = corner
    return np.ascontiguousarray(image[top : top + size, left : left + size])

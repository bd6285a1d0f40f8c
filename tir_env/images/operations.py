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
    hasher.update(np.ascontiguousarray(image).data)
    return hasher.hexdigest()


def fit(image: Image, canvas: int) -> Image:
    """The whole image in a [canvas, canvas, 3] square: scaled down if too large, centred on black if too small, never enlarged."""
    height, width = image.shape[:2]
    if (height, width) == (canvas, canvas):
        return image
    scale = canvas / max(height, width)
    if scale < 1:
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        if (height, width) == (canvas, canvas):
            return image
    out = np.zeros((canvas, canvas, 3), np.uint8)
    top, left = (canvas - height) // 2, (canvas - width) // 2
    out[top : top + height, left : left + width] = image
    return out


def resize_bicubic(values: Array, height: int, width: int, span: tuple[int, int] | None = None) -> NDArray[np.float64]:
    """MATLAB's `imresize(x, [height width])`: bicubic (a = -0.5), widened when shrinking, symmetric at the borders.

    `values` is [H, W] or [H, W, C] of any dtype. `span` is how many rows and columns of it, from the top left, the result stands
    for (H and W by default; a little more where a scale must be kept exact). Pillow's filter is MATLAB's but is cut off at the
    picture's border, hence the padding; it does reach beyond the box.
    """
    values = np.asarray(values, np.float32)
    rows, columns = span or values.shape[:2]
    pad_y, pad_x = (4 * math.ceil(max(1.0, old / new)) for old, new in ((rows, height), (columns, width)))
    padded = np.pad(values, [(pad_y, pad_y), (pad_x, pad_x)] + [(0, 0)] * (values.ndim - 2), mode="symmetric")
    box = (pad_x, pad_y, pad_x + columns, pad_y + rows)
    planes = padded[..., None] if padded.ndim == 2 else padded
    out = []
    for c in range(planes.shape[-1]):
        picture = Pillow.fromarray(np.ascontiguousarray(planes[..., c]))
        out.append(np.asarray(picture.resize((width, height), Pillow.Resampling.BICUBIC, box=box), np.float64))
    return out[0] if values.ndim == 2 else np.stack(out, axis=-1)


def quarter(image: Image) -> Image:
    """MATLAB's `imresize(image, 0.25)`: sides become ceil(side / 4), and the scale is exactly 1/4 whatever the side."""
    height, width = (math.ceil(side / 4) for side in image.shape[:2])
    return quantize(resize_bicubic(image, height, width, span=(height * 4, width * 4)))


def resize_like(image: Image, reference: Image) -> Image:
    """Bicubic to the reference's size; the same array if it has it already. How outputs of another size are scored."""
    if image.shape == reference.shape:
        return image
    return quantize(resize_bicubic(image, *reference.shape[:2]))


def crop_at(image: Image, size: int, corner: tuple[int, int]) -> Image:
    top, left = corner
    return np.ascontiguousarray(image[top : top + size, left : left + size])

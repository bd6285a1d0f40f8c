"""Running a function on images of any size: padding to a multiple, and overlapping tiles for large images.

Neighbouring tiles share `overlap` pixels. A tile counts nothing within a quarter of that from its cut edge, where it cannot see
far enough, and fades in over the middle half. So tiles equal the whole wherever the function looks at most `overlap / 4` far.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
ROWS = 256  # of pixels that are finished at once


def apply(
    function: Callable[[Array], Array],
    batch: Array,
    *,
    scale: int = 1,
    multiple: int = 1,
    tile: int = 0,
    overlap: int = 64,
    finish: Callable[[Array], Array] = np.asarray,
) -> Array:
    """`function` on a batch [N, H, W, 3] of any size; it is only ever given sides that are multiples of `multiple`.

    `finish` makes what is kept of the results. It is given some rows at a time: of a large image only one row of tiles is ever there
    as floats, which are four times as large as the image that they become.
    """
    height, width = batch.shape[1:3]
    if tile <= 0 or max(height, width) <= tile:
        return finish(_padded(function, batch, scale, multiple))
    whole: Array | None = None
    shared = np.zeros((len(batch), 0, width * scale, 3), np.float32)  # with the row of tiles above
    rows, columns = spans(height, tile, overlap), spans(width, tile, overlap)
    for (top, bottom), end in zip(rows, [*(top for top, _ in rows[1:]), height], strict=True):
        total = np.zeros((len(batch), (bottom - top) * scale, width * scale, 3), np.float32)
        total[:, : shared.shape[1]] = shared
        down = ramp(top, bottom, height, overlap, scale)
        for left, right in columns:
            across = ramp(left, right, width, overlap, scale)
            part = _padded(function, batch[:, top:bottom, left:right], scale, multiple)
            weight = down[:, None] * across[None, :]
            place = total[:, :, left * scale : right * scale]
            place += part.astype(np.float32) * weight[None, :, :, None]
        done = (end - top) * scale
        for first in range(0, done, ROWS):
            part = finish(total[:, first : min(first + ROWS, done)])
            if whole is None:
                whole = np.empty((len(batch), height * scale, width * scale, 3), part.dtype)
            whole[:, top * scale + first :][:, : part.shape[1]] = part
        shared = total[:, done:].copy()
    assert whole is not None
    return whole


def spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Where tiles start and end along one side: as few as will do, nearly equal, neighbours sharing `overlap`."""
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    edges = np.linspace(0, length - overlap, count + 1).round().astype(int)
    return [(int(start), int(end) + overlap) for start, end in pairwise(edges)]


def ramp(start: int, end: int, length: int, overlap: int, scale: int) -> NDArray[np.float32]:
    """A tile's weight along one side. The weights of two neighbours sum to one."""
    position = (np.arange((end - start) * scale) + 0.5) / scale  # in pixels of the input, from the tile's edge
    weight = np.ones(len(position), np.float64)
    if start > 0:
        weight *= _fade(position, overlap)
    if end < length:
        weight *= _fade(end - start - position, overlap)
    return weight.astype(np.float32)


def _fade(distance: NDArray[np.float64], overlap: int) -> NDArray[np.float64]:
    return np.clip(distance / overlap * 2 - 0.5, 0, 1) if overlap else np.ones_like(distance)


def _padded(function: Callable[[Array], Array], batch: Array, scale: int, multiple: int) -> Array:
    height, width = batch.shape[1:3]
    below, right = -height % multiple, -width % multiple
    if below or right:
        batch = np.pad(batch, ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect")
    result = np.asarray(function(batch))
    if below or right:
        expected = (len(batch), (height + below) * scale, (width + right) * scale, 3)
        if result.shape != expected:
            raise ValueError(f"the function returned {list(result.shape)}, not {list(expected)}")
        result = result[:, : height * scale, : width * scale]
    return result

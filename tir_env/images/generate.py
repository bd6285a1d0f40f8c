"""Generated photographs, for machines without any: dead leaves with shading and texture, seeded.

Dead leaves (occluding shapes with power-law sizes) have the edge and scale statistics of natural scenes, which is why small
restoration networks trained on them carry over to photographs (Baradad et al., "Learning to See by Looking at Noise", 2021).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tir_env.images.operations import Image, quantize


def dead_leaves(seed: int, size: int = 256) -> Image:
    """A size x size picture of a few hundred overlapping shapes, coloured from one palette, shaded and textured, slightly blurred."""
    rng = np.random.Generator(np.random.PCG64(seed))
    palette = _palette(rng)
    canvas = np.tile(palette[0], (size, size, 1)).astype(np.float64)
    # Thirty large leaves cover the ground; then radii with density ~ r^-2, in random order as leaves fall.
    low, high = size / 40, size / 2.5
    ground = rng.uniform(size / 6, high, 30)
    fallen = 1 / (1 / low - rng.random(40 + int(rng.integers(160))) * (1 / low - 1 / high))
    for radius in np.concatenate([ground, fallen]):
        mask = leaf(rng, size, radius)
        if mask is None:
            continue
        (top, left), cover = mask
        height, width = cover.shape
        paint = _paint(rng, palette, height, width)
        region = canvas[top : top + height, left : left + width]
        region += cover[..., None] * (paint - region)
    light = 1 + 0.25 * _smooth_noise(rng, size, size, size / 2)[..., None]
    image = canvas * light
    sigma = rng.uniform(0.3, 0.9)
    return quantize(cv2.GaussianBlur(image, (0, 0), sigma) * 255)


def _palette(rng: np.random.Generator) -> NDArray[np.float64]:
    """Colours around one hue and its complement, [8, 3] in 0..1, muted as in most photographs."""
    hue = rng.random()
    hues = (hue + rng.choice([0, 0, 0.5, 0.08], 8) + rng.normal(0, 0.04, 8)) % 1
    saturation, value = rng.beta(1.2, 3.0, 8), rng.beta(1.4, 1.2, 8)
    hsv = np.stack([hues * 360, saturation, value], axis=-1)[None].astype(np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0].astype(np.float64)


def leaf(rng: np.random.Generator, size: int, radius: float) -> tuple[tuple[int, int], NDArray[np.float64]] | None:
    """An ellipse or polygon somewhere on the canvas: its window's corner, and its soft mask inside the window."""
    centre = rng.uniform(-radius / 2, size + radius / 2, 2)
    reach = int(np.ceil(radius * 1.5)) + 1
    top, left = (max(0, int(c) - reach) for c in centre)
    bottom, right = (min(size, int(c) + reach) for c in centre)
    if bottom <= top or right <= left:
        return None
    mask = np.zeros((bottom - top, right - left), np.uint8)
    middle = np.array([centre[1] - left, centre[0] - top])
    if rng.random() < 0.5:
        axes = radius * rng.uniform(0.4, 1.4, 2)
        cv2.ellipse(mask, (middle.tolist(), (2 * axes).tolist(), float(rng.uniform(0, 180))), 255, -1, cv2.LINE_AA)
    else:
        corners = int(rng.integers(3, 8))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        points = middle + radius * rng.uniform(0.6, 1.4, (corners, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(mask, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return (top, left), mask / 255.0


def _paint(rng: np.random.Generator, palette: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """One leaf's surface: a colour, a gradient across it, and one of: nothing, stripes, smooth noise, grain."""
    colour = palette[int(rng.integers(len(palette)))] + rng.normal(0, 0.04, 3)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    along = y * np.sin(angle) + x * np.cos(angle)
    tone = rng.normal(0, 0.25) * along
    kind = int(rng.integers(4))
    strength = rng.uniform(0.02, 0.15)
    if kind == 1:
        tone = tone + strength * np.sin(2 * np.pi * along * rng.uniform(3, 30) + rng.uniform(0, 6))
    elif kind == 2:
        tone = tone + strength * _smooth_noise(rng, height, width, rng.uniform(2, 12))
    elif kind == 3:
        tone = tone + strength * 0.6 * _smooth_noise(rng, height, width, 1.0)
    return np.clip(colour + tone[..., None], 0, 1)


def _smooth_noise(rng: np.random.Generator, height: int, width: int, scale: float) -> NDArray[np.float64]:
    """Random field of unit amplitude whose features are about `scale` pixels wide."""
    rows, columns = max(2, round(height / scale) + 2), max(2, round(width / scale) + 2)
    coarse = rng.standard_normal((rows, columns))
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), -2, 2) / 2

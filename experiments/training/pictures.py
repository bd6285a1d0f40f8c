"""Clean pictures to train on: dead leaves and scikit-image's photographs, cropped, scaled, turned and recoloured.

Of scikit-image's colour photographs only the *train* part is used, so that the environment's own held-out pictures stay unseen by
every weight that ships; its monochrome ones, which are in no part, are tinted and used too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data

from tir_env.degradations.single import jpeg
from tir_env.images.generate import dead_leaves, leaf
from tir_env.images.operations import Image, quantize
from tir_env.images.reading import read_image
from tir_env.images.sources import skimage_photos

MONOCHROME = ("camera", "brick", "grass", "gravel", "coins", "moon", "page")
# How often a picture is drawn: medical and astronomical pictures have little in common with a user's photographs.
RARE = {"retina": 0.3, "hubble_deep_field": 0.3, "immunohistochemistry": 0.5, "moon": 0.3, "page": 0.3}
LEAVES = 256  # pixels a side
LEAST = 4  # of a collage's piece


@dataclass
class Pictures:
    """Draws clean training pictures of any size. The same generator state gives the same picture on every machine.

    `shrink`, `most`: the least and the most that photographs are scaled by; at full size many are soft. `light`: how freely
    exposure and contrast change, 1 in full, 0 not at all; `colour` says the same of tints, saturation and exchanged channels.
    `collages` is how often a picture is put together from pieces of many, for more kinds of detail side by side than so few
    photographs have; `levels` how often its tones are stretched to nearly the whole range, as most photographs' are.
    With `flaws` they are as `flawed` makes them: who learns to see degradations must not take a camera's grain for one.
    """

    leaves: int = 400
    seed: int = 0
    shrink: float = 0.3
    most: float = 1.0
    light: float = 1.0
    colour: float = 1.0
    collages: float = 0.0
    levels: float = 0.0
    flaws: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # not the photographs

    @cached_property
    def _photos(self) -> dict[str, Image]:
        photos = {photo.name: photo.image for photo in skimage_photos().part("train")}
        folder = Path(skimage.data.__file__).parent
        return photos | {name: read_image(folder / f"{name}.png") for name in MONOCHROME}

    @cached_property
    def _chances(self) -> np.ndarray:
        chances = np.array([RARE.get(name, 1.0) for name in self._photos])
        return chances / chances.sum()

    @cached_property
    def _made(self) -> dict[int, Image]:
        return {}

    def _leaves(self, index: int) -> Image:
        if index not in self._made:
            self._made[index] = dead_leaves(1_000_000 + self.seed * 100_000 + index, LEAVES)
        return self._made[index]

    def draw(self, rng: np.random.Generator, size: int, photos: float = 0.65) -> Image:
        """A size x size picture: with probability `photos` from a photograph, else from dead leaves."""
        if self.collages and rng.random() < self.collages:
            image = turn(self._collage(rng, size, photos), int(rng.integers(8)))
        else:
            window, monochrome = self._window(rng, size, size, photos)
            image = recolour(turn(window, int(rng.integers(8))), rng, monochrome, self.light, self.colour)
        if self.levels and rng.random() < self.levels:
            image = stretched(image, rng)
        return flawed(image, rng) if self.flaws else image

    def _window(self, rng: np.random.Generator, height: int, width: int, photos: float) -> tuple[Image, bool]:
        """A part of a photograph or of dead leaves, at a scale of its own; whether it is monochrome."""
        monochrome = False
        if rng.random() < photos:
            name = str(rng.choice(list(self._photos), p=self._chances))
            source, monochrome = self._photos[name], name in MONOCHROME
        else:
            source = self._leaves(int(rng.integers(self.leaves)))
        full = source.shape[:2]
        # Shrinking by area averaging: small windows of large photographs are soft, shrunk ones have a photograph's full detail.
        smallest = max(height / full[0], width / full[1], self.shrink)
        scale = float(rng.uniform(smallest, max(smallest, self.most))) if smallest < 1 else smallest
        rows, columns = min(round(height / scale), full[0]), min(round(width / scale), full[1])
        top, left = int(rng.integers(full[0] - rows + 1)), int(rng.integers(full[1] - columns + 1))
        window = source[top : top + rows, left : left + columns]
        if (rows, columns) != (height, width):
            method = cv2.INTER_AREA if rows > height else cv2.INTER_CUBIC
            window = np.asarray(cv2.resize(window, (width, height), interpolation=method), np.uint8)
        return window, monochrome

    def _collage(self, rng: np.random.Generator, size: int, photos: float) -> Image:
        """Three to fifteen ellipses and polygons on a ground, each filled from another place and in other colours."""

        def piece(height: int, width: int) -> Image:
            window, monochrome = self._window(rng, height, width, photos)
            if rng.random() < 0.5:
                window = window[:, ::-1]
            return recolour(window, rng, monochrome, 2 * self.light, 1.5 * self.colour)

        canvas = piece(size, size).astype(np.float64)
        for _ in range(int(rng.integers(3, 16))):
            found = leaf(rng, size, float(np.exp(rng.uniform(np.log(size / 10), np.log(size / 2)))))
            if found is not None and min(found[1].shape) >= LEAST:
                (top, left), cover = found
                region = canvas[top : top + cover.shape[0], left : left + cover.shape[1]]
                region += cover[..., None] * (piece(*cover.shape) - region)
        return quantize(canvas)


def turn(image: Image, which: int) -> Image:
    """One of the eight ways to turn and mirror a picture."""
    image = np.rot90(image, which % 4)
    return np.ascontiguousarray(image[:, ::-1] if which >= 4 else image)


def recolour(
    image: Image, rng: np.random.Generator, monochrome: bool = False, light: float = 1.0, colour: float = 1.0
) -> Image:
    """Other colours, exposure and contrast: few photographs have to stand for many. `light` and `colour` say how far from their own."""
    channels = rng.permutation(3)
    values = (image[..., channels] if rng.random() < colour else image).astype(np.float32) / 255
    if monochrome or rng.random() < 0.5:
        values = values * rng.uniform(1 - 0.25 * colour, 1 + 0.25 * colour, 3).astype(np.float32)
    if rng.random() < 0.5:
        grey = values.mean(axis=2, keepdims=True)
        values = grey + (values - grey) * np.float32(rng.uniform(0.3**colour, 1.5**colour))
    if rng.random() < 0.5:
        values = np.clip(values, 0, 1) ** np.float32(rng.uniform(0.7**light, 1.4**light))
    return quantize(values * np.float32(rng.uniform(0.8**light, 1.1**light) * 255))


def stretched(image: Image, rng: np.random.Generator) -> Image:
    """From nearly black to nearly white, all channels alike."""
    values = image.astype(np.float32)
    low, high = np.percentile(values @ np.array([0.299, 0.587, 0.114], np.float32), (1, 99))
    black, white = rng.uniform(0, 30), rng.uniform(205, 255)
    return quantize((values - low) / max(high - low, 20) * (white - black) + black)


def flawed(image: Image, rng: np.random.Generator) -> Image:
    """As cameras deliver clean photographs: often a little grainy and kept as JPEG of high quality. Never soft: that is what
    smoothing makes of a picture, and who cannot tell the two apart takes smoothing for an improvement."""
    values = image.astype(np.float32)
    if rng.random() < 0.6:
        grain = rng.normal(size=image.shape[:2])[..., None] + 0.5 * rng.normal(size=image.shape)
        values = values + grain.astype(np.float32) * np.float32(rng.uniform(0.5, 6))
    if rng.random() < 0.5:
        return jpeg(quantize(values), {"quality": int(rng.integers(80, 98))})
    return quantize(values)

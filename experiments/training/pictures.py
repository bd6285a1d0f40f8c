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
from tir_env.images.generate import dead_leaves
from tir_env.images.operations import Image, quantize
from tir_env.images.reading import read_image
from tir_env.images.sources import skimage_photos

MONOCHROME = ("camera", "brick", "grass", "gravel", "coins", "moon", "page")
# How often a picture is drawn: medical and astronomical pictures have little in common with a user's photographs.
RARE = {"retina": 0.3, "hubble_deep_field": 0.3, "immunohistochemistry": 0.5, "moon": 0.3, "page": 0.3}
LEAVES = 256  # pixels a side


@dataclass
class Pictures:
    """Draws clean training pictures of any size. The same generator state gives the same picture on every machine.

    `shrink`, `most`: the least and the most that photographs are scaled by; at full size many are soft. `light`: how freely
    exposure and contrast change, 1 in full, 0 not at all; `colour` says the same of tints, saturation and exchanged channels.
    With `flaws` they are as `flawed` makes them: who learns to see degradations must not take a camera's grain for one.
    """

    leaves: int = 400
    seed: int = 0
    shrink: float = 0.3
    most: float = 1.0
    light: float = 1.0
    colour: float = 1.0
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
        monochrome = False
        if rng.random() < photos:
            name = str(rng.choice(list(self._photos), p=self._chances))
            source, monochrome = self._photos[name], name in MONOCHROME
        else:
            source = self._leaves(int(rng.integers(self.leaves)))
        height, width = source.shape[:2]
        # Shrinking by area averaging: small windows of large photographs are soft, shrunk ones have a photograph's full detail.
        smallest = max(size / min(height, width), self.shrink)
        scale = float(rng.uniform(smallest, max(smallest, self.most))) if smallest < 1 else smallest
        side = min(round(size / scale), height, width)
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        window = source[top : top + side, left : left + side]
        if side != size:
            method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
            window = np.asarray(cv2.resize(window, (size, size), interpolation=method), np.uint8)
        image = recolour(turn(window, int(rng.integers(8))), rng, monochrome, self.light, self.colour)
        return flawed(image, rng) if self.flaws else image


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

"""What is wrong with an image, and how badly: zero-shot from an open_clip encoder, by text prompts for the five words of AgenticIR.

`Perceiver` is a pool model: an image in, a severity in 0..1 for each of the eight degradations out. `perceive` is the same as a pure
function of features, for agents that have the features already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.encoder import Encoder
from pool import Model, Traits

LEVELS = ("very low", "low", "medium", "high", "very high")  # AgenticIR's words: severity 0, 1/4, 1/2, 3/4, 1
NAMES = {
    "low resolution": "low resolution",
    "noise": "noise",
    "jpeg": "jpeg compression artifacts",
    "dark": "darkness",
    "haze": "haze",
    "motion blur": "motion blur",
    "defocus blur": "defocus blur",
    "rain": "rain",
}  # as prompts say it
TEMPLATES = (
    "a photo with {level} {name}",
    "{level} {name}",
    "an image with {level} {name}",
    "the severity of {name} is {level}",
)

Severities = dict[str, float]


def prompts() -> list[str]:
    """Every degradation at every level in every template, in the order of [degradation, level, template]."""
    return [template.format(level=level, name=name) for name in NAMES.values() for level in LEVELS for template in TEMPLATES]


def prototypes(text: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features of `prompts()` to one direction for each degradation and level, [degradations, levels, dim], as CLIP's authors do."""
    means = text.reshape(len(NAMES), len(LEVELS), len(TEMPLATES), -1).mean(axis=2)
    return means / np.linalg.norm(means, axis=-1, keepdims=True)


def perceive(features: NDArray[Any], directions: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
    """Severities [n, degradations] of image features [n, dim]: the mean level under a softmax over the five."""
    logits = scale * np.einsum("nd,kld->nkl", features, directions).astype(np.float64)
    chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
    chances /= chances.sum(axis=-1, keepdims=True)
    return chances @ np.linspace(0, 1, len(LEVELS))


def word(severity: float) -> str:
    """The nearest of AgenticIR's five words."""
    return LEVELS[round(min(max(severity, 0.0), 1.0) * (len(LEVELS) - 1))]


class Perceiver(Model):
    """Item: an image. Result: {degradation: severity}, 0 none … 1 very high."""

    def __init__(self, encoder: Encoder | None = None) -> None:
        self.encoder = encoder or Encoder()
        self.name = f"perceiver/{self.encoder.name.removeprefix('encoder/')}"
        own = self.encoder.traits
        self.traits = Traits(own.memory, own.gpu, batch=own.batch, deadline=own.deadline, load_deadline=own.load_deadline)
        self._directions: NDArray[np.float32] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_directions": None}

    def load(self) -> None:
        self.encoder.load()
        self._directions = prototypes(self.encoder.encode_text(prompts()))

    def run(self, items: Sequence[Any]) -> list[Severities]:
        if self._directions is None:
            self.load()
        assert self._directions is not None
        severities = perceive(np.stack(self.encoder.run(items)), self._directions, self.encoder.scale)
        return [dict(zip(NAMES, map(float, row), strict=True)) for row in severities]

    def check(self, item: Any, result: Severities) -> None:
        if set(result) != set(NAMES) or not all(0 <= value <= 1 for value in result.values()):
            raise ValueError(f"gave {result}")

"""A stand-in for the frozen encoder: a dozen statistics that tell degradations apart, no weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pool import Model


class Statistics(Model):
    """Brightness, contrast, edges along both axes, fine noise, blocking, dark channel: float32 [12] of unit length."""

    name = "encoder/statistics"
    dim = 12

    def run(self, items: Sequence[Any]) -> list[np.ndarray]:
        return [self._features(np.asarray(item, np.float32) / 255) for item in items]

    @staticmethod
    def _features(image: np.ndarray) -> np.ndarray:
        grey = image.mean(axis=2)
        across, down = np.diff(grey, axis=1), np.diff(grey, axis=0)
        fine = np.diff(across, n=2, axis=1)
        steps = np.abs(across)
        blocks = steps[:, 7::8].mean() - steps.mean() if steps.shape[1] > 8 else 0.0
        features = np.array(
            [
                *(image.mean(axis=(0, 1)) - 0.4), grey.std(), grey.max() - 0.8, image.min(axis=2).mean(), grey.min(),
                10 * steps.mean(), 10 * np.abs(down).mean(), 5 * np.abs(fine).mean(), 50 * blocks,
                np.log10(min(image.shape[:2]) / 64) + 0.1,
            ],
            np.float32,
        )  # fmt: skip
        return features / np.linalg.norm(features)

"""Natural scene statistics as an encoder of the light policy: what the pixels are like, not what they show.

Means and quantiles of fixed filters at four scales, as in BRISQUE; the ones that `pocket-deqa` judges by, standardised by the pictures
that it was trained on. They tell weak noise, blur and blocks apart where an embedding made to go with captions does not. No network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.encoder import Features, windows
from pool import Model, Traits

if TYPE_CHECKING:
    import torch

MOST = 4.0  # standard deviations: what lies further out counts as that


class Statistics(Model):
    """Item: an image of any size. Result: float32 [dim], scaled so that its length is about 1, as an embedding's is."""

    name = "encoder/statistics"
    traits = Traits(gpu=True, deadline=60.0, cost=0.02)

    def __init__(self) -> None:
        from rewards.scorer_network import ScorerNetwork

        self.dim: int = ScorerNetwork().norm.num_features
        self._norm: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_norm": None}

    def load(self) -> None:
        import torch

        from rewards.pocket_deqa import WEIGHTS, read_network

        if self._norm is None:
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
            self._norm = read_network(WEIGHTS).norm.to(self._device)

    def run(self, items: Sequence[Any]) -> list[Features]:
        self.load()
        return [self._look(np.asarray(item)) for item in items]

    def check(self, item: Any, result: Features) -> None:
        if result.shape != (self.dim,):
            raise ValueError(f"gave features of shape {result.shape}, not ({self.dim},)")

    def _look(self, image: np.ndarray) -> Features:
        import torch

        from rewards.quality import full_precision
        from rewards.scorer_network import statistics

        with torch.inference_mode(), full_precision():
            numbers = [
                statistics(
                    torch.from_numpy(np.ascontiguousarray(w.transpose(2, 0, 1)))[None].to(self._device).float().div_(255)
                )
                for w in windows(image)
            ]
            return np.asarray(self.features(torch.cat(numbers)).cpu().numpy(), np.float32)

    def features(self, numbers: torch.Tensor) -> torch.Tensor:
        """The statistics of an image's windows, [windows, all], to its features, [dim]."""
        seen: torch.Tensor = self._norm(numbers).clamp(-MOST, MOST).mean(dim=0) / self.dim**0.5
        return seen

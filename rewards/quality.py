"""Quality: named metrics of one image, each oriented so that higher is better, the raw value kept beside it.

A `Metric` is a pool model around any pyiqa metric. Full-reference ones take (image, reference), no-reference ones the image alone.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pool import Model, Problem, Traits


class MetricError(Problem):
    """A metric that does not exist or cannot be had here."""


class Score(NamedTuple):
    value: float  # higher is better
    raw: float  # as the metric's authors define it


Quality = dict[str, Score]


class Metric(Model):
    """One pyiqa metric. Items: (image, reference or None), both uint8 RGB of one size. Results: `Score`."""

    def __init__(self, metric: str) -> None:
        config = _config(metric)
        self.metric = metric
        self.name = f"quality/{metric}"
        self.needs_reference = config["metric_mode"] == "FR"
        self.lower_better = bool(config.get("lower_better", False))
        self.traits = Traits(gpu=True, deadline=120.0)
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def load(self) -> None:
        import pyiqa
        import torch

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            # pyiqa prints while it loads.
            with contextlib.redirect_stdout(io.StringIO()):
                self._network = pyiqa.create_metric(self.metric, device=self._device)
        except Exception as error:  # URLError, LocalEntryNotFoundError, OSError: pyiqa lets whatever its hubs raise through
            reason = f"pyiqa could not build it: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            remedy = (
                "It needs weights that are fetched at first use. Run pyiqa.create_metric once on a machine with a network and copy "
                "its caches (TORCH_HOME, HF_HOME; then set HF_HUB_OFFLINE=1), or choose one that needs none: "
                "psnr, ssim, fsim, vsi, gmsd, nlpd, piqe; ms_ssim and vif for images of 192 pixels or more."
            )
            raise MetricError(f"metric {self.metric!r}", reason, remedy) from error

    def run(self, items: Sequence[Any]) -> list[Score]:
        import torch

        scores = []
        with torch.inference_mode():
            for image, reference in items:
                pictures = [image, reference] if self.needs_reference else [image]
                raw = float(self._network(*(_tensor(p).to(self._device) for p in pictures)).item())
                scores.append(Score(-raw if self.lower_better else raw, raw))
        return scores

    def check(self, item: Any, result: Score) -> None:
        if not math.isfinite(result.value):
            raise ValueError(f"{self.metric} gave {result.raw}")


def _tensor(image: np.ndarray) -> Any:
    """uint8 [H, W, 3] to float [1, 3, H, W] in 0..1."""
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float().div_(255)


def _config(metric: str) -> dict[str, Any]:
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    if metric not in DEFAULT_CONFIGS:
        import difflib

        near = ", ".join(difflib.get_close_matches(metric, DEFAULT_CONFIGS, n=3)) or "psnr, ssim, lpips, maniqa, piqe"
        raise MetricError(
            f"metric {metric!r}", "is not one of pyiqa's", f"Did you mean: {near}? pyiqa.list_models() names all."
        )
    return DEFAULT_CONFIGS[metric]

"""pocket-deqa: DeQA-Score's recipe in small, a no-reference score 1 to 5 that ships with its weights and needs no download.

A small network gives one probability to each of excellent, good, fair, poor, bad; the score is their expectation. Trained by
`experiments/make_weights.py --only pocket-deqa`; what it was trained on and reaches is in the model card beside its weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pool import Traits
from rewards.levels import expectation
from rewards.quality import MetricError, Score, Scorer, full_precision

if TYPE_CHECKING:
    import torch

    from rewards.scorer_network import ScorerNetwork

WEIGHTS = Path(__file__).parent / "weights" / "pocket-deqa.safetensors"
WINDOW = 128  # pixels a side, about: what the network was trained on
MOST = 8  # windows a side: of larger images only so many, spread evenly


class PocketDeqa(Scorer):
    """Items: (image, None), uint8 RGB of any size; a reference is not looked at. Results: `Score` in 1..5.

    Nothing is shrunk: an image is cut into windows of about 128 pixels a side, each is rated, and the mean counts. Pictures with a
    side under 96 pixels are enlarged first, to 256 or more, so that a thumbnail is worth no more than what it shows; of pictures
    above a megapixel 64 windows in fixed places count.
    """

    metric = "pocket-deqa"
    name = "quality/pocket-deqa"
    needs_reference = False
    traits = Traits(gpu=True, deadline=60.0, cost=0.03)

    def __init__(self, weights: Path | str = WEIGHTS) -> None:
        self.weights = Path(weights)
        self._network: ScorerNetwork | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def load(self) -> None:
        import torch

        if self._network is None:
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
            self._network = read_network(self.weights).to(self._device).to(memory_format=torch.channels_last)

    def run(self, items: Sequence[Any]) -> list[Score]:
        self.load()
        return [self._score(image) for image, *_ in items]

    def check(self, item: Any, result: Score) -> None:
        if not (math.isfinite(result.value) and 1 <= result.value <= 5):
            raise ValueError(f"{self.metric} gave {result.raw}, not a number from 1 to 5")

    def _score(self, image: np.ndarray) -> Score:
        import torch

        from rewards.scorer_network import as_seen

        assert self._network is not None, "run() loads first"
        with torch.inference_mode(), full_precision():
            # One window at a time: a batch would compute in another order, and on a core it is no faster.
            seen = as_seen(_tensor(image).to(self._device))
            logits = [self._network(seen[..., rows, columns]) for rows, columns in windows(*seen.shape[-2:])]
            score = float(expectation(torch.cat(logits).double()).mean())
        return Score(score, score)


def windows(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """All of an image in windows of about one size, or of a large one a regular grid of them from corner to corner."""
    columns = [slice(*span) for span in _spans(width)]
    for span in _spans(height):
        for across in columns:
            yield slice(*span), across


def _spans(side: int) -> Iterator[tuple[int, int]]:
    count = max(1, round(side / WINDOW))
    if count > MOST:
        starts = np.linspace(0, side - WINDOW, MOST).round().astype(int)
        return zip(starts, starts + WINDOW, strict=True)
    edges = np.linspace(0, side, count + 1).round().astype(int)
    return itertools.pairwise(edges)


def read_network(path: Path) -> ScorerNetwork:
    """The network from its file; a file that is not there or is not this network's is a `MetricError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from rewards.scorer_network import ScorerNetwork

    remedy = "Install the project again, or train it: python experiments/make_weights.py --only pocket-deqa"
    if not path.is_file():
        raise MetricError(path, "the weights of pocket-deqa are missing", remedy)
    network = ScorerNetwork()
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:  # cut short, another network's tensors, not readable
        reason = f"does not hold pocket-deqa's weights ({type(error).__name__}: {str(error).splitlines()[0][:150]})"
        raise MetricError(path, reason, remedy) from error
    return network.eval().requires_grad_(False)


def _tensor(image: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] to float [1, 3, H, W] in 0..1."""
    import torch

    # A copy: items are views on memory that the pool uses again, read-only ones among them.
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float().div_(255)
    return values.contiguous(memory_format=torch.channels_last)

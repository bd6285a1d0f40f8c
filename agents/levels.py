"""pocket-levels: an encoder that was trained to tell how much blur, noise and JPEG an image has. It ships with its weights.

The features are what a small network makes of natural scene statistics just before it says the three levels (RL-Restore's, 0 to 10)
and the PSNR. On small patches of weak degradations a policy learns from it fastest: an embedding made to go with captions sees little
there, and the statistics alone take many episodes to be understood. `experiments/make_weights.py --only pocket-levels` made it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.encoder import EncoderError
from agents.statistics import Statistics

if TYPE_CHECKING:
    import torch

    from agents.levels_network import LevelsNetwork

POCKET = "pocket-levels"
WEIGHTS = Path(__file__).parent / "weights" / POCKET / "model.safetensors"
DIM = 64


class Levels(Statistics):
    """Item: an image of any size. Result: float32 [64], of length 1."""

    name = f"encoder/{POCKET}"

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self.weights = weights
        self.dim = DIM
        self._network: LevelsNetwork | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def load(self) -> None:
        import torch

        if self._network is None:
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
            self._network = read_network(self.weights).to(self._device)

    def features(self, numbers: torch.Tensor) -> torch.Tensor:
        assert self._network is not None, "run() loads first"
        seen = self._network.features(numbers).mean(dim=0)
        return seen / seen.norm().clamp_min(1e-6)


def read_network(path: Path) -> LevelsNetwork:
    """The network from its file; a file that is not there or is not this network's is an `EncoderError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from agents.levels_network import LevelsNetwork

    remedy = f"Install the project again, or train it: python experiments/make_weights.py --only {POCKET}"
    network = LevelsNetwork()
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:  # cut short, another network's tensors, not there
        reason = f"does not hold the weights of {POCKET} ({type(error).__name__}: {str(error).splitlines()[0][:150]})"
        raise EncoderError(path, reason, remedy) from error
    return network.eval().requires_grad_(False)

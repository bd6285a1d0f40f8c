"""The twelve networks of RL-Restore (arXiv:1804.03312): two small architectures, one file of weights for all.

They were trained on images stored column by column: height and width change places before the network and after it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from tir_env.tools.networks import torch_function
from tir_env.tools.tool import Function, Tool
from tir_env.tools.weights import BadWeights, Weights, read_state

DEEP = {3, 4, 7, 8, 11, 12}
SHALLOW_LAYERS = {"conv1": (32, 3, 9), "conv2": (16, 32, 5), "conv3": (3, 16, 5)}  # name: (out, in, side)
DEEP_LAYERS = {
    "conv1": (64, 3, 5),
    "conv1_2": (32, 64, 1),
    "conv2": (32, 32, 3),
    "conv2a": (32, 32, 3),
    "conv2c": (32, 32, 3),
    "conv2d": (32, 32, 3),
    "conv2_2": (64, 32, 1),
    "conv3": (3, 64, 5),
}


class Network(torch.nn.Module):
    """Tool `number`, with its tensors named as in the file but for the prefix."""

    def __init__(self, number: int, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.deep = number in DEEP
        for name in layers(number):
            self.register_buffer(f"{name}_weight", tensors[f"{name}.weight"])
            self.register_buffer(f"{name}_bias", tensors[f"{name}.bias"])

    def _conv(self, name: str, x: Tensor) -> Tensor:
        return conv2d(x, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"), padding="same")

    def forward(self, image: Tensor) -> Tensor:
        x = image.transpose(2, 3)
        h = self._conv("conv1", x).relu()
        if self.deep:
            s1 = self._conv("conv1_2", h)
            s2 = s1 + self._conv("conv2a", self._conv("conv2", s1.relu()).relu())
            s3 = s2 + self._conv("conv2d", self._conv("conv2c", s2.relu()).relu())
            h = self._conv("conv2_2", s3).relu()
        else:
            h = self._conv("conv2", h).relu()
        return (x + self._conv("conv3", h)).transpose(2, 3)


def layers(number: int) -> dict[str, tuple[int, int, int]]:
    return DEEP_LAYERS if number in DEEP else SHALLOW_LAYERS


def function(tool: Tool, weights: Weights, number: int) -> Function:
    path = weights.find(tool.name)
    expected = f"RL-Restore's tool {number} (keys tool{number:02}.<layer>.weight and .bias)"
    state = read_state(path, expected, weights.source)
    prefix = f"tool{number:02}."
    for name, (outputs, inputs, side) in layers(number).items():
        for key, shape in ((f"{prefix}{name}.weight", (outputs, inputs, side, side)), (f"{prefix}{name}.bias", (outputs,))):
            if key not in state:
                raise BadWeights(path, f"lacks the tensor {key!r}", f"It should hold {expected}. {weights.source}".strip())
            if tuple(state[key].shape) != shape:
                reason = f"its {key!r} has the shape {list(state[key].shape)}, not {list(shape)}"
                raise BadWeights(path, reason, f"It should hold {expected}. {weights.source}".strip())
    tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    network = Network(number, tensors)
    return torch_function(network, network, tool)

"""Network files as tools: whatever spandrel loads, and FBCNN at a given quality. Imports PyTorch, so it is imported on `load` only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spandrel import MAIN_REGISTRY, ImageModelDescriptor, ModelLoader, UnsupportedModelError, canonicalize_state_dict

from tir_env.tools.tool import Function, Tool
from tir_env.tools.weights import BadWeights, Weights, read_state

Forward = Callable[[torch.Tensor], torch.Tensor]  # [N, 3, H, W] in 0..1 to [N, 3, H * scale, W * scale]


def spandrel_function(tool: Tool, weights: Weights, architecture: str = "") -> Function:
    network = _network(tool, weights, architecture)
    # Not `network.model`: some architectures want more than the image, which the descriptor adds (DRUNet's map of noise levels).
    return _with_size(network, torch_function(network, network.model, tool))


def fbcnn_function(tool: Tool, weights: Weights, quality: float) -> Function:
    network = _network(tool, weights, "FBCNN")

    def forward(images: torch.Tensor) -> torch.Tensor:
        # The network was trained on 1 - quality / 100; spandrel's own call would let it guess the quality.
        factor = images.new_full((len(images), 1), 1 - quality / 100)
        return network.model(images, factor)[0]

    return torch_function(forward, network.model, tool)


def torch_function(forward: Forward, module: torch.nn.Module, tool: Tool) -> Function:
    """`forward` on uint8 batches: on the GPU if the tool wants one and there is one, in half precision there if it stands that."""
    device = torch.device("cuda" if tool.traits.gpu and torch.cuda.is_available() else "cpu")
    half = tool.traits.half and device.type == "cuda"
    # Images come with their channels last; kernels in the same order make convolutions half as fast again on a CPU.
    module.to(device).to(memory_format=torch.channels_last).requires_grad_(False)

    def function(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=half):
            result: Any = forward(images)
        if not isinstance(result, torch.Tensor) or result.ndim != 4:
            raise ValueError(f"{tool.name} returned no image batch but {type(result).__name__}")
        return result.float().permute(0, 2, 3, 1).cpu().numpy() * np.float32(255)

    return function


def _network(tool: Tool, weights: Weights, architecture: str) -> ImageModelDescriptor[Any]:
    """The network in the file, ready for use. Its architecture is found by the names and shapes of its tensors."""
    _install_extra_architectures()
    path = weights.find(tool.name)
    expected = f"{architecture or 'an image network that spandrel knows'} for {tool.name}, scale {tool.scale}"
    remedy = f"It should hold {expected}. {weights.source}".strip()
    state = read_state(path, expected, weights.source)
    try:
        network = ModelLoader(device="cpu").load_from_state_dict(canonicalize_state_dict(state))
    except UnsupportedModelError as error:
        hint = "Restormer, MPRNet, MIRNet2 and M3SNet need `pip install spandrel_extra_arches`."
        raise BadWeights(path, "holds no architecture that spandrel knows", f"{remedy} {hint}") from error
    except Exception as error:  # a known architecture with tensors that do not fit: KeyError, RuntimeError, AssertionError ...
        reason = f"does not fit its architecture ({type(error).__name__}: {str(error)[:200]})"
        raise BadWeights(path, reason, remedy) from error
    found = network.architecture.id
    if not isinstance(network, ImageModelDescriptor):
        raise BadWeights(path, f"holds {found}, which does not go from an image to an image alone", remedy)
    if architecture and found != architecture:
        raise BadWeights(path, f"holds {found}, not {architecture}", remedy)
    if network.scale != tool.scale:
        raise BadWeights(path, f"holds a network of scale {network.scale}, not {tool.scale}", f"{remedy} Or correct `scale`.")
    if (network.input_channels, network.output_channels) != (3, 3):
        channels = f"{network.input_channels} channels in and {network.output_channels} out"
        raise BadWeights(path, f"holds a network with {channels}, not 3 and 3", f"{remedy} Take the colour version.")
    network.eval()
    return network


def _install_extra_architectures() -> None:
    try:
        import spandrel_extra_arches
    except ImportError:
        return  # optional: a file that needs it is refused by name above
    if "Restormer" not in {support.architecture.id for support in MAIN_REGISTRY}:
        spandrel_extra_arches.install()


def _with_size(network: ImageModelDescriptor[Any], function: Function) -> Function:
    """Pad to what the network asks for. Spandrel would too, but cannot mirror an image that is smaller than the padding."""

    def sized(batch: NDArray[np.uint8]) -> NDArray[Any]:
        height, width = batch.shape[1:3]
        right, below = network.size_requirements.get_padding(width, height)
        if right or below:
            batch = np.pad(batch, ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect")
        result = function(batch)
        return result[:, : height * network.scale, : width * network.scale]

    return sized

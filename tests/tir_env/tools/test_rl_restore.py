"""The port of RL-Restore's twelve networks gives the published figures."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.tir_env.tools.conftest import noise_image
from tir_env.images import read_image
from tir_env.tools import BadWeights, Toolbox
from tir_env.tools.rl_restore import layers

# Read here, before the fixture that hides the user's own folders from the tests.
DATA = Path(os.environ.get("TIR_DATA") or Path(__file__).parents[4] / "shared" / "data")


@pytest.mark.skipif(
    not (DATA / "rl_restore" / "toolbox.safetensors").is_file(),
    reason=f"RL-Restore's weights and samples are not in {DATA}/rl_restore: set TIR_DATA to the folder that holds rl_restore/",
)
def test_all_twelve_give_the_reference_psnr_to_a_thousandth_of_a_decibel(monkeypatch):
    monkeypatch.setenv("TIR_DATA", str(DATA))
    reference = json.loads((DATA / "rl_restore" / "reference.json").read_text())
    toolbox = Toolbox.load("rl-restore")
    assert len(toolbox) == 12
    for sample, (file, psnr_in) in enumerate(zip(reference["files"], reference["input_psnr"], strict=True)):
        folder, name = file.split("/")
        image = read_image(DATA / "rl_restore" / "test" / file)
        truth = read_image(
            DATA
            / "rl_restore"
            / "test"
            / folder.replace("_in", "_gt")
            / f"{name.removesuffix('.png').removesuffix('_in')}_gt.png"
        )

        def psnr(values, truth=truth):
            return 10 * np.log10(255**2 / np.mean((values.astype(np.float64) - truth) ** 2))

        assert psnr(image) == pytest.approx(psnr_in, abs=1e-3)
        for number, tool in enumerate(toolbox):
            # The reference is of the network's own floats, neither clipped nor rounded.
            raw = tool.engine.load(tool)(image[None])[0]
            assert psnr(raw) == pytest.approx(reference["tool_psnr"][number][sample], abs=1e-3), (file, tool.name)
            result = tool(image)
            tool.check(image, result)
            assert np.abs(result - raw.clip(0, 255)).max() <= 0.5 + 1e-3


def random_state(numbers):
    torch.manual_seed(0)
    state = {}
    for number in numbers:
        for name, (outputs, inputs, side) in layers(number).items():
            state[f"tool{number:02}.{name}.weight"] = torch.randn(outputs, inputs, side, side) * 0.1
            state[f"tool{number:02}.{name}.bias"] = torch.zeros(outputs)
    return state


@pytest.fixture
def weights_file(weights_folder):
    path = weights_folder / "rl_restore" / "toolbox.safetensors"
    path.parent.mkdir()
    save_file(random_state(range(1, 13)), path)
    return path


@pytest.mark.parametrize("index", range(12))
def test_any_size(weights_file, index):
    tool = Toolbox.load("rl-restore")[index]
    for size in [(8, 8), (9, 30), (63, 63)]:
        image = noise_image(*size)
        tool.check(image, tool(image))
        assert (tool(image) != image).any()


def test_height_and_width_change_places(weights_file):
    """A kernel that looks to the right only must look down only in the image as we hold it."""
    state = random_state([1])
    for name in ("conv1", "conv2", "conv3"):
        state[f"tool01.{name}.weight"].zero_()
    state["tool01.conv1.weight"][0, 0, 4, 5] = 1  # the pixel at x + 1
    state["tool01.conv2.weight"][0, 0, 2, 2] = 1
    state["tool01.conv3.weight"][0, 0, 2, 2] = 1
    save_file(state, weights_file)
    image = np.zeros((8, 8, 3), np.uint8)
    image[4, 4] = 100
    changed = np.argwhere(Toolbox.load("rl-restore")[0](image)[..., 0])
    assert changed.tolist() == [[3, 4], [4, 4]]


def test_a_file_that_lacks_a_tool_or_has_wrong_shapes(weights_file):
    tool = Toolbox.load("rl-restore")[2]
    save_file(random_state([1, 2]), weights_file)
    with pytest.raises(BadWeights, match=r"lacks the tensor 'tool03\.conv1\.weight'.*RL-Restore's tool 3"):
        tool.load()
    state = random_state([3])
    state["tool03.conv3.bias"] = torch.zeros(4)
    save_file(state, weights_file)
    with pytest.raises(BadWeights, match=r"has the shape \[4\], not \[3\]"):
        tool.load()

"""Network files with random weights, written here and loaded through the real path; and files that must be refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.DnCNN import DnCNN
from spandrel.architectures.FBCNN import FBCNN
from spandrel.architectures.NAFNet import NAFNet
from spandrel.architectures.SwinIR import SwinIR

from pool.local import definition_of
from tests.tir_env.tools.conftest import noise_image
from tir_env.tools import BadWeights

pytestmark = pytest.mark.usefixtures("seeded")


def nafnet():
    network = NAFNet(width=8, enc_blk_nums=[1, 1], middle_blk_num=1, dec_blk_nums=[1, 1])
    for block in network.modules():
        if hasattr(block, "beta"):  # zero at the start: without this the blocks pass their input through
            torch.nn.init.normal_(block.beta)
            torch.nn.init.normal_(block.gamma)
    return network.eval()


def fbcnn():
    return FBCNN(nc=[8, 8, 8, 512], nb=2).eval()


def save(network: torch.nn.Module, path: Path) -> str:
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path.name


def to_tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def to_image(tensor):
    return np.floor(tensor[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255 + 0.5 + 1e-7).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pt", ".ckpt"])
def test_a_file_of_any_kind_computes_what_the_network_does(tool_of, weights_folder, suffix):
    network = nafnet()
    tool = tool_of(kind="spandrel", weights=save(network, weights_folder / f"net{suffix}"), architecture="NAFNet")
    image = noise_image(32, 48)
    with torch.inference_mode():
        expected = to_image(network(to_tensor(image)))
    assert np.abs(expected.astype(int) - image).max() > 5
    np.testing.assert_allclose(tool(image), expected, atol=1)


def test_wrapped_state_dicts_are_unwrapped(tool_of, weights_folder):
    torch.save({"params": nafnet().state_dict(), "iteration": 3}, weights_folder / "net.pth")
    tool = tool_of(kind="spandrel", weights="net.pth")
    assert tool(noise_image(16, 16)).shape == (16, 16, 3)


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (33, 64), (65, 66)])
@pytest.mark.parametrize("make", [nafnet, fbcnn, lambda: DnCNN(in_nc=3, out_nc=3, nc=8, nb=8, act_mode="R")])
def test_every_size_from_8x8_on(tool_of, weights_folder, make, size):
    tool = tool_of(kind="spandrel", weights=save(make(), weights_folder / "net.pth"))
    image = noise_image(*size)
    tool.check(image, tool(image))


def test_four_times_as_large(tool_of, weights_folder):
    network = Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4)
    entry = {"task": "super_resolve", "kind": "spandrel", "weights": save(network, weights_folder / "net.pth")}
    tool = tool_of(**entry, scale=4, tile=40, overlap=16)
    image = noise_image(65, 30)
    tool.check(image, tool(image))
    whole = tool_of(**entry, scale=4)(image)  # tiles are exact here: the network looks 4 pixels far
    np.testing.assert_allclose(tool(image), whole, atol=1)
    with pytest.raises(BadWeights, match="scale 4, not 1"):
        tool_of(**entry).load()


def test_a_window_network_on_images_smaller_than_its_window(tool_of, weights_folder):
    network = SwinIR(img_size=16, window_size=8, depths=[2], embed_dim=12, num_heads=[2], upscale=1, mlp_ratio=2)
    tool = tool_of(kind="spandrel", weights=save(network, weights_folder / "net.pth"), architecture="SwinIR")
    for size in [(8, 8), (8, 9), (17, 24)]:
        image = noise_image(*size)
        tool.check(image, tool(image))


def test_tiled_equals_untiled_away_from_borders(tool_of, weights_folder):
    network = DnCNN(in_nc=3, out_nc=3, nc=8, nb=8, act_mode="R")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    entry = {"kind": "spandrel", "weights": save(network, weights_folder / "net.pth")}
    image = noise_image(150, 101)  # the network looks 8 pixels far, a quarter of the overlap
    np.testing.assert_allclose(tool_of(**entry, tile=64, overlap=32)(image), tool_of(**entry)(image), atol=1)
    too_near = tool_of(**entry, tile=64, overlap=2)(image)
    assert np.abs(too_near.astype(int) - tool_of(**entry)(image)).max() > 1  # so the line above can fail


def test_a_batch_gives_what_single_images_give(tool_of, weights_folder):
    tool = tool_of(kind="spandrel", weights=save(nafnet(), weights_folder / "net.pth"), batch=3)
    images = [noise_image(16, 24, seed) for seed in range(4)] + [noise_image(24, 16)] + [noise_image(16, 24, 9)]
    for image, result in zip(images, tool.run(images), strict=True):
        np.testing.assert_allclose(result, tool(image), atol=1)


def test_fbcnn_at_a_given_quality(tool_of, weights_folder):
    network = fbcnn()
    weights = save(network, weights_folder / "fbcnn.pth")
    image = noise_image(24, 24)
    with torch.inference_mode():
        expected = to_image(network(to_tensor(image), torch.tensor([[1 - 0.9]]))[0])
    result = tool_of(kind="fbcnn", weights=weights, quality=90)(image)
    np.testing.assert_allclose(result, expected, atol=1)
    assert (tool_of(kind="fbcnn", weights=weights, quality=5)(image) != result).any()


@pytest.mark.parametrize("extra", ["Restormer", "MPRNet"])
def test_extra_architectures_are_known_where_installed(extra):
    pytest.importorskip("spandrel_extra_arches", reason="an extra: pip install spandrel_extra_arches")
    from spandrel import MAIN_REGISTRY

    from tir_env.tools import networks

    networks._install_extra_architectures()
    networks._install_extra_architectures()  # a second time does no harm
    assert extra in {support.architecture.id for support in MAIN_REGISTRY}


# --- refused --------------------------------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", ["torch", "pickle", "legacy"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".safetensors"])
def test_a_pickle_bomb_does_not_go_off(tool_of, weights_folder, protocol, suffix):
    path, crater = weights_folder / f"bomb{suffix}", weights_folder / "crater"
    if protocol == "pickle":
        path.write_bytes(pickle.dumps({"weight": Bomb(crater)}))
    else:
        torch.save({"weight": Bomb(crater)}, path, _use_new_zipfile_serialization=protocol == "torch")
    with pytest.raises(BadWeights, match="cannot be read as plain tensors"):
        tool_of(kind="spandrel", weights=path.name).load()
    assert not crater.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("data", [b"", b"hello", b"\x00" * 1000, b"PK\x03\x04" + b"\x00" * 100])
def test_corrupt_files(tool_of, weights_folder, suffix, data):
    (weights_folder / f"net{suffix}").write_bytes(data)
    with pytest.raises(BadWeights, match=r"NAFNet.*denoise/m.*Train it\."):
        tool_of(kind="spandrel", weights=f"net{suffix}", architecture="NAFNet", source="Train it.").load()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_cut_short(tool_of, weights_folder, suffix):
    path = weights_folder / f"net{suffix}"
    save(nafnet(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadWeights, match="cannot be read"):
        tool_of(kind="spandrel", weights=path.name).load()


def test_wrong_contents(tool_of, weights_folder):
    torch.save([torch.zeros(3)], weights_folder / "list.pth")
    torch.save({"a": torch.zeros(3)}, weights_folder / "unknown.pth")
    state = nafnet().state_dict()
    state["intro.weight"] = torch.zeros(8, 3, 5, 4)
    torch.save(state, weights_folder / "unfit.pth")
    save(DnCNN(in_nc=1, out_nc=1, nc=8, nb=8, act_mode="R"), weights_folder / "grey.pth")
    save(nafnet(), weights_folder / "nafnet.pth")
    for name, more, message in [
        ("list", {}, "holds a list, not named tensors"),
        ("unknown", {}, "no architecture that spandrel knows"),
        ("unfit", {}, "does not fit its architecture"),
        ("grey", {}, "1 channels in and 1 out"),
        ("nafnet", {"architecture": "SwinIR"}, "holds NAFNet, not SwinIR"),
        ("nafnet", {"sha256": "0" * 64}, "has SHA-256"),
    ]:
        with pytest.raises(BadWeights, match=message):
            tool_of(kind="spandrel", weights=f"{name}.pth", **more).load()
    with pytest.raises(BadWeights, match="holds NAFNet, not FBCNN"):
        tool_of(kind="fbcnn", weights="nafnet.pth", quality=50).load()


def test_a_network_that_overflows_raises_and_gives_no_picture(tool_of, weights_folder):
    network = nafnet()
    torch.nn.init.constant_(network.ending.bias, float("nan"))
    tool = tool_of(kind="spandrel", weights=save(network, weights_folder / "net.pth"))
    with pytest.raises(ValueError, match="not finite"):
        tool(noise_image(16, 16))


def test_weights_that_were_trained_anew_are_another_tool_to_a_pool(tool_of, weights_folder):
    tool = tool_of(kind="spandrel", weights=save(nafnet(), weights_folder / "net.pth"), architecture="NAFNet")
    before = definition_of(tool)
    assert definition_of(tool) == before
    save(nafnet(), weights_folder / "net.pth")
    assert definition_of(tool) != before

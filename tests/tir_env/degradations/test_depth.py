from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tir_env.degradations import Case, DepthError, SuiteError, degrade, open_depth, replay
from tir_env.degradations.depth import DepthModel, synthetic_depth
from tir_env.images import Image
from tir_env.images.operations import digest
from tir_env.world import World

HAZE = Case.parse("haze")


@pytest.mark.parametrize("shape", [(8, 8), (64, 96), (300, 200)])
def test_synthetic_depth_is_far_at_the_top_and_within_range(shape: tuple[int, int]) -> None:
    for seed in range(10):
        depth = synthetic_depth(shape, seed)
        assert depth.shape == shape
        assert depth.min() >= 0
        assert depth.max() == 1
        assert depth[: shape[0] // 4].mean() > depth[-shape[0] // 4 :].mean()


def test_the_record_names_the_source(tmp_path: Path, photo: Image) -> None:
    small = photo[:64, :80]
    assert degrade(small, HAZE, 1).record[0]["params"]["depth"] == "synthetic"
    np.save(tmp_path / "cat.npy", np.tile(np.linspace(0, 40, 20), (16, 1)))  # another size and range
    depth = open_depth(f"folder:{tmp_path}")
    spoilt = degrade(small, HAZE, 1, name="pets/cat.jpg", depth=depth)
    assert spoilt.record[0]["params"]["depth"] == "file:cat.npy"
    np.testing.assert_array_equal(replay(small, spoilt.record, name="pets/cat.jpg", depth=depth), spoilt.image)
    change = np.abs(spoilt.image.astype(int) - small).mean(axis=(0, 2))
    assert change[:8].mean() < change[-8:].mean(), "the far side is hazier"


def test_a_record_made_with_other_depth_does_not_replay_silently(tmp_path: Path, photo: Image) -> None:
    np.save(tmp_path / "cat.npy", np.ones((4, 4)))
    spoilt = degrade(photo, HAZE, 1, name="cat.png", depth=open_depth(f"folder:{tmp_path}"))
    with pytest.raises(SuiteError, match="the depth differs"):
        replay(photo, spoilt.record, name="cat.png")
    np.save(tmp_path / "cat.npy", np.tile([1.0, 2.0], (4, 2)))
    with pytest.raises(SuiteError, match="the depth differs"):
        replay(photo, spoilt.record, name="cat.png", depth=open_depth(f"folder:{tmp_path}"))


@pytest.mark.parametrize("crop", [0, 64])
def test_depth_is_that_of_the_photograph_and_not_of_what_was_spoilt_before(crop: int) -> None:
    world = World(suite="rain+haze", crop=crop, toolbox="classical")
    seen = []

    def depth(image: Image, name: str, seed: int) -> tuple[np.ndarray, str]:
        seen.append(digest(image))
        return np.ones(image.shape[:2]), "test"

    world.depth = depth
    [trajectory] = world.begin([world.draw(0, 0)])
    assert set(seen) == {trajectory.start.digest}


def test_sixteen_bit_png_depth(tmp_path: Path, photo: Image) -> None:
    cv2.imwrite(str(tmp_path / "cat.png"), np.tile(np.arange(0, 60_000, 1000, dtype=np.uint16), (50, 1)))
    depth, source = open_depth(f"folder:{tmp_path}")(photo, "cat.webp", 0)
    assert (source, depth.shape) == ("file:cat.png", photo.shape[:2])
    assert depth.max() == 1


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint16, 1), (np.uint8, 3), (np.uint8, 4)])
def test_levels_of_a_png_are_those_in_the_file(tmp_path: Path, dtype: type, channels: int) -> None:
    levels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (64, 48, channels), dtype)
    cv2.imwrite(str(tmp_path / "cat.png"), levels)
    blue = levels[..., 0]
    depth, _ = open_depth(f"folder:{tmp_path}")(np.zeros((64, 48, 3), np.uint8), "cat", 0)
    np.testing.assert_array_equal(depth, blue / blue.max())


@pytest.mark.parametrize("suffix", [".jp2", ".ras", ".pgm", ".tiff"])
def test_what_is_called_png_is_one(tmp_path: Path, photo: Image, suffix: str) -> None:
    (tmp_path / "cat.png").write_bytes(cv2.imencode(suffix, photo[..., 0])[1].tobytes())
    with pytest.raises(DepthError, match=r"cat\.png: is no picture in PNG"):
        open_depth(f"folder:{tmp_path}")(photo, "cat", 0)


def test_sixteen_bits_of_colour_are_not_read_as_eight(tmp_path: Path, photo: Image) -> None:
    cv2.imwrite(str(tmp_path / "cat.png"), photo.astype(np.uint16) * 257)
    with pytest.raises(DepthError, match="has 16-bit colours"):
        open_depth(f"folder:{tmp_path}")(photo, "cat", 0)


def forged(path: Path, shape: tuple[int, ...], dtype: str = "<f8") -> None:
    """A header that says more than the file holds, if it takes no room."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def test_a_map_is_refused_before_it_takes_memory(tmp_path: Path, photo: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = open_depth(f"folder:{tmp_path}")
    for shape in ((10**6, 10**6), (10**30, 2)):
        forged(tmp_path / "cat.npy", shape)
        with pytest.raises(DepthError, match=r"is no \.npy array"):
            depth(photo, "cat", 0)
    forged(tmp_path / "cat.npy", (2, 2), "|S4")
    with (tmp_path / "cat.npy").open("ab") as file:
        file.write(b"1234" * 4)
    with pytest.raises(DepthError, match=r"is no depth map: \|S4"):
        depth(photo, "cat", 0)
    forged(tmp_path / "cat.npy", (10**5, 10**5))
    with (tmp_path / "cat.npy").open("r+b") as file:
        file.truncate(128 + 8 * 10**10)  # a hole, as a file system may hold one
    with pytest.raises(DepthError, match="has 10,000,000,000 values, over the limit"):
        depth(photo, "cat", 0)
    (tmp_path / "cat.npy").unlink()
    cv2.imwrite(str(tmp_path / "cat.png"), photo[..., 0])
    monkeypatch.setattr("tir_env.images.reading.MAX_PIXELS", photo[..., 0].size - 1)
    with pytest.raises(DepthError, match="pixels, over the limit"):
        depth(photo, "cat", 0)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4)), np.full((4, 4), np.nan), -np.ones((4, 4)), np.ones(4), np.ones((2, 2, 2, 2))]
)
def test_maps_that_are_no_depth_are_refused(tmp_path: Path, photo: Image, bad: np.ndarray) -> None:
    np.save(tmp_path / "cat.npy", bad)
    with pytest.raises(DepthError, match="is no depth map"):
        open_depth(f"folder:{tmp_path}")(photo, "cat.png", 0)


def test_missing_and_broken_maps_are_named(tmp_path: Path, photo: Image) -> None:
    with pytest.raises(DepthError, match=r"Add cat\.npy"):
        open_depth(f"folder:{tmp_path}")(photo, "cat.png", 0)
    (tmp_path / "cat.npy").write_bytes(b"no")
    with pytest.raises(DepthError, match=r"is no \.npy array"):
        open_depth(f"folder:{tmp_path}")(photo, "cat.png", 0)
    with pytest.raises(DepthError, match="no such folder"):
        open_depth("folder:/none")
    with pytest.raises(DepthError, match="Use synthetic"):
        open_depth("sonar")


def test_a_pickle_in_a_depth_file_is_not_run(tmp_path: Path, photo: Image) -> None:
    np.save(tmp_path / "cat.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DepthError, match=r"is no \.npy array"):
        open_depth(f"folder:{tmp_path}")(photo, "cat.png", 0)


def tiny_depth_anything(folder: Path) -> Path:
    """A Depth Anything of a few thousand random weights, saved as the hub would hold it."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    backbone = Dinov2Config(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=56, patch_size=14,
        out_features=["stage1", "stage2"], reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=12, neck_hidden_sizes=[8, 8], reassemble_factors=[2, 1],
        fusion_hidden_size=8, head_hidden_size=4,
    )  # fmt: skip
    torch.manual_seed(0)
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(size={"height": 56, "width": 56}, ensure_multiple_of=14).save_pretrained(folder)
    return folder


def test_a_depth_model_runs_through_transformers(tmp_path: Path, photo: Image) -> None:
    source = open_depth(f"model:{tiny_depth_anything(tmp_path / 'model')}")
    depth, name = source(photo, "cat", 0)
    assert depth.shape == photo.shape[:2]
    assert (depth.min() >= 0, depth.max()) == (True, 1)
    assert depth.std() > 0
    assert name.startswith("model:")
    np.testing.assert_array_equal(depth, source(photo, "cat", 5)[0])


def test_a_depth_model_that_is_not_here_says_what_to_do(monkeypatch: pytest.MonkeyPatch, photo: Image) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as the variable does, but it is read at import
    with pytest.raises(DepthError, match="Fetch it with `hf download`"):
        DepthModel("nobody/no-such-model")(photo, "cat", 0)

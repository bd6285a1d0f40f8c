"""pocket-levels: any size, any company, little to pickle, and a measure of how much blur, noise and JPEG there is."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import pool
from agents.clip_mlp.agent import EncoderSpec
from agents.encoder import EncoderError
from agents.levels import DIM, WEIGHTS, Levels, read_network
from agents.levels_network import TOLD
from experiments.training.levels import spoilt
from pool import Call
from tir_env.images import Image
from tir_env.images.sources import skimage_photos


@pytest.fixture(scope="module")
def encoder() -> Levels:
    opened = EncoderSpec("pocket-levels").open()
    assert isinstance(opened, Levels)
    opened.load()
    return opened


@pytest.mark.parametrize("shape", [(8, 8), (8, 200), (63, 63), (600, 700)])
def test_images_of_any_size_have_features_of_length_one(shape: tuple[int, int], encoder: Levels) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for features in encoder.run([image, np.zeros_like(image)]):
        encoder.check(image, features)
        assert features.shape == (DIM,)
        assert features.dtype == np.float32
        assert np.linalg.norm(features) == pytest.approx(1, abs=1e-5)


def test_an_image_has_the_same_features_in_any_company(encoder: Levels, photo: Image) -> None:
    image, other = photo[:63, :63], photo[100:200, 100:230]
    [alone] = encoder.run([image])
    assert all(np.array_equal(row, alone) for row in encoder.run([image, other, image])[::2])


def test_it_travels_without_its_weights_and_runs_in_a_pool(encoder: Levels, photo: Image) -> None:
    travelled = pickle.dumps(encoder)
    assert len(travelled) < 1000
    with pool.connect("local") as place:
        place.add(pickle.loads(travelled))
        [outcome] = place.run([Call("encoder/pocket-levels", photo[:64, :64])])
    assert np.array_equal(outcome.unwrap(), encoder.run([photo[:64, :64]])[0])


def test_it_tells_levels_on_photographs_that_it_has_not_seen() -> None:
    network, rng = read_network(WEIGHTS), np.random.default_rng(5)
    photos = [photo.image for photo in skimage_photos().part("test")]
    patches = [photo[y : y + 63, x : x + 63] for photo in photos for y in (60, 200, 330) for x in (40, 250)]
    made = [spoilt(np.ascontiguousarray(patch), 12, rng) for patch in patches]
    told = torch.cat([network(numbers) for numbers, _ in made]).numpy()
    true = torch.cat([targets for _, targets in made]).numpy()
    found = {name: np.corrcoef(told[:, i], true[:, i])[0, 1] for i, name in enumerate(TOLD)}
    assert found["noise"] > 0.95
    assert found["jpeg"] > 0.9
    assert found["blur"] > 0.75
    assert found["psnr"] > 0.65


def test_weights_that_are_not_there_or_not_its_own_are_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"nothing\.safetensors.*--only pocket-levels"):
        Levels(tmp_path / "nothing.safetensors").run([np.zeros((9, 9, 3), np.uint8)])
    (tmp_path / "cut.safetensors").write_bytes(WEIGHTS.read_bytes()[:5000])
    with pytest.raises(EncoderError, match="does not hold the weights of pocket-levels"):
        read_network(tmp_path / "cut.safetensors")

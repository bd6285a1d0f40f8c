"""Natural scene statistics as an encoder: any size, any company, little to pickle, and an eye for what an embedding does not see."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import pool
from agents.clip_mlp.agent import EncoderSpec
from agents.statistics import MOST, Statistics
from pool import Call
from tir_env.degradations.suites import Case, Stage, degrade
from tir_env.images import Image


@pytest.fixture(scope="module")
def encoder() -> Statistics:
    opened = EncoderSpec("statistics").open()
    assert isinstance(opened, Statistics)
    opened.load()
    return opened


@pytest.mark.parametrize("shape", [(8, 8), (8, 200), (33, 47), (63, 63), (128, 128), (600, 700)])
def test_images_of_any_size_have_finite_features(shape: tuple[int, int], encoder: Statistics) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    [features] = encoder.run([image])
    encoder.check(image, features)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert np.abs(features).max() <= MOST / encoder.dim**0.5 + 1e-6
    flat = np.zeros((*shape, 3), np.uint8)
    assert np.isfinite(encoder.run([flat])[0]).all()


def test_an_image_has_the_same_features_in_any_company(encoder: Statistics, photo: Image) -> None:
    image, other = photo[:63, :63], photo[100:200, 100:230]
    [alone] = encoder.run([image])
    assert all(np.array_equal(row, alone) for row in encoder.run([image, other, image])[::2])


def test_it_travels_without_its_numbers_and_runs_in_a_pool(encoder: Statistics, photo: Image) -> None:
    travelled = pickle.dumps(encoder)
    assert len(travelled) < 500
    with pool.connect("local") as place:
        place.add(pickle.loads(travelled))
        [outcome] = place.run([Call("encoder/statistics", photo[:64, :64])])
    assert np.array_equal(outcome.unwrap(), encoder.run([photo[:64, :64]])[0])


@pytest.mark.parametrize(("name", "setting"), [("noise", {"kind": "gaussian", "sigma": 4.0}), ("jpeg", {"quality": 60})])
def test_weak_degradations_move_it_the_same_way_everywhere(
    name: str, setting: dict[str, object], encoder: Statistics, photo: Image
) -> None:
    clean = [np.ascontiguousarray(photo[y : y + 64, x : x + 64]) for y in (0, 96, 192) for x in (0, 120, 240, 360)]
    case = Case(name, (Stage(name, setting),))
    spoilt = [degrade(image, case, seed).image for seed, image in enumerate(clean)]
    before, after = (np.stack(encoder.run(images)) for images in (clean, spoilt))
    moves = after - before
    way = moves[:6].mean(axis=0)
    assert (moves[6:] @ way > 0).all()

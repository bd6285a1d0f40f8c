"""The weights that ship: they load, they are small, and they see noise and haze on photographs that they never saw."""

from __future__ import annotations

import numpy as np

from agents.vlm.model import WEIGHTS, load
from agents.vlm.settings import VlmSpec
from experiments.training.captions import DEGRADATIONS
from experiments.training.vlm import perceive
from tir_env.degradations import open_suite
from tir_env.degradations.suites import degrade
from tir_env.images.sources import skimage_photos


def test_pocket_vlm_sees_what_is_wrong() -> None:
    assert (WEIGHTS / "model.safetensors").stat().st_size < 12e6
    vlm = load(VlmSpec())
    clean = [photo.image[100:164, 100:164] for photo in skimage_photos().part("test")]
    for name in ("noise", "haze"):
        [case] = open_suite(name)
        spoilt = [degrade(image, case, seed).image for seed, image in enumerate(clean)]
        place = DEGRADATIONS.index(name)
        before, after = perceive(vlm, clean)[:, place], perceive(vlm, spoilt)[:, place]
        assert np.mean(after) > np.mean(before) + 0.1


def test_what_it_says_is_one_of_five_levels() -> None:
    said = perceive(load(VlmSpec()), [np.full((33, 70, 3), 90, np.uint8)])
    assert said.shape == (1, len(DEGRADATIONS))
    assert ((said >= 0) & (said <= 1)).all()

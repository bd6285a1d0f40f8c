"""The weights that ship: they load, they are small, and they see noise and haze on photographs that they never saw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from agents.vlm.model import WEIGHTS, VlmError, load
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


def test_a_model_of_another_kind_or_with_a_part_of_its_weights_is_refused(tmp_path: Path) -> None:
    """transformers fills in noise, and warns."""
    place = shutil.copytree(WEIGHTS, tmp_path / "model")
    weights = load_file(place / "model.safetensors")
    lost = next(name for name in weights if "layers.1.mlp" in name)
    save_file({name: weight for name, weight in weights.items() if name != lost}, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(VlmError, match=rf"lacks 1 of its weights, such as {lost}"):
        load(VlmSpec(str(place)))
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"model_type": "qwen3_vl_moe"}))
    with pytest.raises(VlmError, match="is a qwen3_vl_moe, not a qwen3_vl"):
        load(VlmSpec(str(place)))

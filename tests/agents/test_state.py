"""The light agent's state: the way there and back, and files that are none or would run code."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.clip_mlp import state
from agents.clip_mlp.state import STATE, StateError


def test_there_and_back(tmp_path: Path) -> None:
    given = {
        0: np.arange(3, dtype=np.float32),
        "betas": (0.9, 0.999),
        "deep": [{"step": np.float32(2), "none": None, "ok": True}],
    }
    state.save(given, tmp_path / "new")
    found = state.load(tmp_path / "new")
    assert found[0].dtype == np.float32
    assert found[0].tolist() == [0, 1, 2]
    assert found["betas"] == (0.9, 0.999)
    assert found["deep"] == [{"step": 2, "none": None, "ok": True}]


class Bomb:
    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.crater),)


def test_a_bomb_does_not_go_off_and_half_a_file_is_none(tmp_path: Path) -> None:
    torch.save({"learner": Bomb(tmp_path / "crater")}, tmp_path / STATE)
    with pytest.raises(StateError, match="cannot be read"):
        state.load(tmp_path)
    assert not (tmp_path / "crater").exists()
    torch.load(tmp_path / STATE, weights_only=False)
    assert (tmp_path / "crater").exists(), "or it was no bomb"
    state.save({"learner": np.zeros(1000)}, tmp_path)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:2000])
    with pytest.raises(StateError, match=r"cannot be read.*Delete this checkpoint"):
        state.load(tmp_path)

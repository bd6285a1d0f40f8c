"""Tools that pose as far away in bench_sb3; its rounds are real trainings."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest

from experiments.bench_sb3 import away
from tests.conftest import fake_toolbox


def test_tools_far_away_give_the_same_later(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    near = fake_toolbox().subset(("denoise/brighter",))
    far = pickle.loads(pickle.dumps(away(near, 0.25)))
    monkeypatch.setattr(time, "sleep", waited.append)
    image = np.full((32, 40, 3), 7, np.uint8)
    assert np.array_equal(far["denoise/brighter"](image), near["denoise/brighter"](image))
    assert waited == [0.25]

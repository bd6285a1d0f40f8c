"""Training pocket-levels: it learns, and what is shipped is what the encoder reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from agents.levels import read_network
from experiments.training.levels import PocketLevels, case, spoilt
from experiments.training.pictures import Pictures
from experiments.training.trainer import Plan, train
from tir_env.degradations import degrade
from tir_env.images import Image


def test_a_short_training_learns_and_ships_what_the_encoder_reads(tmp_path: Path) -> None:
    job = PocketLevels(steps=60, batch=2, group=8, pictures=Pictures(leaves=2))
    network, progress = train(job, Plan(workers=0, states=tmp_path / "states"))
    assert progress.step == 60
    figures = job.figures(network)
    assert figures["correlation of noise"] > 0.5, "even a short training sees noise"
    job.ship(network, tmp_path, {"seed": 0, "figures": figures})
    path = job.file(tmp_path)
    read = read_network(path)
    numbers, _ = spoilt(np.full((63, 63, 3), 99, np.uint8), 3, np.random.default_rng(0))
    with torch.inference_mode():
        assert torch.equal(read(numbers), network.eval()(numbers))
    assert path.stat().st_size < 500_000
    assert "error of blur" in path.with_suffix(".md").read_text()


def test_what_is_to_be_told_is_what_was_done(photo: Image) -> None:
    clean = np.ascontiguousarray(photo[100:163, 100:163])
    numbers, targets = spoilt(clean, 5, np.random.default_rng(3))
    again, same = spoilt(clean, 5, np.random.default_rng(3))
    assert torch.equal(numbers, again)
    assert torch.equal(targets, same)
    levels = (targets[:, :3] * 3 + 5).round().int().tolist()
    assert all(0 <= level <= 10 for row in levels for level in row)
    record = degrade(clean, case(*levels[0]), 7).record
    assert [step["params"]["level"] for step in record] == levels[0]

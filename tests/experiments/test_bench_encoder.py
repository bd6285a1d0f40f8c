"""The benchmark of the encoder: what counts as positive, and a small run from photographs to figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import bench_encoder as bench
from experiments.training.encoder import PocketClip, write_folder
from tir_env.images import write_image
from tir_env.images.generate import dead_leaves

COUNT = len(bench.cases())


def test_cases_are_clean_the_eight_and_each_mixture_once() -> None:
    names = [case.degradations for case in bench.cases()]
    assert names[0] == ()
    assert names[1:9] == [(name,) for name in bench.DEGRADATIONS]
    assert all(len(each) > 1 for each in names[9:])
    assert len(set(names)) == len(names) == 9 + 21


def seen(severity: np.ndarray, case: np.ndarray) -> bench.Seen:
    return bench.Seen(np.arange(len(case)) // 20, case, severity, [])


def test_a_perfect_score_and_its_opposite() -> None:
    rng = np.random.default_rng(0)
    case = np.tile([*range(9), *range(20, 30), -1], 2)
    severity = rng.uniform(0.3, 1, (len(case), 8)) * (rng.random((len(case), 8)) < 0.4)
    severity[case == -1] = np.maximum(severity[case == -1], rng.uniform(0.1, 1, (2, 8)))
    for sign, expected in ((1, 1.0), (-1, 0.0)):
        figures = bench.zero_shot(seen(severity, case), sign * severity)
        for row in figures.values():
            assert row["auc"] == expected
            assert row["auc alone"] == expected
            assert row["rank mixed"] == pytest.approx(sign)


def test_the_probe_is_tested_on_other_photographs_than_it_is_trained_on() -> None:
    """Features that name the photograph alone tell nothing about others."""
    rng = np.random.default_rng(1)
    photo = np.repeat(np.arange(10), 30)
    severity = (rng.random((300, 8)) < 0.5).astype(float)
    rows = bench.Seen(photo, np.tile(np.arange(30), 10), severity, [])
    told = bench.probe(rows, severity + rng.normal(0, 0.1, (300, 8)), np.random.default_rng(0))
    blind = bench.probe(rows, np.eye(10)[photo], np.random.default_rng(0))
    assert min(told) > 0.95
    assert max(abs(value - 0.5) for value in blind) < 0.15


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(4):
        write_image(tmp_path / "photos" / f"{index}.png", dead_leaves(index, 48))
    torch.manual_seed(3)
    write_folder(PocketClip().network(), tmp_path / "model")
    bench.run(
        bench.Settings(
            images=str(tmp_path / "photos"),
            model=f"local-dir:{tmp_path / 'model'}",
            splits=2,
            random=1,
            json=tmp_path / "f.json",
        )
    )
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["images"] == 4 * (COUNT + 7)
    assert set(figures["zero shot"]) == set(bench.DEGRADATIONS) == set(figures["probe of random weights"])
    assert all(0 <= row["auc"] <= 1 for row in figures["zero shot"].values())
    assert all(value > 0 for value in figures["milliseconds"].values())
    assert "of 8 reach an AUC of 0.9" in capsys.readouterr().out

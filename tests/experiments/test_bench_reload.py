"""A tool in a process of its own computes the same bytes, and takes longer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.bench_reload import Bench, Fresh, bench


def test_a_process_for_every_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(Bench(agent="brighten/gamma", suite="dark", crop=32, count=1, json=tmp_path / "reload.json"))
    [row] = json.loads((tmp_path / "reload.json").read_text())["images"]
    assert row["fresh"] > row["warm"] > 0
    assert "a process for every call" in capsys.readouterr().out


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"no/tool ended with 1.*Known: brighten"):
        Fresh("pocket", "no/tool")._one(np.zeros((8, 8, 3), np.uint8))

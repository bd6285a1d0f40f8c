"""The tables of bench_tir, from figures made by hand; its trainings are run.py's."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from experiments import bench_tir
from experiments.bench_tir import METRICS, SUITES, Bench, diversity_table, folder_of, gains_table, rise_table
from tests.experiments.test_scripts import within


def cell(gain: float) -> dict[str, dict[str, list[float]]]:
    return {suite: {**{metric: [gain, gain] for metric in METRICS}, "calls": [2.0, 3.0]} for suite in SUITES}


def test_tables_say_what_the_cells_hold(tmp_path: Path) -> None:
    settings = Bench("photos", variants=("TIR-Agent", "w/o EDP"), seeds=2, out=tmp_path)
    done = {"none": cell(0.0), "TIR-Agent 0": cell(2.0), "TIR-Agent 1": cell(4.0), "w/o RL 0": cell(1.0), "w/o RL 1": cell(2.0)}
    even = {"distinct": 0.5, "identical": 0.25, "order": 0.1, "tool": 0.2, "tool_entropy": 0.3}
    done["diversity TIR-Agent 0"] = even  # type: ignore[assignment]
    console = Console(record=True, width=200)
    for table in (gains_table(done, settings), rise_table(done, settings), diversity_table(done, settings)):
        console.print(table)
    text = console.export_text()
    assert "+3.00 ±1.41" in text, "the mean of two seeds, and their spread"
    assert "+1.50 ±0.71" in text, "from SFT to GRPO"
    assert "0.500" in text
    assert folder_of("w/o α^t", 1, settings).name == "w-o-alpha-t-1"


def test_stages_are_tested_beside_their_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bench_of(*variants: str) -> set[str]:
        filled: list[str] = []
        monkeypatch.setattr(bench_tir.Cells, "fill", lambda self, name, *rest: filled.append(name))
        bench_tir.bench(Bench("generated:4", variants, light=False, seeds=1, pool="local", out=tmp_path))
        return set(filled)

    assert {"TIR-Agent 0", "vanilla 0", "w/o RL 0"} <= bench_of("TIR-Agent")
    assert {name for name in bench_of("w/o EDP") if name.endswith(" 0")} == {"w/o EDP 0", "diversity w/o EDP 0"}


def test_mistakes_are_named() -> None:
    done = within("bench_tir.py", "--test-images", "nowhere", "--seeds", 0)
    assert done.returncode == 2
    assert "--seeds" in done.stderr
    done = within("bench_tir.py", "--test-images", "nowhere", "--variants", "TIR-Agent", "w/o EPD")
    assert done.returncode == 2
    assert "Did you mean 'w/o EDP'?" in done.stderr
    done = within("diversity.py", "--agent", "random")
    assert done.returncode == 2
    assert "does not draw its actions" in done.stderr

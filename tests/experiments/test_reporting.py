"""Tables and pictures of what agents did."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from experiments.reporting import draw_curves, draw_extremes, summary, table
from tir_env.drawing import draw_tiles, save_figure
from tir_env.images import read_image


def test_the_best_is_the_one_that_gained_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, float] = {}
    monkeypatch.setattr("experiments.reporting.save_figure", lambda figure, path: drawn.update({path.stem: figure}))

    def played(gain: float) -> Any:
        return SimpleNamespace(gains=lambda: {"psnr": gain}, pixels=(), figure=lambda metrics: gain)

    draw_extremes([played(gain) for gain in (2.0, -1.0, 5.0)], ["psnr"], tmp_path)
    assert drawn == {"best": 5.0, "median": 2.0, "worst": -1.0}


def test_names_with_dollars_are_no_mathematics(tmp_path: Path) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    save_figure(draw_tiles([(image, r"a$\x^$b", r"$\x^$ failed", True)]), tmp_path / "tiles.png")
    assert read_image(tmp_path / "tiles.png").std() > 5


@pytest.mark.parametrize("rows", [[], [{"iteration": k, "sft/loss": 1 / k} for k in (1, 2, 3)]])
def test_curves_of_a_run_that_only_imitates_or_did_nothing(rows: list[Any], tmp_path: Path, capsys: Any) -> None:
    draw_curves(rows, ["psnr"], tmp_path / "curves.png")
    assert read_image(tmp_path / "curves.png").size
    assert capsys.readouterr() == ("", "")


def test_where_nothing_could_be_scored_nothing_is_better() -> None:
    trajectory = SimpleNamespace(gains=dict, total_reward=0.0, steps=[], calls=0, failures=[], tool_names=[], end_quality={})
    row = summary([trajectory], ["psnr"])  # type: ignore[list-item]
    assert np.isnan(row["psnr better"])
    console = Console(record=True, width=100)
    console.print(table({"agent": row}, ["psnr"]))
    assert "nan" not in console.export_text()

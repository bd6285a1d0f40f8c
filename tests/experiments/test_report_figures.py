"""Figures that the report tells and compares: of older runs, of several runs, of single tools; its curves and its drawings."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.report import write_report
from experiments.report_page.charts import charts
from experiments.report_page.page import best_singles, page, rivals
from experiments.report_page.reading import read_run
from experiments.report_page.usage import streams
from tests.experiments.report_runs import make_run, played
from tir_env.tools import TASKS


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", played(8))


def change_rows(run: Path, **changes: dict[str, Any]) -> None:
    """Figures of policies in a run's table; one that is None goes."""
    table = json.loads((run / "table.json").read_text())
    for name, changed in changes.items():
        row = table["rows"][name] | changed
        table["rows"][name] = {key: value for key, value in row.items() if value is not None}
    (run / "table.json").write_text(json.dumps(table))


def test_a_table_from_before_episodes_were_counted_is_told(run: Path) -> None:
    change_rows(run, **{"ppo clip_mlp": {"episodes": None}})
    assert "in 8 held-out starts" in write_report((run,)).read_text(encoding="utf-8")


def test_each_metric_has_its_own_best_single_tool(run: Path) -> None:
    gains = {"denoise/brighter": {"psnr gain": 1.0, "ssim gain": -0.2}, "denoise/darker": {"psnr gain": 0.5, "ssim gain": 0.3}}
    change_rows(run, **gains)
    read = read_run(run, "run")
    assert best_singles(read) == {"psnr": ("denoise/brighter", 1.0), "ssim": ("denoise/darker", 0.3)}
    assert {r.name for r in rivals([read]) if r.best} == set(gains)
    text = page([read], 24)
    assert "best single tool +0.300, denoise/<wbr>darker" in text
    assert "best by the first metric, chosen on these starts: denoise/brighter by psnr." in text


def test_the_same_starts_are_told_of_runs_that_had_them(run: Path, tmp_path: Path) -> None:
    again, other = make_run(tmp_path / "again", played(8)), make_run(tmp_path / "other", played(8, seed=1))
    same, own = "Means over the same held-out starts", "Means over each run&#39;s own held-out starts"
    for runs, told in (((run,), same), ((run, again), same), ((run, other), own)):
        text = write_report(runs, tmp_path / "out.html").read_text(encoding="utf-8")
        assert [sentence in text for sentence in (same, own)] == [told == same, told == own]


def test_the_first_cell_of_a_row_says_whose_it_is(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", played(4))
    text = write_report((run, other), tmp_path / "out.html").read_text(encoding="utf-8")
    body = text[text.index('<table class="sortable"') : text.index('<section id="tools"')]
    rows = re.findall(r"<tr[^>]*>\s*(<t[hd] scope=.row.>.*?)</th>", body, re.DOTALL)
    assert len(rows) > 10
    assert all(re.search(r'<small class="swatch c[01]">(run|other)</small>$', row) for row in rows)


def test_trajectories_are_numbered_and_ordered_by_their_names(run: Path) -> None:
    for before, after in (("0001", "10000"), ("0002", "9999"), ("0003", "by hand")):
        (run / "trajectories" / before).rename(run / "trajectories" / after)
    assert read_run(run, "run").numbers == [0, 4, 5, 6, 7, 9999, 10000, 7]


@pytest.mark.parametrize("count", [1, 2])
def test_every_curve_of_a_chart_has_its_own_stroke(run: Path, count: int) -> None:
    reads = [read_run(run, f"run {k}") for k in range(count)]
    for read in reads:
        read.rows = [
            {"iteration": k} | {f"reward_design/m{m}/weight": k + m for m in range(13 - 7 * (count > 1))} for k in (1, 2)
        ]
    [chart] = charts(reads)
    strokes = {(s.colour, s.dash) for s in chart.series}
    assert len(strokes) == len(chart.series) == (13 if count == 1 else 12)
    assert [name for name, _ in chart.legend] == [s.key for s in chart.series if s.run in ("", "run 0")]
    assert len({style for _, style in chart.legend}) == len(chart.legend)


def test_names_behind_the_last_step_do_not_overlap() -> None:
    tools = [*["denoise/a"] * 500, *(f"{task}/a" for task in TASKS), "stop"]
    some: Any = [SimpleNamespace(steps=[SimpleNamespace(tool=tool)]) for tool in tools]
    drawing = streams(some)
    places = sorted(float(y) for y in re.findall(r'<text x="185" y="([\d.]+)"', drawing))
    assert len(places) == len({*tools})
    assert min(after - before for before, after in pairwise(places)) >= 12.9
    height = float(re.search(r'viewBox="-2 -6 \d+ (\d+)"', drawing)[1])  # type: ignore[index]
    assert places[-1] < height - 6


def test_what_never_moves_has_no_chart(run: Path) -> None:
    read = read_run(run, "run")
    read.rows = [{"iteration": k, "reward": k, "entropy": 1.0, "failures": 0.0} for k in (1, 2, 3)]
    assert [chart.title for chart in charts([read])] == ["reward"]

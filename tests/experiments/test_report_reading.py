"""Figures that a file may hold, odd as they are: the report shows them, leaves them out, or names the file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from experiments.report import write_report
from experiments.report_page.charts import charts
from experiments.report_page.page import minutes
from experiments.report_page.pictures import gather
from experiments.report_page.reading import read_run
from experiments.runs import ABOUT, CONFIG, LOG, TABLE, TRAJECTORIES
from pool import Problem
from tests.experiments.report_runs import make_run, played
from tir_env.world import World

INF = math.inf


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", played(2))


def changed(path: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def logged(run: Path, *rows: dict[str, Any]) -> None:
    (run / LOG).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("unknown", [None, INF, math.nan])
def test_times_that_are_not_known_do_not_count(run: Path, unknown: float | None) -> None:
    logged(run, {"iteration": 1, "seconds": unknown}, {"iteration": 2, "seconds": 3.0, "seconds/tools": unknown})
    changed(run / TABLE, lambda table: table["rows"]["random"].update({"seconds per image": unknown}))
    changed(run / TABLE, lambda table: table["rows"]["ppo clip_mlp"].update({"seconds per image": 0.5}))
    changed(
        run / TABLE, lambda table: [table["rows"][name].update({"seconds per image": 0}) for name in list(table["rows"])[2:]]
    )
    assert read_run(run, "run").seconds() == {"training": 3.0, "held-out comparison": 1.0}
    assert write_report((run,)).is_file()


def test_times_may_be_as_large_as_they_like(run: Path) -> None:
    logged(run, *({"iteration": k, "seconds": 10**308, "seconds/tools": 1e308} for k in (1, 2)))
    changed(run / TABLE, lambda table: table["rows"]["random"].update({"seconds per image": 10**300, "episodes": 10**300}))
    changed(run / TABLE, lambda table: table["rows"]["random"].update({"psnr better": 10**308}))
    assert write_report((run,)).is_file()
    assert minutes(INF) == "–"


def test_a_chart_skips_what_is_too_large_to_draw(run: Path) -> None:
    rewards = (1e308, 0.5, -1e308, 1.5)
    logged(run, *({"iteration": k, "reward": reward} for k, reward in enumerate(rewards, start=1)))
    [chart] = charts([read_run(run, "run")])
    assert (chart.series[0].x, chart.series[0].y) == ([2, 4], [0.5, 1.5])


@pytest.mark.parametrize("name", ["tasks", "usage"])
def test_shares_are_no_metrics(run: Path, name: str) -> None:
    changed(run / TRAJECTORIES / "0000" / "trajectory.json", lambda told: told["quality"].update({name: [1.0, 1.0]}))
    assert name not in read_run(run, "run").metrics
    assert write_report((run,)).is_file()
    changed(run / CONFIG, lambda settings: settings.update(metrics=["psnr", name]))
    with pytest.raises(Problem, match=rf"config\.json: holds no settings of a run: metrics\.1: .*no metric is called {name}"):
        read_run(run, "run")


def test_episodes_without_end_are_refused(run: Path) -> None:
    changed(run / CONFIG, lambda settings: settings.update(test_episodes=10**400))
    with pytest.raises(Problem, match="holds no settings of a run: test_episodes"):
        read_run(run, "run")


@pytest.mark.parametrize(
    ("begun", "found"),
    [
        ("1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("2026-01-02t03:04z", datetime(2026, 1, 2, 3, 4, tzinfo=UTC)),
        ("2026-01-02T03:04:05.123456789Z", datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
    ],
)
def test_a_date_is_read_once(run: Path, begun: str, found: datetime) -> None:
    (run / ABOUT).write_text(json.dumps({"begun": begun}))
    assert read_run(run, "run").about["begun"] == found
    assert f"Begun {found:%-d %B %Y, %H:%M}." in write_report((run,)).read_text(encoding="utf-8")


@pytest.mark.parametrize("start", [{"crop": -3}, {"corner": [10**20, -5]}])
def test_a_start_outside_of_every_photograph_is_none(run: Path, start: dict[str, Any]) -> None:
    changed(run / TRAJECTORIES / "0000" / "trajectory.json", lambda told: told["start"].update(start))
    assert "1 trajectories cannot be read" in "".join(read_run(run, "run").notes)


def test_whatever_making_a_picture_again_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run", played(2), pictures=False)
    changed(folder / TRAJECTORIES / "0000" / "trajectory.json", lambda told: told["start"].update(corner=[10**20, 0]))
    assert "cannot be made again" in "".join(gather(read_run(folder, "run"), 1e9).notes)

    def no_world(*_: object, **__: object) -> World:
        raise MemoryError("too many photographs")

    monkeypatch.setattr("experiments.report_page.pictures.World", no_world)
    [told] = gather(read_run(folder, "run"), 1e9).notes
    assert told.startswith("2 of 2 trajectories have no pictures")
    assert "names no world that opens: MemoryError: too many photographs" in told

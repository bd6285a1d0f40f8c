"""The benchmark of choices: figures worked out by hand, and a second run that goes on where the first stopped."""

from __future__ import annotations

import json

import pytest

from experiments import bench_choice
from pool import Problem
from tir_env.images import write_image
from tir_env.images.generate import dead_leaves
from tir_env.tools import Toolbox

TOOLBOX = """
name: four
tools:
  - {task: brighten, model: gamma, call: "tir_env.tools.classical.brighten:gamma"}
  - {task: brighten, model: shift, call: "tir_env.tools.classical.brighten:shift"}
  - {task: denoise, model: median, call: "tir_env.tools.classical.denoise:median"}
  - {task: denoise, model: bilateral, call: "tir_env.tools.classical.denoise:bilateral"}
"""


@pytest.fixture
def toolbox(tmp_path):
    (tmp_path / "four.yaml").write_text(TOOLBOX)
    return tmp_path / "four.yaml"


def test_figures_by_hand(toolbox):
    gamma, shift, median, bilateral = "brighten/gamma", "brighten/shift", "denoise/median", "denoise/bilateral"
    gains = {
        "dark": [
            {gamma: 4.0, shift: 1.0, median: 0.0, bilateral: -1.0},
            {gamma: 1.0, shift: 3.0, median: 0.0, bilateral: -1.0},
        ],
        "noise": [{gamma: -2.0, shift: -3.0, median: -1.0, bilateral: -0.5}],
    }
    found = bench_choice.figures(Toolbox.load(toolbox), gains)
    assert found["first"] == pytest.approx({gamma: 1 / 3, shift: 1 / 3, median: 0, bilateral: 0, bench_choice.NOTHING: 1 / 3})
    brighten = found["tasks"]["brighten"]
    assert (brighten["fixed"], brighten["images"]) == (gamma, 2)
    assert (brighten["gain"], brighten["best"], brighten["loss"], brighten["loss_std"]) == (2.5, 3.5, 1.0, 1.0)
    assert brighten["wins"] == {gamma: 0.5, shift: 0.5}
    assert found["tasks"]["denoise"]["loss"] == 0
    assert found["loss"] == 0.5


def test_a_second_run_goes_on_and_other_settings_are_refused(toolbox, tmp_path, capsys):
    for index in range(2):
        write_image(tmp_path / "photos" / f"{index}.png", dead_leaves(index, 64))
    options = {
        "images": str(tmp_path / "photos"),
        "suites": ("dark", "noise"),
        "toolbox": str(toolbox),
        "json": tmp_path / "f.json",
    }
    bench_choice.run(bench_choice.Settings(**options, crop=48, limit=1))
    first = json.loads(options["json"].read_text())
    bench_choice.run(bench_choice.Settings(**options, crop=48))
    second = json.loads(options["json"].read_text())
    assert [len(rows) for rows in second["gains"].values()] == [2, 2]
    assert second["gains"]["dark"][0] == first["gains"]["dark"][0]
    assert "loss of the best fixed tool per task" in capsys.readouterr().out
    known = second["gains"]["noise"][1].pop("denoise/median")  # as if it were new in the toolbox
    second["gains"]["noise"][1]["denoise/bilateral"] = 7.0
    options["json"].write_text(json.dumps(second))
    bench_choice.run(bench_choice.Settings(**options, crop=48))
    [_, row] = json.loads(options["json"].read_text())["gains"]["noise"]
    assert (row["denoise/median"], row["denoise/bilateral"]) == (known, 7.0)
    with pytest.raises(Problem, match="other settings"):
        bench_choice.run(bench_choice.Settings(**options, crop=0))

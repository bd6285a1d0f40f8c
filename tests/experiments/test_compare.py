"""Agents in turns on the pocket toolbox: what is kept, what is told, and that times and costs are each one's own."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.compare import (
    Compare,
    against,
    compare,
    costs,
    mean_and_error,
    named,
    ranks,
    trainings_of,
    troubles,
)
from experiments.console import plain_console
from experiments.contest import Contestant, episode_of, tell_of_a_low_bound, world_of
from pool import Problem

SMALL = Compare(
    agents=("random", "agenticir", "denoise/dct"),
    suites=("noise+jpeg",),
    metrics=("psnr", "piqe"),
    horizon=2,
    crop=32,
    episodes=2,
)


def test_a_comparison_is_kept_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = replace(SMALL, json=tmp_path / "compare.json")
    compare(settings)
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("no tool", "random", "agenticir", "denoise/dct", "oracle:psnr"))
    done = json.loads(settings.json.read_text())["noise+jpeg"]
    assert {name: len(each) for name, each in done.items()} == dict.fromkeys(
        ("no tool", "random", "agenticir", "denoise/dct", "oracle:psnr"), 2
    )
    starts = {name: [(e["image"], e["seed"]) for e in each] for name, each in done.items()}
    assert len({str(each) for each in starts.values()}) == 1, "all have the same starts"
    for fixed, oracle in zip(done["denoise/dct"], done["oracle:psnr"], strict=True):
        assert oracle["gain"]["psnr"] >= max(0, fixed["gain"]["psnr"] - 1e-9), "it tries every tool first"
        assert (fixed["calls"], fixed["degradations"]) == (1, 2)
        assert oracle["calls"] > 20
        assert oracle["seconds"] > fixed["seconds"] > 0
    assert all(e["gain"] == {"psnr": 0.0, "piqe": 0.0} for e in done["no tool"])
    for suffix in (".md", ".tex", ".png"):
        assert settings.json.with_suffix(suffix).stat().st_size > 200
    compare(replace(settings, suites=("noise+jpeg", "dark+noise+jpeg")))
    grown = json.loads(settings.json.read_text())
    assert grown["noise+jpeg"] == done, "what was done is not done again"
    assert "| agent | 2 | 3 |" in settings.json.with_suffix(".md").read_text()
    with pytest.raises(Problem, match="other settings"):
        compare(replace(settings, crop=48))


def test_what_names_stand_for_may_not_change_between_the_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained anew, or with other tools, an agent is another one; a suite that was edited is played again."""
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("tools.yaml", "name: x\n"),
        ("case.yaml", "name: y\n"),
        ("run/agent/agent.json", "{}"),
        ("run/agent/w", "1"),
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    played: list[str] = []

    def contest(suite: str, names: dict[str, str], *_: object) -> dict[str, list[dict[str, object]]]:
        played.append(suite)
        episode = {
            "image": "a",
            "degradations": 1,
            "gain": {"psnr": 1.0, "piqe": 1.0},
            "calls": 1,
            "policy calls": 1,
            "seconds": 1.0,
        }
        return {name: [episode] for name in names.values()}

    monkeypatch.setattr("experiments.compare.contest", contest)
    monkeypatch.setattr("experiments.compare.seen_before", lambda *_: "")
    settings = replace(SMALL, agents=("run",), suites=("case.yaml",), toolbox="tools.yaml", json=Path("compare.json"))
    compare(settings)
    compare(settings)
    assert len(played) == 1
    Path("case.yaml").write_text("name: z\n")
    compare(settings)
    assert len(played) == 2
    for name in ("run/agent/w", "tools.yaml"):
        before = Path(name).read_text()
        Path(name).write_text("2")
        with pytest.raises(Problem, match="other settings"):
            compare(settings)
        Path(name).write_text(before)
    compare(settings)
    assert len(played) == 2


def test_what_did_not_go_well_is_told() -> None:
    fine = {"failures": [], "remarks": []}
    assert troubles([fine, {}]) == ""
    told = troubles([fine | {"fallbacks": 2, "remarks": ["no"]}, fine | {"fallbacks": 1}, fine | {"failures": ["x", "y"]}])
    assert told == (
        "3 answers of a language model missing or no use, so that others stood in, 2 calls failed, 1 episodes with remarks"
    )


def test_what_a_metric_could_not_score_is_told() -> None:
    episodes = [{"gain": {"psnr": 1.0, "piqe": math.nan}}, {"gain": {"psnr": 2.0, "piqe": 3.0}}]
    assert troubles(episodes) == "1 results that piqe could not score, and are left out of its mean"


def test_two_views_of_a_scene_are_one_in_the_error() -> None:
    def episodes(*scenes: str) -> list[dict[str, object]]:
        found = zip(scenes, "abc", (0.0, 4.0, 4.0), strict=True)
        return [{"scene": scene, "image": image, "gain": {"psnr": gain}} for scene, image, gain in found]

    assert mean_and_error(episodes("a", "b", "c"), "psnr") == "+2.67 ±1.33"
    assert mean_and_error(episodes("a", "b", "b"), "psnr") == "+2.67 ±1.78"


def test_of_a_bound_that_gains_nothing_there_is_no_share() -> None:
    def episodes(gain: float) -> list[dict[str, object]]:
        return [{"image": "a", "calls": 1, "policy calls": 1, "seconds": 1.0, "gain": {"piqe": gain}}]

    settings = Compare(metrics=("piqe",))
    for most, shares in ((10.0, ["50%", "100%"]), (-10.0, ["", ""])):
        rows = costs({"a": episodes(5.0), "oracle:psnr": episodes(most)}, settings, "oracle:psnr").rows
        assert [row[-1] for row in rows] == shares


def test_the_clock_does_not_run_for_what_is_reported() -> None:
    with ExitStack() as stack:
        contestant = Contestant.enter(stack, "none", "noise+jpeg", replace(SMALL, metrics=("fsim", "psnr")))
        assert set(contestant.world.metrics) == {"psnr"}
        as_is = Contestant.enter(stack, "none", "as-is", replace(SMALL, metrics=("pocket-deqa", "piqe")))
        assert set(as_is.world.metrics) == {"piqe"}


def test_all_tools_are_there_before_the_clock_runs(tmp_path: Path) -> None:
    settings = replace(SMALL, json=tmp_path / "compare.json")
    with ExitStack() as stack:
        contestant = Contestant.enter(stack, "none", "noise+jpeg", settings)
        contestant.warm_up(settings)
        assert {tool.name for tool in contestant.world.toolbox} <= set(contestant.world.pool.stats().by_model)


def test_a_bound_that_looks_less_far_than_others_may_go_is_no_bound(capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as stack:
        names = {spec: spec for spec in ("none", "oracle:psnr:2")}
        made = {name: Contestant.enter(stack, name, "noise+jpeg", replace(SMALL, horizon=3)) for name in names}
        for bound in ("none", "", "oracle:psnr:2"):
            assert capsys.readouterr().out == ""
            tell_of_a_low_bound(made, bound, plain_console())
        assert "oracle:psnr:2 looks 2 steps ahead, and others may take 3" in capsys.readouterr().out.replace("\n", " ")


def test_names_are_short_and_differ(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "run" / "agent").mkdir(parents=True)
        (tmp_path / parent / "run" / "agent" / "agent.json").write_text("{}")
    assert named(["none", str(tmp_path / "a" / "run"), "agenticir:no-rollback"]) == {
        "none": "no tool", str(tmp_path / "a" / "run"): "run", "agenticir:no-rollback": "agenticir:no-rollback",
    }  # fmt: skip
    runs = [str(tmp_path / parent / "run") for parent in ("a", "b")]
    assert named(runs) == dict(zip(runs, ("a/run", "b/run"), strict=True))
    with pytest.raises(Problem, match="same name twice"):
        named([runs[0], f"{runs[0]}/../run"])
    assert trainings_of("agenticir:experience=mine.json") == ("", ["agenticir:experience=mine.json"])
    for wrong in ("light=", "=out/a", "light=out/a,", "light=out/a,out/a"):
        with pytest.raises(Problem, match="Write NAME=FOLDER,FOLDER"):
            trainings_of(wrong)


def test_trainings_with_several_seeds_stand_as_one_agent(tmp_path: Path) -> None:
    gains = {"x": 1.0, "y": 2.0, "z": 4.0}

    def contest(suite: str, names: dict[str, str], *_: object) -> dict[str, list[dict[str, object]]]:
        base = {"degradations": 1, "calls": 2, "policy calls": 1, "seconds": 1.0}
        return {
            name: [
                base | {"image": image, "gain": {"psnr": gains.get(spec, 0.0) + shift}} for image, shift in (("a", 0), ("b", 2))
            ]
            for spec, name in names.items()
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.compare.contest", contest)
        settings = Compare(("light=x,y,z", "x"), bound="", metrics=("psnr",), json=tmp_path / "compare.json")
        compare(settings)
        with pytest.raises(Problem, match="same name twice: no tool, x, x"):
            compare(replace(settings, agents=("x=y,z", "x")))
    rows = settings.json.with_suffix(".md").read_text().splitlines()
    assert "or standard deviation between trainings" in rows[0]
    assert "| x | -1.33 ±0.00 |" in rows  # less than light on each of the photographs
    assert "| light | **+3.33 ±1.53** | 1.0 |" in rows  # the means are 2, 3 and 5
    assert "| x | +2.00 ±1.00 | 2.0 |" in rows  # of the photographs 1 and 3
    assert "| light | 2.0 | 1.0 | 1.000 |  |" in rows


def test_what_could_not_be_scored_is_read_again_as_it_was(tmp_path: Path) -> None:
    def contest(suite: str, names: dict[str, str], *_: object) -> dict[str, list[dict[str, object]]]:
        base = {"image": "a", "degradations": 1, "calls": 1, "policy calls": 1, "seconds": 1.0}
        return {name: [base | {"gain": {"psnr": gain}} for gain in (math.nan, 2.0)] for name in names.values()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.compare.contest", contest)
        settings = Compare(("x",), bound="", metrics=("psnr",), json=tmp_path / "compare.json")
        texts = []
        for _ in range(2):
            compare(settings)
            texts.append(settings.json.with_suffix(".md").read_text())
    assert "NaN" not in settings.json.read_text()
    assert "| x | **+2.00 ±nan** |" in texts[0]
    assert texts[0] == texts[1]


def test_ranks_are_means_over_metrics() -> None:
    def episodes(**gains: float) -> list[dict[str, object]]:
        return [{"gain": gains}]

    found = ranks({"a": episodes(x=3, y=1), "b": episodes(x=2, y=3), "c": episodes(x=1, y=2)}, ["x", "y"])
    assert found == {"a": 2.0, "b": 1.5, "c": 2.5}
    assert ranks({"a": episodes(x=0), "b": episodes(x=math.nan), "c": episodes(x=3), "d": episodes(x=0)}, ["x"]) == {
        "a": 2.5, "b": 4.0, "c": 1.0, "d": 2.5,
    }  # fmt: skip


def test_image_by_image_what_photographs_have_in_common_cancels() -> None:
    def training(*gains: float) -> list[dict[str, object]]:
        return [{"image": str(number), "gain": {"psnr": gain}} for number, gain in enumerate(gains)]

    played = {
        "first": [training(10, 0, -10)],
        "better": [training(12, 2, -8)],
        "seeds": [training(9, 0, -9), training(13, 2, -9)],
    }
    grid = against(played, "first", Compare(metrics=("psnr",)))
    assert grid.rows == [["better", "+2.00 ±0.00"], ["seeds", "+1.00 ±0.00"]]


def test_an_image_that_a_metric_cannot_score_costs_that_number_alone() -> None:
    """A crop that is black has no PIQE."""
    settings = Compare(("none",), images="skimage", metrics=("psnr", "piqe"), crop=32, toolbox="classical")
    with ExitStack() as stack:
        judge, player = (world_of("dark", settings, stack, settings.metrics[:count], 3) for count in (2, 1))
        trajectory = player.enter(np.zeros((32, 32, 3), np.uint8), reference=judge.images[0].image[:32, :32])
        player.step([trajectory], [player.toolbox.index("brighten/gamma")])
        episode = episode_of(trajectory, 1.0, judge)
    assert math.isnan(episode["gain"]["piqe"])
    assert episode["gain"]["psnr"] == 0
    assert episode["value"]["psnr"] > 0

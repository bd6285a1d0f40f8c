"""What the report reads, makes again, counts, and puts into the page; a browser looks at it in test_report_page.py."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from agents.agent import observer_for, play
from agents.training_free.bounds import FixedAgent
from experiments.console import write_json
from experiments.report import write_report
from experiments.report_page import pictures
from experiments.report_page.charts import charts
from experiments.report_page.explorer import explorer
from experiments.report_page.page import figure, page, script_hash, signed
from experiments.report_page.pictures import Album, digests_of, gather, in_order, keep
from experiments.report_page.reading import differing, names_of, read_run
from experiments.report_page.usage import order, streams, tool_usage
from experiments.run import Run
from experiments.runs import RunFolder
from pool import Problem
from tests.conftest import BRIGHTER, DARKER, FAILS
from tests.experiments.report_runs import BREAKOUT, METRICS, SCRIPT, hostile, make_run, played
from tir_env.starts import Pin
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World

TOOLS = """
name: small
tools:
  - {task: brighten, model: gamma, call: "tir_env.tools.classical.brighten:gamma"}
  - {task: denoise, model: median, call: "tir_env.tools.classical.denoise:median"}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", played(8))


class Elements(HTMLParser):
    """Every element of a page, and every attribute that would run a script or load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.acts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.acts += [
            f"{k}={v}" for k, v in attributes if k.startswith("on") or (k in ("src", "href") and (v or "")[:1] != "#")
        ]


def part(text: str, name: str) -> str:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found
    return found.group(1)


def test_of_too_many_trajectories_some_are_shown_and_the_page_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", played(20))
    some = read_run(run, "run", limit=6)
    assert some.numbers == [0, 3, 6, 10, 13, 16]
    assert some.trajectories == [Trajectory.load(run / "trajectories" / f"{number:04d}") for number in some.numbers]
    assert [t["number"] for t in explorer([some], [Album()])["trajectories"]] == some.numbers
    said = "Of 20 trajectories 6 are read for this page"
    assert said in write_report((run,), trajectories=6).read_text(encoding="utf-8")
    assert said not in write_report((run,)).read_text(encoding="utf-8")
    assert read_run(run, "run", limit=20).numbers == list(range(20))
    with pytest.raises(Problem, match="--trajectories: must be at least 1"):
        write_report((run,), trajectories=0)


# -- the page ----------------------------------------------------------------------------------------------------------------


def test_nothing_that_a_run_says_becomes_an_element(tmp_path: Path) -> None:
    trajectories = played(6)
    plain = Elements(page([read_run(make_run(tmp_path / "plain", trajectories), "plain")], 24))
    hostile(trajectories)
    folder = make_run(tmp_path / "hostile", trajectories, suite=BREAKOUT, toolbox=f"'\"{SCRIPT}")
    text = page([read_run(folder, SCRIPT)], 24)
    seen = Elements(text)
    assert seen.tags.count("script") == plain.tags.count("script") == 3
    assert "img" not in seen.tags
    assert seen.acts == plain.acts == ["href=data:,"], "it acts on nothing and loads nothing"
    told = json.loads(part(text, "data"))["trajectories"]
    assert told[0]["image"] == SCRIPT
    assert told[1]["case"] == BREAKOUT
    assert told[0]["steps"][0]["said"] == [BREAKOUT]


def test_its_own_script_alone_may_run(run: Path) -> None:
    text = write_report((run,)).read_text(encoding="utf-8")
    script = text[text.rindex("<script>") + len("<script>") : text.rindex("</script>")]
    assert f"script-src '{script_hash(script)}'" in text
    assert "default-src 'none'" in text
    assert not re.search(r"https?://", text), "no network"


def test_a_folder_whose_name_is_no_text_does_not_stop_it(tmp_path: Path) -> None:
    assert "<title>caf?" in write_report((make_run(tmp_path / "caf\udce9", played(1)),)).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "digits", "plain", "sign"),
    [(1.23456, 3, "1.235", "+1.235"), (-0.5, 2, "−0.50", "−0.50"), (-0.0001, 3, "0.000", "0.000"), (None, 2, "–", "–"),
     (float("nan"), 2, "–", "–"), (0.0, 2, "0.00", "0.00")],
)  # fmt: skip
def test_figures_read_alike_everywhere(value: float | None, digits: int, plain: str, sign: str) -> None:
    assert (figure(value, digits), signed(value, digits)) == (plain, sign)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(((),), "was given no run"), ((("nowhere",),), "is no run"), ((("nowhere",), None, -1), "must be from 0 to 1000"),
     ((("nowhere",), None, float("nan")), "must be from 0 to 1000")],
)  # fmt: skip
def test_mistakes_are_named(arguments: tuple, reason: str) -> None:  # type: ignore[type-arg]
    runs, *rest = arguments
    with pytest.raises(Problem, match=reason):
        write_report(tuple(map(Path, runs)), *rest)


# -- reading -----------------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_told(run: Path, tmp_path: Path) -> None:
    (run / "trajectories" / "0003" / "trajectory.json").write_text("{")
    read = read_run(run, "run")
    assert len(read.trajectories) == 7
    assert [note.partition(".")[0] for note in read.notes][1] == "1 trajectories cannot be read"
    begun = RunFolder.create(tmp_path / "begun", Run())
    assert read_run(begun.path, "begun").notes[0] == "There is no table: the run has not come to its end."
    assert "What was run" in page([read_run(begun.path, "begun")], 24), "there is a page all the same"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("table.json", "[]", "holds no table of a run: the file"),
        ("table.json", '{"rows": {"random": {"psnr": "high"}}}', r"holds no table of a run: rows\.random\.psnr"),
        ("table.json", '{"rows": {"random": {"psnr": {}}}}', r"holds no table of a run: rows\.random\.psnr"),
        ("config.json", '{"depth": null}', "holds no settings of a run: depth"),
        ("table.json", "[" * 100_000, "is no JSON file"),
        ("about.json", '{"begun": "yesterday"}', "holds no about of a run: begun"),
        ("config.json", '{"metrics": 5}', "holds no settings of a run: metrics"),
        ("config.json", "\x00", "is no JSON file"),
    ],
)
def test_a_file_of_another_form_is_named(run: Path, name: str, text: str, reason: str) -> None:
    (run / name).write_text(text)
    with pytest.raises(Problem, match=reason):
        read_run(run, "run")


def test_a_table_that_lacks_figures_is_named(run: Path) -> None:
    table = json.loads((run / "table.json").read_text())
    del table["rows"]["ppo clip_mlp"]["calls"]
    (run / "table.json").write_text(json.dumps(table))
    with pytest.raises(Problem, match="lacks a figure"):
        write_report((run,))


def test_a_figure_that_nobody_knows_is_null_in_the_table_and_a_dash_on_the_page(run: Path) -> None:
    table = json.loads((run / "table.json").read_text())
    table["rows"]["random"] |= {"psnr": float("nan"), "psnr gain": float("inf")}
    write_json(run / "table.json", table)
    assert json.loads((run / "table.json").read_text(), parse_constant=pytest.fail)["rows"]["random"]["psnr"] is None
    read = read_run(run, "run")
    assert np.isnan(read.table["random"]["psnr gain"])
    assert "–" in page([read], 24)


def test_nothing_is_written_outside_of_the_folder(tmp_path: Path) -> None:
    """Names that would lead out of it, and a digest that a hand put in, under which a thumbnail would be kept."""
    trajectories = played(4)
    for way, trajectory in zip(("../../a", "/tmp/tir-outside", "..", "a/../../b"), trajectories, strict=True):
        trajectory.start = replace(trajectory.start, image=way, case=way)
    run = make_run(tmp_path / "deep" / "er" / "run", trajectories)
    forged = trajectories[0].save(run / "trajectories" / "0009", images="png") / "trajectory.json"
    told = json.loads(forged.read_text())
    told["steps"][-1] |= {"digest": "../../../../outside", "tool": "stop"}
    forged.write_text(json.dumps(told))
    write_report((run,))
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["run"]
    assert not Path("/tmp/tir-outside").exists()
    assert [note.partition(".")[0] for note in read_run(run, "run").notes][1] == "1 trajectories cannot be read"


def test_versions_and_date_are_there_once_they_are_noted(run: Path) -> None:
    RunFolder(run).write_about(datetime(2026, 5, 4, 3, 2, tzinfo=UTC), 100.0, resumed=False, demonstrations=30.0)
    read = read_run(run, "run")
    assert read.notes == []
    assert read.seconds() == {"training": 60.0, "held-out comparison": 2.0, "demonstrations": 30.0, "everything else": 8.0}
    text = page([read], 24)
    assert "Begun 4 May 2026, 03:02." in text
    assert "tir-env 0.1.0" in text


def test_settings_that_differ(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name / "run", played(1), seed=seed) for name, seed in (("a", 1), ("b", 2))]
    assert names_of(folders) == ["a/run", "b/run"]
    assert names_of(folders[:1]) == ["run"]
    runs = [read_run(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)]
    assert differing(runs) == {"seed": ["1", "2"]}
    assert "light.lr" in runs[0].flat()
    assert not any(key.startswith("vlm.") for key in runs[0].flat()), "who did not learn has no settings"


# -- pictures ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path: Path) -> tuple[Path, list[Trajectory]]:
    """A run whose tools are in a file, so that the report can make its images again."""
    (tmp_path / "tools.yaml").write_text(TOOLS)
    world = World("skimage", "test", "dark", Toolbox.load(tmp_path / "tools.yaml"), "gain:psnr", METRICS, 3, 32)
    agent = FixedAgent([0, 1], world.stop, "both")
    trajectories = play(world, observer_for(agent, world), agent, [world.draw(0, k) for k in range(3)])
    settings = {"toolbox": str(tmp_path / "tools.yaml"), "images": "skimage", "suite": "dark", "crop": 32}
    return make_run(tmp_path / "real", trajectories, pictures=False, **settings), trajectories


def test_pictures_that_were_not_kept_are_made_again(real: tuple[Path, list[Trajectory]]) -> None:
    folder, trajectories = real
    album = gather(read_run(folder, "real"), 1e9, remake=True)
    assert album.notes == []
    kept = {path.stem: path.read_bytes() for path in (folder / "thumbnails").iterdir()}
    assert kept == album.pictures
    next((folder / "thumbnails").iterdir()).write_bytes(b"")  # a disk that was full
    assert gather(read_run(folder, "real"), 1e9, remake=True).pictures == kept
    for path in (folder / "thumbnails").iterdir():
        path.unlink()
    keep(folder, trajectories)
    assert {path.stem: path.read_bytes() for path in (folder / "thumbnails").iterdir()} == kept, (
        "as run.py would have kept them"
    )


@pytest.mark.parametrize(
    "named",
    [{"toolbox": "tools.yaml"}, *({"toolbox": "pocket", "depth": depth} for depth in ("model:somebody/depth", "folder:real"))],
)
def test_of_what_a_stranger_may_have_written_nothing_is_run_unasked(
    real: tuple[Path, list[Trajectory]], named: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = real
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr(pictures, "World", None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | named))
    said = write_report((folder,)).read_text(encoding="utf-8")
    assert "3 of 3 trajectories have no pictures" in said
    assert "If you trust this run: report.py --remake." in said
    assert "names no world that opens: TypeError" in write_report((folder,), remake=True).read_text(encoding="utf-8")


def test_pictures_of_a_run_on_whole_sources_are_made_again(tmp_path: Path) -> None:
    world = World("skimage", "all", "noise", "small", "gain:psnr", METRICS, 1, 32)
    agent = FixedAgent([], world.stop, "none")
    starts = [world.draw(0, 0, Pin(image=photo.name)) for photo in world.images.part("train")[:2]]
    trajectories = play(world, observer_for(agent, world), agent, starts)
    settings = {"toolbox": "small", "images": "skimage", "test_images": "", "suite": "noise", "crop": 32, "whole": True}
    folder = make_run(tmp_path / "whole", trajectories, pictures=False, **settings)
    album = gather(read_run(folder, "whole"), 1e9)
    assert (album.notes, len(album.pictures)) == ([], 4)


def test_a_folder_that_may_not_be_written_to_is_left_alone(
    real: tuple[Path, list[Trajectory]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trajectories = real
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert len(gather(read_run(folder, "real"), 1e9, remake=True).pictures) == len(
        {d for t in trajectories for d in digests_of(t)}
    )
    assert not (folder / "thumbnails").exists()


def test_pixels_that_do_not_come_out_as_recorded_are_not_shown(real: tuple[Path, list[Trajectory]]) -> None:
    folder, _ = real
    file = folder / "trajectories" / "0001" / "trajectory.json"
    data = json.loads(file.read_text())
    data["steps"][0]["digest"] = "0" * 32
    file.write_text(json.dumps(data))
    album = gather(read_run(folder, "real"), 1e9, remake=True)
    assert len(album.notes) == 1
    assert "1 of 3 trajectories have no pictures: step 1 (brighten/gamma)" in album.notes[0]
    assert "0" * 32 not in album.pictures


def test_without_the_tools_it_says_so_and_shows_the_figures(run: Path) -> None:
    for path in (run / "thumbnails").iterdir():
        path.unlink()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "toolbox": "nowhere.yaml"}))
    read = read_run(run, "run")
    album = gather(read, 1e9)
    assert album.pictures == {}
    assert "8 of 8 trajectories have no pictures" in album.notes[0]
    assert "nowhere.yaml" in album.notes[0]
    assert len(explorer([read], [album])["trajectories"]) == 8


def test_a_full_album_says_what_it_left_out(run: Path) -> None:
    read = read_run(run, "run")
    whole = gather(read, 1e9)
    assert whole.notes == []
    some = gather(read, whole.size / 2)
    assert 0 < some.size <= whole.size / 2
    shown = sum(all(d in some.pictures for d in (t.input_digest, t.steps[-1].digest)) for t in read.trajectories)
    assert some.notes[0].startswith(f"Pictures of {shown} of 8 trajectories fit into")
    assert gather(read, 0).pictures == {}


def test_failures_and_the_worst_have_the_first_right_to_pictures() -> None:
    trajectories = played(40)
    ordered = in_order(trajectories, ["psnr"])
    failed = [t for t in trajectories if t.failures]
    assert ordered[: len(failed)] == failed
    others = [t for t in trajectories if not t.failures]
    worst = min(others, key=lambda t: t.gains()["psnr"])
    assert worst in ordered[: len(failed) + 12]
    assert sorted(map(id, ordered)) == sorted(map(id, trajectories))


# -- counts ------------------------------------------------------------------------------------------------------------------


def test_tools_and_their_order_are_counted(world: World) -> None:
    starts = [world.draw(0, k) for k in range(4)]
    plans = [[BRIGHTER, DARKER], [BRIGHTER], [DARKER, FAILS], []]
    trajectories = []
    for plan, start in zip(plans, starts, strict=True):
        agent = FixedAgent(plan, world.stop, "plan")
        trajectories += play(world, observer_for(agent, world), agent, [start])
    usage = tool_usage(trajectories)
    assert usage.columns == [("noise", 4), ("jpeg", 4), ("all", 4)]
    assert [(name, [cell.text for cell in cells]) for name, cells in usage.rows] == [
        ("denoise/brighter", ["50%"] * 3), ("denoise/darker", ["50%"] * 3), ("denoise/fails", ["25%"] * 3),
    ]  # fmt: skip
    assert [cell.meant for cell in usage.rows[0][1]] == [True, False, False], "denoise is for noise"
    follow = order(trajectories)
    assert [name for name, _ in follow.columns] == ["denoise/brighter", "denoise/darker", "denoise/fails", "stop"]
    table = {name: [cell.count for cell in cells] for name, cells in follow.rows}
    assert table["input"] == [2, 1, 0, 1]
    assert table["denoise/brighter"] == [0, 1, 0, 1]
    assert table["denoise/darker"] == [0, 0, 1, 1]
    drawing = streams(trajectories)
    assert "input, then denoise: 3" in drawing
    assert "input, then stop: 1" in drawing
    assert streams([]) == ""


def test_curves_begin_with_their_stage_and_skip_what_is_missing(run: Path) -> None:
    read = read_run(run, "run")
    read.rows = [{"iteration": k, "sft/loss": 1.0 / k} for k in range(1, 5)]
    read.rows += [{"iteration": 5, "reward": 0.5}, {"iteration": 6, "reward": float("nan")}, {"iteration": 7, "reward": 1.5}]
    made = {chart.title: chart for chart in charts([read])}
    assert set(made) == {"loss of imitation", "reward"}
    assert made["reward"].series[0].x == [1, 3]
    assert made["reward"].series[0].y == [0.5, 1.5]
    assert "reward from 0.5 to 1.5" in made["reward"].svg
    assert "NaN" not in made["reward"].svg
    assert "nan" not in made["reward"].svg


def test_of_several_runs_each_has_its_colour(run: Path) -> None:
    reads = [read_run(run, "a"), read_run(run, "<b>")]
    weights = next(chart for chart in charts(reads) if chart.title == "weights of the reward")
    assert [(s.run, s.key, s.colour, s.dash) for s in weights.series] == [
        ("a", "psnr", 0, 0), ("a", "ssim", 0, 1), ("<b>", "psnr", 1, 0), ("<b>", "ssim", 1, 1),
    ]  # fmt: skip
    assert "<b>" not in weights.svg


def test_the_explorer_knows_what_was_noted_and_what_failed(run: Path) -> None:
    read = read_run(run, "run")
    step = read.trajectories[0].steps[0]
    step.notes = {"probabilities": [0.0, 0.1, 0.2, 0.3, 0.4, 0.0], "policy_calls": 2, "other": object()}
    step.params = {"strength": 10**400}
    read.trajectories[1].steps[0].notes = {"probabilities": "high", "said": 3, "policy_calls": 10**400}
    told = explorer([read], [Album()])
    assert told["metrics"] == ["psnr", "ssim"]
    first, second = told["trajectories"][:2]
    assert first["steps"][0]["probabilities"][:2] == [("super_resolve/larger", 0.4), ("denoise/nan", 0.3)]
    assert first["steps"][0]["policy_calls"] == 2
    assert not {"probabilities", "said"} & set(second["steps"][0]), "another form is not shown"
    assert first["picture"] is None
    for entry, trajectory in zip(told["trajectories"], read.trajectories, strict=True):
        assert entry["failed"] == len(trajectory.failures)
        for shown, real_step in zip(entry["steps"], trajectory.steps, strict=True):
            assert shown.get("failure", "") == (real_step.failure.message if real_step.failure else "")
        gain = trajectory.gains().get("psnr")
        assert entry["gains"][0] == (None if gain is None else pytest.approx(gain, rel=1e-4))
    assert np.isfinite(json.loads(json.dumps(told, allow_nan=False))["trajectories"][0]["reward"])

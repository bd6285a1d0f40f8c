"""evaluate.py and restore.py as a user calls them, with an agent that was never trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.clip_mlp.agent import ClipMlpAgent, EncoderSpec
from agents.clip_mlp.network import Actor, Shape
from experiments.reporting import summary
from experiments.restore import output_names
from tests.agents.encoders import Statistics
from tests.experiments.test_scripts import script, within
from tir_env.images import Image, read_image, write_image
from tir_env.tools import Toolbox
from tir_env.world import World

SMALL = """
name: small
tools:
  - {task: brighten, model: shift, call: "tir_env.tools.classical.brighten:shift"}
  - {task: denoise, model: median, call: "tir_env.tools.classical.denoise:median"}
  - {task: super_resolve, model: lanczos, scale: 4, call: "tir_env.tools.classical.super_resolve:lanczos"}
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    (folder / "small.yaml").write_text(SMALL)
    torch.manual_seed(1)
    actor = Actor(Shape(Statistics.dim, 3, 3))
    with torch.no_grad():
        actor.layers[-1].bias[0] = 1.0  # brighten, again and again
    names = [tool.name for tool in Toolbox.load(folder / "small.yaml")]
    ClipMlpAgent(actor, Statistics(), names, EncoderSpec("tests.agents.encoders:Statistics")).save(folder)
    return folder


def test_evaluate_says_what_became_of_each_image(agent: Path, tmp_path: Path) -> None:
    done = within(
        "evaluate.py", "--agent", agent, "--toolbox", agent / "small.yaml", "--suite", "dark+noise", "--episodes", 6,
        "--json", tmp_path / "e.json", "--figures", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "e.json").read_text())
    assert data["all"]["calls"] == data["all"]["policy calls"] == 3
    assert data["all"]["usage"] == {"brighten/shift": 1.0}
    assert data["all"]["tasks"] == {"brighten": 1.0}
    assert [e["tools"] for e in data["episodes"]] == [["brighten/shift"] * 3] * 6
    gains = [e["after"]["psnr"] - e["before"]["psnr"] for e in data["episodes"]]
    assert data["all"]["psnr gain"] == pytest.approx(np.mean(gains))
    assert data["all"]["psnr gain std"] == pytest.approx(np.std(gains))
    assert data["all"]["seconds per image"] > 0
    assert read_image(tmp_path / "best.png").std() > 5


def test_no_tool_gains_nothing(agent: Path, tmp_path: Path) -> None:
    done = within(
        "evaluate.py", "--agent", "none", "--toolbox", agent / "small.yaml", "--episodes", 4, "--json", tmp_path / "e.json"
    )
    assert done.returncode == 0, done.stderr
    whole = json.loads((tmp_path / "e.json").read_text())["all"]
    assert (whole["psnr gain"], whole["calls"], whole["policy calls"]) == (0, 0, 0)


def test_a_trying_agent_pays_for_what_it_tried(agent: Path, tmp_path: Path) -> None:
    done = within(
        "evaluate.py", "--agent", "4kagent", "--toolbox", agent / "small.yaml", "--suite", "noise", "--episodes", 4, "--json",
        tmp_path / "e.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "e.json").read_text())
    assert data["all"]["policy calls"] == 1
    assert data["all"]["calls"] >= np.mean([len(e["tools"]) for e in data["episodes"]]) > 0


def test_the_same_seed_is_the_same_evaluation_in_another_process(agent: Path, tmp_path: Path) -> None:
    found = []
    for way in (within, script):
        done = way(
            "evaluate.py", "--agent", "4kagent", "--toolbox", agent / "small.yaml", "--suite", "dark+noise", "--episodes", 4,
            "--seed", 3, "--json", tmp_path / "e.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        data = json.loads((tmp_path / "e.json").read_text())
        assert data["all"].pop("seconds per image") > 0
        found.append(json.dumps(data))
    assert found[0] == found[1]


def test_no_result_takes_the_place_of_another() -> None:
    assert output_names(["a.jpg", "b/c.png"]) == {"a.jpg": "a", "b/c.png": "b-c"}
    names = output_names(["a.jpg", "a.png", "x/y.png", "x-y.png", "a-2.png", "p.png", "p-steps.png"])
    files = [file for name in names.values() for file in (name, f"{name}-steps")]
    assert len(set(files)) == 2 * 7
    assert (names["a-2.png"], names["a.jpg"], names["a.png"]) == ("a-2", "a", "a-3")


def test_restore_keeps_the_full_size_and_draws_the_steps(agent: Path, tmp_path: Path, photo: Image) -> None:
    photos = tmp_path / "photos"
    write_image(photos / "one.png", photo[:100, :150])
    write_image(photos / "deeper" / "two.png", photo[100:190, :120])
    (photos / "broken.png").write_bytes(b"no picture")
    done = within("restore.py", photos, "--agent", agent, "--toolbox", agent / "small.yaml", "--out", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "left out" in done.stdout
    assert "broken.png" in done.stdout
    for name, shape in (("one", (100, 150, 3)), ("deeper-two", (90, 120, 3))):
        restored = read_image(tmp_path / "out" / f"{name}.png")
        assert restored.shape == shape
        assert read_image(tmp_path / "out" / f"{name}-steps.png").std() > 5
    expected = np.ascontiguousarray(photo[:100, :150])
    for _ in range(3):
        expected = Toolbox.load(agent / "small.yaml")["brighten/shift"](expected)
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "one.png"), expected)
    (photos / "broken.png").unlink()
    done = script("restore.py", photos, "--agent", agent, "--toolbox", agent / "small.yaml", "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    files, again = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("out", "again"))
    assert len(files) == 4
    assert files == again, "in another process it is the same, figures included"


def test_a_picture_is_never_written_over_and_an_earlier_result_only_on_demand(
    agent: Path, tmp_path: Path, photo: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image("photo.png", photo[:64, :64])
    before = Path("photo.png").read_bytes()
    command = ("restore.py", "photo.png", "--agent", agent, "--toolbox", agent / "small.yaml")
    for more in ((), ("--overwrite",)):
        done = within(*command, "--out", ".", *more)
        assert (done.returncode, Path("photo.png").read_bytes()) == (2, before)
        assert "photo.png: is one of the pictures" in done.stderr
    for name in ("restored", "restored-2"):
        assert within(*command).stdout.endswith(f"wrote out/{name}\n")
    Path("mine").mkdir()
    Path("mine/photo-steps.png").write_text("of another agent")
    done = within(*command, "--out", "mine")
    assert "mine/photo-steps.png: is there already. Choose another --out, or add --overwrite." in done.stderr
    assert within(*command, "--out", "mine", "--overwrite").returncode == 0
    assert read_image("mine/photo-steps.png").std() > 5


def test_a_picture_that_cannot_be_scored_is_restored(agent: Path, tmp_path: Path, photo: Image) -> None:
    write_image(tmp_path / "photos" / "a.png", np.zeros((64, 64, 3), np.uint8))
    write_image(tmp_path / "photos" / "b.png", photo[:64, :64])
    done = within(
        "restore.py", tmp_path / "photos", "--agent", agent, "--toolbox", agent / "small.yaml", "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert "a.png: brighten/shift" in done.stdout
    assert done.stdout.count("model 'quality/piqe' returned a bad result") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-steps.png", "a.png", "b-steps.png", "b.png"]


def test_names_that_look_like_markup_are_printed_as_they_are(agent: Path, tmp_path: Path, photo: Image) -> None:
    (tmp_path / "[old]").mkdir()
    (tmp_path / "[old]" / "case.yaml").write_text('{name: "[/b]", cases: [{name: "[/i]", steps: [noise]}]}')
    given = ("--agent", "none", "--toolbox", agent / "small.yaml", "--suite", tmp_path / "[old]" / "case.yaml", "--episodes", 1)
    done = within("evaluate.py", *given, "--json", tmp_path / "[old]" / "e.json")
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path}/[old]/e.json" in done.stdout
    assert "[/i]" in done.stdout


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("evaluate.py", "--agent", "/tmp"), "holds no trained agent"),
        (("evaluate.py", "--agent", "denoise/dctt"), "Did you mean 'denoise/dct'"),
        (("evaluate.py", "--agent", "none", "--episodes", 0), "at least 1"),
        (("restore.py", "/none.png", "--agent", "none"), "no such file"),
        (("restore.py", "/", "--agent", "none", "--metrics", "psnr"), "psnr"),
        (("run.py", "--resume", "/none"), "is no run"),
        (("run.py", "--lr", "0"), "above 0"),
    ],
)
def test_mistakes_are_one_line(command: tuple[object, ...], reason: str, tmp_path: Path) -> None:
    if command[1] == "/":
        write_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
        command = ("restore.py", tmp_path / "a.png", *command[2:])
    done = within(*command)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_summary_leaves_unscored_episodes_out_of_the_means(world: World) -> None:
    one, two = world.begin([world.draw(0, k) for k in range(2)])
    world.step([one, two], [0, world.stop])
    world.step([one], [world.stop])
    two.steps[-1].quality.clear()  # as if its metric had failed
    row = summary([one, two], ("psnr",), seconds=4.0)
    assert row["psnr gain"] == pytest.approx(one.gains()["psnr"])
    assert (row["calls"], row["policy calls"], row["seconds per image"]) == (0.5, 1.5, 2.0)

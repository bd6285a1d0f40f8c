from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from pool import Problem
from tests.conftest import BRIGHTER, DARKER, FAILS, LARGER, STOP
from tir_env.drawing import draw_tiles
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory, TrajectoryError
from tir_env.world import World


@pytest.fixture
def played(toolbox: Toolbox) -> tuple[World, Trajectory]:
    world = World(toolbox=toolbox, crop=32, horizon=5, suite="rain+haze", metrics=("ssim",))
    [trajectory] = world.begin([world.draw(3, 0)])
    for action in (BRIGHTER, FAILS, LARGER, DARKER, STOP):
        world.step([trajectory], [action])
    trajectory.steps[0].notes["probabilities"] = [0.5, 0.5]
    return world, trajectory


def test_it_saves_and_loads_with_its_images(played: tuple[World, Trajectory], tmp_path: Path) -> None:
    _, trajectory = played
    loaded = Trajectory.load(trajectory.save(tmp_path / "t"))
    assert loaded == trajectory
    assert loaded.steps[0].notes == {"probabilities": [0.5, 0.5]}
    for mine, theirs in zip(trajectory.steps, loaded.steps, strict=True):
        np.testing.assert_array_equal(mine.image, theirs.image)
        assert mine.failure == theirs.failure
    np.testing.assert_array_equal(loaded.reference, trajectory.reference)
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == [
        "input.png", "reference.png", "step-1.png", "step-3.png", "step-4.png", "trajectory.json",
    ]  # fmt: skip


def test_it_replays_to_the_same_bytes(played: tuple[World, Trajectory], tmp_path: Path) -> None:
    world, trajectory = played
    for how in ("png", "reference"):
        loaded = Trajectory.load(trajectory.save(tmp_path / how, images=how))  # type: ignore[arg-type]
        again = world.remake(loaded)
        assert again == trajectory
        np.testing.assert_array_equal(again.image, trajectory.image)
        np.testing.assert_array_equal(again.reference, trajectory.reference)
    assert [p.name for p in (tmp_path / "reference").iterdir()] == ["trajectory.json"]


def test_a_trajectory_by_reference_has_no_image_until_it_is_remade(played: tuple[World, Trajectory], tmp_path: Path) -> None:
    _, trajectory = played
    loaded = Trajectory.load(trajectory.save(tmp_path / "t", images="reference"))
    with pytest.raises(TrajectoryError, match=r"World\.remake"):
        _ = loaded.image
    with pytest.raises(Problem, match=r"World\.remake"):
        loaded.figure()


def test_a_tool_that_changed_is_noticed(played: tuple[World, Trajectory]) -> None:
    world, trajectory = played

    def changed(name: str, image: np.ndarray) -> np.ndarray:
        result = world.toolbox[name](image)
        return result if name != "denoise/darker" else result + np.uint8(1)

    with pytest.raises(TrajectoryError, match=r"step 4 \(denoise/darker\): came out with other bytes"):
        trajectory.replay(changed)


def test_other_degradations_are_noticed(played: tuple[World, Trajectory]) -> None:
    world, trajectory = played
    trajectory.record[0]["params"]["seed"] += 1
    with pytest.raises(TrajectoryError, match="the input: came out with other bytes"):
        world.remake(trajectory)


def test_a_hand_edited_record_is_refused_by_name(played: tuple[World, Trajectory]) -> None:
    world, trajectory = played
    del trajectory.record[0]["params"]["seed"]
    with pytest.raises(Problem, match="record of rain: lacks seed"):
        world.remake(trajectory)
    trajectory.record[0]["params"]["seed"] = -5
    with pytest.raises(Problem, match="rain: seed: must be a whole number"):
        world.remake(trajectory)


def test_notes_of_a_policy_may_hold_numpy_but_nothing_that_cannot_come_back(
    played: tuple[World, Trajectory], tmp_path: Path
) -> None:
    trajectory = played[1]
    trajectory.steps[0].notes = {"p": np.array([0.25, 0.75]), "best": np.int64(1)}
    assert Trajectory.load(trajectory.save(tmp_path / "t")).steps[0].notes == {"p": [0.25, 0.75], "best": 1}
    for bad in (float("inf"), {1, 2}, object()):
        trajectory.steps[0].notes = {"bad": bad}
        with pytest.raises(TrajectoryError, match="cannot be saved"):
            trajectory.save(tmp_path / "t")
    assert Trajectory.load(tmp_path / "t").steps[0].notes["best"] == 1, "what was saved before is still there"


def test_saving_again_leaves_nothing_of_before(played: tuple[World, Trajectory], tmp_path: Path) -> None:
    world, trajectory = played
    trajectory.save(tmp_path / "t")
    [short] = world.begin([trajectory.start])
    world.step([short], [STOP])
    short.save(tmp_path / "t")
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == ["input.png", "reference.png", "trajectory.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "thesis.tex").write_text("mine")
    with pytest.raises(TrajectoryError, match="holds other files"):
        short.save(tmp_path / "u")


def test_a_given_picture_cannot_be_saved_by_reference(
    played: tuple[World, Trajectory], tmp_path: Path, photo: np.ndarray
) -> None:
    world, _ = played
    trajectory = world.enter(photo[:64, :64], "cost $a_$ b.png", reference=photo[:64, :64])
    world.step([trajectory], [BRIGHTER])
    with pytest.raises(TrajectoryError, match="Save it with images='png'"):
        trajectory.save(tmp_path / "t", images="reference")
    assert world.remake(Trajectory.load(trajectory.save(tmp_path / "t"))) == trajectory
    trajectory.figure().savefig(tmp_path / "t.png")  # a name that is no formula


def test_a_folder_with_json_is_whole(played: tuple[World, Trajectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, trajectory = played
    tmp_path = tmp_path / "t"

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Pillow.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        trajectory.save(tmp_path)
    assert not tmp_path.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], "It was cut short"),
        (lambda text: text.replace('"version": 1', '"version": 99'), "version: Input should be 1"),
        (lambda text: "[]", "is no saved trajectory"),
        (lambda text: json.dumps({**json.loads(text), "steps": [{"tool": "x"}]}), "is no saved trajectory"),
        (lambda text: text.replace('"reward": 0.0,', '"reward": "abc",'), "reward"),
        (lambda text: text.replace('"reward": 0.0,', '"reward": NaN,'), "is no saved trajectory"),
        (lambda text: text.replace('"reward": 0.0,', f'"reward": {10**400},'), "reward"),
        (lambda text: text.replace('"images": "png"', '"images": "jpgg"'), "images"),
    ],
)
def test_damaged_files_are_named(played: tuple[World, Trajectory], tmp_path: Path, change, reason: str) -> None:  # type: ignore[no-untyped-def]
    path = played[1].save(tmp_path / "t") / "trajectory.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(TrajectoryError, match=reason):
        Trajectory.load(tmp_path / "t")


@pytest.mark.parametrize("digest", ["../../../outside", "/tmp/outside", "a" * 31, "G" * 32, "a" * 32 + "\n"])
def test_a_digest_names_a_file_and_no_way(played: tuple[World, Trajectory], tmp_path: Path, digest: str) -> None:
    path = played[1].save(tmp_path / "t") / "trajectory.json"
    for place in ("input_digest", "reference_digest"):
        path.write_text(json.dumps({**json.loads(path.read_text()), place: digest}))
        with pytest.raises(TrajectoryError, match=place):
            Trajectory.load(tmp_path / "t")
        played[1].save(tmp_path / "t")
    told = json.loads(path.read_text())
    told["steps"][-1]["digest"] = digest
    path.write_text(json.dumps(told))
    with pytest.raises(TrajectoryError, match=r"steps\.\d\.digest"):
        Trajectory.load(tmp_path / "t")


def test_a_step_that_changed_nothing_shows_what_was_there(played: tuple[World, Trajectory], tmp_path: Path) -> None:
    path = played[1].save(tmp_path / "t", images="reference") / "trajectory.json"
    told = json.loads(path.read_text())
    told["steps"][-1]["digest"] = "0" * 32
    path.write_text(json.dumps(told))
    with pytest.raises(TrajectoryError, match="left the image as it was, and gives it another digest"):
        Trajectory.load(tmp_path / "t")


def test_a_swapped_picture_is_noticed(played: tuple[World, Trajectory], tmp_path: Path) -> None:
    for name in ("step-1.png", "reference.png"):
        played[1].save(tmp_path / "t")
        (tmp_path / "t" / name).write_bytes((tmp_path / "t" / "input.png").read_bytes())
        with pytest.raises(TrajectoryError, match="is not the image that was saved"):
            Trajectory.load(tmp_path / "t")
    with pytest.raises(TrajectoryError, match="cannot be read"):
        Trajectory.load(tmp_path / "none")


def test_of_a_large_picture_a_reduced_one_is_drawn_and_its_size_told() -> None:
    large = np.arange(3000 * 4096 * 3, dtype=np.uint8).reshape(3000, 4096, 3)
    [axis] = draw_tiles([(large, "large", "", False)]).axes
    drawn = axis.images[0].get_array()
    assert drawn.shape == (750, 1024, 3)
    assert np.array_equal(drawn, large[::4, ::4])
    assert axis.texts[0].get_text() == "4096×3000"


def test_the_figure_shows_every_step(played: tuple[World, Trajectory], tmp_path: Path) -> None:
    figure = played[1].figure()
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [
        "input: rain+haze", "denoise/brighter", "denoise/fails failed", "super_resolve/larger", "denoise/darker", "stop", "reference",
    ]  # fmt: skip
    figure.savefig(tmp_path / "t.png")
    assert np.asarray(Pillow.open(tmp_path / "t.png")).std() > 5

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.conftest import BRIGHTER, DARKER, FAILS, LARGER, STOP
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory, TrajectoryError, mean_gains
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
    loaded = Trajectory.load(trajectory.save(tmp_path, images="reference"))
    with pytest.raises(TrajectoryError, match=r"replay\(\)"):
        _ = loaded.image


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


def test_a_folder_with_json_is_whole(played: tuple[World, Trajectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, trajectory = played

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Pillow.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        trajectory.save(tmp_path)
    assert not (tmp_path / "trajectory.json").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], "cut short or changed by hand"),
        (lambda text: text.replace('"version": 1', '"version": 99'), "is of version 99"),
        (lambda text: "[]", "is no saved trajectory"),
        (lambda text: json.dumps({**json.loads(text), "steps": [{"tool": "x"}]}), "is no saved trajectory"),
    ],
)
def test_damaged_files_are_named(played: tuple[World, Trajectory], tmp_path: Path, change, reason: str) -> None:  # type: ignore[no-untyped-def]
    path = played[1].save(tmp_path) / "trajectory.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(TrajectoryError, match=reason):
        Trajectory.load(tmp_path)


def test_a_swapped_picture_is_noticed(played: tuple[World, Trajectory], tmp_path: Path) -> None:
    played[1].save(tmp_path)
    (tmp_path / "step-1.png").write_bytes((tmp_path / "input.png").read_bytes())
    with pytest.raises(TrajectoryError, match="is not the image that was saved"):
        Trajectory.load(tmp_path)
    with pytest.raises(TrajectoryError, match="cannot be read"):
        Trajectory.load(tmp_path / "none")


def test_the_figure_shows_every_step(played: tuple[World, Trajectory], tmp_path: Path) -> None:
    figure = played[1].figure()
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [
        "input: rain+haze", "denoise/brighter", "denoise/fails failed", "super_resolve/larger", "denoise/darker", "stop", "reference",
    ]  # fmt: skip
    figure.savefig(tmp_path / "t.png")
    assert np.asarray(Pillow.open(tmp_path / "t.png")).std() > 5


def test_mean_gains(played: tuple[World, Trajectory]) -> None:
    _, trajectory = played
    assert mean_gains([trajectory, trajectory])["psnr"] == (pytest.approx(trajectory.gains()["psnr"]), 0.0)

"""The smallest and the oddest worlds: one image, one case, one tool, crops larger than images, names that are no text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pool import Model, Problem
from tests.conftest import FakeEngine, fake_toolbox
from tir_env.degradations import Case, Suite
from tir_env.env import RestorationEnv
from tir_env.images import write_image
from tir_env.images.operations import Image
from tir_env.images.sources import PARTS, Photo, folder
from tir_env.observations import Observer
from tir_env.tools import Tool, Toolbox
from tir_env.trajectory import STOP, Trajectory
from tir_env.vector import RestorationVectorEnv
from tir_env.world import World

ODD = "caf\udce9.png"  # Latin-1, as an old disk has it


def photo_in(place: Path, photo: Image, name: str = "only.png") -> Path:
    write_image(place / "plain.png", photo[:80, :100])
    (place / "plain.png").rename(place / name)
    return place


def test_one_image_one_case_one_tool(tmp_path: Path, photo: Image) -> None:
    place = photo_in(tmp_path, photo)
    tool = fake_toolbox().subset(["denoise/brighter"])
    world = World(place, "all", "dark", tool, crop=32, horizon=2)
    assert (len(world.images), len(world.suite), world.stop) == (1, 1, 1)
    played = world.begin([world.draw(0, number) for number in range(3)])
    assert len({t.start.seed for t in played}) == 3
    world.step(played, [0, 0, 1])
    assert [t.steps[0].tool for t in played] == ["denoise/brighter", "denoise/brighter", STOP]


def test_one_image_is_in_one_part_and_the_others_say_so(tmp_path: Path, photo: Image) -> None:
    place = photo_in(tmp_path, photo)
    mine = "train"  # decided by its pixels
    assert len(World(place, mine, "dark", fake_toolbox()).images) == 1
    for part in set(PARTS) - {mine}:
        with pytest.raises(Problem, match=f"has no {part} picture among its 1"):
            World(place, part, "dark", fake_toolbox())


def test_none_of_something_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="holds no usable picture"):
        World(tmp_path, toolbox=fake_toolbox())
    with pytest.raises(Problem, match="suite 'empty': has no cases"):
        Suite("empty", ())
    with pytest.raises(Problem, match="has no tools"):
        Toolbox("empty", [])
    (tmp_path / "empty.yaml").write_text("name: empty\ncases: []\n")
    with pytest.raises(Problem, match="at least one entry"):
        World(suite=str(tmp_path / "empty.yaml"), toolbox=fake_toolbox())


def test_a_crop_larger_than_an_image_takes_all_of_it(tmp_path: Path, photo: Image) -> None:
    place = photo_in(tmp_path, photo)
    envs = RestorationVectorEnv(2, images=place, part="all", suite="dark", toolbox=fake_toolbox(), crop=4096, horizon=2)
    envs.reset(seed=0)
    _, _, _, _, infos = envs.step(np.array([0, 0]))
    assert [t.input.shape for t in envs.trajectories] == [(80, 100, 3)] * 2
    assert all(infos["valid"])
    envs.close()


def test_a_name_that_is_no_utf8_can_be_saved_and_found_again(tmp_path: Path, photo: Image) -> None:
    try:
        place = photo_in(tmp_path / "photos", photo, ODD)
    except OSError:
        pytest.skip("this file system takes no such names")
    [only] = folder(place)
    assert only.name == r"caf\udce9.png"
    world = World(place, "all", "dark", fake_toolbox(), crop=32, horizon=1)
    [played] = world.begin([world.draw(0, 0)])
    world.step([played], [0])
    saved = Trajectory.load(played.save(tmp_path / "saved", images="reference"))
    assert world.remake(saved).image.tolist() == played.image.tolist()


def test_a_bad_file_whose_name_is_no_utf8_is_named(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
        file.write(b"no picture")
    with pytest.raises(Problem, match="holds no usable picture") as error:
        folder(tmp_path)
    assert r"caf\udce9.png" in str(error.value)
    str(error.value).encode("utf-8")


class Gives(Model):
    name, dim = "gives", 4

    def __init__(self, what: Any) -> None:
        self.what = what

    def run(self, items: Any) -> list[Any]:
        return [self.what for _ in items]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (np.zeros((1, 4)), r"gave an array \[1, 4\], and its `dim` is 4"),
        (np.zeros(7), r"gave an array \[7\]"),
        (torch.zeros(4), "gave Tensor"),
    ],
)
def test_what_an_encoder_gives_is_checked(world: World, what: Any, words: str) -> None:
    observer = Observer(world, encoder=Gives(what))
    with pytest.raises(Problem, match=words):
        observer.observe_batch(world.begin([world.draw(0, 0)]))


def test_what_a_python_user_may_get_wrong_is_said(world: World) -> None:
    class Dimless(Gives):
        name = "dimless"
        dim = None  # type: ignore[assignment]

    with pytest.raises(Problem, match="has no whole number `dim`"):
        Observer(world, encoder=Dimless(None))
    with pytest.raises(Problem, match="must be several names, not the text 'ssim'"):
        World(metrics="ssim", toolbox="classical")
    with pytest.raises(Problem, match="has two cases called 'noise'"):
        Suite("sweep", (Case.parse("noise"), Case.parse("noise")))
    with pytest.raises(Problem, match=r"has the task 'sharpen', which is not known\. Use one of denoise"):
        Tool("sharpen", "mine", FakeEngine("brighter"))
    with pytest.raises(ValueError, match="uint8"):
        _ = Photo("float", lambda: np.zeros((16, 16, 3), np.float32)).image


def test_masks_by_the_name_that_others_ask_for(world: World) -> None:
    env = RestorationEnv(world=world)
    with pytest.raises(Problem, match=r"Call reset\(\) first"):
        env.action_masks()
    observation, _ = env.reset(seed=0)
    assert env.action_masks().dtype == bool
    assert (env.action_masks() == observation["mask"]).all()

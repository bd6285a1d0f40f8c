"""Starts that can have no score are drawn again; what merely went wrong is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pool import Call, LocalPool, Outcome
from pool.errors import WorkerLost
from tests.conftest import fake_toolbox
from tir_env.env import RestorationEnv
from tir_env.images import Image, write_image
from tir_env.images.generate import dead_leaves
from tir_env.starts import Pin, WorldError
from tir_env.vector import RestorationVectorEnv
from tir_env.world import World

PLACES = [(5, episode) for episode in range(24)]


@pytest.fixture
def half_black(tmp_path: Any) -> str:
    """A photograph with a black border, for whose crops PIQE is 0 / 0."""
    picture: Image = dead_leaves(0, 256).copy()
    picture[:, :160] = 0
    write_image(tmp_path / "photos" / "border.png", picture)
    return str(tmp_path / "photos")


def settings(images: str, **more: Any) -> dict[str, Any]:
    return {
        "images": images,
        "part": "all",
        "suite": "as-is",
        "toolbox": fake_toolbox(),
        "reward": "gain:piqe",
        "crop": 32,
    } | more


def test_a_black_crop_is_drawn_again(half_black: str) -> None:
    world = World(**settings(half_black))
    drawn = [world.draw(*place) for place in PLACES]
    begun = world.open(PLACES)
    black = [start.corner[1] + 32 <= 160 for start in drawn]
    assert 4 < sum(black) < 20
    assert [trajectory.start == start for trajectory, start in zip(begun, drawn, strict=True)] == [not each for each in black]
    assert all(np.isfinite(trajectory.quality["piqe"].value) for trajectory in begun)
    assert world.draw_many(5, range(24)) == [trajectory.start for trajectory in begun] == [t.start for t in world.open(PLACES)]
    few = World(**settings(half_black, starts=9))
    assert len({trajectory.start for trajectory in few.open(PLACES)}) < 9


def test_in_turn_each_start_comes_once_before_any_comes_again() -> None:
    few, endless = (World(toolbox=fake_toolbox(), suite="mio100-a", crop=32, starts=number) for number in (7, 0))
    drawn = few.draw_many(3, range(21), in_turn=True)
    passes = [drawn[k : k + 7] for k in (0, 7, 14)]
    assert [set(each) for each in passes] == [set(few.draw_many(0, range(200)))] * 3
    assert len({tuple(each) for each in passes}) == 3, "in another order"
    assert few.draw_many(3, [9, 20], in_turn=True) == [drawn[9], drawn[20]], "wherever one goes on"
    assert endless.draw_many(3, range(4), in_turn=True) == endless.draw_many(3, range(4))


def test_both_environments_draw_the_same(half_black: str) -> None:
    one, many = RestorationEnv(**settings(half_black)), RestorationVectorEnv(2, group=2, **settings(half_black))
    assert one.reset(seed=3)[0].keys() == many.reset(seed=3)[0].keys()
    for _ in range(8):
        many.reset(options={})
        assert all(t.quality["piqe"].raw > 0 for t in many.trajectories)
        assert many.trajectories[0].start == many.trajectories[1].start


def test_a_start_that_the_caller_insists_on_is_an_error(half_black: str) -> None:
    world = World(**settings(half_black))
    with pytest.raises(WorldError, match=r"the start 'border.png': cannot be scored: .*gave nan.*leave that metric out"):
        world.open([(0, 0)], Pin(corner=(0, 0)))


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_what_may_pass_is_tried_again_and_changes_no_start(half_black: str, failures: int) -> None:
    class Losing(LocalPool):
        left = failures

        def run(self, calls: Any, **options: Any) -> list[Outcome]:
            found = super().run(calls, **options)
            if self.left and len(calls):
                self.left -= 1
                found[0] = Outcome(calls[0].model, error=WorkerLost(calls[0].model, "its process died"))
            return found

    steady, world = World(**settings(half_black)), World(**settings(half_black, pool=Losing()))
    if failures > 2:
        with pytest.raises(WorldError, match="its process died"):
            world.begin([world.draw(0, 0, Pin(corner=(0, 200)))])
    else:
        assert [t.start for t in world.open(PLACES)] == [t.start for t in steady.open(PLACES)]


def test_a_worker_that_is_lost_changes_no_start(half_black: str) -> None:
    class Losing(LocalPool):
        def run(self, calls: Any, **options: Any) -> list[Outcome]:
            return [Outcome(call.model, error=WorkerLost(call.model, "its process died")) for call in calls]

        def submit(self, call: Call, **options: Any) -> Any:
            raise AssertionError("not used")

    with pytest.raises(WorldError, match="its process died"):
        World(**settings(half_black, pool=Losing())).open([(0, 0)])

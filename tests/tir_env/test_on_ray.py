"""The environment on the Ray pool: nothing changes but who runs the tools."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import pool
from agents.agent import play
from agents.training_free.bounds import RandomAgent
from tests.conftest import BRIGHTER, FAILS, LARGER, fake_toolbox
from tir_env.observations import Observer
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World

pytestmark = pytest.mark.ray


def played(where: pool.Pool, toolbox: Toolbox, suite: str) -> list[Trajectory]:
    world = World(toolbox=toolbox, suite=suite, crop=48, horizon=3, metrics=("ssim",), pool=where)
    return play(world, Observer(world, 48), RandomAgent(3), [world.draw(0, k) for k in range(12)])


@pytest.fixture(scope="module")
def there(cluster: None) -> Iterator[pool.Pool]:
    with pool.connect("ray", workers=2) as opened:
        yield opened


@pytest.mark.parametrize("suite", ["mio100-a", "restore-r1-iii"])
def test_trajectories_are_the_same_to_the_byte(there: pool.Pool, suite: str) -> None:
    toolbox = Toolbox.load("pocket").subset(["brighten", "dejpeg", "super_resolve"])
    with pool.connect("local") as here:
        for one, other in zip(played(here, toolbox, suite), played(there, toolbox, suite), strict=True):
            assert one == other
            np.testing.assert_array_equal(one.image, other.image)


def test_failures_are_the_same_facts(there: pool.Pool) -> None:
    world = World(toolbox=fake_toolbox(), suite="noise", crop=32, pool=there)
    [trajectory] = world.begin([world.draw(0, 0)])
    for action in (BRIGHTER, FAILS, LARGER):
        world.step([trajectory], [action])
    assert [s.failure.kind if s.failure else None for s in trajectory.steps] == [None, "ModelRaised", None]
    assert "the fake tool always fails" in trajectory.steps[1].failure.message
    assert trajectory.image.shape == (128, 128, 3)


def test_a_group_is_restored_once(there: pool.Pool) -> None:
    world = World(toolbox=fake_toolbox(), suite="noise", crop=32, pool=there)
    group = world.begin([world.draw(0, 1)] * 8)
    before = there.stats()
    world.step(group, [BRIGHTER] * 8)
    assert len({t.current_digest for t in group}) == 1
    after = there.stats()
    assert after.hits + after.merges - before.hits - before.merges >= 7

"""The tree as Gymnasium sees it, and the mistakes that a user can make with it."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import tir_env  # noqa: F401 (registers the id)
from pool import Problem
from tests.conftest import BRIGHTER, STOP, Mean
from tests.tir_env.tree.forest import grown, real_world, starts_of
from tir_env.observations import Observer
from tir_env.trajectory import TrajectoryError
from tir_env.tree import RestorationTree, RestorationTreeVector, Tree, TreeWorld

ID = "tir_env/RestorationTree-v0"


@pytest.fixture(scope="module")
def tree() -> Tree:
    world = real_world()
    return grown(world, starts_of(world, 6), Mean(), depth=2)


def test_gymnasiums_own_checker(tree: Tree) -> None:
    env = gymnasium.make(ID, tree=tree, metrics=("ssim",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # features have no bounds, which it warns of
        check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_the_one_that_ships_passes_too() -> None:
    env = gymnasium.make(ID)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env.unwrapped, skip_render_check=True)
    assert env.observation_space["features"].shape == (128,)


def test_make_vec_gives_the_fast_one(tree: Tree) -> None:
    envs = gymnasium.make_vec(ID, num_envs=4, tree=tree, part="test")
    assert isinstance(envs.unwrapped, RestorationTreeVector)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    observations, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(observations)
    for _ in range(6):
        observations, rewards, terminated, truncated, _ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(observations)
        assert rewards.shape == terminated.shape == truncated.shape == (4,)
        assert not truncated.any()
    envs.close()


def test_every_start_is_drawn_about_as_often(tree: Tree) -> None:
    world = TreeWorld(tree, "all")
    drawn = world.numbers(np.arange(6000), np.arange(6000), world.mine)
    assert np.bincount(drawn, minlength=6) == pytest.approx(1000, rel=0.15)
    episodes = world.numbers(np.full(6000, 7), np.arange(6000), world.mine)
    assert np.bincount(episodes, minlength=6) == pytest.approx(1000, rel=0.15)


def test_reset_options_pin_the_start(tree: Tree) -> None:
    env = RestorationTree(tree, part="all")
    for known in tree.starts:
        start = known.start
        options = {"image": start.image, "case": start.case, "degradation_seed": start.seed, "corner": start.corner}
        assert env.reset(options=options)[1]["trajectory"].start == start
    with pytest.raises(Problem, match="none of the 6 starts of this tree has image 'mona-lisa'"):
        env.reset(options={"image": "mona-lisa"})
    with pytest.raises(Problem, match="reset option 'group'"):
        env.reset(options={"group": 2})


def test_it_travels_between_processes(tree: Tree) -> None:
    world = pickle.loads(pickle.dumps(TreeWorld(tree, "all")))
    [trajectory] = world.begin([tree.starts[0].start])
    assert world.step([trajectory], [BRIGHTER])[0] != 0


def test_it_needs_neither_pytorch_nor_pyiqa() -> None:
    code = (
        "import gymnasium, tir_env, sys; env = gymnasium.make('tir_env/RestorationTree-v0'); env.reset(seed=0); env.step(0);"
        "print([name for name in ('torch', 'pyiqa', 'open_clip', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda tree: RestorationTree(tree, reward="gain:piqe"), "metric 'piqe': is not in this tree"),
        (lambda tree: RestorationTree(tree, metrics=("lpips",)), "metric 'lpips': is not in this tree"),
        (lambda tree: RestorationTree(tree, horizon=3), "must lie in 1..2"),
        (lambda tree: RestorationTree(tree, part="validation"), "part 'validation': is not in this tree"),
        (lambda tree: RestorationTree(tree, render_mode="rgb_array"), "a tree has none"),
        (lambda tree: RestorationTreeVector(2, tree=tree, render_mode="rgb_array"), "a tree has none"),
        (lambda tree: RestorationTree("/none.safetensors"), "is no file"),
        (lambda tree: RestorationTreeVector(0, tree=tree), "num_envs"),
        (lambda tree: RestorationTreeVector(2, tree=tree).step(np.zeros(2, int)), r"Call reset\(\) first"),
        (lambda tree: TreeWorld(tree).begin([tree.starts[1].start]), "is not in this part of the tree"),
        (lambda tree: TreeWorld(tree).draw(-1, 0), "must not be negative"),
        (lambda tree: TreeWorld(tree).enter(np.zeros((8, 8, 3), np.uint8)), "holds no pixels"),
        (lambda tree: TreeWorld(tree).images[0].image, "holds no pixels"),
        (lambda tree: Observer(TreeWorld(tree), encoder=Other()), "is not the one whose features"),
    ],
)
def test_mistakes_are_named(tree: Tree, make, reason: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Problem, match=reason):
        make(tree)


class Other(Mean):
    name = "encoder/other"


def test_trajectories_have_no_images(tree: Tree) -> None:
    env = RestorationTree(tree)
    env.reset(seed=0)
    *_, info = env.step(STOP)
    with pytest.raises(TrajectoryError, match="remake"):
        _ = info["trajectory"].image

"""The tree and the real world are one: every trajectory, reward, info and failure, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from rewards import Quality, RewardDesign
from tests.conftest import Mean
from tests.tir_env.tree.forest import REWARDS, break_metric, grown, real_world, starts_of
from tir_env.observations import Observer
from tir_env.trajectory import Start
from tir_env.tree import RestorationTree, RestorationTreeVector, Tree, TreeError, TreeWorld
from tir_env.vector import RestorationVectorEnv
from tir_env.world import World

COUNT = 8


class StepCost(RewardDesign):
    """A user's own: it pays for every change, also for one that changes nothing."""

    name, metrics = "step-cost", ("ssim", "psnr")

    def step(self, before: Quality, after: Quality) -> float:
        return after["ssim"].raw * before["psnr"].raw - 0.1


@pytest.fixture(scope="module")
def sown() -> Iterator[tuple[Tree, list[Start]]]:
    """Grown where PSNR and SSIM fail on many images."""
    with pytest.MonkeyPatch.context() as patch:
        world = real_world()
        starts = starts_of(world, COUNT)
        spare = {t.input_digest for t in world.begin(starts)}
        world = real_world()
        for metric in ("psnr", "ssim"):
            break_metric(world, metric, patch, spare)
        yield grown(world, starts), starts


def broken(starts: list[Start], patch: pytest.MonkeyPatch, **settings: object) -> World:
    spare = {t.input_digest for t in real_world().begin(starts)}
    world = real_world(**settings)  # type: ignore[arg-type]
    for metric in world.metrics:
        break_metric(world, metric, patch, spare)
    return world


@pytest.mark.parametrize("horizon", [2, 3])
@pytest.mark.parametrize("reward", [*REWARDS, pytest.param(StepCost(), id="own")], ids=str)
def test_random_trajectories_are_equal(
    sown: tuple[Tree, list[Start]], monkeypatch: pytest.MonkeyPatch, reward: str, horizon: int
) -> None:
    tree, starts = sown
    settings = {"reward": reward, "metrics": ("ssim",), "horizon": horizon}
    real = broken(starts, monkeypatch, **settings)
    kept = TreeWorld(tree, "all", **settings)  # type: ignore[arg-type]
    assert real.reward.name == kept.reward.name
    rng = np.random.default_rng(0)
    chosen = [starts[k] for k in rng.integers(COUNT, size=120)]
    one, other = real.begin(chosen), kept.begin(chosen)
    sights = Observer(real, encoder=Mean()), Observer(kept)
    kinds = set()
    while going := [k for k, t in enumerate(one) if not t.ended]:
        actions = rng.integers(0, 6, len(going)).tolist()
        mine, theirs = ([t[k] for k in going] for t in (one, other))
        assert real.step(mine, actions) == kept.step(theirs, actions)
        assert mine == theirs
        kinds |= {f.kind for t in mine for f in t.failures}
        seen = [sight.observe_batch(group) for sight, group in zip(sights, (mine, theirs), strict=True)]
        for key in seen[0]:
            np.testing.assert_array_equal(seen[0][key], seen[1][key], err_msg=key)
            assert seen[0][key].dtype == seen[1][key].dtype
    assert kinds == {"ModelRaised", "refused"}
    assert any(step.unscored for t in one for step in t.steps)


@pytest.mark.parametrize("lockstep", [False, True])
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("reward", [*REWARDS, pytest.param(StepCost(), id="own")], ids=str)
def test_the_vector_environment_is_the_general_one_on_the_same_world(
    sown: tuple[Tree, list[Start]], reward: str, group: int, lockstep: bool
) -> None:
    """`RestorationVectorEnv` steps the tree's world one trajectory after another; the arrays must say the same."""
    world = TreeWorld(sown[0], "all", reward, ("ssim",))
    options = {"group": group, "lockstep": lockstep, "info_trajectory": True}
    ended: tuple[list, list] = [], []
    plain = RestorationVectorEnv(16, world=world, on_episode=ended[0].append, **options)  # type: ignore[arg-type]
    fast = RestorationTreeVector(16, world=world, on_episode=ended[1].append, **options)  # type: ignore[arg-type]
    assert plain.observation_space == fast.observation_space
    rng = np.random.default_rng(1)
    seen = [envs.reset(seed=4) for envs in (plain, fast)]
    for step in range(40):
        same(seen[0], seen[1])
        if step == 20:
            seen = [envs.reset(options={"group": 2, "case": 0}) for envs in (plain, fast)]
            same(seen[0], seen[1])
        actions = rng.integers(0, 6, 16)
        seen = [envs.step(actions) for envs in (plain, fast)]
    assert ended[0] == ended[1]
    assert len(ended[0]) > 100
    plain.seek(7, 3)
    fast.seek(7, 3)
    same(plain.reset(), fast.reset())


def same(one: object, other: object) -> None:
    """Dicts, tuples, arrays: equal, of one type, of one order."""
    assert type(one) is type(other)
    if isinstance(one, dict) and isinstance(other, dict):
        assert set(one) == set(other)
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, tuple) and isinstance(other, tuple):
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert all(a == b for a, b in zip(one.tolist(), other.tolist(), strict=True))
    else:
        assert one == other


def test_the_single_environment_draws_what_the_vector_draws(sown: tuple[Tree, list[Start]]) -> None:
    envs = RestorationTreeVector(3, tree=sown[0], part="train", info_trajectory=True)
    singles = [RestorationTree(sown[0], part="train") for _ in range(3)]
    _, infos = envs.reset(seed=11)
    for i, env in enumerate(singles):
        _, info = env.reset(seed=11 + i)
        assert info["trajectory"] == infos["trajectory"][i]
        assert info["trajectory"].start in sown[1][::2], "only starts of its part"


def test_a_state_that_moves_on_changes_the_rewards(sown: tuple[Tree, list[Start]]) -> None:
    world = TreeWorld(sown[0], "all", "mar:metrics=psnr+ssim")
    envs = RestorationTreeVector(8, world=world)
    paid = []
    for _ in range(2):
        envs.reset(seed=0)
        paid.append(envs.step(np.zeros(8, int))[1])
        world.reward.observe(np.zeros((4, 2)), np.array([[1.0, 2.0], [2.0, 9.0], [0.0, 1.0], [4.0, 4.0]]))
    assert (paid[0] != 0).any()
    moved = (paid[0] != 0) & (paid[0] != paid[1])
    assert (moved == (paid[0] != 0)).all()


def test_a_trajectory_of_the_tree_is_made_again_with_its_images(sown: tuple[Tree, list[Start]]) -> None:
    world = TreeWorld(sown[0], "all")
    [trajectory] = world.begin([sown[1][0]])
    for action in (0, 4, 1):
        world.step([trajectory], [action])
    with pytest.raises(TreeError, match="toolbox fake: does not ship, and what a tree's file names may do harm"):
        world.remake(trajectory)
    ground = sown[0].ground.model_copy(update={"toolbox": "pocket", "haze": "folder:maps"})
    with pytest.raises(TreeError, match="depth folder:maps: does not ship"):
        TreeWorld(replace(sown[0], ground=ground), "all").remake(trajectory)
    again = real_world().remake(trajectory)
    assert again == trajectory
    assert again.image.shape == (128, 128, 3)

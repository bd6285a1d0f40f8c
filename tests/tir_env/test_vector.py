from __future__ import annotations

from dataclasses import dataclass, field

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import tir_env  # noqa: F401 (registers the id)
from pool import Problem
from tests.conftest import BRIGHTER, DARKER, FAILS, LARGER, STOP, Mean
from tir_env.env import RestorationEnv
from tir_env.images import Image
from tir_env.images.generate import dead_leaves
from tir_env.images.sources import Images, Photo
from tir_env.tools import Toolbox
from tir_env.vector import RestorationVectorEnv
from tir_env.world import World


def test_make_vec_gives_it_with_gymnasiums_spaces(toolbox: Toolbox) -> None:
    envs = gymnasium.make_vec("tir_env/Restoration-v0", num_envs=4, toolbox=toolbox, suite="noise", crop=32, canvas=32)
    assert isinstance(envs.unwrapped, RestorationVectorEnv)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    observations, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(observations)
    for _ in range(6):
        observations, rewards, terminated, truncated, _ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(observations)
        assert rewards.shape == terminated.shape == truncated.shape == (4,)
        assert not truncated.any()
    envs.close()


def test_it_agrees_with_single_environments_over_several_episodes(world: World) -> None:
    rng = np.random.default_rng(0)
    count = 5
    vector = RestorationVectorEnv(count, world=world, canvas=32)
    singles = [RestorationEnv(world=world, canvas=32) for _ in range(count)]
    observations, _ = vector.reset(seed=40)
    expected = [env.reset(seed=40 + i)[0] for i, env in enumerate(singles)]
    over = np.zeros(count, bool)
    for _ in range(14):
        actions = rng.integers(0, 6, count)
        observations, rewards, terminated, _, infos = vector.step(actions)
        for i, env in enumerate(singles):
            if over[i]:
                obs, reward, ended = env.reset()[0], 0.0, False
            else:
                obs, reward, ended, _, _ = env.step(actions[i])
            expected[i] = obs
            assert (rewards[i], terminated[i]) == (reward, ended)
            for key, value in obs.items():
                np.testing.assert_array_equal(observations[key][i], value, err_msg=key)
            assert infos["trajectory"][i] == env.trajectory
        over = terminated.copy()


def test_next_step_autoreset(world: World) -> None:
    envs = RestorationVectorEnv(2, world=world)
    envs.reset(seed=0)
    first = envs.trajectories[0]
    _, _, terminated, _, _ = envs.step(np.array([STOP, BRIGHTER]))
    assert terminated.tolist() == [True, False]
    assert envs.trajectories[0] is first, "the end is still to be seen"
    observations, rewards, terminated, _, infos = envs.step(np.array([FAILS, BRIGHTER]))
    assert envs.trajectories[0] is not first
    assert (rewards[0], terminated[0], infos["valid"][0], infos["tool"][0]) == (0.0, False, True, "")
    assert observations["steps_left"][:, 0].tolist() == [3, 1]


def test_groups_share_every_start(world: World) -> None:
    envs = RestorationVectorEnv(6, world=world)
    envs.reset(seed=5, options={"group": 3})
    seen: dict[int, list] = {i: [envs.trajectories[i].start] for i in range(6)}
    rng = np.random.default_rng(1)
    for _ in range(20):
        envs.step(rng.choice([BRIGHTER, DARKER, STOP], 6))
        for i, trajectory in enumerate(envs.trajectories):
            if trajectory.start != seen[i][-1]:
                seen[i].append(trajectory.start)
    shortest = min(map(len, seen.values()))
    assert shortest >= 4
    for k in range(shortest):
        assert len({seen[i][k] for i in (0, 1, 2)}) == 1
        assert len({seen[i][k] for i in (3, 4, 5)}) == 1
        assert seen[0][k] != seen[3][k]
    start = RestorationEnv(world=world)
    start.reset(seed=6)
    assert start.trajectory.start == seen[3][0], "group j draws as seed + j"
    envs.reset()  # members have played different numbers of episodes
    starts = [t.start for t in envs.trajectories]
    assert len(set(starts[:3])) == len(set(starts[3:])) == 1, "groups stay, and are level again"
    assert starts[0] not in [s for each in seen.values() for s in each]


def test_groups_from_the_beginning(world: World) -> None:
    envs = RestorationVectorEnv(4, world=world, group=2)
    for seed in (3, None, [7, 7, 8, 8]):
        envs.reset(seed=seed)
        a, b, c, d = (t.start for t in envs.trajectories)
        assert a == b != c == d
    with pytest.raises(Problem, match="differs between members of a group"):
        envs.reset(seed=[1, 2, 3, 4])
    with pytest.raises(Problem, match="does not divide"):
        RestorationVectorEnv(4, world=world, group=3)


def test_pins_hold_until_the_next_reset(world: World) -> None:
    envs = RestorationVectorEnv(2, world=world)
    envs.reset(seed=0, options={"image": "rocket"})
    for _ in range(6):
        envs.step(np.array([STOP, STOP]))
        assert {t.start.image for t in envs.trajectories} == {"rocket"}
    envs.reset(seed=1)
    images = set()
    for _ in range(12):
        envs.step(np.array([STOP, STOP]))
        images |= {t.start.image for t in envs.trajectories}
    assert len(images) > 1


def test_resets_without_a_seed_go_on_and_are_decided_by_the_seed_before(world: World) -> None:
    def run() -> list:
        envs = RestorationVectorEnv(4, world=world)
        starts = []
        envs.reset(seed=9)
        for options in ({}, {}, {"group": 2}, {}, {"group": 4}, {"group": 1}):
            envs.reset(options=options)
            starts.append([t.start for t in envs.trajectories])
        return starts

    one = run()
    assert one == run()
    flat = [s for starts in one for s in dict.fromkeys(starts)]
    assert len(set(flat)) == len(flat), "no start is repeated"
    assert [len(set(starts)) for starts in one] == [4, 4, 2, 2, 1, 4]


def test_failures_are_facts_of_one_environment(world: World) -> None:
    envs = RestorationVectorEnv(3, world=world)
    envs.reset(seed=0)
    _, rewards, _, _, infos = envs.step(np.array([FAILS, BRIGHTER, LARGER]))
    assert infos["valid"].tolist() == [False, True, True]
    assert infos["failure"][0].kind == "ModelRaised"
    assert infos["failure"][1] is None
    assert rewards[0] == 0
    assert infos["quality"]["psnr"].shape == (3,)


def test_features_are_computed_in_one_batch(world: World) -> None:
    envs = RestorationVectorEnv(3, world=world, encoder=Mean())
    observations, _ = envs.reset(seed=0)
    assert observations["features"].shape == (3, 3)
    assert envs.observation_space.contains(observations)


def test_on_episode_sees_each_once(world: World) -> None:
    ended: list = []
    envs = RestorationVectorEnv(2, world=world, on_episode=ended.append)
    envs.reset(seed=0)
    for _ in range(4):
        envs.step(np.array([STOP, BRIGHTER]))
    assert len(ended) == 2 + 1
    assert len({id(t) for t in ended}) == 3


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda e: e.reset(options={"group": 3}), "does not divide"),
        (lambda e: e.reset(seed=[1, 2, 3]), "3 seeds for 4"),
        (lambda e: e.reset(options={"reset_mask": np.ones(4, bool)}), "without autoreset"),
        (lambda e: e.step(np.zeros(3, int)), "must be 4 whole numbers"),
        (lambda e: e.step(np.full(4, 0.9)), "must be 4 whole numbers"),
        (lambda e: e.step(np.array([0, 0, 0, 9])), "from 0 to 5"),
    ],
)
def test_mistakes_are_named(world: World, call, reason: str) -> None:  # type: ignore[no-untyped-def]
    envs = RestorationVectorEnv(4, world=world)
    envs.reset(seed=0)
    with pytest.raises(Problem, match=reason):
        call(envs)


def test_a_vector_of_none_is_refused(world: World) -> None:
    with pytest.raises(Problem, match="num_envs"):
        RestorationVectorEnv(0, world=world)
    with pytest.raises(Problem, match="render_mode"):
        RestorationVectorEnv(1, world=world, render_mode="rgb_array")
    with pytest.raises(Problem, match=r"Call reset\(\) first"):
        RestorationVectorEnv(1, world=world).step(np.array([0]))


def test_lockstep_ends_all_episodes_together(world: World) -> None:
    """Who stopped earlier idles: no tool runs, no reward, no second start, and `on_episode` hears of each once."""
    ended: list = []
    envs = RestorationVectorEnv(3, world=world, lockstep=True, on_episode=ended.append)
    envs.reset(seed=0)
    first = list(envs.trajectories)
    _, rewards, terminated, _, infos = envs.step(np.array([STOP, BRIGHTER, BRIGHTER]))
    assert infos["idle"].tolist() == [False, False, False]
    _, rewards, terminated, _, infos = envs.step(np.array([BRIGHTER, STOP, BRIGHTER]))
    assert infos["idle"].tolist() == [True, False, False]
    assert rewards[0] == 0
    assert not terminated.any()
    _, _, terminated, _, infos = envs.step(np.array([BRIGHTER, BRIGHTER, DARKER]))
    assert infos["idle"].tolist() == [True, True, False]
    assert terminated.all()
    assert envs.trajectories == first
    assert [t.actions for t in first] == [[STOP], [BRIGHTER, STOP], [BRIGHTER, BRIGHTER, DARKER]]
    assert [ended.count(t) for t in first] == [1, 1, 1]
    _, rewards, terminated, _, infos = envs.step(np.array([STOP, STOP, STOP]))  # autoreset: the actions are ignored
    assert not terminated.any()
    assert not infos["idle"].any()
    assert all(not t.steps for t in envs.trajectories)


@pytest.mark.parametrize("group", [1, 2])
def test_seek_begins_any_episode_of_a_seed(world: World, group: int) -> None:
    plain, sought = (RestorationVectorEnv(4, world=world, lockstep=True, group=group) for _ in range(2))
    plain.reset(seed=9)
    for episode in range(3):
        sought.seek(9, episode)
        sought.reset()
        assert [t.start for t in sought.trajectories] == [t.start for t in plain.trajectories]
        for _ in range(world.horizon + 1):
            plain.step(np.full(4, STOP))
    with pytest.raises(Problem, match="must not be negative"):
        sought.seek(9, -1)


@dataclass(frozen=True)
class Counted:
    """Reads a picture and writes down that it did."""

    seed: int
    read: list[int] = field(compare=False)

    def __call__(self) -> Image:
        self.read.append(self.seed)
        return dead_leaves(self.seed, 48)


def test_the_next_episodes_photographs_are_read_while_these_are_played(toolbox: Toolbox) -> None:
    read: list[int] = []
    photos = [Photo(str(i), Counted(7_000 + i, read)) for i in range(400)]
    envs = RestorationVectorEnv(
        8, lockstep=True, images=Images("counted", photos), part="all", toolbox=toolbox, suite="noise", crop=32, horizon=2
    )
    envs.reset(seed=0)
    assert envs._ahead is not None
    envs._ahead.submit(lambda: None).result()  # it reads one after the other: all before are through
    before = list(read)
    assert len(before) == len(set(before)) > 8
    for _ in range(3):
        envs.step(np.full(8, BRIGHTER))
    assert {t.start.image for t in envs.trajectories} <= {str(seed - 7_000) for seed in before}
    envs.close()
    with pytest.raises(RuntimeError):
        envs._ahead.submit(lambda: None)

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import tir_env  # noqa: F401 (registers the id)
from pool import Problem
from tests.conftest import BRIGHTER, FAILS, LARGER, STOP, Mean
from tir_env.env import RestorationEnv
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World


@pytest.mark.parametrize("encoder", [None, Mean()])
@pytest.mark.parametrize("suite", ["noise+jpeg", "rain+low resolution"])
def test_gymnasiums_own_checker(toolbox: Toolbox, suite: str, encoder: Mean | None) -> None:
    env = gymnasium.make(
        "tir_env/Restoration-v0", toolbox=toolbox, suite=suite, crop=32, canvas=32, encoder=encoder, render_mode="rgb_array"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if encoder else "error")  # features have no bounds, which it warns of
        check_env(env.unwrapped)
    env.close()


def test_an_encoder_by_name_is_told_where_names_are_known(world: World) -> None:
    with pytest.raises(Problem, match=r"Pass EncoderSpec\('pocket-clip'\)\.open\(\), from agents\.clip_mlp\.agent"):
        RestorationEnv(world=world, encoder="pocket-clip")  # type: ignore[arg-type]


def test_the_real_toolbox_passes_too() -> None:
    env = gymnasium.make("tir_env/Restoration-v0", suite="dark+noise", crop=64, canvas=64)
    check_env(env.unwrapped, skip_render_check=True)


def test_observations_say_what_happened(world: World) -> None:
    env = RestorationEnv(world=world, canvas=64)
    first, info = env.reset(seed=1)
    assert ((first["size"] * 1024).tolist(), first["steps_left"].tolist()) == ([32, 32], [3])
    assert info["valid"]
    assert info["failure"] is None
    second, reward, terminated, truncated, info = env.step(LARGER)
    assert (second["size"] * 1024).tolist() == [128, 128]
    assert second["used"].tolist() == [0, 0, 0, 0, 1]
    assert second["mask"][LARGER] == 0
    assert second["steps_left"] == [2]
    assert (terminated, truncated, info["tool"]) == (False, False, "super_resolve/larger")
    assert info["trajectory"].image.shape == (128, 128, 3)
    third, reward, terminated, _, info = env.step(FAILS)
    assert (reward, info["valid"], info["failure"].kind) == (0.0, False, "ModelRaised")
    assert third["used"].tolist() == [0, 0, 0, 0, 1]
    *_, terminated, _, info = env.step(STOP)
    assert terminated
    assert info["tool"] == "stop"


def test_the_same_seed_and_actions_give_the_same_bytes(toolbox: Toolbox) -> None:
    def run() -> list[Trajectory]:
        env = RestorationEnv(toolbox=toolbox, suite="mio100-c", crop=48)
        done = []
        env.reset(seed=7)
        for _ in range(3):
            for action in (BRIGHTER, LARGER, STOP):
                env.step(action)
            done.append(env.trajectory)
            env.reset()
        return done

    assert run() == run()


def test_reset_options(world: World) -> None:
    env = RestorationEnv(world=world)
    env.reset(seed=0, options={"image": "rocket", "case": 0, "degradation_seed": 4, "corner": (3, 5)})
    assert env.trajectory.start.image == "rocket"
    assert (env.trajectory.start.seed, env.trajectory.start.corner) == (4, (3, 5))
    with pytest.raises(Problem, match="Did you mean 'image'"):
        env.reset(options={"imag": 1})


def test_stepping_out_of_turn_is_an_error(world: World) -> None:
    env = RestorationEnv(world=world)
    with pytest.raises(Problem, match=r"Call reset\(\) first"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(Problem, match="is not in Discrete"):
        env.step(6)
    env.step(STOP)
    with pytest.raises(Problem, match=r"Call reset\(\) first"):
        env.step(0)


def test_on_episode_gets_every_finished_trajectory(world: World) -> None:
    seen: list[Trajectory] = []
    env = RestorationEnv(world=world, on_episode=seen.append, info_trajectory=False)
    for _ in range(2):
        _, info = env.reset(seed=3)
        assert "trajectory" not in info
        env.step(STOP)
    assert len(seen) == 2
    assert all(t.ended for t in seen)


def test_features_take_the_images_place(world: World) -> None:
    env = RestorationEnv(world=world, encoder=Mean())
    observation, info = env.reset(seed=0)
    assert "image" not in observation
    np.testing.assert_allclose(observation["features"], info["trajectory"].image.mean(axis=(0, 1)), rtol=1e-5)


def test_images_larger_than_the_canvas_are_shown_whole(toolbox: Toolbox) -> None:
    env = RestorationEnv(toolbox=toolbox, suite="noise", crop=0, canvas=64, images="skimage")
    observation, _ = env.reset(seed=0, options={"image": "rocket"})
    assert (observation["size"] * 1024).tolist() == [427, 640]
    assert observation["image"].shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"corner": (1000, 1000)}, "leaves no 32x32 crop"),
        ({"corner": (-1, 0)}, "leaves no 32x32 crop"),
        ({"corner": (1,)}, r"must be \(top, left\)"),
        ({"corner": "ab"}, r"must be \(top, left\)"),
        ({"degradation_seed": -1}, "whole number from 0"),
        ({"degradation_seed": 1.5}, "whole number from 0"),
        ({"image": True}, "a name or an index"),
        ({"case": 2.5}, "a name or an index"),
    ],
)
def test_reset_options_are_checked(world: World, options: dict, reason: str) -> None:
    with pytest.raises(Problem, match=reason):
        RestorationEnv(world=world).reset(seed=0, options={"image": "rocket"} | options)


def test_reset_options_may_be_numpys(world: World) -> None:
    env = RestorationEnv(world=world)
    env.reset(seed=0, options={"corner": np.array([3, 5]), "degradation_seed": np.int64(4), "image": np.int64(0)})
    assert (env.trajectory.start.corner, env.trajectory.start.seed) == ((3, 5), 4)
    assert type(env.trajectory.start.seed) is int


@pytest.mark.parametrize("action", [1.9, None, "0", -1, True])
def test_only_whole_numbers_are_actions(world: World, action: object) -> None:
    env = RestorationEnv(world=world)
    env.reset(seed=0)
    with pytest.raises(Problem, match="is not in Discrete"):
        env.step(action)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"horizn": 3}, "Did you mean 'horizon'"), ({"canvas": 0}, "canvas"), ({"render_mode": "human"}, "rgb_array")],
)
def test_settings_are_checked(toolbox: Toolbox, settings: dict, reason: str) -> None:
    with pytest.raises(Problem, match=reason):
        RestorationEnv(toolbox=toolbox, **settings)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_go_on_as_the_original_would(toolbox: Toolbox, again: Callable[[RestorationEnv], RestorationEnv]) -> None:
    env = RestorationEnv(toolbox=toolbox, suite="noise", crop=32)
    env.reset(seed=1)
    env.step(BRIGHTER)
    other = again(env)
    assert env.step(BRIGHTER)[1:4] == other.step(BRIGHTER)[1:4]
    assert env.trajectory == other.trajectory
    env.reset()
    other.reset()
    assert env.trajectory == other.trajectory


def test_frames_of_an_episode_have_one_size(world: World) -> None:
    env = RestorationEnv(world=world, render_mode="rgb_array")
    env.reset(seed=0)
    frames = [env.render()]
    for action in (BRIGHTER, FAILS, STOP):
        env.step(action)
        frames.append(env.render())
    assert len({frame.shape for frame in frames}) == 1
    assert not np.array_equal(frames[0], frames[1])


def test_it_works_under_gymnasiums_wrappers(toolbox: Toolbox) -> None:
    envs = gymnasium.make_vec(
        "tir_env/Restoration-v0", num_envs=2, vectorization_mode="sync", toolbox=toolbox, suite="noise", crop=32, canvas=32
    )
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.reset(seed=0)
    _, _, terminated, _, infos = envs.step(np.array([STOP, BRIGHTER]))
    assert terminated.tolist() == [True, False]
    assert infos["episode"]["l"].tolist() == [1, 0]

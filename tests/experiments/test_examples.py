"""The examples in experiments/examples run as a user runs them, small, and each learner gets what the environment gives."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from experiments.examples import task
from experiments.examples.train_with_plain_ppo import Example, Policy, gae, learn
from tests.experiments.test_scripts import script, within
from tir_env.trajectory import Trajectory


def check_figures(path: Path) -> None:
    data = json.loads(path.read_text())
    for when in ("before", "after"):
        assert np.isfinite(data[when]["mean"])
        assert data[when]["episodes"] == 4
    assert data["seconds"] > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("train_with_sb3.py", ("--steps", 32, "--envs", 2, "--round", 8)),
        ("train_with_plain_ppo.py", ("--updates", 5, "--envs", 4, "--steps", 3, "--epochs", 1)),
        pytest.param("train_with_rllib_dqn.py", ("--steps", 300, "--envs", 4), marks=pytest.mark.ray),
    ],
)
def test_an_example_runs(name: str, options: tuple[object, ...], tmp_path: Path) -> None:
    run = script if "rllib" in name else within  # RLlib reads its connector from a program of its own
    done = run(f"examples/{name}", *options, "--episodes", 4, "--json", tmp_path / "f.json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("before: ")
    assert lines[-1].startswith("after: ")
    assert "dB over 4 held-out starts" in lines[-1]
    check_figures(tmp_path / "f.json")


def test_a_plain_loop_learns() -> None:
    """A task in which one tool is always right is learnt in seconds: the reward reaches the decision that earned it."""
    torch.manual_seed(0)
    policy = Policy(1, 2, width=8)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    seen, mask = torch.ones(64, 1), torch.ones(64, 2)
    for _ in range(20):
        with torch.no_grad():
            chances, value = policy(seen, mask)
            action = chances.sample()
        reward = (action == 1).float()
        lessons = {"seen": seen, "mask": mask, "action": action, "logp": chances.log_prob(action)}
        learn(policy, optimizer, lessons, reward - value, reward, Example(epochs=2, minibatch=32))
    assert policy(seen, mask)[0].probs[0, 1] > 0.9


def test_a_masked_action_is_never_taken() -> None:
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]])
    chances, _ = Policy(2, 3)(torch.randn(2, 2), mask)
    assert (chances.probs[mask == 0] == 0).all()
    assert chances.probs[1, 2] == 1
    assert torch.isfinite(chances.log_prob(torch.tensor([0, 2]))).all()


def test_advantages_by_hand() -> None:
    """Two episodes: one of two steps, one cut off after its first."""
    reward, value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.5], [0.25], [0.5]])
    end = torch.tensor([[False], [True], [False]])
    found = gae(reward, value, torch.tensor([4.0]), end, gamma=0.5, lam=0.5)
    second = 2 - 0.25
    np.testing.assert_allclose(found.squeeze(), [1 + 0.5 * 0.25 - 0.5 + 0.25 * second, second, 3 + 0.5 * 4 - 0.5])


def test_held_out_gains_are_those_of_the_trajectories() -> None:
    ended: list[Trajectory] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "settings", lambda part, whole=task.settings: {**whole(part), "on_episode": ended.append})
        gain = task.held_out(lambda seen: np.arange(6) % 5, episodes=6)  # one of each tool again and again, one that stops
    assert gain.mean == pytest.approx(np.mean([t.gains()["psnr"] for t in ended]))
    assert len(ended) == gain.episodes == 6
    assert task.held_out(lambda seen: np.full(6, len(task.TOOLS)), episodes=6).mean == 0  # to stop gains nothing


def test_no_photograph_is_trained_on_and_tested_on() -> None:
    train, test = (gymnasium.make(task.ID, **task.settings(part)).unwrapped.world.images for part in ("train", "test"))
    assert not {photo.name for photo in train} & {photo.name for photo in test}


@pytest.mark.ray
def test_dqn_sees_the_same_vectors_when_it_acts() -> None:
    from ray.rllib.connectors.env_to_module import FlattenObservations
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    from experiments.examples.train_with_rllib_dqn import flat

    env = gymnasium.make(task.ID, **task.settings("train"))
    observation, _ = env.reset(seed=3)
    episode = SingleAgentEpisode(observation_space=env.observation_space, action_space=env.action_space)
    episode.add_env_reset(observation)
    connector = FlattenObservations(input_observation_space=env.observation_space, input_action_space=env.action_space)
    connector(rl_module=None, batch={}, episodes=[episode], shared_data={})
    np.testing.assert_array_equal(episode.get_observations(-1), flat({k: v[None] for k, v in observation.items()})[0])

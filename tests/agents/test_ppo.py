"""RLlib's PPO and GRPO as set up here, held against plain PyTorch on the same rollouts."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from agents.clip_mlp.config import Hyperparameters
from agents.clip_mlp.grpo import LightGRPO
from agents.clip_mlp.network import Actor, Critic, Shape
from agents.clip_mlp.ppo import LightPPO, Place, configure
from agents.clip_mlp.rollouts import Rollout
from pool import Problem
from rewards import RewardError, group_advantages, make_reward
from tests.agents import plain_ppo
from tests.conftest import Mean, fake_toolbox
from tir_env.trajectory import STOP

pytestmark = pytest.mark.ray

VALUES = Hyperparameters(episodes=16, epochs=3, minibatch=32, lr=0.003, lr_end=0.5, group=4)
HORIZON = 3


def settings(**more: Any) -> dict[str, Any]:
    return {
        "toolbox": fake_toolbox(), "suite": "dark", "crop": 32, "horizon": HORIZON, "reward": "gain:psnr", "metrics": ("psnr",),
        "encoder": Mean(), "pool": {"kind": "local"}, **more,
    }  # fmt: skip


def build(kind: type[LightPPO], seed: int = 0, **more: Any) -> LightPPO:
    environment = settings(**({"group": VALUES.group} if kind is LightGRPO else {}), **more)
    shape = Shape(Mean.dim, len(environment["toolbox"]), HORIZON)
    config = configure(kind, environment, shape, VALUES, 10, seed, Place())
    algorithm = config.build_algo()
    assert isinstance(algorithm, LightPPO)
    return algorithm


@pytest.fixture(params=[LightPPO, LightGRPO])
def algorithm(request: pytest.FixtureRequest, cluster: None) -> Iterator[LightPPO]:
    made = build(request.param)
    yield made
    made.stop()


@pytest.fixture
def ppo(cluster: None) -> Iterator[LightPPO]:
    made = build(LightPPO)
    yield made
    made.stop()


@pytest.fixture
def grpo(cluster: None) -> Iterator[LightPPO]:
    made = build(LightGRPO)
    yield made
    made.stop()


def weights_of(algorithm: LightPPO) -> dict[str, np.ndarray]:
    return {key: np.array(value) for key, value in algorithm.learner_group.get_weights()["default_policy"].items()}


def networks(algorithm: LightPPO) -> tuple[Actor, Critic]:
    shape = Shape(Mean.dim, 5, HORIZON)
    actor, critic = Actor(shape), Critic(shape)
    weights = weights_of(algorithm)
    for name, network in (("actor.", actor), ("critic.", critic)):
        mine = {k.removeprefix(name): torch.tensor(v) for k, v in weights.items() if k.startswith(name)}
        network.load_state_dict(mine)
    return actor, critic


def plain(rollouts: list[Rollout]) -> list[plain_ppo.Episode]:
    episodes = []
    for piece in (piece for rollout in rollouts for piece in rollout.pieces()):
        logp = piece.get_extra_model_outputs("action_logp")
        arrays = piece.get_observations(), piece.get_actions(), piece.get_rewards(), logp
        episodes.append(plain_ppo.Episode(*arrays, piece.is_terminated))
    return copy.deepcopy(episodes)


def learn(algorithm: LightPPO, lessons: list, epochs: int) -> None:
    algorithm.learner_group.update(
        episodes=lessons,
        timesteps={"num_env_steps_sampled_lifetime": 0},
        num_epochs=epochs,
        minibatch_size=None,
        shuffle_batch_per_epoch=False,
    )


def distance(algorithm: LightPPO, actor: Actor, critic: Critic | None = None) -> float:
    found = weights_of(algorithm)
    pairs = [(found[f"actor.{k}"], v) for k, v in actor.state_dict().items()]
    if critic is not None:
        pairs += [(found[f"critic.{k}"], v) for k, v in critic.state_dict().items()]
    return max(float(np.abs(mine - theirs.numpy()).max()) for mine, theirs in pairs)


def test_ppo_updates_as_the_plain_one_does(ppo: LightPPO) -> None:
    rollouts = ppo.sample_round()
    assert any(not r.valid for r in rollouts), "failures must be among them for this to test their absence"
    actor, critic = networks(ppo)
    before = distance(ppo, actor, critic)
    episodes = plain(rollouts)
    batch = plain_ppo.prepare(episodes, critic, VALUES.gamma, VALUES.lam)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=VALUES.lr)
    everything = [list(range(len(batch.actions)))] * 3
    learn(ppo, ppo.lessons(rollouts), 3)
    untouched = distance(ppo, actor, critic)
    plain_ppo.update(batch, actor, critic, optimizer, VALUES, VALUES.entropy, everything)
    assert before == 0
    assert untouched > 1e-3
    assert distance(ppo, actor, critic) < 2e-5


def test_grpo_updates_as_the_plain_one_does(grpo: LightPPO) -> None:
    rollouts = grpo.sample_round()
    actor, _ = networks(grpo)
    returns = np.array([r.reward for r in rollouts]).reshape(-1, VALUES.group)
    valid = np.array([r.valid for r in rollouts]).reshape(-1, VALUES.group)
    advantages = group_advantages(returns, valid).reshape(-1)
    chosen = [(r, a) for r, a in zip(rollouts, advantages, strict=True) if r.valid and a]
    assert 0 < len(chosen) < len(rollouts)
    episodes = plain([r for r, _ in chosen])
    rows = plain_ppo.prepare(episodes, Critic(Shape(Mean.dim, 5, HORIZON)), 1.0, 1.0)
    rows.advantages = torch.cat([torch.full((len(e),), float(a)) for e, (_, a) in zip(episodes, chosen, strict=True)])
    optimizer = torch.optim.Adam(actor.parameters(), lr=VALUES.lr)
    learn(grpo, grpo.lessons(rollouts), 3)
    for _ in range(3):
        total = plain_ppo.loss(rows, actor, None, VALUES, VALUES.entropy)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(actor.parameters(), VALUES.grad_clip)
        optimizer.step()
    assert distance(grpo, actor) < 2e-5


def test_members_of_a_group_share_their_start_and_groups_differ(grpo: LightPPO) -> None:
    rollouts = grpo.sample_round()
    qualities = np.array([r.quality(0, ("psnr",)) for r in rollouts]).reshape(-1, VALUES.group)
    assert (qualities == qualities[:, :1]).all()
    assert len(set(qualities[:, 0])) > 1


def test_two_and_two_iterations_are_four(algorithm: LightPPO, tmp_path: Any) -> None:
    """Weights, optimizer, reward state, starts and random numbers: all of it goes on where it stood."""
    for _ in range(2):
        algorithm.train()
    algorithm.save_state(tmp_path)
    for _ in range(2):
        algorithm.train()
    other = build(type(algorithm))
    other.load_state(tmp_path)
    for _ in range(2):
        other.train()
    one, two = weights_of(algorithm), weights_of(other)
    assert all((one[key] == two[key]).all() for key in one)
    assert algorithm.report == other.report
    assert algorithm.rounds == other.rounds == 4
    other.stop()


def test_a_state_of_other_sizes_is_refused(ppo: LightPPO, tmp_path: Any) -> None:
    ppo.save_state(tmp_path)
    toolbox = fake_toolbox().subset(["denoise/brighter"])
    config = configure(LightPPO, settings(toolbox=toolbox), Shape(Mean.dim, 1, HORIZON), VALUES, 10, 0, Place())
    other = config.build_algo()
    assert isinstance(other, LightPPO)
    with pytest.raises(Problem, match=r"does not fit these settings.*Resume with the settings"):
        other.load_state(tmp_path)
    other.stop()


def test_the_learning_rate_falls_along_a_line(ppo: LightPPO) -> None:
    """Ten iterations are planned: the third begins when two tenths are over."""

    def rates(learner: Any) -> list[float]:
        return [learner._get_optimizer_lr(optimizer) for optimizer in learner._optimizer_parameters]

    for _ in range(3):
        ppo.train()
    [seen] = [result.get() for result in ppo.learner_group.foreach_learner(rates)]
    assert seen == pytest.approx([0.003 * (1 - 0.5 * 0.2)])


def test_another_seed_is_another_run(ppo: LightPPO) -> None:
    other = build(LightPPO, seed=1)
    one, two = weights_of(ppo), weights_of(other)
    assert any((one[key] != two[key]).any() for key in one)
    ppo.train()
    other.train()
    assert ppo.report != other.report
    other.stop()


def test_the_adaptive_state_is_saved_and_reaches_the_environment(cluster: None, tmp_path: Any) -> None:
    reward = "mar:metrics=psnr+ssim,beta=0.5"
    first, second = (build(LightPPO, reward=reward, metrics=("psnr", "ssim")) for _ in range(2))
    first.train()
    state = first.design.state_dict()
    assert state["batches"] == 1
    first.save_state(tmp_path)
    second.load_state(tmp_path)
    assert second.design.state_dict() == state
    second.sample_round()
    [runner] = [r for r in [second.env_runner] if r is not None]
    assert runner.env.unwrapped.world.reward.state_dict() == state
    assert second.report == {}
    second.train()
    assert second.report["reward_design/psnr/average"] != state["psnr/average"]
    first.stop()
    second.stop()


def test_steps_are_judged_by_the_state_that_has_seen_them(cluster: None) -> None:
    algorithm = build(LightPPO, reward="mar:metrics=psnr+ssim", metrics=("psnr", "ssim"))
    rollouts = algorithm.sample_round()
    algorithm.observe(rollouts)
    state = algorithm.design.state_dict()
    assert state["psnr/scale"] != 1
    for rollout in (r for r in rollouts if r.valid and r.tools):
        gain = {m: rollout.quality(-1, (m,))[0] - rollout.quality(0, (m,))[0] for m in ("psnr", "ssim")}
        expected = sum(state[f"{m}/weight"] * gain[m] / state[f"{m}/scale"] for m in gain)
        assert rollout.reward == pytest.approx(expected, rel=1e-5, abs=1e-5)
    algorithm.stop()


def test_learning_picks_the_tool_that_helps(ppo: LightPPO) -> None:
    """On dark images: brighter. (Tools that fail teach nothing, so they are neither sought nor shunned.)"""
    for _ in range(20):
        ppo.train()
    used = [tool for r in ppo.sample_round() for tool in r.tools if tool not in ("denoise/fails", "denoise/nan")]
    assert used.count("denoise/brighter") > 0.8 * len(used)


def test_a_round_in_which_everything_fails_teaches_nothing(cluster: None) -> None:
    toolbox = fake_toolbox().subset(["denoise/fails", "denoise/nan"])
    environment = settings(toolbox=toolbox)
    config = configure(LightPPO, environment, Shape(Mean.dim, 2, HORIZON), VALUES, 10, 0, Place())
    algorithm = config.build_algo()
    assert isinstance(algorithm, LightPPO)
    rollouts = algorithm.sample_round()
    lessons = algorithm.lessons(rollouts)
    assert all(action == 2 for lesson in lessons for action in lesson.get_actions()), "only stops are left"
    algorithm.train()
    assert algorithm.report["failures"] > 0
    algorithm.stop()


def test_a_toolbox_of_one_tool(cluster: None) -> None:
    """PPO learns with it; GRPO with one that always fails goes through its round, and stays as it was."""
    for kind, tool in ((LightPPO, "denoise/brighter"), (LightGRPO, "denoise/fails")):
        environment = settings(toolbox=fake_toolbox().subset([tool]), **({"group": 4} if kind is LightGRPO else {}))
        algorithm = configure(kind, environment, Shape(Mean.dim, 1, HORIZON), VALUES, 10, 0, Place()).build_algo()
        assert isinstance(algorithm, LightPPO)
        before = weights_of(algorithm)
        algorithm.train()
        changed = any((before[key] != value).any() for key, value in weights_of(algorithm).items())
        assert changed == (kind is LightPPO)
        assert (algorithm.report["failures"] > 0) == (kind is LightGRPO)
        assert np.isfinite(algorithm.report["gain/psnr"]), "of those who stopped at once"
        algorithm.stop()


def test_episodes_that_cannot_be_dealt_out_are_refused() -> None:
    with pytest.raises(Problem, match="in groups of 3"):
        configure(LightGRPO, settings(group=3), Shape(3, 5, 3), VALUES, 10, 0, Place())
    with pytest.raises(Problem, match="3 env runner"):
        configure(LightPPO, settings(), Shape(3, 5, 3), VALUES, 10, 0, Place(env_runners=3))
    with pytest.raises(Problem, match=r"--minibatch 32: is more than the 16 decisions of an iteration: 16 episodes of 1\."):
        configure(LightPPO, settings(), Shape(3, 5, 1), VALUES, 10, 0, Place())


def test_two_env_runners_play_different_rounds_on_one_pool(cluster: None) -> None:
    environment = settings(pool={"kind": "ray", "name": "shared-by-runners", "workers": 1})
    config = configure(LightPPO, environment, Shape(Mean.dim, 5, HORIZON), VALUES, 10, 0, Place(env_runners=2))
    config.env_runners(num_cpus_per_env_runner=0)
    algorithm = config.build_algo()
    assert isinstance(algorithm, LightPPO)
    rollouts = algorithm.sample_round()
    assert len(rollouts) == VALUES.episodes
    halves = [[r.quality(0, ("psnr",))[0] for r in half] for half in (rollouts[:8], rollouts[8:])]
    assert halves[0] != halves[1]
    again = algorithm.sample_round()
    assert [(r.tools, r.reward, r.quality(-1, ("psnr",))) for r in again] == [
        (r.tools, r.reward, r.quality(-1, ("psnr",))) for r in rollouts
    ], "the same round once more"
    algorithm.train()
    assert algorithm.report["length"] > 1
    algorithm.stop()
    from pool import dissolve

    dissolve("shared-by-runners")


def test_an_env_runner_that_is_lost_plays_its_part_again(cluster: None) -> None:
    config = configure(LightPPO, settings(), Shape(Mean.dim, 5, HORIZON), VALUES, 10, 0, Place(env_runners=2))
    config.env_runners(num_cpus_per_env_runner=0)
    algorithm = config.build_algo()
    assert isinstance(algorithm, LightPPO)
    whole = algorithm.sample_round()
    numbers = algorithm.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    os.kill(numbers[0], signal.SIGKILL)
    again = algorithm.sample_round()
    assert algorithm.env_runner_group.num_remote_worker_restarts() == 1
    for mine, theirs in zip(whole, again, strict=True):
        assert mine.tools == theirs.tools
        assert [info["quality"] for info in mine.infos] == [info["quality"] for info in theirs.infos]
        assert mine.episode.get_rewards().tolist() == theirs.episode.get_rewards().tolist()
    algorithm.stop()


def test_what_goes_wrong_in_an_env_runner_is_said_at_once(cluster: None) -> None:
    config = configure(LightPPO, settings(), Shape(Mean.dim, 5, HORIZON), VALUES, 10, 0, Place(env_runners=1))
    config.env_runners(num_cpus_per_env_runner=0)
    algorithm = config.build_algo()
    assert isinstance(algorithm, LightPPO)

    algorithm.design = make_reward("mar:metrics=psnr")
    with pytest.raises(RewardError, match="the saved state is another design's"):
        algorithm.sample_round()
    algorithm.stop()


def test_infos_say_what_happened(ppo: LightPPO) -> None:
    rollouts = ppo.sample_round()
    assert {len(r) for r in rollouts} <= {1, 2, 3}
    for rollout in rollouts:
        stops = [info["tool"] == STOP for info in rollout.infos[1:]]
        assert not any(stops[:-1])
        assert len(rollout) == HORIZON or stops[-1]

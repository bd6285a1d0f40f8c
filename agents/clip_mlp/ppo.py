"""PPO on RLlib's new API stack (Restore-R1, eqs. 5-8), in rounds of whole episodes.

RLlib samples, computes GAE and the clipped loss, and updates. Three things are ours: a round's starts and random numbers follow from
its number, so that a killed run, or a lost env runner, goes on exactly; steps that failed never reach the learner; the adaptive state
of the reward design lives in one place, here, is sent to every env runner before a round and is part of the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import VectorizeMode
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME, WEIGHTS_SEQ_NO

from agents.clip_mlp import state
from agents.clip_mlp.config import Hyperparameters
from agents.clip_mlp.module import module_spec
from agents.clip_mlp.network import Shape
from agents.clip_mlp.rollouts import Rollout, Round, Rounds, TreeRounds, figures_of, play_round, seed_all
from pool import Problem
from rewards import RewardDesign, make_reward

PATIENCE = 600.0  # seconds that a round waits for env runners that were lost; while any play, it does not wait


class StandardiseRealSteps(ConnectorV2):
    """Advantages to mean 0 and deviation 1 over the real steps.

    RLlib's GAE counts the step that it adds to every episode; with episodes of three steps that would be a quarter of all. Both are
    affine, so doing it again over the right rows gives what doing it there would have given.
    """

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        for columns in batch.values():
            advantages, real = columns[Postprocessing.ADVANTAGES], columns[Columns.LOSS_MASK]
            mean, deviation = advantages[real].mean(), advantages[real].std(correction=0)
            columns[Postprocessing.ADVANTAGES] = (advantages - mean) / deviation.clamp_min(1e-4)
        return batch


class OnTime(PPOTorchLearner):
    """PPO's learner, its entropy coefficient and learning rate functions of the round.

    Where the entropy coefficient stands is no part of RLlib's checkpoints: a resumed learner would begin again at the first. The
    learning rate would lag a round behind.
    """

    _learner_connector: Any  # RLlib declares it optional; it is there once built

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        now = timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME]
        for module_id in self.module.keys():  # noqa: SIM118 (no dict)
            self.entropy_coeff_schedulers_per_module[module_id].update(now)
        for optimizer, schedule in self._optimizer_lr_schedules.items():
            self._set_optimizer_lr(optimizer, lr=schedule.update(timestep=now))


class LightPPOLearner(OnTime):
    def build(self) -> None:
        super().build()
        self._learner_connector.append(StandardiseRealSteps())


class LightPPO(PPO):
    """RLlib's PPO with a training step in rounds. `report` says what the last one was like."""

    learner: type[PPOTorchLearner] = LightPPOLearner
    critic = True
    config: Any  # a LightConfig
    env_runner_group: Any  # this and the next two are there after setup; RLlib declares them optional
    learner_group: Any
    metrics: Any
    design: RewardDesign
    rounds = 0  # finished ones
    report: dict[str, float]

    def setup(self, config: Any) -> None:
        self.design = make_reward(config.env_config["reward"])
        self.report = {}
        super().setup(config)

    def training_step(self) -> None:
        rollouts = self.sample_round()
        self.observe(rollouts)
        self.report = figures_of(rollouts, self._reported())
        self.report |= {f"reward_design/{key}": value for key, value in self.design.log().items()}
        lessons = self.lessons(rollouts)
        self.rounds += 1
        if not lessons:
            return  # every step of the round failed: there is nothing to learn from
        results = self.learner_group.update(
            episodes=lessons,
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: (self.rounds - 1) * self.config.total_train_batch_size},
            num_epochs=self.config.num_epochs,
            minibatch_size=self.config.minibatch_size,
            shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        self._send_weights()

    def _send_weights(self) -> None:
        """To all that play."""
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, policies=[DEFAULT_MODULE_ID], inference_only=True
        )

    def observe(self, rollouts: Sequence[Rollout]) -> None:
        """The reward design sees the round's valid episodes; if that changed its state, their steps are judged by the new one."""
        valid = [r for r in rollouts if r.valid and np.isfinite([r.quality(at, self.design.metrics) for at in (0, -1)]).all()]
        if not valid:
            return
        before = self.design.state_dict()
        self.design.observe(*(np.array([r.quality(at, self.design.metrics) for r in valid]) for at in (0, -1)))
        if self.design.state_dict() != before:
            for rollout in rollouts:
                rollout.judge(self.design)

    def sample_round(self) -> list[Rollout]:
        """A round of every env runner. One that is lost comes back and plays its part again: what it plays follows from the round."""
        seed, number, reward = self.config.run_seed, self.rounds, self.design.state_dict()
        group, waited = self.env_runner_group, 0.0
        wanted = range(1, self.config.num_env_runners + 1) or range(1)
        found: dict[int, Round] = {}
        while missing := [runner for runner in wanted if runner not in found]:
            play = partial(play_round, seed=seed, number=number, reward=reward)
            for each in group.foreach_env_runner(play, remote_worker_ids=missing):
                if isinstance(each, Exception):
                    raise each
                if each is not None:
                    found[each.runner] = each
            if lost := [runner for runner in missing if runner not in found]:
                if len(lost) < len(missing):  # some played
                    waited = 0.0
                if waited > PATIENCE:
                    raise lost_runners(lost)
                began = time.monotonic()
                time.sleep(1.0)
                self.restore_env_runners(group)
                self._send_weights()
                waited += time.monotonic() - began
        results = [found[runner] for runner in wanted]
        self.metrics.aggregate([each.metrics for each in results], key=ENV_RUNNER_RESULTS)
        for answer in self.learner_group.foreach_learner(lambda learner: seed_all(seed, number)):
            if not answer.ok:
                raise answer.get()  # RLlib would go on without it
        return [Rollout.of(episode) for each in results for episode in each.episodes]

    def lessons(self, rollouts: Sequence[Rollout]) -> list[SingleAgentEpisode]:
        """What the learner gets to see."""
        return [piece for rollout in rollouts for piece in rollout.pieces()]

    def _reported(self) -> list[str]:
        return list(dict.fromkeys((*self.design.metrics, *self.config.env_config.get("metrics", ()))))

    def save_state(self, folder: Path) -> None:
        """Weights, optimizer, the reward design's state and the number of rounds: all else follows from these and the settings.

        Beside them what they were `made_for`, which sizes do not tell: other tools as many, another encoder as wide.
        """
        learner = self.learner_group.get_state()[COMPONENT_LEARNER]
        learner = {key: learner[key] for key in (COMPONENT_RL_MODULE, COMPONENT_OPTIMIZER, WEIGHTS_SEQ_NO)}
        kept = {"learner": learner, "reward_design": self.design.state_dict(), "rounds": self.rounds}
        state.save(kept | {"made_for": self.config.made_for}, folder)

    def load_state(self, folder: Path) -> None:
        found = state.load(folder)
        try:
            made_for = dict(found.get("made_for", {}))  # older ones do not say
            if strange := [name for name, mine in self.config.made_for.items() if made_for.get(name, mine) != mine]:
                raise ValueError(f"it was made with other {' and '.join(strange)}")
            self.learner_group.set_state({COMPONENT_LEARNER: found["learner"]})
            self.design.load_state_dict(found["reward_design"])
            self.rounds = found["rounds"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # what PyTorch says to weights of other sizes
            reason = f"does not fit these settings: {' '.join(str(error).split())[:200]}"
            raise state.StateError(folder, reason, "Resume with the settings that the run was begun with.") from error
        self._send_weights()


def lost_runners(missing: Sequence[int]) -> Problem:
    reason = f"are lost and did not come back in {PATIENCE / 60:.0f} minutes"
    remedy = "Look at their logs for the cause, or --resume with as many --env-runners as there is room for."
    return Problem(f"env runners {', '.join(map(str, missing))}", reason, remedy)


class LightConfig(PPOConfig):
    """PPO's configuration, the seed of the rounds (RLlib's own seed would begin every round alike), and what the agent is made for."""

    def __init__(self, algo_class: type[LightPPO] = LightPPO) -> None:
        super().__init__(algo_class=algo_class)
        self.run_seed = 0
        self.made_for: dict[str, Any] = {}  # what may not change on the way, by a word for the user


@dataclass
class Place:
    """Where the parts of a training run. The defaults keep all of it in this process, tools apart (see `pool`)."""

    env_runners: int = 0
    learners: int = 0
    gpus: float = 0.0  # of each learner
    fault_tolerance: dict[str, Any] = field(default_factory=lambda: {"restart_failed_env_runners": True})


def environments(values: Hyperparameters, horizon: int, env_runners: int, group: int = 1) -> int:
    """Of each env runner. A round that cannot be dealt out to them, or is no minibatch, is refused."""
    runners = max(1, env_runners)
    each, rest = divmod(values.episodes, runners * group)
    if rest or not each:
        groups = f" in groups of {group}" if group > 1 else ""
        reason = f"cannot be dealt out to {runners} env runner(s){groups}"
        raise Problem(f"--episodes {values.episodes}", reason, "Choose a multiple.")
    if values.minibatch > (most := values.episodes * horizon):
        reason = f"is more than the {most} decisions of an iteration: {values.episodes} episodes of {horizon}"
        raise Problem(f"--minibatch {values.minibatch}", reason, "Give less, or more --episodes.")
    return each * group


def configure(
    algorithm: type[LightPPO],
    environment: dict[str, Any],
    shape: Shape,
    values: Hyperparameters,
    iterations: int,
    seed: int,
    place: Place,
) -> LightConfig:
    """Everything that RLlib needs to know. `environment` are the settings of `rollouts.Rounds`, or with a `tree` of `TreeRounds`."""
    envs = environments(values, shape.horizon, place.env_runners, environment.get("group", 1))
    steps = values.episodes * shape.horizon  # of a round, idle ones among them
    config = LightConfig(algo_class=algorithm)
    config.run_seed = seed
    rounds = TreeRounds if "tree" in environment else Rounds
    config.environment(rounds, env_config=environment, disable_env_checking=True)
    config.env_runners(
        num_env_runners=place.env_runners,
        num_envs_per_env_runner=envs,
        gym_env_vectorize_mode=VectorizeMode.VECTOR_ENTRY_POINT,
        rollout_fragment_length=shape.horizon,
        batch_mode="truncate_episodes",
        sample_timeout_s=3600.0,
    )
    learners = max(1, place.learners) if place.gpus else place.learners  # one of its own, so that Ray knows whose GPU that is
    config.learners(num_learners=learners, num_gpus_per_learner=place.gpus)
    config.training(
        lr=[[k * steps, values.lr_at(k / max(1, iterations))] for k in (0, max(1, iterations))],
        gamma=values.gamma,
        lambda_=values.lam,
        clip_param=values.clip,
        use_critic=algorithm.critic,
        vf_clip_param=1e9,
        vf_loss_coeff=values.value_coefficient,
        entropy_coeff=[[k * steps, values.entropy_at(k)] for k in range(iterations + 1)],  # type: ignore[arg-type]
        use_kl_loss=False,
        grad_clip=values.grad_clip,
        train_batch_size_per_learner=steps // max(1, learners),
        num_epochs=values.epochs,
        minibatch_size=values.minibatch,
        learner_class=algorithm.learner,
    )
    config.rl_module(rl_module_spec=module_spec(shape, seed))
    config.fault_tolerance(**place.fault_tolerance)
    config.debugging(log_level="ERROR")
    return config

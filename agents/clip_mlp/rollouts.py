"""Rollouts for RLlib: the environment as its env runners make it, and episodes cut down to what may be learnt from.

A round is one lockstep episode of every environment. What it will be follows from (seed, round, weights, reward state) alone, on
every env runner: that is what makes a run that was killed go on as if it had not been.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

from pool import connect
from rewards import Quality, RewardDesign, Score, paid
from tir_env.trajectory import STOP
from tir_env.tree import RestorationTreeVector
from tir_env.vector import RestorationVectorEnv


class Rounds(RestorationVectorEnv):
    """The vector environment as RLlib's vector entry point calls it: with one dict that holds `num_envs` and the settings.

    `pool` may be a dict, the arguments of `pool.connect`; with a name in it all env runners share the same workers.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        arguments = dict(settings)
        place = arguments.pop("pool", "local")
        self._opened = connect(**place) if isinstance(place, dict) else None
        envs = arguments.pop("num_envs", 1)
        super().__init__(envs, pool=self._opened or place, lockstep=True, info_trajectory=False, **arguments)

    def close_extras(self, **kwargs: Any) -> None:
        super().close_extras(**kwargs)
        if self._opened is not None:
            self._opened.close()


class TreeRounds(RestorationTreeVector):
    """The same on a tree; the settings are `RestorationTreeVector`'s."""

    def __init__(self, settings: dict[str, Any]) -> None:
        arguments = dict(settings)
        super().__init__(arguments.pop("num_envs", 1), lockstep=True, **arguments)


class Round(NamedTuple):
    """What one env runner played."""

    runner: int
    episodes: list[SingleAgentEpisode]
    metrics: Any


def play_round(runner: EnvRunner, seed: int, number: int, reward: dict[str, float]) -> Round | Exception | None:
    """One episode of each environment of an env runner. None from the local one, where remote ones do the work.

    What goes wrong is returned: RLlib would end a process that raises, after a minute, and say nothing of it. What an environment's
    step raises RLlib wraps in an empty RuntimeError, whose cause would be lost on the way to another process.
    """
    try:
        return played_by(runner, seed, number, reward)
    except Exception as error:
        cause, empty = error.__cause__, type(error) is RuntimeError and not error.args
        return cause if empty and isinstance(cause, Exception) else error


def played_by(runner: EnvRunner, seed: int, number: int, reward: dict[str, float]) -> Round | None:
    if not isinstance(runner, SingleAgentEnvRunner) or runner.env is None:
        return None
    env = runner.env.unwrapped
    mine = int(np.random.SeedSequence([seed, runner.worker_index]).generate_state(1)[0])
    env.seek(mine, number)
    env.world.reward.load_state_dict(reward)
    seed_all(mine, number)
    episodes = runner.sample(num_timesteps=env.num_envs * env.world.horizon, force_reset=True)
    return Round(runner.worker_index, episodes, runner.get_metrics())


def seed_all(seed: int, number: int) -> None:
    """The global generators, which RLlib samples and shuffles with."""
    state = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)  # noqa: NPY002 (RLlib shuffles with it)
    torch.manual_seed(state)


@dataclass
class Rollout:
    """One episode of a round, without its idle steps."""

    episode: SingleAgentEpisode
    infos: list[dict[str, Any]]  # of the start and of every decision's outcome

    @classmethod
    def of(cls, episode: SingleAgentEpisode) -> Rollout:
        infos = list(episode.get_infos())
        return cls(episode, [infos[0], *(info for info in infos[1:] if not info["idle"])])

    def __len__(self) -> int:
        return len(self.infos) - 1

    @property
    def valid(self) -> bool:
        """No tool and no metric failed on the way."""
        return all(info["valid"] for info in self.infos)

    @property
    def reward(self) -> float:
        return float(sum(self.episode.get_rewards(slice(0, len(self)))))

    @property
    def tools(self) -> list[str]:
        return [info["tool"] for info in self.infos[1:] if info["tool"] != STOP]

    def quality(self, at: int, metrics: Sequence[str]) -> list[float]:
        """Oriented values at the start (0) or the end (-1); NaN where a metric failed, whose last value is of an image before."""
        info = self.infos[at]
        return [float(info["quality"][metric]) if info["scored"].get(metric) else np.nan for metric in metrics]

    def judge(self, design: RewardDesign) -> None:
        """Write the rewards anew, by a design whose state has moved on since the environment paid them."""
        rewards = np.array(self.episode.get_rewards(), np.float64)
        for step, (before, after) in enumerate(pairwise(self.infos)):
            last = step == len(self) - 1
            if not design.every_step:
                rewards[step] = paid(design, known(self.infos[0]), known(after)) if last and after["valid"] else 0.0
            elif after["valid"] and after["tool"] != STOP:
                rewards[step] = paid(design, known(before), known(after))
        self.episode.rewards = InfiniteLookbackBuffer(rewards, lookback=0)

    def pieces(self) -> list[SingleAgentEpisode]:
        """The episode without idle steps and without steps that failed.

        A failed step says nothing about the decision, so it is not only left out of the loss: what came before it ends there, with
        the critic's value of the state reached in place of what the failure led to.
        """
        pieces, first = [], 0
        for step in range(len(self) + 1):
            if step < len(self) and self.infos[step + 1]["valid"]:
                continue
            if step > first:
                piece = self.episode.slice(slice(first, step), len_lookback_buffer=0)
                piece.is_terminated, piece.is_truncated = step == len(self), step < len(self)
                piece.id_ = f"{self.episode.id_}-{first}"
                pieces.append(piece)
            first = step + 1
        return pieces


def known(info: dict[str, Any]) -> Quality:
    """Infos carry oriented values only. A design that reads the raw ones is given NaN, which `paid` refuses."""
    return {metric: Score(float(value), float("nan")) for metric, value in info["quality"].items()}


def figures_of(rollouts: Sequence[Rollout], metrics: Sequence[str]) -> dict[str, float]:
    """One round in figures, for the log."""
    start = np.array([r.quality(0, metrics) for r in rollouts])  # [rollouts, metrics]
    end = np.array([r.quality(-1, metrics) for r in rollouts])
    usage = Counter(tool for r in rollouts for tool in r.tools)
    decisions = sum(map(len, rollouts))
    figures = {
        "reward": float(np.mean([r.reward for r in rollouts if r.valid] or [np.nan])),
        "length": decisions / len(rollouts),
        "tool_calls": float(sum(usage.values())),
        "stops": float(np.mean([r.infos[-1]["tool"] == STOP for r in rollouts])),
        "failures": float(sum(not info["valid"] for r in rollouts for info in r.infos)),
        "distinct_sequences": len({tuple(r.tools) for r in rollouts}) / len(rollouts),
    }
    for place, metric in enumerate(metrics):
        figures[f"quality/{metric}"] = float(np.nanmean(end[:, place])) if np.isfinite(end[:, place]).any() else float("nan")
        gains = (end - start)[:, place]
        figures[f"gain/{metric}"] = float(np.nanmean(gains)) if np.isfinite(gains).any() else float("nan")
    return figures

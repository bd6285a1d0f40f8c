"""GRPO on the same module: groups of rollouts from one start, each judged against its group, no critic.

The reward design turns the group's returns and qualities into advantages; every decision of a rollout gets the rollout's. A rollout in
which something failed counts for nothing, neither in its group nor in the loss. The loss is PPO's clipped one with entropy bonus, its
mean over the decisions of those whose advantage is not 0: a group that agrees teaches nothing and is left out, bonus included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.rllib.connectors.learner import AddOneTsToEpisodesAndTruncate, GeneralAdvantageEstimation
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.evaluation.postprocessing import Postprocessing

from agents.clip_mlp.ppo import LightPPO, OnTime
from agents.clip_mlp.rollouts import Rollout
from pool import Problem


class LightGRPOLearner(OnTime):
    """PPO's learner without what a critic needs: no added steps, no GAE. Advantages come with the episodes."""

    def build(self) -> None:
        super().build()
        self._learner_connector.remove(AddOneTsToEpisodesAndTruncate)
        self._learner_connector.remove(GeneralAdvantageEstimation)

    @classmethod
    def rl_module_required_apis(cls) -> list[type]:
        return []


class LightGRPO(LightPPO):
    """A round is groups of rollouts; neighbours share their start."""

    learner = LightGRPOLearner
    critic = False

    def lessons(self, rollouts: Sequence[Rollout]) -> list[SingleAgentEpisode]:
        lessons = []
        for rollout, advantage in zip(rollouts, self.advantages(rollouts), strict=True):
            if not (rollout.valid and advantage):
                continue
            [episode] = rollout.pieces()
            for column, value in ((Postprocessing.ADVANTAGES, advantage), (Postprocessing.VALUE_TARGETS, 0.0)):
                episode.extra_model_outputs[column] = InfiniteLookbackBuffer(
                    np.full(len(episode), value, np.float32), lookback=0
                )
            lessons.append(episode)
        return lessons

    def advantages(self, rollouts: Sequence[Rollout]) -> np.ndarray:
        """[rollouts]"""
        group = self.config.env_config["group"]
        for first in range(0, len(rollouts), group):
            members = {(r.infos[0]["image"], r.infos[0]["case"]) for r in rollouts[first : first + group]}
            if len(members) > 1:
                raise Problem("GRPO", f"a group came back with several starts: {sorted(members)}", "Report it: this is a bug.")
        ends = np.array([r.quality(-1, self.design.metrics) for r in rollouts])
        valid = np.array([r.valid for r in rollouts]) & np.isfinite(ends).all(axis=1)
        returns = np.array([r.reward for r in rollouts])
        grouped: list[Any] = [each.reshape(-1, group, *each.shape[1:]) for each in (returns, ends, valid)]
        return self.design.advantages(*grouped).reshape(-1)

"""A design that adapts, in the real environment, as a learner drives it."""

from __future__ import annotations

import numpy as np
import pytest

from rewards import Mar, RewardDesign, make_reward
from tests.conftest import BRIGHTER, DARKER, FAILS, STOP
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World

GROUPS = [[BRIGHTER, DARKER, STOP, FAILS], [DARKER, DARKER, BRIGHTER, BRIGHTER]]


def played(toolbox: Toolbox, reward: RewardDesign) -> list[Trajectory]:
    """Two groups of four rollouts of one decision each."""
    world = World(toolbox=toolbox, crop=32, horizon=1, suite="noise+jpeg", reward=reward)
    trajectories = world.begin([world.draw(0, group) for group in (0, 1) for _ in range(4)])
    world.step(trajectories, [action for group in GROUPS for action in group])
    return trajectories


def test_steps_rewards_and_advantages_of_a_batch(toolbox: Toolbox) -> None:
    design = Mar(("psnr", "ssim"))
    trajectories = played(toolbox, design)
    starts = design.values([t.quality for t in trajectories])
    ends = design.values([t.end_quality for t in trajectories])
    valid = np.array([all(step.valid for step in t.steps) for t in trajectories])
    assert valid.tolist() == [True, True, True, False, True, True, True, True]
    before = [t.total_reward for t in trajectories]
    assert before == pytest.approx((ends - starts).mean(axis=1)), "nothing is known of scales and weights yet"

    design.observe(starts[valid], ends[valid])
    advantages = design.advantages(np.array(before).reshape(2, 4), ends.reshape(2, 4, 2), valid.reshape(2, 4))
    assert advantages.shape == (2, 4)
    assert advantages[0, 3] == 0, "a failed tool is no bad choice"
    assert advantages.sum(axis=1) == pytest.approx([0, 0], abs=1e-9)
    assert advantages[1, 0] == pytest.approx(advantages[1, 1]), "the same decision, the same worth"

    scales = (ends - starts)[valid].std(axis=0, ddof=1)
    after = [t.total_reward for t in played(toolbox, design)]
    assert after == pytest.approx(((ends - starts) / scales).mean(axis=1)), "each metric in units of its spread"


def test_a_copy_elsewhere_agrees_once_it_has_the_state(toolbox: Toolbox) -> None:
    """What an env runner is told by the learner."""
    learner = Mar(("psnr", "ssim"))
    trajectories = played(toolbox, learner)
    learner.observe(learner.values([t.quality for t in trajectories]), learner.values([t.end_quality for t in trajectories]))
    runner = make_reward(learner.name)
    runner.load_state_dict(learner.state_dict())
    again = [played(toolbox, design) for design in (learner, runner)]
    assert [t.total_reward for t in again[0]] == [t.total_reward for t in again[1]]

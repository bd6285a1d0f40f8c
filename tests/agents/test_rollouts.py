"""What of an episode reaches the learner: no idle step, no failed one, and nothing that a failure led to."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from agents.clip_mlp.rollouts import Rollout, figures_of
from rewards import make_reward

TOOLS = ("denoise/nlm", "denoise/dct", "stop")


def info(tool: str = "", psnr: float = 20.0, valid: bool = True, idle: bool = False, scored: bool = True) -> dict[str, Any]:
    known = {"quality": {"psnr": psnr}, "scored": {"psnr": scored}}
    return {"image": "a", "case": "noise", "tool": tool, **known, "valid": valid, "idle": idle}


def rollout(*infos: dict[str, Any]) -> Rollout:
    """An episode whose observations count its steps; the reward is what psnr gained."""
    psnr = [20.0, *(each["quality"]["psnr"] for each in infos)]
    episode = SingleAgentEpisode(
        observations=[np.array([float(t)]) for t in range(len(infos) + 1)],
        observation_space=gymnasium.spaces.Box(0, 9, (1,)),
        action_space=gymnasium.spaces.Discrete(3),
        infos=[info(), *infos],
        actions=[TOOLS.index(each["tool"]) for each in infos],
        rewards=[after - before if i["valid"] else 0.0 for before, after, i in zip(psnr, psnr[1:], infos, strict=False)],
        extra_model_outputs={"action_logp": [float(-t) for t in range(len(infos))]},
        terminated=True,
        len_lookback_buffer=0,
    )
    return Rollout.of(episode.to_numpy())


def told(each: Rollout) -> list[tuple[list[float], list[float], list[float], bool]]:
    """Of each piece: observations, rewards, log-probabilities, and whether the episode ends there."""
    return [
        (
            piece.get_observations().ravel().tolist(),
            piece.get_rewards().tolist(),
            piece.get_extra_model_outputs("action_logp").tolist(),
            bool(piece.is_terminated),
        )
        for piece in each.pieces()
    ]


def test_idle_steps_are_cut_off_and_the_stop_is_the_end() -> None:
    one = rollout(info("denoise/nlm", 25), info("stop", 25), info("stop", 25, idle=True))
    assert (len(one), one.tools, one.reward, one.valid) == (2, ["denoise/nlm"], 5, True)
    assert told(one) == [([0, 1, 2], [5, 0], [0, -1], True)]


def test_a_failed_step_is_cut_out_and_what_came_before_does_not_end_there() -> None:
    one = rollout(info("denoise/nlm", 25), info("denoise/dct", 25, valid=False), info("denoise/nlm", 27))
    assert not one.valid
    assert told(one) == [([0, 1], [5], [0], False), ([2, 3], [2], [-2], True)]


@pytest.mark.parametrize(
    ("failed", "pieces"),
    [((0,), [([1, 2, 3], True)]), ((2,), [([0, 1, 2], False)]), ((0, 1, 2), []), ((0, 2), [([1, 2], False)])],
)
def test_wherever_it_fails(failed: tuple[int, ...], pieces: list) -> None:
    one = rollout(*(info("denoise/nlm", 20, valid=step not in failed) for step in range(3)))
    assert [(observations, ended) for observations, _, _, ended in told(one)] == pieces


def test_a_design_that_moved_on_judges_anew() -> None:
    one = rollout(info("denoise/nlm", 25), info("denoise/dct", 99, valid=False), info("denoise/nlm", 27), info("stop", 27))
    one.judge(make_reward("sum:psnr=10"))
    assert one.episode.get_rewards().tolist() == [50, 0, -720, 0], "a failed step keeps its 0"
    other = rollout(info("denoise/nlm", 25), info("stop", 25), info("stop", 25, idle=True))
    other.judge(make_reward("final:psnr"))
    assert other.episode.get_rewards().tolist() == [0, 25, 0]


def test_figures_of_a_round() -> None:
    rollouts = [
        rollout(info("denoise/nlm", 25), info("stop", 25), info("stop", 25, idle=True)),
        rollout(info("denoise/nlm", 22), info("denoise/nlm", 23), info("denoise/nlm", 24)),
        rollout(info("denoise/dct", 20, valid=False), info("stop", 20), info("stop", 20, idle=True)),
    ]
    figures = figures_of(rollouts, ("psnr", "ssim"))
    assert figures["reward"] == 4.5
    assert figures["gain/psnr"] == 3
    assert np.isnan(figures["gain/ssim"])
    assert (figures["tool_calls"], figures["failures"], figures["stops"]) == (5, 1, pytest.approx(2 / 3))
    assert (figures["length"], figures["distinct_sequences"]) == (pytest.approx(7 / 3), 1)


def test_a_metric_that_failed_at_the_end_is_no_gain_from_an_earlier_image() -> None:
    whole = rollout(info("denoise/nlm", 26), info("stop", 26))
    failed = rollout(info("denoise/nlm", 20, valid=False, scored=False), info("stop", 20, valid=False, scored=False))
    figures = figures_of([whole, failed], ("psnr",))
    assert (figures["gain/psnr"], figures["quality/psnr"]) == (6, 26)
    assert np.isnan(figures_of([failed], ("psnr",))["gain/psnr"])

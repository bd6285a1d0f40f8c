from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rewards import RewardDesign, RewardError, Score, group_advantages, make_reward

TRUE = np.ones((1, 4), bool)


def test_by_hand() -> None:
    # mean 3, deviations −2 −1 0 3, sample std √(14/3)
    assert group_advantages(np.array([[1.0, 2, 3, 6]]), TRUE)[0] == pytest.approx(np.array([-2, -1, 0, 3]) / np.sqrt(14 / 3))


def test_what_is_not_valid_counts_for_nothing_and_gets_nothing() -> None:
    valid = np.array([[True, False, True, True]])
    with_nan = group_advantages(np.array([[1.0, np.nan, 3, 5]]), valid)
    assert with_nan[0] == pytest.approx([-1, 0, 0, 1])
    assert group_advantages(np.array([[1.0, 1e9, 3, 5]]), valid) == pytest.approx(with_nan)


def test_groups_and_metrics_do_not_mix() -> None:
    values = np.random.default_rng(0).normal(size=(3, 5, 2))
    valid = np.ones((3, 5), bool)
    whole = group_advantages(values, valid)
    for group in range(3):
        for metric in range(2):
            alone = group_advantages(values[group : group + 1, :, metric], valid[:1])
            assert whole[group, :, metric] == pytest.approx(alone[0])


@pytest.mark.parametrize("values", [[5.0, 5, 5, 5], [0.1 + 0.2, 0.3, 0.3, 0.3], [0.0, 0, 0, 0]])
def test_equal_rewards_give_no_advantage(values: list[float]) -> None:
    assert (group_advantages(np.array([values]), TRUE) == 0).all()


def test_one_or_none_valid_gives_no_advantage() -> None:
    valid = np.array([[False, True, False, False], [False] * 4])
    assert (group_advantages(np.arange(8.0).reshape(2, 4), valid) == 0).all()


def test_what_is_not_finite_and_yet_valid_is_a_mistake() -> None:
    with pytest.raises(RewardError, match="not finite"):
        group_advantages(np.array([[1.0, np.inf, 2, 3]]), TRUE)
    with pytest.raises(RewardError, match="do not fit"):
        group_advantages(np.zeros((2, 3)), TRUE)


values = arrays(np.float64, (2, 4), elements=st.floats(-100, 100).map(lambda x: round(x, 3)))


@settings(deadline=None)
@given(values, st.floats(0.01, 1000), st.floats(-1000, 1000))
def test_scale_and_shift_change_nothing(rewards: np.ndarray, scale: float, shift: float) -> None:
    valid = np.ones(rewards.shape, bool)
    assert group_advantages(rewards * scale + shift, valid) == pytest.approx(group_advantages(rewards, valid), abs=1e-5)


@settings(deadline=None)
@given(values, arrays(bool, (2, 4)))
def test_they_sum_to_nothing_and_dropping_the_invalid_changes_nothing(rewards: np.ndarray, valid: np.ndarray) -> None:
    advantages = group_advantages(rewards, valid)
    assert advantages.sum(axis=1) == pytest.approx([0, 0], abs=1e-9)
    for row in range(2):
        kept = valid[row]
        dropped = group_advantages(rewards[row : row + 1, kept], np.ones((1, kept.sum()), bool))
        assert advantages[row, kept] == pytest.approx(dropped[0], abs=1e-9)


class Cubed(RewardDesign):
    name, metrics = "cubed", ("psnr",)

    def step(self, before: dict[str, Score], after: dict[str, Score]) -> float:
        return (after["psnr"].value - before["psnr"].value) ** 3


@pytest.mark.parametrize("design", [Cubed(), *map(make_reward, ("gain:psnr", "final:psnr", "sum:psnr=1"))])
def test_every_design_has_advantages_and_a_state_of_no_size(design: RewardDesign) -> None:
    returns = np.array([[1.0, 2, 3, 6]])
    ends = design.values([{"psnr": Score(v, v)} for v in (9.0, 8, 7, 6)]).reshape(1, 4, 1)
    assert design.advantages(returns, ends, TRUE) == pytest.approx(group_advantages(returns, TRUE))
    design.observe(ends[0], ends[0])
    assert design.state_dict() == {"version": 1}
    design.load_state_dict(design.state_dict())
    assert design.log() == {}


def test_values_are_oriented_in_the_order_of_the_metrics_and_nan_where_unknown() -> None:
    design = make_reward("sum:ssim=1,lpips=1")
    table = design.values([{"lpips": Score(-0.2, 0.2), "ssim": Score(0.9, 0.9)}, {"lpips": Score(-0.1, 0.1)}])
    np.testing.assert_array_equal(table, [[0.9, -0.2], [np.nan, -0.1]])
    assert design.values([]).shape == (0, 2)

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rewards import Mar, RewardError, Score, make_reward
from rewards.mar import METRICS, decoupled, importances, moved, softmax

PAIR = ("psnr", "ssim")


def seen(design: Mar, *ends: list[float]) -> Mar:
    """After batches whose every episode went from nothing to these qualities, give or take a little."""
    for end in ends:
        batch = np.array([end, end]) + np.array([[-0.01], [0.01]])
        design.observe(np.zeros_like(batch), batch)
    return design


# -- the equations, worked out by hand ---------------------------------------------------------------------------------------


def test_eq_5_by_hand() -> None:
    # psnr fell from 20 to 19 (−5 %), ssim rose from 0.5 to 0.6 (+20 %, clipped at 10 %), −lpips rose from −0.4 to −0.38 (+5 %)
    omega = importances(np.array([19, 0.6, -0.38]), np.array([20, 0.5, -0.4]), eps=0.1)
    assert omega == pytest.approx([1.05, 0.9, 0.95])


def test_eq_5_at_an_average_of_nothing() -> None:
    assert importances(np.array([0.0, 1e-9, -1e-9]), np.zeros(3), eps=0.2) == pytest.approx([1, 0.8, 1.2])


def test_eq_6_by_hand() -> None:
    assert moved(np.array([20.0]), np.array([25.0]), 0.1) == pytest.approx([20.5])


def test_eq_7_by_hand() -> None:
    assert softmax(np.array([1 + np.log(3), 1])) == pytest.approx([0.75, 0.25])


def test_eqs_8_and_9_by_hand() -> None:
    # one group of three; psnr 20 22 24 → −1 0 1; ssim .9 .6 .6 → (.2 −.1 −.1)/√.03; weights ¾ and ¼
    ends = np.array([[[20, 0.9], [22, 0.6], [24, 0.6]]])
    advantages = decoupled(ends, np.array([0.75, 0.25]), np.ones((1, 3), bool))
    by_hand = [-0.75 + 0.25 * 0.2 / np.sqrt(0.03), -0.25 * 0.1 / np.sqrt(0.03), 0.75 - 0.25 * 0.1 / np.sqrt(0.03)]
    assert advantages[0] == pytest.approx(by_hand)


def test_a_metric_on_which_all_agree_contributes_nothing() -> None:
    ends = np.array([[[20, 0.5], [22, 0.5], [24, 0.5]]])
    assert decoupled(ends, np.array([0.5, 0.5]), np.ones((1, 3), bool))[0] == pytest.approx([-0.5, 0, 0.5])


# -- the design --------------------------------------------------------------------------------------------------------------


def test_two_batches_by_hand() -> None:
    design = Mar(PAIR, eps=0.2, beta=0.1)
    assert design.weights == pytest.approx([0.5, 0.5])
    starts = np.array([[10, 0.4], [10, 0.4]])
    design.observe(starts, np.array([[12, 0.5], [14, 0.5]]))
    # the first batch is its own average; gains 2 and 4 have the sample std √2, those of ssim none
    assert design.log() == pytest.approx(
        {"batches": 1, "spreads": 1, "psnr/average": 13, "psnr/weight": 0.5, "psnr/scale": np.sqrt(2)}
        | {"ssim/average": 0.5, "ssim/weight": 0.5, "ssim/scale": 0}
    )
    design.observe(starts, np.array([[13, 0.46], [13, 0.44]]))
    # psnr stood still: ω = 1. ssim fell by 10 %: ω = 1.1. Averages move by a tenth.
    share = 1 / (1 + np.exp(0.1))
    assert design.weights == pytest.approx([share, 1 - share])
    assert design.state["ssim/average"] == pytest.approx(0.9 * 0.5 + 0.1 * 0.45)
    assert design.state["psnr/scale"] == pytest.approx(np.sqrt(2) / 2), "the mean of √2 and none"


def test_step_is_the_weighted_sum_of_gains_in_units_of_their_spread() -> None:
    design = Mar(PAIR)
    before = {"psnr": Score(20, 20), "ssim": Score(0.5, 0.5)}
    after = {"psnr": Score(23, 23), "ssim": Score(0.6, 0.6)}
    assert design.step(before, after) == pytest.approx(0.5 * 3 + 0.5 * 0.1), "nothing is known of the spread yet"
    design.observe(np.zeros((2, 2)), np.array([[1.0, 0.1], [4.0, 0.3]]))
    assert design.step(before, after) == pytest.approx(0.5 * 3 / (3 / np.sqrt(2)) + 0.5 * 0.1 / (0.2 / np.sqrt(2)))
    still = Mar(PAIR)
    still.observe(np.zeros((2, 2)), np.array([[1.0, 0.0], [4.0, 0.0]]))
    assert still.step(before, after) == pytest.approx(0.5 * 3 / (3 / np.sqrt(2))), "a metric that never moved"


def test_the_ablations_by_hand() -> None:
    ends = np.array([[[20, 0.9], [22, 0.6], [24, 0.6]]])
    valid, returns = np.ones((1, 3), bool), np.zeros((1, 3))
    falling = [[20.0, 0.8], [20.0, 0.76]]  # ssim falls by 5 %
    alone = np.array([[-1.0, 0, 1], [0.2 / np.sqrt(0.03), -0.1 / np.sqrt(0.03), -0.1 / np.sqrt(0.03)]])

    equal = seen(Mar(PAIR, adaptive=False), *falling)
    assert equal.advantages(returns, ends, valid)[0] == pytest.approx(alone.mean(axis=0))

    coupled = seen(Mar(PAIR, decouple=False), *falling)
    w = softmax(np.array([1, 1.05]))
    sums = ends[0] @ w
    assert coupled.weights == pytest.approx(w)
    assert coupled.advantages(returns, ends, valid)[0] == pytest.approx((sums - sums.mean()) / sums.std(ddof=1))
    gain = coupled.step({"psnr": Score(1, 1), "ssim": Score(0, 0)}, {"psnr": Score(2, 2), "ssim": Score(1, 1)})
    assert gain == pytest.approx(w.sum())

    raw = seen(Mar(PAIR, adaptive=False, decouple=False), *falling)
    sums = ends[0].sum(axis=1)
    assert raw.advantages(returns, ends, valid)[0] == pytest.approx((sums - sums.mean()) / sums.std(ddof=1))
    before, after = {m: Score(1, 1) for m in PAIR}, {m: Score(4, 4) for m in PAIR}
    assert raw.step(before, after) == make_reward("sum:psnr,ssim").step(before, after)


def test_an_invalid_rollout_changes_nothing_for_the_others() -> None:
    ends = np.random.default_rng(0).normal(size=(2, 4, 2))
    valid = np.array([[True, True, False, True], [True] * 4])
    spoilt = ends.copy()
    spoilt[0, 2] = np.nan
    for design in (Mar(PAIR), Mar(PAIR, decouple=False), Mar(PAIR, adaptive=False)):
        advantages = design.advantages(np.zeros((2, 4)), spoilt, valid)
        assert advantages[0, 2] == 0
        assert advantages[:1, [0, 1, 3]] == pytest.approx(
            design.advantages(np.zeros((1, 3)), ends[:1, [0, 1, 3]], valid[1:, :3])
        )
        assert advantages[1:] == pytest.approx(design.advantages(np.zeros((1, 4)), ends[1:], valid[1:]))


metric_values = st.floats(0.1, 50).map(lambda x: round(x, 4))


@settings(deadline=None)
@given(
    arrays(np.float64, (2, 4, 2), elements=metric_values),
    st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)),
    st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
)
def test_scale_and_shift_of_a_metric_leave_decoupled_advantages_unchanged(
    ends: np.ndarray, scale: tuple[float, float], shift: tuple[float, float]
) -> None:
    design, valid = seen(Mar(PAIR), [20, 0.5], [21, 0.4]), np.ones((2, 4), bool)
    other = design.advantages(np.zeros((2, 4)), ends * scale + shift, valid)
    assert other == pytest.approx(design.advantages(np.zeros((2, 4)), ends, valid), abs=1e-5)


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=1, max_size=6))
def test_weights_sum_to_one_and_stay_within_what_eps_allows(batches: list[list[float]]) -> None:
    design = seen(Mar(("psnr", "ssim", "lpips"), eps=0.2), *batches)
    assert design.weights.sum() == pytest.approx(1)
    assert design.weights.max() <= design.weights.min() * np.exp(0.4) * (1 + 1e-9)


@settings(deadline=None)
@given(metric_values, st.floats(0.005, 0.5), st.sampled_from([1, -1]))
def test_a_falling_metric_gains_weight(level: float, share: float, sign: int) -> None:
    """Also one that is oriented by its sign, as −LPIPS is."""
    fallen = sign * level - share * level
    design = Mar(PAIR)
    design.observe(np.zeros((2, 2)), np.full((2, 2), sign * level))
    design.observe(np.zeros((2, 2)), np.array([[fallen, sign * level]] * 2))
    assert design.weights[0] > 0.5 > design.weights[1]


@settings(deadline=None)
@given(arrays(np.float64, (7, 2, 2), elements=st.floats(-10, 10)), st.integers(0, 7))
def test_learners_that_add_up_their_shares_agree_with_one_that_saw_all(batch: np.ndarray, cut: int) -> None:
    starts, ends = batch[:, 0], batch[:, 1]
    one = Mar(PAIR)
    one.observe(starts, ends)
    parts = [one.statistics(starts[:cut], ends[:cut]), one.statistics(starts[cut:], ends[cut:])]
    both = Mar(PAIR)
    both.update({key: parts[0][key] + parts[1][key] for key in parts[0]})
    assert both.state_dict() == pytest.approx(one.state_dict(), abs=1e-6)


def test_an_empty_batch_changes_nothing_and_one_episode_has_no_spread() -> None:
    design = Mar(PAIR)
    fresh = design.state_dict()
    design.observe(np.zeros((0, 2)), np.zeros((0, 2)))
    assert design.state_dict() == fresh
    design.observe(np.zeros((1, 2)), np.ones((1, 2)))
    assert design.state["psnr/scale"] == 1
    design.observe(np.zeros((2, 2)), np.array([[1.0, 1], [5, 1]]))
    assert design.state["psnr/scale"] == pytest.approx(np.sqrt(8)), "the first spread counts whole"
    with pytest.raises(RewardError, match="not finite"):
        design.observe(np.zeros((1, 2)), np.full((1, 2), np.nan))


# -- its state and its name --------------------------------------------------------------------------------------------------


def test_two_and_two_batches_with_a_stop_between_are_four() -> None:
    batches = np.random.default_rng(0).normal(10, 2, size=(4, 2)).tolist()
    whole, first, second = Mar(PAIR), Mar(PAIR), Mar(PAIR)
    seen(whole, *batches)
    seen(first, *batches[:2])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    seen(second, *batches[2:])
    assert second.state_dict() == whole.state_dict(), "to the last bit"


def test_a_state_that_is_not_its_own_is_refused() -> None:
    saved = Mar(PAIR).state_dict()
    with pytest.raises(RewardError, match=r"another design's.*lpips/average.*ssim/average"):
        Mar(("psnr", "lpips")).load_state_dict(saved)
    with pytest.raises(RewardError, match="version 7"):
        Mar(PAIR).load_state_dict(saved | {"version": 7})
    with pytest.raises(RewardError, match="another design's"):
        make_reward("gain:psnr").load_state_dict(saved)


@pytest.mark.parametrize(
    ("spec", "metrics", "adaptive", "decouple"),
    [
        ("mar", METRICS, True, True),
        ("mar:psnr,ssim", PAIR, True, True),
        ("mar:no-weights", METRICS, False, True),
        ("mar:no-decouple,metrics=psnr+clipiqa+", ("psnr", "clipiqa+"), True, False),
        ("mar:no-mar, metrics=clipiqa+_vitL14_512+musiq", ("clipiqa+_vitL14_512", "musiq"), False, False),
        ("mar:no-decouple, metrics=psnr, eps=0.3, beta=1", ("psnr",), True, False),
        ("mar:metrics=clipiqa++psnr", ("clipiqa+", "psnr"), True, True),
    ],
)
def test_specs(spec: str, metrics: tuple[str, ...], adaptive: bool, decouple: bool) -> None:
    made = make_reward(spec)
    assert isinstance(made, Mar)
    assert (made.metrics, made.adaptive, made.decouple) == (metrics, adaptive, decouple)
    again = make_reward(made.name)
    assert isinstance(again, Mar)
    assert vars(again) == vars(made), "its name says all of it"


@pytest.mark.parametrize(
    "spec",
    [
        "mar:eps=-1",
        "mar:eps=nan",
        "mar:beta=0",
        "mar:beta=2",
        "mar:psnr,psnr",
        "mar:eps=much",
        "mar:alpha=1",
        "mar:metrics=",
        "mar:no-weights,eps=0.3",
        "mar:no-mar,beta=1",
    ],
)
def test_mistakes_are_named(spec: str) -> None:
    with pytest.raises(RewardError) as caught:
        make_reward(spec)
    assert caught.value.remedy

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards.levels import LEVELS, WORDS, expectation, soft_labels


def test_by_hand() -> None:
    assert WORDS == ("excellent", "good", "fair", "poor", "bad")
    # exp: 4, 1, 1, 1, 1 of 8 → 5·½ + (4 + 3 + 2 + 1)/8
    assert expectation(np.log([4.0, 1, 1, 1, 1])) == pytest.approx(3.75)
    assert expectation(np.zeros(5)) == pytest.approx(3.0)
    assert expectation(np.array([[0, 0, 0, 0, 900.0], [900, 0, 0, 0, 0]])) == pytest.approx([1.0, 5.0])


@given(st.lists(st.floats(-30, 30), min_size=5, max_size=5), st.floats(-50, 50))
def test_only_differences_of_the_five_count_and_torch_agrees(logits: list[float], shift: float) -> None:
    array = np.array(logits)
    score = expectation(array)
    assert 1 - 1e-9 <= score <= 5 + 1e-9
    assert expectation(array + shift) == pytest.approx(score)
    assert expectation(torch.tensor(logits, dtype=torch.float64)).item() == pytest.approx(score)


def test_it_can_be_learnt_through() -> None:
    logits = torch.zeros(2, 5, requires_grad=True)
    expectation(logits).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.4, 0.2, 0.0, -0.2, -0.4], abs=1e-7)


@given(st.floats(1, 5), st.floats(0, 2))
def test_soft_labels_are_probabilities_whose_expectation_is_the_score(score: float, std: float) -> None:
    [labels] = soft_labels(np.array([score]), std)
    assert (labels >= 0).all()
    assert labels.sum() == pytest.approx(1)
    assert labels @ np.array(LEVELS) == pytest.approx(score, abs=1e-6)


def test_soft_labels_by_hand() -> None:
    # std 0.5 at 3: the middle keeps ±1σ = .6827, its neighbours 1σ..3σ = .1573 each, the ends .00135 each.
    assert soft_labels(np.array([3.0]), 0.5)[0] == pytest.approx([0.00135, 0.1573, 0.6827, 0.1573, 0.00135], abs=1e-4)
    # std 1 at 4, before the tilt: .2417, .3829, .2417, .0606, .0060. The tilt multiplies neighbours' ratios by one factor.
    factors = soft_labels(np.array([4.0]), 1.0)[0] / [0.2417, 0.3829, 0.2417, 0.0606, 0.0060]
    assert factors[:-1] / factors[1:] == pytest.approx(factors[0] / factors[1], rel=0.02)
    assert soft_labels(np.array([3.75]), 0.0)[0] == pytest.approx([0, 0.75, 0.25, 0, 0], abs=0.01)
    assert soft_labels(np.array([5.0, 1.0]), 0.1) == pytest.approx(np.eye(5)[[0, 4]])


def test_soft_labels_are_the_papers_where_those_need_next_to_no_correction() -> None:
    # std 0.5 at 3.3, by hand: raw mass, then α = 1.007 and β = −.0015
    assert soft_labels(np.array([3.3]), 0.5)[0] == pytest.approx([0.0067, 0.3393, 0.6022, 0.0534, -0.0013], abs=3e-3)


def test_soft_labels_widen_with_the_std_and_keep_kind_and_shape() -> None:
    scores = torch.tensor([[2.0, 3.5, 4.2]])
    narrow, wide = soft_labels(scores, 0.4), soft_labels(scores, torch.full((1, 3), 1.0))
    assert narrow.shape == (1, 3, 5)
    assert narrow.dtype == torch.float32
    entropy = [-(p * p.clamp_min(1e-9).log()).sum(-1) for p in (narrow, wide)]
    assert (entropy[1] > entropy[0]).all()

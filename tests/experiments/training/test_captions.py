"""Captions say what they claim, are true of the right images, and fit the tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.training import captions
from experiments.training.captions import ANY, CONTEXT, DEGRADATIONS, SILENT, SPECIAL, claim, falsified, say, severity, truth
from experiments.training.encoder import WEAK, draw_case, memberships, truths
from tir_env.degradations.single import DEGRADATIONS as KNOWN
from tir_env.degradations.single import EIGHT
from tir_env.degradations.suites import Case, Stage, degrade

seeds = st.integers(0, 2**32 - 1)
severities = st.lists(st.one_of(st.just(0.0), st.floats(0.0625, 1, width=32)), min_size=8, max_size=8).map(
    lambda values: np.array(values, np.float32)
)


def test_the_eight_are_the_environments() -> None:
    assert set(DEGRADATIONS) == set(EIGHT)
    assert set(WEAK) == set(EIGHT) == set(captions.SAY_NAME)


@given(severities, seeds)
@settings(deadline=None, max_examples=200)
def test_a_claim_is_true_of_its_image_and_a_falsified_one_is_less_so(values: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    claims = claim(rng, values)
    assert (claims != SILENT).any()
    assert truth(values, claims) > 0
    wrong = falsified(rng, claims)
    assert (wrong != claims).sum() == 1
    assert (claims[wrong != claims] != SILENT).all()


@given(seeds)
@settings(deadline=None, max_examples=200)
def test_what_is_falsified_of_a_definite_image_is_not_true_at_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice([0, 0.25, 0.5, 0.75, 1], 8).astype(np.float32)
    claims = claim(rng, values)
    assert truth(values, claims) == 1
    assert truth(values, falsified(rng, claims)) == 0


@given(severities, seeds)
@settings(deadline=None, max_examples=200)
def test_every_caption_is_made_of_known_words_and_fits(values: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = captions.tokenizer().encode(say(rng, claim(rng, values))).ids
    assert len(ids) == CONTEXT
    assert SPECIAL.index(captions.UNKNOWN) not in ids
    assert ids.count(SPECIAL.index(captions.END)) == 1
    assert ids[-1] == SPECIAL.index(captions.PAD)


@given(st.lists(severities, min_size=1, max_size=4), seeds)
@settings(deadline=None, max_examples=50)
def test_all_pairs_at_once_are_the_pairs_one_by_one(images: list[np.ndarray], seed: int) -> None:
    rng = np.random.default_rng(seed)
    claims = np.stack([claim(rng, values) for values in images])
    together = truths(torch.from_numpy(np.stack(images)), torch.from_numpy(claims)).numpy()
    one_by_one = [[truth(values, each) for each in claims] for values in images]
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)


@given(severities)
@settings(deadline=None)
def test_memberships_are_a_distribution_with_the_severity_as_its_mean(values: np.ndarray) -> None:
    shares = memberships(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(shares.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(shares @ np.linspace(0, 1, 5), values, atol=1e-5)


def test_truth_by_hand() -> None:
    values = np.zeros(8, np.float32)
    values[1], values[3] = 0.5, 0.125
    claims = np.full(8, SILENT)
    assert truth(values, claims) == 1
    claims[1] = 2
    assert truth(values, claims) == 1
    claims[3] = 0  # half way between none and low
    assert truth(values, claims) == 0.5
    claims[1] = ANY
    assert truth(values, claims) == 0.5
    claims[5] = 4
    assert truth(values, claims) == 0


def test_what_captions_say() -> None:
    rng = np.random.default_rng(0)
    clean = {say(rng, np.zeros(8, int)) for _ in range(100)}
    assert clean == set(captions.CLEAN)
    claims = np.full(8, SILENT)
    claims[DEGRADATIONS.index("rain")], claims[DEGRADATIONS.index("noise")] = 3, 1
    texts = [say(rng, claims) for _ in range(300)]
    assert all("rain" in text and any(word in text for word in captions.SAY_NAME["noise"]) for text in texts)
    assert any(text == "a photo with heavy rain and slight noise" for text in (say(rng, claims) for _ in range(20_000)))
    assert len(set(texts)) > 100


@pytest.mark.parametrize(
    ("name", "mild", "strong"),
    [
        ("noise", {"sigma": 5.0}, {"sigma": 40.0}),
        ("noise", {"scale": 0.5}, {"scale": 3.0}),
        ("jpeg", {"quality": 80}, {"quality": 10}),
        ("dark", {"shift": 10}, {"shift": 50}),
        ("dark", {"gamma": 0.9}, {"gamma": 0.5}),
        ("dark", {"peak": 220}, {"peak": 100}),
        ("haze", {"beta": 0.3}, {"beta": 1.8}),
        ("motion blur", {"sigma": 1.0}, {"sigma": 8.0}),
        ("defocus blur", {"radius": 1}, {"radius": 6}),
        ("rain", {"value": 10}, {"value": 99}),
    ],
)
def test_severity_grows_with_the_parameter(name: str, mild: dict, strong: dict) -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    low, high = (severity(degrade(image, Case("c", (Stage(name, pins),)), 0).record[0]) for pins in (mild, strong))
    assert 0 < low < 0.4 < high <= 1


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_every_case_that_is_drawn_can_be_made_and_has_severities(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = draw_case(rng)
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    values = captions.severities(degrade(image, case, seed).record)
    assert {DEGRADATIONS[i] for i in np.flatnonzero(values)} == set(case.degradations)
    assert len(case.degradations) <= 5


def test_severity_of_something_else() -> None:
    assert "level blur" in KNOWN
    with pytest.raises(ValueError, match="level blur"):
        severity({"degradation": "level blur", "params": {"level": 3}})

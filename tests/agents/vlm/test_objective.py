"""The losses: by hand, against TRL's own `GRPOTrainer`, and in parts that add up to the whole."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents.vlm.objective import clipped, ratios, token_losses, token_weights
from agents.vlm.settings import Aggregation, Objective
from pool import Problem
from rewards import group_advantages

LENGTHS = (3, 7, 1, 5)
LONGEST = 9
LOSSES: tuple[Aggregation, ...] = ("grpo", "dr_grpo", "dapo")


def batch(seed: int = 0, lengths: Sequence[int] = LENGTHS) -> dict[str, Tensor]:
    """Of every spoken token: log-probabilities now, when sampled, before training; of every dialogue its advantage."""
    rng = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    logps = -torch.rand(count, generator=rng, dtype=torch.float64) * 3
    old, reference = (logps + 0.4 * torch.randn(count, generator=rng, dtype=torch.float64) for _ in range(2))
    advantages = torch.randn(len(lengths), generator=rng, dtype=torch.float64)
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return {"logps": logps, "old": old, "reference": reference, "advantages": advantages, "owner": owner}


def ours(made: dict[str, Tensor], aim: Objective, lengths: Sequence[int] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Loss and gradient."""
    logps, owner = made["logps"].clone().requires_grad_(), made["owner"]
    ratio = ratios(logps, made["old"], owner, len(lengths), aim.importance_sampling_level)
    losses = token_losses(ratio, made["advantages"][owner], logps, made["reference"], aim)
    weights = token_weights(torch.tensor(lengths), aim.loss_type, len(lengths), sum(lengths), LONGEST)
    loss = (losses * weights[owner]).sum()
    loss.backward()
    assert logps.grad is not None
    return loss.detach(), logps.grad


# -- TRL ---------------------------------------------------------------------------------------------------------------------------


def padded(values: Tensor, lengths: Sequence[int] = LENGTHS, fill: float = 0.0) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(values.split(list(lengths)), batch_first=True, padding_value=fill)


class Nearby:
    """What of accelerate the loss asks for, alone."""

    num_processes = 1
    sync_gradients = True

    def gather(self, value: Tensor) -> Tensor:
        return value

    gather_for_metrics = gather

    def reduce(self, value: Tensor, reduction: str = "sum") -> Tensor:
        return value


def theirs(made: dict[str, Tensor], aim: Objective) -> tuple[Tensor, Tensor]:
    """The same by TRL's `_compute_loss`, from log-probabilities that are given. Padding holds nonsense, which must not matter."""
    trainer_class: Any = importlib.import_module("trl.trainer.grpo_trainer").GRPOTrainer
    logps = padded(made["logps"], fill=-5.0).requires_grad_()
    mask = padded(torch.ones(sum(LENGTHS), dtype=torch.float64))
    trainer = object.__new__(trainer_class)
    settings_ = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    vars(trainer).update(
        loss_type=aim.loss_type, importance_sampling_level=aim.importance_sampling_level, beta=aim.beta, epsilon_low=aim.epsilon,
        epsilon_high=aim.epsilon if aim.epsilon_high is None else aim.epsilon_high, args=settings_, aux_loss_enabled=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False, max_completion_length=LONGEST,
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False, accelerator=Nearby(),
        model=SimpleNamespace(training=True), _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
    )  # fmt: skip
    some = torch.zeros_like(mask, dtype=torch.long)
    loss = trainer._compute_loss(
        None,
        {
            "prompt_ids": some, "prompt_mask": some, "completion_ids": some, "completion_mask": mask,
            "advantages": made["advantages"], "old_per_token_logps": padded(made["old"], fill=-4.0),
            "ref_per_token_logps": padded(made["reference"], fill=-6.0), "num_items_in_batch": mask.sum(),
        },
    )  # fmt: skip
    loss.backward()
    assert logps.grad is not None
    return loss.detach(), logps.grad[mask.bool()]


@pytest.mark.parametrize(
    ("loss_type", "level", "beta", "high"), product(LOSSES, ("token", "sequence"), (0.0, 0.3), (None, 0.28)), ids=str
)
def test_loss_and_gradient_are_trls(loss_type: Any, level: Any, beta: float, high: float | None) -> None:
    pytest.importorskip("trl")
    aim = Objective(loss_type, level, 0.2, high, beta)
    for seed in range(3):
        loss, gradient = ours(batch(seed), aim)
        expected, expected_gradient = theirs(batch(seed), aim)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
        assert torch.allclose(gradient, expected_gradient, rtol=0, atol=1e-9)
        assert gradient.abs().max() > 0


def test_advantages_are_trls_but_for_what_it_adds_to_the_deviation() -> None:
    """TRL divides by std + 1e-4, the paper and this project by std."""
    nanstd = pytest.importorskip("trl.trainer.utils").nanstd
    rewards = torch.tensor(np.random.default_rng(0).normal(25, 3, (5, 8)))
    mean, std = rewards.mean(dim=1, keepdim=True), nanstd(rewards, dim=1)[:, None]
    expected = (rewards - mean) / (std + 1e-4)
    got = torch.tensor(group_advantages(rewards.numpy(), np.ones((5, 8), bool)))
    assert torch.allclose(got * std / (std + 1e-4), expected, atol=1e-6)
    assert torch.allclose(got, expected, rtol=1e-4)


# -- by hand -----------------------------------------------------------------------------------------------------------------------


def test_ratios_by_hand() -> None:
    logps, old = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 0.0, 1.0])
    owner = torch.tensor([1, 1, 0])
    assert ratios(logps, old, owner, 3, "token").log().tolist() == pytest.approx([0, 1, 2])
    assert ratios(logps, old, owner, 3, "sequence").log().tolist() == pytest.approx([0.5, 0.5, 2])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gone"),
    [(1.0, 2.0, -2.0, False), (1.5, 2.0, -2.6, True), (0.5, 2.0, -1.0, False), (1.5, -1.0, 1.5, False), (0.5, -1.0, 0.8, True)],
)
def test_clipping_by_hand(ratio: float, advantage: float, loss: float, gone: bool) -> None:
    aim = Objective(epsilon=0.2, epsilon_high=0.3)
    r, a, p = torch.tensor([ratio], requires_grad=True), torch.tensor([advantage]), torch.tensor([-1.0])
    losses = token_losses(r, a, p, None, aim)
    assert losses.item() == pytest.approx(loss)
    losses.sum().backward()
    assert r.grad is not None
    assert clipped(r, a, aim).item() is gone
    assert (r.grad.item() == 0) is gone


def test_kl_is_zero_for_the_same_model_and_positive_otherwise() -> None:
    aim = Objective(beta=0.5)
    p, q, nothing = torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -1.0]), torch.zeros(2)
    assert token_losses(torch.ones(2), nothing, p, q, aim).tolist() == pytest.approx([0, 0.5 * (np.e - 2)])


def test_at_the_first_step_the_gradient_is_that_of_reinforce() -> None:
    made = batch()
    made["old"] = made["logps"].clone()
    for level in ("token", "sequence"):
        _, gradient = ours(made, Objective("dr_grpo", level))
        assert torch.allclose(gradient, -made["advantages"][made["owner"]] / len(LENGTHS) / LONGEST)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 8), min_size=2, max_size=8),
    st.data(),
    st.sampled_from(LOSSES),
    st.sampled_from(["token", "sequence"]),
)
def test_parts_of_a_batch_add_up_to_the_whole(lengths: list[int], data: st.DataObject, how: Aggregation, level: Any) -> None:
    made = batch(0, lengths)
    aim = Objective(how, level, beta=0.1)
    loss, gradient = ours(made, aim, lengths)
    part_of = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths))))
    total, parts = 0.0, torch.zeros_like(gradient)
    for part in range(3):
        mine = torch.nonzero(part_of == part)[:, 0]
        tokens = torch.isin(made["owner"], mine)
        logps = made["logps"][tokens].clone().requires_grad_()
        # Owners count all dialogues, as they do where only some of them are computed at a time.
        owner = made["owner"][tokens]
        ratio = ratios(logps, made["old"][tokens], owner, len(lengths), aim.importance_sampling_level)
        losses = token_losses(ratio, made["advantages"][owner], logps, made["reference"][tokens], aim)
        weights = torch.zeros(len(lengths), dtype=torch.float64)
        weights[mine] = token_weights(torch.tensor(lengths)[mine], how, len(lengths), sum(lengths), LONGEST)
        value = (losses * weights[owner]).sum()
        value.backward()
        assert logps.grad is not None
        total += value.item()
        parts[tokens] = logps.grad
    assert total == pytest.approx(loss.item(), abs=1e-12)
    assert torch.allclose(parts, gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", LOSSES)
def test_weights_of_tokens(how: Aggregation) -> None:
    weights = token_weights(torch.tensor([1, 4, 0]), how, 3, 5, 10)
    expected = {"grpo": [1 / 3, 1 / 12, 1 / 3], "dr_grpo": [1 / 30] * 3, "dapo": [1 / 5] * 3}[how]
    assert weights.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrong",
    [{"loss_type": "mean"}, {"importance_sampling_level": "word"}, {"epsilon": -0.1}, {"beta": -1.0}, {"beta": float("nan")}],
)
def test_objectives_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Problem):
        Objective(**wrong)

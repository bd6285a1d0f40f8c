"""The losses as pure functions of log-probabilities: GRPO's clipped objective and its kin. Names of options are TRL's.

A loss is a weighted sum over all spoken tokens of a batch, and the weights are known before anything is computed. So parts of a batch,
one after another or on several learners, add up to the whole exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agents.vlm.settings import Aggregation, Objective, RatioOf


def token_weights(lengths: Tensor, how: Aggregation, dialogues: int, tokens: int, longest: int) -> Tensor:
    """[dialogues here]: what each token of a dialogue of this length counts.

    `dialogues` and `tokens` are those of the whole batch, on all learners; `longest` is the most that a dialogue may say.
    """
    lengths = lengths.double().clamp_min(1)
    if how == "grpo":
        return 1 / (lengths * dialogues)
    return torch.full_like(lengths, 1 / (dialogues * longest) if how == "dr_grpo" else 1 / max(tokens, 1))


def ratios(logps: Tensor, old: Tensor, owner: Tensor, dialogues: int, level: RatioOf) -> Tensor:
    """[spoken]: how much likelier each token has become; with `sequence` the geometric mean over its dialogue (GSPO)."""
    change = logps - old
    if level == "token":
        return change.exp()
    sums = torch.zeros(dialogues, dtype=change.dtype, device=change.device).index_add(0, owner, change)
    counts = torch.zeros_like(sums).index_add(0, owner, torch.ones_like(change)).clamp_min(1)
    return (sums / counts).exp()[owner]


def token_losses(ratio: Tensor, advantages: Tensor, logps: Tensor, reference: Tensor | None, aim: Objective) -> Tensor:
    """[spoken]: −min(r A, clip(r) A) + β KL. `advantages` is that of each token's dialogue; `reference` its log-probability of old."""
    high = aim.epsilon if aim.epsilon_high is None else aim.epsilon_high
    loss = -torch.min(ratio * advantages, ratio.clamp(1 - aim.epsilon, 1 + high) * advantages)
    if aim.beta and reference is not None:
        gap = reference - logps
        loss = loss + aim.beta * (gap.exp() - gap - 1)
    return loss


def clipped(ratio: Tensor, advantages: Tensor, aim: Objective) -> Tensor:
    """bool [spoken]: where the clip took the gradient away."""
    high = aim.epsilon if aim.epsilon_high is None else aim.epsilon_high
    return ((ratio < 1 - aim.epsilon) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))

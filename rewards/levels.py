"""Scores from level words, and level words from scores: the five words by which DeQA-Score, Q-Align and chat models rate an image.

Pure functions of arrays or tensors, used by everything here that rates by words.
"""

from __future__ import annotations

from typing import TypeVar, cast

import numpy as np
from scipy.special import ndtr

WORDS = ("excellent", "good", "fair", "poor", "bad")
LEVELS = (5.0, 4.0, 3.0, 2.0, 1.0)  # what they are worth

Floats = TypeVar("Floats")  # numpy arrays or torch tensors: what goes in comes out


def expectation(logits: Floats) -> Floats:
    """[..., 5] excellent..bad → [...] in 1..5: softmax over these five logits, times what the words are worth."""
    if isinstance(logits, np.ndarray):
        return cast(Floats, _softmax(logits) @ np.array(LEVELS))
    tensor = cast("object", logits)
    return cast(Floats, tensor.softmax(-1) @ tensor.new_tensor(LEVELS))  # type: ignore[attr-defined]


def soft_labels(scores: Floats, std: Floats | float) -> Floats:
    """[...] in 1..5 → [..., 5] excellent..bad: how likely each level is if people's ratings are N(score, std) (DeQA-Score, sec. 3.2).

    Each level takes the mass within half a level of it. That loses the tails and moves the mean; the paper puts it right by
    p ← α·p + β, which leaves negative probabilities at many scores and jumps at 3. Here p ← p·exp(t·level) / sum instead, with the
    t that makes the expectation the score: never negative, smooth, and the same to three digits where α ≈ 1 (stds about 0.5).
    A std under 0.2 counts as 0.2: below it nothing is left for a neighbour but what the expectation asks for.
    """
    if isinstance(scores, np.ndarray | float | int | list | tuple):
        return cast(Floats, _soft_labels(np.asarray(scores, float), std))
    import torch

    tensor = cast(torch.Tensor, scores)
    spread = std.detach().cpu().numpy() if isinstance(std, torch.Tensor) else std
    return cast(Floats, torch.from_numpy(_soft_labels(tensor.detach().cpu().double().numpy(), spread)).to(tensor))


def _soft_labels(scores: np.ndarray, std: object) -> np.ndarray:
    distance = np.array(LEVELS) - np.clip(scores, LEVELS[-1], LEVELS[0])[..., None]
    sigma = np.maximum(np.broadcast_to(np.asarray(std, float), scores.shape), 0.2)[..., None]
    # By symmetry in the left tail, where small differences are not lost.
    raw = ndtr((0.5 - np.abs(distance)) / sigma) - ndtr((-0.5 - np.abs(distance)) / sigma)
    # The mean grows with t: bisection finds where its distance from the score is 0.
    low, high = np.full((*scores.shape, 1), -300.0), np.full((*scores.shape, 1), 300.0)
    log = np.log(np.maximum(raw, 1e-300))
    for _ in range(60):
        t = (low + high) / 2
        p = _softmax(log + t * distance)
        above = (p * distance).sum(-1, keepdims=True) > 0
        low, high = np.where(above, low, t), np.where(above, t, high)
    return p


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return cast(np.ndarray, weights / weights.sum(axis=-1, keepdims=True))

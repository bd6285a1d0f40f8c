"""Dialogues read together, what they share once, are as many read alone: the same log-probabilities, entropies and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.vlm.chat import Chat, Dialogue, Piece
from agents.vlm.lessons import parts, read
from agents.vlm.model import Vlm
from tests.agents.vlm.play import BRIGHTER, BROKEN, DARKER, tiny

Model = tuple[Vlm, Chat]


def picture(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def dialogues_of(chat: Chat) -> list[Dialogue]:
    """Three groups, of three, one and two: with images of several sizes, slips, and one that only says done."""
    first, second, third = picture(48, 32, 0), picture(32, 32, 1), picture(64, 80, 2)
    one, other, more = (chat.opening(image) for image in (first, second, third))
    return [
        Dialogue(
            one, [chat.say(BRIGHTER), chat.look(picture(48, 32, 3)), chat.say(DARKER), chat.look(third), chat.say("done")]
        ),
        Dialogue(one, [chat.say("done")]),
        Dialogue(one, [chat.say(BROKEN), chat.tell("no"), chat.say(BRIGHTER)]),
        Dialogue(other, [chat.say(DARKER), chat.look(first), chat.say("done")]),
        Dialogue(more, [chat.say("done")]),
        Dialogue(more, [chat.say(DARKER), chat.look(picture(128, 96, 4)), chat.say(BRIGHTER)]),
    ]


def gradients(
    vlm: Vlm, chat: Chat, dialogues: Sequence[Dialogue], taken: Sequence[Sequence[int]], share: bool = True
) -> tuple[dict, list, list]:
    """Of a sum over all spoken tokens, each with a weight of its own; log-probabilities and entropies by dialogue."""
    vlm.zero_grad()
    logps: list[list[float]] = [[] for _ in dialogues]
    entropies: list[list[float]] = [[] for _ in dialogues]
    for members in taken:
        lesson = read(vlm, chat, dialogues, members, share=share)
        owner = lesson.owner.tolist()
        assert owner == [m for m in members for _ in range(dialogues[m].spoken)]
        for index, p, e in zip(owner, lesson.logps.tolist(), lesson.entropies.tolist(), strict=True):
            logps[index].append(p)
            entropies[index].append(e)
        places = [owner[:k].count(index) for k, index in enumerate(owner)]
        weights = torch.tensor([np.sin(1 + 7 * index + k) for index, k in zip(owner, places, strict=True)])
        (lesson.logps * weights).sum().backward()
    return {name: p.grad.clone() for name, p in vlm.trained.items() if p.grad is not None}, logps, entropies


@pytest.fixture(scope="module")
def alone(model: Model) -> tuple[dict, list, list]:
    return gradients(*model, dialogues_of(model[1]), [[k] for k in range(6)], share=False)


def close(got: tuple[dict, list, list], expected: tuple[dict, list, list]) -> None:
    assert got[0].keys() == expected[0].keys()
    norm = torch.sqrt(sum(g.square().sum() for g in expected[0].values()))
    difference = torch.sqrt(sum((got[0][name] - g).square().sum() for name, g in expected[0].items()))
    assert difference < 1e-5 * norm
    for a, b in zip(got[1] + got[2], expected[1] + expected[2], strict=True):
        assert a == pytest.approx(b, abs=1e-4)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    "taken",
    [[[0, 1, 2, 3, 4, 5]], [[0], [1], [2], [3], [4], [5]], [[0, 1], [2, 3, 4], [5]], [[5, 3, 1], [4, 0, 2]], [[1, 4], [0, 2, 3, 5]]],
    ids=["all", "alone", "split", "shuffled", "short"],
)  # fmt: skip
def test_read_together_or_alone(model: Model, alone: tuple[dict, list, list], taken: list[list[int]], share: bool) -> None:
    """Several groups, a group over two parts, neighbours or not, short ones padded."""
    close(gradients(*model, dialogues_of(model[1]), taken, share), alone)


def test_with_activations_computed_again(alone: tuple[dict, list, list]) -> None:
    """Gradient checkpointing changes nothing; it goes without sharing."""
    vlm, chat = tiny()
    vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    vlm.train()
    close(gradients(vlm, chat, dialogues_of(chat), [[0, 1, 2], [3, 4, 5]], share=False), alone)


def plain(lengths: Sequence[int], groups: Sequence[int], shared: int) -> list[Dialogue]:
    """Of so many tokens after an opening of `shared` + 5."""
    openings = [Piece([1] * (shared + 5), [picture(8, 8, group)]) for group in range(max(groups) + 1)]
    return [Dialogue(openings[g], [Piece([2] * n, spoken=True)]) for n, g in zip(lengths, sorted(groups), strict=True)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=12),
    st.integers(0, 30),
    st.integers(0, 300),
    st.booleans(),
)
def test_parts_are_as_large_as_they_may_be(made: list[tuple[int, int]], shared: int, tokens: int, share: bool) -> None:
    dialogues = plain([n for n, _ in made], [g for _, g in made], shared)

    def cost(members: Sequence[int]) -> int:
        if not share:
            return len(members) * max(len(dialogues[m]) for m in members)
        openings = {id(dialogues[m].prefix) for m in members}
        return shared + 5 * len(openings) + len(members) * max(dialogues[m].spoken for m in members)

    taken = parts(dialogues, shared, tokens, share)
    order = [m for members in taken for m in members]
    assert sorted(order) == list(range(len(dialogues)))
    assert [dialogues[m].spoken for m in order] == sorted(d.spoken for d in dialogues), "nobody pads much"
    for members in taken:
        assert cost(members) <= tokens or len(members) == 1
    for one, other in pairwise(taken):
        assert cost([*one, other[0]]) > tokens, "the next one had no room"

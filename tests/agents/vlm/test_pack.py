"""Many dialogues in one row are as many rows: the same log-probabilities, entropies and gradients, and no width is exceeded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.vlm.chat import Chat, Dialogue, Piece
from agents.vlm.model import Sight, Vlm
from agents.vlm.pack import Row, arrange, log_probabilities, pack
from tests.agents.vlm.play import BRIGHTER, BROKEN, DARKER, ids_of, tiny

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


def gradients(vlm: Vlm, chat: Chat, dialogues: Sequence[Dialogue], parts: Sequence[Sequence[Row]]) -> tuple[dict, list, list]:
    """Of a sum over all spoken tokens, each with a weight of its own; log-probabilities and entropies by dialogue."""
    vlm.zero_grad()
    logps: list[list[float]] = [[] for _ in dialogues]
    entropies: list[list[float]] = [[] for _ in dialogues]
    for rows in parts:
        packed, chances, entropy = log_probabilities(vlm, chat, dialogues, rows)
        owner = packed.owner.tolist()
        for index, p, e in zip(owner, chances.tolist(), entropy.tolist(), strict=True):
            logps[index].append(p)
            entropies[index].append(e)
        places = [owner[:k].count(index) for k, index in enumerate(owner)]
        weights = torch.tensor([np.sin(1 + 7 * index + k) for index, k in zip(owner, places, strict=True)])
        (chances * weights).sum().backward()
    return {name: p.grad.clone() for name, p in vlm.trained.items() if p.grad is not None}, logps, entropies


@pytest.fixture(scope="module")
def alone(model: Model) -> tuple[dict, list, list]:
    dialogues = dialogues_of(model[1])
    rows = arrange(dialogues, model[1].shared, 0)
    assert [row.groups for row in rows] == [[[k]] for k in range(6)]
    return gradients(*model, dialogues, [[row] for row in rows])


def close(got: tuple[dict, list, list], expected: tuple[dict, list, list]) -> None:
    assert got[0].keys() == expected[0].keys()
    norm = torch.sqrt(sum(g.square().sum() for g in expected[0].values()))
    difference = torch.sqrt(sum((got[0][name] - g).square().sum() for name, g in expected[0].items()))
    assert difference < 1e-5 * norm
    for a, b in zip(got[1] + got[2], expected[1] + expected[2], strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_all_in_one_row(model: Model, alone: tuple[dict, list, list]) -> None:
    dialogues = dialogues_of(model[1])
    rows = arrange(dialogues, model[1].shared, 100_000)
    assert [row.groups for row in rows] == [[[0, 1, 2], [3], [4, 5]]]
    close(gradients(*model, dialogues, [rows]), alone)


def test_rows_of_different_lengths_side_by_side(model: Model, alone: tuple[dict, list, list]) -> None:
    """The short ones are padded; the order of rows does not matter."""
    dialogues = dialogues_of(model[1])
    rows = arrange(dialogues, model[1].shared, 450)
    assert len(rows) > 1
    assert len({row.width for row in rows}) > 1
    close(gradients(*model, dialogues, [rows[::-1]]), alone)
    close(gradients(*model, dialogues, [rows[1:], rows[:1]]), alone)
    close(gradients(*model, dialogues, [arrange(dialogues, model[1].shared, 0)]), alone)


def test_a_group_split_over_rows(model: Model, alone: tuple[dict, list, list]) -> None:
    dialogues = dialogues_of(model[1])
    rows = arrange(dialogues, model[1].shared, len(dialogues[0]) + dialogues[1].spoken)
    assert rows[0].groups == [[0, 1]]
    assert rows[1].groups[0] == [2]
    close(gradients(*model, dialogues, [rows]), alone)


def test_with_activations_computed_again(alone: tuple[dict, list, list]) -> None:
    """Gradient checkpointing changes nothing."""
    vlm, chat = tiny()
    vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    vlm.train()
    dialogues = dialogues_of(chat)
    close(gradients(vlm, chat, dialogues, [arrange(dialogues, chat.shared, 100_000)]), alone)


def test_each_token_sees_its_own_dialogue_and_no_other(model: Model) -> None:
    vlm, chat = model
    dialogues = dialogues_of(chat)
    rows = arrange(dialogues, chat.shared, 100_000)
    images = [image for d in dialogues for piece in (d.prefix, *d.pieces) for image in piece.images]
    with torch.no_grad():
        packed = pack(dialogues, rows, chat.shared, Sight(vlm, chat, images), vlm.image_token)
    assert packed.members == list(range(6))
    assert packed.owner.tolist() == [k for k, d in enumerate(dialogues) for _ in range(d.spoken)]
    allowed, ids = packed.allowed[0, 0], packed.ids[0]
    for (row, column), target, owner in zip(zip(*packed.before, strict=True), packed.target, packed.owner, strict=True):
        assert row == 0
        seen = ids[allowed[column]].tolist()
        whole = ids_of(dialogues[owner])
        assert whole[: len(seen)] == seen
        assert whole[len(seen)] == target
        assert len(seen) == packed.positions[0, 0, : column + 1][allowed[column][: column + 1]].shape[0]
    assert allowed.diagonal().all()


def plain(lengths: Sequence[int], groups: Sequence[int], shared: int) -> list[Dialogue]:
    """Of so many tokens after an opening of `shared` + 5."""
    openings = [Piece([1] * (shared + 5), [picture(8, 8, group)]) for group in range(max(groups) + 1)]
    return [Dialogue(openings[g], [Piece([2] * n, spoken=True)]) for n, g in zip(lengths, sorted(groups), strict=True)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=12), st.integers(0, 30), st.integers(0, 150)
)
def test_rows_are_as_wide_as_they_may_be(made: list[tuple[int, int]], shared: int, width: int) -> None:
    dialogues = plain([n for n, _ in made], [g for _, g in made], shared)
    rows = arrange(dialogues, shared, width)
    assert [m for row in rows for m in row.members] == list(range(len(dialogues))), "neighbours stay neighbours"
    for row in rows:
        openings = [{id(dialogues[m].prefix) for m in group} for group in row.groups]
        assert all(len(each) == 1 for each in openings), "a group has one opening"
        assert len({i for each in openings for i in each}) == len(row.groups), "and reads it once"
        assert row.width == shared + 5 * len(row.groups) + sum(dialogues[m].spoken for m in row.members)
        assert row.width <= width or len(row.members) == 1
    for one, other in pairwise(rows):
        first = dialogues[other.members[0]]
        more = first.spoken + (0 if first.prefix is dialogues[one.members[-1]].prefix else 5)
        assert one.width + more > width, "the next one had no room"

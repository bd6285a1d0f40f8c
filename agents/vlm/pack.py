"""Dialogues to tensors for learning: many lie in one row behind the system prompt that they share, and do not see each other.

A row is a tree: the system prompt, behind it the first image of each group, behind that the group's dialogues. So what rollouts
share is read once. Columns are no positions: each token keeps the position that it has when its dialogue is alone, and attends to what
came before it in its own dialogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.vlm.chat import Chat, Dialogue
from agents.vlm.model import Sight, Vlm, positions
from tir_env.images.operations import Image, digest


@dataclass
class Row:
    """Dialogues in groups of equal openings, and how many tokens that makes."""

    groups: list[list[int]]
    width: int

    @property
    def members(self) -> list[int]:
        return [member for group in self.groups for member in group]


def arrange(dialogues: Sequence[Dialogue], shared: int, width: int) -> list[Row]:
    """Which dialogues share a row, neighbours in the list, as long as `width` tokens suffice; 0: every one its own.

    The first `shared` tokens are those of all dialogues.
    """
    rows: list[Row] = []
    last: list[str] | None = None
    for index, dialogue in enumerate(dialogues):
        opening = [digest(image) for image in dialogue.prefix.images]
        said = len(dialogue) - len(dialogue.prefix.ids)
        fresh = len(dialogue.prefix.ids) - shared  # what a group more costs
        if rows and opening == last and rows[-1].width + said <= width:
            rows[-1].groups[-1].append(index)
            rows[-1].width += said
        elif rows and rows[-1].width + fresh + said <= width:
            rows[-1].groups.append([index])
            rows[-1].width += fresh + said
        else:
            rows.append(Row([[index]], len(dialogue)))
        last = opening
    return rows


@dataclass
class Packed:
    """Some rows as tensors. `spoken` tokens come in the order of the dialogues, then of the tokens."""

    ids: Tensor  # [rows, columns]
    positions: Tensor  # [3, rows, columns]
    allowed: Tensor  # bool [rows, 1, columns, columns]
    images: list[Image]  # of the image tokens, row by row
    before: tuple[Tensor, Tensor]  # (rows, columns) of what each spoken token comes after, [spoken] each
    target: Tensor  # [spoken]
    owner: Tensor  # [spoken]: whose it is, an index into all dialogues
    rows: list[Row]

    @property
    def members(self) -> list[int]:
        """The dialogues in these rows."""
        return [member for row in self.rows for member in row.members]


def pack(dialogues: Sequence[Dialogue], rows: Sequence[Row], shared: int, sight: Sight, image_token: int) -> Packed:
    shape = len(rows), max(row.width for row in rows)
    ids, place = np.zeros(shape, np.int64), np.zeros((3, *shape), np.int64)
    group_of, member_of = np.full(shape, -1), np.zeros(shape, np.int64)  # 0: shared by all, or by the group; -1: nothing
    before: list[tuple[int, int]] = []
    target: list[int] = []
    owner: list[int] = []
    images: list[Image] = []

    def write(r: int, column: int, said: Sequence[int], seen: Sequence[Image], start: int, group: int, member: int) -> int:
        """Where the next position is."""
        here = slice(column, column + len(said))
        place[:, r, here], after = positions(said, [sight.grid(image) for image in seen], start, image_token)
        ids[r, here], group_of[r, here], member_of[r, here] = said, group, member
        images.extend(seen)
        return after

    for r, row in enumerate(rows):
        root = write(r, 0, dialogues[row.members[0]].prefix.ids[:shared], [], 0, 0, 0)
        column = shared
        for group, members in enumerate(row.groups, start=1):
            prefix = dialogues[members[0]].prefix
            branch = write(r, column, prefix.ids[shared:], prefix.images, root, group, 0)
            column += len(prefix.ids) - shared
            floor = column - 1
            for member, index in enumerate(members, start=1):
                last, start = floor, branch
                for piece in dialogues[index].pieces:
                    start = write(r, column, piece.ids, piece.images, start, group, member)
                    stop = column + len(piece.ids)
                    if piece.spoken:
                        before += [(r, c) for c in (last, *range(column, stop - 1))]
                        target += piece.ids
                        owner += [index] * len(piece.ids)
                    column, last = stop, stop - 1
    whom_g, whom_m = group_of[:, None, :], member_of[:, None, :]
    mine = (whom_g == group_of[:, :, None]) & ((whom_m == 0) | (whom_m == member_of[:, :, None]))
    allowed = np.tril((whom_g == 0) | mine)  # [rows, who, whom]; padding sees padding and the prompt: no line is empty
    where = np.array(before, np.int64).reshape(-1, 2)
    return Packed(
        torch.from_numpy(ids), torch.from_numpy(place), torch.from_numpy(allowed[:, None]), images,
        (torch.from_numpy(where[:, 0].copy()), torch.from_numpy(where[:, 1].copy())),
        torch.tensor(target, dtype=torch.long), torch.tensor(owner, dtype=torch.long), list(rows),
    )  # fmt: skip


def log_probabilities(
    vlm: Vlm, chat: Chat, dialogues: Sequence[Dialogue], rows: Sequence[Row], temperature: float = 1.0
) -> tuple[Packed, Tensor, Tensor]:
    """The rows packed; of every spoken token its log-probability, and the entropy of where it was drawn from, both [spoken]."""
    members = [dialogues[m] for row in rows for m in row.members]
    images = [image for d in members for piece in (d.prefix, *d.pieces) for image in piece.images]
    sight = Sight(vlm, chat, images)
    packed = pack(dialogues, rows, chat.shared, sight, vlm.image_token)
    at = tuple(index.to(vlm.device) for index in packed.before)
    logits = vlm("read", packed.ids, packed.positions, packed.allowed, sight.features(packed.images), at=at)
    chances = torch.log_softmax(allowed_logits(logits, chat) / temperature, dim=-1)
    entropy = -(chances.exp() * chances.clamp_min(-1e4)).sum(dim=-1)
    return packed, chances.gather(1, packed.target.to(vlm.device)[:, None])[:, 0], entropy


def allowed_logits(logits: Tensor, chat: Chat) -> Tensor:
    """float32; a policy never says the tokens that stand for images or end other turns than its own."""
    logits = logits.float()
    logits[..., chat.silent] = torch.finfo(torch.float32).min
    return logits

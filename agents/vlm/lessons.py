"""Log-probabilities of what was said, for learning: the dialogues read again, what they share once, as in the rollout.

A batch of rollouts shares its system prompt, a group its opening. With `share` both are read once and gradients flow back into them
from all that stand on them; without, each dialogue is read alone from its first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.vlm.chat import Chat, Dialogue, Piece
from agents.vlm.context import Context, begun
from agents.vlm.model import Sight, Vlm
from tir_env.images.operations import digest


@dataclass
class Lesson:
    """Spoken tokens in the order of the dialogues, then of the tokens."""

    members: list[int]  # indices of the dialogues
    owner: Tensor  # [spoken]: whose each is, such an index
    logps: Tensor  # [spoken]
    entropies: Tensor  # [spoken], of what each was drawn from


def parts(dialogues: Sequence[Dialogue], shared: int, tokens: int, share: bool = True) -> list[list[int]]:
    """Which dialogues are read together, so that it takes about `tokens` tokens at most, padding among them.

    Those of about the same length are, since the longest one pads all others. Without `share` each row has its opening in it.
    """
    out: list[list[int]] = []
    openings: set[str] = set()
    size = _rest if share else len
    for index in sorted(range(len(dialogues)), key=lambda k: size(dialogues[k])):
        dialogue = dialogues[index]
        fresh = openings | {_opening(dialogue)}
        opened = shared + len(fresh) * (len(dialogue.prefix.ids) - shared) if share else 0
        if out and opened + (len(out[-1]) + 1) * size(dialogue) <= tokens:
            out[-1].append(index)
            openings = fresh
        else:
            out.append([index])
            openings = {_opening(dialogue)}
    return out


def _rest(dialogue: Dialogue) -> int:
    return len(dialogue) - len(dialogue.prefix.ids)


def read(
    vlm: Vlm, chat: Chat, dialogues: Sequence[Dialogue], members: Sequence[int], temperature: float = 1.0, share: bool = True
) -> Lesson:
    """Some dialogues of a batch, read together."""
    chosen = [dialogues[member] for member in members]
    sight = Sight(vlm, chat, [image for d in chosen for piece in (d.prefix, *d.pieces) for image in piece.images])
    shared = chat.shared
    context = begun(vlm, chosen[0].prefix.ids[:shared]) if share else Context(vlm)
    if share:
        names = [_opening(d) for d in chosen]
        groups = list(dict.fromkeys(names))
        openings = [chosen[names.index(name)].prefix for name in groups]
        context.branch([0] * len(groups))
        floor = context.read([p.ids[shared:] for p in openings], [p.images for p in openings], sight)  # [groups, vocabulary]
        row_of = [groups.index(name) for name in names]
        context.branch(row_of)
        rows = [d.pieces for d in chosen]
    else:
        context.branch([0] * len(chosen))
        rows = [[d.prefix, *d.pieces] for d in chosen]
    row, column, target = _spoken(rows)
    inside = column > 0  # the first words of a dialogue come after its opening
    at = row[inside], column[inside] - 1
    images = [[image for piece in pieces for image in piece.images] for pieces in rows]
    heard = context.read([[i for piece in pieces for i in piece.ids] for pieces in rows], images, sight, at)
    if share:
        order = np.empty(len(row), np.int64)
        order[inside], order[~inside] = np.arange(inside.sum()), inside.sum() + np.array(row_of, np.int64)[row[~inside]]
        heard = torch.cat([heard, floor])[torch.from_numpy(order).to(heard.device)]
    chances = torch.log_softmax(audible(heard, chat) / temperature, dim=-1)
    with torch.no_grad():  # they are told, not learnt from: a graph would keep two more of the size of `chances`
        entropies = -(chances.exp() * chances.clamp_min(-1e4)).sum(dim=-1)
    logps = chances.gather(1, torch.from_numpy(target).to(chances.device)[:, None])[:, 0]
    return Lesson(list(members), torch.from_numpy(np.array(members)[row]).to(logps.device), logps, entropies)


def audible(logits: Tensor, chat: Chat) -> Tensor:
    """float32; a policy never says the tokens that stand for images or end other turns than its own."""
    return logits.float().index_fill(-1, torch.tensor(chat.silent, device=logits.device), torch.finfo(torch.float32).min)


def _opening(dialogue: Dialogue) -> str:
    return "+".join(map(digest, dialogue.prefix.images))


def _spoken(rows: Sequence[Sequence[Piece]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and token of everything that was said, in order."""
    found: list[tuple[int, int, int]] = []
    for row, pieces in enumerate(rows):
        column = 0
        for piece in pieces:
            if piece.spoken:
                found += [(row, column + k, token) for k, token in enumerate(piece.ids)]
            column += len(piece.ids)
    table = np.array(found, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]

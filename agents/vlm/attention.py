"""Attention over memory that rows share: what several dialogues begin with is kept once, and read once for all of them.

Keys and values come in levels, as in a tree: the system prompt, the opening of each group, each row's own. A query's scores over all
levels go through one softmax, so the result is that of ordinary attention over the concatenation. It is an attention function of
transformers' like others; without levels it is `sdpa`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "tir_levels"
FEW = 16  # columns


@dataclass
class Level:
    """Memory that does not grow any more: of every layer keys and values, [entries, heads, columns, width]."""

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor  # bool [entries, columns]: what may be attended to
    entry: Tensor  # [rows]: which entry each row stands on

    def __post_init__(self) -> None:
        order = torch.argsort(self.entry, stable=True)
        counts = torch.bincount(self.entry, minlength=len(self.mask))
        firsts = counts.cumsum(0) - counts
        slot = torch.empty_like(self.entry)
        slot[order] = torch.arange(len(order), device=slot.device) - firsts[self.entry[order]]
        self.slot, self.most = slot, int(counts.max()) if len(order) else 0
        # Neighbours stand on the same entry, as many on each: then nothing has to be moved.
        self.even = bool((counts == self.most).all() and (order == torch.arange(len(order), device=order.device)).all())
        self.allowed = self.mask[self.entry]  # [rows, columns]

    def select(self, rows: Tensor) -> Level:
        entries, entry = torch.unique(self.entry[rows], return_inverse=True)
        if len(entries) == len(self.mask):
            return Level(self.keys, self.values, self.mask, entry)
        keys, values = ([each[entries] for each in held] for held in (self.keys, self.values))
        return Level(keys, values, self.mask[entries], entry)


def gathered(x: Tensor, level: Level) -> Tensor:
    """[rows, heads, ..., width] → [entries, heads, rows of an entry x ..., width]"""
    if level.even:
        out = x.unflatten(0, (len(level.mask), level.most))
    else:
        out = x.new_zeros(len(level.mask), level.most, *x.shape[1:])
        out[level.entry, level.slot] = x
    return out.transpose(1, 2).flatten(2, -2)


def spread(x: Tensor, level: Level, shape: Sequence[int]) -> Tensor:
    """The way back; `shape` is that between heads and width."""
    out = x.unflatten(2, (level.most, *shape)).transpose(1, 2)
    return out.flatten(0, 1) if level.even else out[level.entry, level.slot]


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, levels: Sequence[Level], layer: int
) -> Tensor:
    """query: [rows, heads, columns, width]; key, value: the rows' own, [rows, fewer heads, own columns, width]; mask: bool
    [rows, 1, columns, own columns]. [rows, columns, heads, width]."""
    heads, columns = query.shape[1:3]
    groups = heads // key.shape[1]  # query heads for each key head
    asked = query.unflatten(1, (key.shape[1], groups))  # [rows, heads, groups, columns, width]
    inner = (groups, columns)
    scores, masks = [], []
    for level in levels:
        known = gathered(asked, level) @ level.keys[layer].transpose(-1, -2)
        scores.append(spread(known, level, inner))
        masks.append(level.allowed[:, None, None, None, :].expand(-1, 1, 1, columns, -1))
    scores.append((asked.flatten(2, 3) @ key.transpose(-1, -2)).unflatten(2, inner))
    masks.append(mask[:, :, None])
    weighed = torch.cat(scores, dim=-1).float() * scaling
    weighed = weighed.masked_fill(~torch.cat(masks, dim=-1), torch.finfo(torch.float32).min)
    chances = torch.softmax(weighed, dim=-1).to(query.dtype).split([s.shape[-1] for s in scores], dim=-1)
    out = (chances[-1].flatten(2, 3) @ value).unflatten(2, inner)
    for level, chance in zip(levels, chances, strict=False):
        out = out + spread(gathered(chance, level) @ level.values[layer], level, inner)
    return out.flatten(1, 2).transpose(1, 2)


def joined(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, levels: Sequence[Level], layer: int) -> tuple[Tensor, ...]:
    """Keys, values and mask of every row with all that it stands on, for an attention that knows nothing of levels."""
    keys = [*(level.keys[layer][level.entry] for level in levels), key]
    values = [*(level.values[layer][level.entry] for level in levels), value]
    columns = query.shape[2]
    masks = [*(level.allowed[:, None, None].expand(-1, 1, columns, -1) for level in levels), mask]
    return torch.cat(keys, dim=2), torch.cat(values, dim=2), torch.cat(masks, dim=3)


def forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, levels: Sequence[Level] = (),
    **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' signature. A few columns are compared level by level, many by torch's kernels, which hold no scores in memory."""
    if levels and query.shape[2] <= FEW:
        assert attention_mask is not None
        return attend(query, key, value, attention_mask, kwargs["scaling"], levels, module.layer_idx), None
    if levels:
        assert attention_mask is not None
        key, value, attention_mask = joined(query, key, value, attention_mask, levels, module.layer_idx)
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return out, None


ALL_ATTENTION_FUNCTIONS.register(NAME, forward)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)

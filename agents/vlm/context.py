"""The memory of a batch of dialogues while they are played: keys and values, appended to, never computed twice.

Rows may read different numbers of tokens at a time. The shorter ones leave gaps, which nobody attends to; positions are kept apart
from columns, so a gap is no distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from agents.vlm.model import Sight, Vlm, positions
from tir_env.images.operations import Image


class Roomy(DynamicLayer):
    """A cache layer that grows in leaps, so that a token more does not copy all before it."""

    room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.get_seq_length()
        needed = held + key_states.shape[-2]
        if self.room is None or self.room[0].shape[-2] < needed:
            shape = (*key_states.shape[:2], needed + max(128, needed // 4), key_states.shape[-1])
            grown = key_states.new_empty(shape), value_states.new_empty(shape)
            if held:
                grown[0][:, :, :held], grown[1][:, :, :held] = self.keys, self.values
            self.room = grown
        self.room[0][:, :, held:needed], self.room[1][:, :, held:needed] = key_states, value_states
        self.keys, self.values = self.room[0][:, :, :needed], self.room[1][:, :, :needed]
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.room = None

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.room = None


class Context:
    """Begins with one empty row."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm = vlm
        self.cache = Cache(layer_class_to_replicate=Roomy)
        self.mask = np.zeros((1, 0), bool)  # [rows, columns]: what may be attended to
        self.next = np.zeros(1, np.int64)  # [rows]: the next token's position

    def __len__(self) -> int:
        return len(self.next)

    def read(self, ids: Sequence[Sequence[int]], images: Sequence[Sequence[Image]] = (), sight: Sight | None = None) -> Tensor:
        """Every row reads its tokens, none at all if it has none; the logits after each row's last one, [rows, vocabulary]."""
        images = images or [()] * len(ids)
        width = max(map(len, ids))
        tokens, mask = np.zeros((len(ids), width), np.int64), np.zeros((len(ids), width), bool)
        place = np.zeros((3, len(ids), width), np.int64)
        for row, (said, seen) in enumerate(zip(ids, images, strict=True)):
            grids = [sight.grid(image) for image in seen] if sight else []
            place[:, row, : len(said)], self.next[row] = positions(said, grids, int(self.next[row]), self.vlm.image_token)
            tokens[row, : len(said)], mask[row, : len(said)] = said, True
        self.mask = np.concatenate([self.mask, mask], axis=1)
        features = sight.features([image for seen in images for image in seen]) if sight else None
        last = torch.from_numpy(np.maximum(mask.sum(axis=1) - 1, 0)).to(self.vlm.device)
        at = (torch.arange(len(ids), device=self.vlm.device), last)
        arguments = torch.from_numpy(tokens), torch.from_numpy(place), torch.from_numpy(self.mask), features, self.cache
        return self.vlm("read", *arguments, at=at)  # type: ignore[no-any-return]

    def repeat(self, times: int) -> None:
        """Every row as often, side by side."""
        self.cache.batch_repeat_interleave(times)
        self.mask, self.next = self.mask.repeat(times, axis=0), self.next.repeat(times)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        chosen = torch.as_tensor(rows, device=self.vlm.device)
        self.cache.batch_select_indices(chosen)
        self.mask, self.next = self.mask[rows], self.next[rows]

"""The memory of a batch of dialogues: keys and values, appended to, never computed twice, kept once where rows share them.

Rows may read different numbers of tokens at a time. The shorter ones leave gaps, which nobody attends to; positions are kept apart
from columns, so a gap is no distance. Rollouts read without gradients, learning with them: both are the same computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from agents.vlm.attention import Level
from agents.vlm.model import Sight, Vlm, positions
from tir_env.images.operations import Image

WORTH = 32  # tokens that a row reads at once, from which on it is asked who pads whom
SAVED = 0.25  # of all columns, for which rows are kept in two contexts


class Roomy(DynamicLayer):
    """A cache layer that grows in leaps, so that a token more does not copy all before it."""

    room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held, new = self.get_seq_length(), key_states.shape[-2]
        if not held:  # kept as it is, so that gradients may flow
            self.keys, self.values, self.room = key_states, value_states, None
            return key_states, value_states
        assert self.keys is not None
        assert self.values is not None
        if self.room is None or self.room[0].shape[-2] < held + new:
            shape = (*key_states.shape[:2], held + new + max(64, held // 4), key_states.shape[-1])
            self.room = key_states.new_empty(shape), value_states.new_empty(shape)
            self.room[0][:, :, :held], self.room[1][:, :, :held] = self.keys, self.values
        self.room[0][:, :, held : held + new], self.room[1][:, :, held : held + new] = key_states, value_states
        self.keys, self.values = (room[:, :, : held + new] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.room = None


class Context:
    """Begins with one empty row. What was read before a `branch` is shared by all rows that stand on it."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm = vlm
        self.levels: list[Level] = []
        self.next = np.zeros(1, np.int64)  # [rows]: the next token's position
        self._begin()

    def _begin(self) -> None:
        self.cache = Cache(layer_class_to_replicate=Roomy)
        self.mask = np.zeros((len(self.next), 0), bool)  # [rows, own columns]: what may be attended to

    def __len__(self) -> int:
        return len(self.next)

    def read(
        self, ids: Sequence[Sequence[int]], images: Sequence[Sequence[Image]] = (), sight: Sight | None = None, at: Any = None
    ) -> Tensor:
        """Every row reads its tokens, none at all if it has none. The logits after each row's last one, [rows, vocabulary], or
        after those at the places `at`, (rows, columns of `ids`)."""
        images = images or [()] * len(ids)
        held, width = self.mask.shape[1], max(map(len, ids))
        tokens, fresh = np.zeros((len(ids), width), np.int64), np.zeros((len(ids), width), bool)
        place = np.zeros((3, len(ids), width), np.int64)
        for row, (said, seen) in enumerate(zip(ids, images, strict=True)):
            grids = [sight.grid(image) for image in seen] if sight else []
            place[:, row, : len(said)], self.next[row] = positions(said, grids, int(self.next[row]), self.vlm.image_token)
            tokens[row, : len(said)], fresh[row, : len(said)] = said, True
        self.mask = np.concatenate([self.mask, fresh], axis=1)
        causal = np.arange(held + width) <= held + np.arange(width)[:, None]
        allowed = self.mask[:, None, :] & causal  # [rows, columns, own columns]
        allowed |= (np.arange(held + width) == held + np.arange(width)[:, None]) & ~fresh[:, :, None]  # a gap sees itself
        features = sight.features([image for seen in images for image in seen]) if sight else None
        if at is None:
            at = np.arange(len(ids)), np.maximum(fresh.sum(axis=1) - 1, 0)
        where = tuple(torch.as_tensor(index, dtype=torch.long, device=self.vlm.device) for index in at)
        arguments = (torch.from_numpy(a) for a in (tokens, place, allowed[:, None]))
        logits: Tensor = self.vlm("read", *arguments, features, self.cache, self.levels, where)
        return logits

    def branch(self, rows: Sequence[int]) -> None:
        """New rows, each standing on an old one; what was read so far does not grow any more."""
        chosen = torch.as_tensor(rows, device=self.vlm.device)
        self.levels = [level.select(chosen) for level in self.levels]
        if self.mask.shape[1]:
            mask = torch.as_tensor(self.mask, device=self.vlm.device)
            layers: list[Any] = self.cache.layers
            self.levels.append(Level([layer.keys for layer in layers], [layer.values for layer in layers], mask, chosen))
        self.next = self.next[np.asarray(rows)]
        self._begin()

    def part(self, rows: Sequence[int]) -> Context:
        """These rows only, without the gaps that all of them have."""
        some = Context(self.vlm)
        chosen = torch.as_tensor(rows, device=self.vlm.device)
        some.levels = [level.select(chosen) for level in self.levels]
        some.next = self.next[np.asarray(rows)]
        some._begin()
        mask = self.mask[np.asarray(rows)]
        kept = mask.any(axis=0)
        some.mask = mask[:, kept]
        columns = torch.as_tensor(np.flatnonzero(kept), device=self.vlm.device)
        layers: list[Any] = self.cache.layers
        for number, layer in enumerate(layers):
            held = (each[chosen][:, :, columns] for each in (layer.keys, layer.values))
            some.cache.update(*held, number)
        return some

    def take_back(self, counts: Sequence[int]) -> None:
        """So many of the last tokens that each row read were words that it did not say after all."""
        if not any(counts):
            return
        for row, count in enumerate(counts):
            if count:
                self.mask[row, np.flatnonzero(self.mask[row])[-count:]] = False
        self.next = self.next - np.asarray(counts)
        used = np.flatnonzero(self.mask.any(axis=0))
        dropped = self.mask.shape[1] - (int(used[-1]) + 1 if len(used) else 0)
        if dropped:
            self.mask = self.mask[:, :-dropped]
            layers: list[Any] = self.cache.layers
            for layer in layers:
                layer.crop(-dropped)


def begun(vlm: Vlm, ids: Sequence[int]) -> Context:
    """One row that has read these tokens."""
    context = Context(vlm)
    context.read([ids], at=((), ()))
    return context


class Contexts:
    """Rows of any length, read like one context: the long ones stand apart, so that they do not pad the short ones."""

    def __init__(self, context: Context) -> None:
        self.parts = [(list(range(len(context))), context)]

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self.parts)

    def read(
        self, ids: Sequence[Sequence[int]], images: Sequence[Sequence[Image]] = (), sight: Sight | None = None, at: Any = None
    ) -> Tensor:
        """As a context does; a row that reads nothing gets no logits that mean anything."""
        seen = images or [()] * len(ids)
        whole = len(self.parts) == 1 and self.parts[0][0] == list(range(len(ids)))
        # A GPU minds a second call more than padding.
        if max(map(len, ids)) >= WORTH and self.parts[0][1].vlm.device.type == "cpu":
            self._sort([len(said) for said in ids])
        elif whole:
            return self.parts[0][1].read(ids, seen, sight, at)
        row, column = map(np.asarray, at or (np.arange(len(ids)), np.maximum([len(said) - 1 for said in ids], 0)))
        out: Tensor | None = None
        for rows, context in self.parts:
            if any(ids[r] for r in rows):
                place = np.full(len(ids), -1)
                place[rows] = np.arange(len(rows))
                mine = np.flatnonzero(place[row] >= 0)
                logits = context.read([ids[r] for r in rows], [seen[r] for r in rows], sight, (place[row[mine]], column[mine]))
                out = logits.new_zeros(len(row), logits.shape[1]) if out is None else out
                out[torch.from_numpy(mine).to(out.device)] = logits
        assert out is not None, "somebody reads"
        return out

    def take_back(self, counts: Sequence[int]) -> None:
        for rows, context in self.parts:
            context.take_back([counts[row] for row in rows])

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        place = {row: index for index, row in enumerate(rows)}
        parts = []
        for have, context in self.parts:
            some = [k for k, row in enumerate(have) if row in place]
            if some:
                parts.append(([place[have[k]] for k in some], context.part(some) if len(some) < len(have) else context))
        self.parts = parts

    def _sort(self, fresh: Sequence[int]) -> None:
        """Split what would be mostly padding after so many tokens more."""
        parts = []
        for rows, context in self.parts:
            lengths = context.mask.sum(axis=1) + np.array([fresh[row] for row in rows])
            order = np.argsort(lengths, kind="stable")
            ends, counts = lengths[order], np.arange(1, len(rows))
            split = counts * ends[:-1] + (len(rows) - counts) * ends[-1]  # columns, if so many stand apart
            if len(rows) > 1 and split.min() < (1 - SAVED) * len(rows) * ends[-1]:
                cut = int(split.argmin()) + 1
                for some in (sorted(order[:cut].tolist()), sorted(order[cut:].tolist())):
                    parts.append(([rows[k] for k in some], context.part(some)))
            else:
                parts.append((rows, context))
        self.parts = parts

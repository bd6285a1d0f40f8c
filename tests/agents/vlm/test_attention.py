"""Attention over what rows share is attention over all that each of them has, whoever stands on what."""

from __future__ import annotations

import pytest
import torch

from agents.vlm.attention import Level, attend, joined


@pytest.mark.parametrize(
    ("entry", "even"),
    [
        ([0, 0, 0, 0, 0, 0], True),
        ([0, 0, 1, 1, 2, 2], True),
        ([0, 1, 2, 0, 1, 2], False),  # as many on each, but no neighbours
        ([0, 0, 0, 1, 2, 2], False),
        ([2, 2, 0, 0, 1, 1], False),  # in another order than the entries
        ([0, 0, 0, 1, 1, 1], False),  # on the third one nobody stands
    ],
)
def test_attention_by_levels_is_attention_over_all(entry: list[int], even: bool) -> None:
    torch.manual_seed(0)
    rows, heads, groups, width, columns, own = len(entry), 2, 2, 4, 3, 5
    entries = 1 if entry == [0] * rows else 3

    def level(of: list[int], count: int, length: int) -> Level:
        mask = torch.rand(count, length) < 0.7
        mask[:, 0] = True
        keys, values = (torch.randn(count, heads, length, width) for _ in range(2))
        return Level([keys], [values], mask, torch.tensor(of))

    levels = [level([0] * rows, 1, 6), level(entry, entries, 4)]
    assert [each.even for each in levels] == [True, even]
    query = torch.randn(rows, heads * groups, columns, width)
    key, value = (torch.randn(rows, heads, own, width) for _ in range(2))
    mask = torch.rand(rows, 1, columns, own) < 0.7
    found = attend(query, key, value, mask, width**-0.5, levels, 0)
    keys, values, allowed = joined(query, key, value, mask, levels, 0)
    keys, values = (each.repeat_interleave(groups, dim=1) for each in (keys, values))
    expected = torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=allowed)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_rows_that_stay_stand_where_they_stood() -> None:
    keys = [torch.arange(3.0)[:, None, None, None]]
    level = Level(keys, keys, torch.ones(3, 1, dtype=torch.bool), torch.tensor([0, 0, 1, 1, 2, 2]))
    some = level.select(torch.tensor([0, 1, 4]))
    assert some.keys[0].flatten().tolist() == [0.0, 2.0]
    assert (some.entry.tolist(), some.even) == ([0, 0, 1], False)
    assert level.select(torch.tensor([0, 1, 4, 5])).even

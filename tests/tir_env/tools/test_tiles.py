"""Tiles cover every pixel with weights that sum to one, and equal the whole image wherever the function looks near enough."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter

from tir_env.images.operations import quantize
from tir_env.tools import tiles


@given(length=st.integers(1, 3000), overlap=st.integers(0, 100), extra=st.integers(1, 500))
def test_spans_cover_the_side_with_equal_overlaps(length, overlap, extra):
    tile = 2 * overlap + extra
    spans = tiles.spans(length, tile, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(end - start <= tile for start, end in spans)
    assert all(before[1] - after[0] == overlap for before, after in pairwise(spans))


@given(length=st.integers(20, 600), overlap=st.integers(0, 40), extra=st.integers(1, 100), scale=st.sampled_from([1, 2, 4]))
def test_weights_of_all_tiles_sum_to_one(length, overlap, extra, scale):
    total = np.zeros(length * scale)
    for start, end in tiles.spans(length, 2 * overlap + extra, overlap):
        total[start * scale : end * scale] += tiles.ramp(start, end, length, overlap, scale)
    np.testing.assert_allclose(total, 1, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(8, 150), width=st.integers(8, 150), multiple=st.integers(1, 16), tile=st.sampled_from([0, 48, 64, 97])
)
def test_any_size_comes_back_in_its_size(height, width, multiple, tile):
    image = np.random.default_rng(height * 1000 + width).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    seen = []

    def identity(batch):
        seen.append(batch.shape)
        return batch

    result = tiles.apply(identity, image, multiple=multiple, tile=tile, overlap=24)
    np.testing.assert_allclose(result, image, atol=1e-3)
    assert all(shape[1] % multiple == 0 and shape[2] % multiple == 0 for shape in seen)
    assert all(tile == 0 or max(shape[1:3]) < tile + multiple for shape in seen)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (64, 129), (200, 131)])
def test_a_local_filter_tiled_equals_untiled(size):
    image = np.random.default_rng(0).uniform(0, 255, (2, *size, 3)).astype(np.float32)

    def blur(batch):  # looks 4 pixels far: a quarter of the overlap
        return uniform_filter(batch, (1, 9, 9, 1), mode="reflect")

    np.testing.assert_allclose(tiles.apply(blur, image, tile=64, overlap=16), blur(image), atol=1e-3)


def test_a_filter_that_looks_too_far_differs_so_the_test_above_can_fail():
    image = np.random.default_rng(0).uniform(0, 255, (1, 200, 131, 3)).astype(np.float32)

    def blur(batch):
        return uniform_filter(batch, (1, 41, 41, 1), mode="reflect")

    assert np.abs(tiles.apply(blur, image, tile=64, overlap=16) - blur(image)).max() > 1


def test_tiles_of_an_enlarging_function():
    image = np.random.default_rng(0).uniform(0, 255, (1, 90, 70, 3)).astype(np.float32)

    def enlarge(batch):
        return batch.repeat(4, axis=1).repeat(4, axis=2)

    np.testing.assert_allclose(tiles.apply(enlarge, image, scale=4, tile=40, overlap=8), enlarge(image), atol=1e-3)


def test_finishing_some_rows_at_a_time_comes_to_the_same_as_finishing_all():
    image = np.random.default_rng(0).integers(0, 256, (2, 300, 130, 3), dtype=np.uint8)
    seen = []

    def brighter(batch):
        return (batch * np.float32(1.1)).repeat(2, axis=1).repeat(2, axis=2)

    def finish(values):
        seen.append(values.shape[1])
        return quantize(values)

    options = {"scale": 2, "tile": 140, "overlap": 16}
    whole = quantize(tiles.apply(brighter, image, **options))
    finished = tiles.apply(brighter, image, **options, finish=finish)
    assert finished.dtype == np.uint8
    assert np.array_equal(finished, whole)
    assert sum(seen) == 600
    assert max(seen) <= tiles.ROWS < 600


def test_a_wrong_size_is_said():
    image = np.zeros((1, 9, 9, 3), np.uint8)
    with pytest.raises(ValueError, match=r"returned \[1, 8, 8, 3\], not \[1, 16, 16, 3\]"):
        tiles.apply(lambda batch: batch[:, :8, :8], image, multiple=8)

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tir_env.images.operations import check_image, crop_at, digest, fit, quantize, quarter, resize_bicubic, resize_like


def matlab_resize_1d(values: np.ndarray, out: int, scale: float) -> np.ndarray:
    """MATLAB's imresize along axis 0, from its documentation: the oracle."""

    def cubic(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = 1.5 * x**3 - 2.5 * x**2 + 1
        far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x <= 1, near, np.where(x <= 2, far, 0))

    shrink = min(scale, 1.0)
    width = 4 / shrink
    n = len(values)
    result = np.zeros((out, *values.shape[1:]))
    for i in range(out):
        centre = (i + 1) / scale + 0.5 * (1 - 1 / scale)  # one-based
        left = math.floor(centre - width / 2)
        index = np.arange(left, left + math.ceil(width) + 2)
        weights = shrink * cubic(shrink * (centre - index))
        weights /= weights.sum()
        mirrored = np.concatenate([np.arange(n), np.arange(n)[::-1]])[(index - 1) % (2 * n)]
        result[i] = np.tensordot(weights, values[mirrored], axes=1)
    return result


@pytest.mark.parametrize("shape", [(32, 48, 3), (17, 30, 3), (9, 9, 3)])
def test_quarter_is_matlabs_imresize(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    out = [math.ceil(side / 4) for side in shape[:2]]
    rows = matlab_resize_1d(image.astype(float), out[0], 0.25)
    expected = matlab_resize_1d(rows.swapaxes(0, 1), out[1], 0.25).swapaxes(0, 1)
    assert np.abs(quarter(image).astype(float) - np.clip(expected, 0, 255)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("size", "new"), [((12, 20), (48, 80)), ((48, 40), (24, 10)), ((10, 10), (13, 7))])
def test_bicubic_is_matlabs_in_both_directions(size: tuple[int, int], new: tuple[int, int]) -> None:
    plane = np.random.default_rng(1).random(size) * 255
    rows = matlab_resize_1d(plane, new[0], new[0] / size[0])
    expected = matlab_resize_1d(rows.T, new[1], new[1] / size[1]).T
    np.testing.assert_allclose(resize_bicubic(plane, *new), expected, atol=2e-3)


def test_quantize_rounds_half_up_and_clips() -> None:
    assert quantize(np.array([-3.0, 0.49, 0.5, 1.5, 2.5, 254.5, 300.0])).tolist() == [0, 0, 1, 2, 3, 255, 255]


def test_quantize_treats_ties_alike_whatever_their_last_bit() -> None:
    assert quantize(np.array([10.5 - 1e-12, 10.5, 10.5 + 1e-12])).tolist() == [11, 11, 11]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_quantize_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        quantize(np.array([1.0, bad]))


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [[1]],
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_check_image_names_what_is_wrong(bad: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_image(bad)


def test_digest_sees_pixels_and_shape() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    other = image.copy()
    other[0, 0, 0] ^= 1
    assert digest(image) == digest(np.asfortranarray(image))
    assert len({digest(image), digest(other), digest(image.reshape(2, 8, 3))}) == 3


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(8, 96))
def test_fit_shows_the_whole_image_and_never_enlarges(height: int, width: int, canvas: int) -> None:
    image = np.full((height, width, 3), 255, np.uint8)
    fitted = fit(image, canvas)
    assert fitted.shape == (canvas, canvas, 3)
    scale = min(1.0, canvas / max(height, width))
    rows, columns = (max(1, round(side * scale)) for side in (height, width))
    assert (fitted[..., 0] > 0).any(axis=1).sum() == rows
    assert (fitted[..., 0] > 0).any(axis=0).sum() == columns


def test_crop_at_is_where_it_says_and_takes_what_there_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    np.testing.assert_array_equal(crop_at(image, 32, (5, 9)), image[5:37, 9:41])
    assert crop_at(image[:20, :20], 32, (0, 0)).shape == (20, 20, 3)


def test_resize_like_leaves_equal_sizes_alone() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    assert resize_like(image, image) is image
    assert resize_like(image, np.zeros((16, 12, 3), np.uint8)).shape == (16, 12, 3)

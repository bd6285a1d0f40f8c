"""Each degradation against its definition: drawn ranges, values worked out by hand, oracles written the slow way."""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from scipy.ndimage import correlate

from tir_env.degradations import DEGRADATIONS, EIGHT, Case, degrade
from tir_env.degradations.single import (
    DEFOCUS,
    LEVEL_QUALITY,
    MOTION,
    dark,
    defocus_kernel,
    haze,
    jpeg,
    level_blur,
    level_noise,
    motion_blur,
    motion_kernel,
    noise,
    rain_streaks,
)
from tir_env.images import Image


def drawn(name: str, count: int = 3000) -> list[dict]:
    return [DEGRADATIONS[name].draw(np.random.default_rng(i)) for i in range(count)]


def spread(values: list[float], low: float, high: float) -> None:
    """All inside [low, high], and close to both ends and to the uniform mean."""
    width = high - low
    assert low <= min(values) < low + 0.05 * width
    assert high - 0.05 * width < max(values) <= high
    assert abs(np.mean(values) - (low + high) / 2) < 0.06 * width


def grey(value: int, size: int = 32) -> Image:
    return np.full((size, size, 3), value, np.uint8)


def test_noise_is_drawn_as_the_sources_say() -> None:
    params = drawn("noise")
    gaussian = [p["sigma"] for p in params if p["kind"] == "gaussian"]
    poisson = [p["scale"] for p in params if p["kind"] == "poisson"]
    assert 0.45 < len(gaussian) / len(params) < 0.55
    assert len(gaussian) + len(poisson) == len(params)
    spread(gaussian, 20, 50)
    spread(poisson, 1, 3)


def test_jpeg_dark_haze_rain_are_drawn_as_the_sources_say() -> None:
    assert {p["quality"] for p in drawn("jpeg")} == set(range(10, 30))
    kinds = drawn("dark")
    by_kind = {k: [p for p in kinds if p["kind"] == k] for k in ("shift", "gamma", "stretch")}
    assert all(0.3 < len(v) / len(kinds) < 0.37 for v in by_kind.values())
    assert {p["shift"] for p in by_kind["shift"]} == set(range(30, 50))
    spread([p["gamma"] for p in by_kind["gamma"]], 0.5, 0.7)
    assert {p["peak"] for p in by_kind["stretch"]} == set(range(100, 150))
    spread([p["airlight"] for p in drawn("haze")], 0.7, 1.0)
    spread([p["beta"] for p in drawn("haze")], 0.6, 1.8)
    assert {p["length"] for p in drawn("rain")} == set(range(20, 40))
    assert {p["angle"] for p in drawn("rain")} == set(range(-30, 30))
    assert {p["value"] for p in drawn("rain")} == set(range(50, 100))


def test_blurs_are_drawn_as_the_sources_say() -> None:
    motion = drawn("motion blur")
    assert {(p["radius"], p["sigma"]) for p in motion} == {(r, float(s)) for r, s in MOTION} == {(10, 3), (15, 5), (15, 8)}
    spread([p["angle"] for p in motion], -90, 90)
    assert {(p["radius"], p["alias"]) for p in drawn("defocus blur")} == set(DEFOCUS) == {(3, 0.1), (4, 0.5), (6, 0.5)}


def test_levels_are_rl_restores() -> None:
    assert {p["level"] for p in drawn("level blur")} == {p["level"] for p in drawn("level jpeg")} == set(range(11))
    assert LEVEL_QUALITY == (100, 80, 60, 50, 45, 40, 35, 30, 25, 20, 10)


def test_gaussian_noise_has_its_sigma_in_every_channel_apart() -> None:
    image = grey(128, 256)
    noisy = noise(image, {"kind": "gaussian", "sigma": 30.0, "seed": 1}).astype(float) - 128
    assert noisy.std() == pytest.approx(30, rel=0.02)
    assert np.abs(np.corrcoef(noisy.reshape(-1, 3).T) - np.eye(3)).max() < 0.02


def test_poisson_noise_grows_with_the_signal_and_follows_the_formula() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3))  # 256 levels: v = 256
    scale = 2.0
    noisy = noise(ramp, {"kind": "poisson", "scale": scale, "seed": 3}).astype(float)
    for level in (60, 120):
        # Var[(Poisson(x v)/v) · scale] = x/v · scale², on the 0..255 scale: 255² · (level/255)/256 · scale²
        expected = math.sqrt(255 * level / 256) * scale
        assert (noisy[level] - level).std() == pytest.approx(expected, rel=0.08)
    flat = noise(grey(100, 64), {"kind": "poisson", "scale": 1.0, "seed": 3}).astype(float)  # one level: v = 1
    assert set(np.unique(flat)) <= {0.0, 255.0}


def test_dark_follows_hsv_value_and_keeps_the_hue() -> None:
    image = np.array([[[200, 100, 50], [30, 60, 20]]], np.uint8)
    shifted = dark(image, {"kind": "shift", "shift": 40})
    assert shifted[0, 0].tolist() == [160, 80, 40]  # V 200 → 160: everything × 0.8
    assert shifted[0, 1].tolist() == [10, 20, 7]  # V 60 → 20: × 1/3, 6.67 rounds to 7
    gamma = dark(image, {"kind": "gamma", "gamma": 0.5})
    assert gamma[0, 0, 0] == round((200 / 255) ** 2 * 255)
    stretched = dark(image, {"kind": "stretch", "peak": 100})
    assert stretched.max(axis=2).tolist() == [[100, 0]]
    assert (dark(grey(90), {"kind": "stretch", "peak": 100}) == 0).all(), "a flat picture has nothing to stretch"


def test_haze_is_the_scattering_model() -> None:
    depth = np.array([[0.0, 1.0]])
    image = np.array([[[100, 50, 0], [100, 50, 0]]], np.uint8)
    hazy = haze(image, {"beta": 1.0, "airlight": 0.8}, depth)
    t = math.exp(-1)
    assert hazy[0, 0].tolist() == [100, 50, 0]
    assert hazy[0, 1].tolist() == [round(v * t + 204 * (1 - t)) for v in (100, 50, 0)]


def test_motion_kernel_is_a_one_sided_trail() -> None:
    kernel = motion_kernel(10, 3.0, 0.0)
    assert kernel.sum() == pytest.approx(1)
    row = kernel[kernel.shape[0] // 2]
    centre = len(row) // 2
    assert row.argmax() == centre
    assert row[centre - 3] / row[centre] == pytest.approx(math.exp(-9 / 18))
    assert row[centre + 1 :].sum() == 0, "nothing on the other side"
    steep = motion_kernel(15, 5.0, 90.0)
    assert np.count_nonzero(steep.sum(axis=0)) == 1, "straight up at 90°"


def test_motion_blur_moves_a_dot_along_the_angle_and_stretches_the_border() -> None:
    image = grey(0, 64)
    image[32, 40] = 255
    blurred = motion_blur(image, {"radius": 10, "sigma": 5.0, "angle": 0.0})
    ys, xs = np.nonzero(blurred[..., 0])
    assert set(ys) == {32}
    assert xs.max() == 40
    assert xs.min() < 36
    assert (motion_blur(grey(77), {"radius": 15, "sigma": 8.0, "angle": 33.0}) == 77).all()


def test_motion_blur_agrees_with_a_slow_correlation() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
    params = {"radius": 10, "sigma": 3.0, "angle": -37.0}
    kernel = motion_kernel(**params)
    centre = kernel.shape[0] // 2
    slow = np.zeros(image.shape)
    for y in range(20):
        for x in range(24):
            for ky, kx in zip(*np.nonzero(kernel), strict=True):
                source = image[np.clip(y - (ky - centre), 0, 19), np.clip(x - (kx - centre), 0, 23)]
                slow[y, x] += kernel[ky, kx] * source
    assert np.abs(motion_blur(image, params) - slow).max() <= 0.5 + 1e-6


def test_defocus_kernel_is_a_disk() -> None:
    for radius, alias in DEFOCUS:
        kernel = defocus_kernel(radius, alias)
        assert kernel.shape == (17, 17)
        assert kernel.sum() == pytest.approx(1)
        np.testing.assert_allclose(kernel, kernel.T)
        grid = np.arange(-8, 9)
        outside = grid[:, None] ** 2 + grid[None] ** 2 > (radius + 2) ** 2
        assert kernel[outside].max() == 0
    assert np.count_nonzero(defocus_kernel(3, 0.1) > 1e-9) == 29  # lattice points within radius 3


def slow_rain(shape: tuple[int, int], length: int, angle: int, value: int, seed: int) -> np.ndarray:
    """The definition again, with SciPy's filters."""
    drops = np.random.Generator(np.random.PCG64(seed)).uniform(0, 256, shape)
    drops = np.where(drops >= 256 - value / 100, drops, 0)
    drops = correlate(drops, np.array([[0, 0.1, 0], [0.1, 8, 0.1], [0, 0.1, 0]]), mode="mirror")
    turn = cv2.getRotationMatrix2D((length / 2, length / 2), angle - 45, 1 - length / 100)
    line = correlate(
        cv2.warpAffine(np.diag(np.ones(length)), turn, (length, length)), np.outer([1, 2, 1], [1, 2, 1]) / 16, mode="mirror"
    )
    streaks = correlate(drops, line, mode="mirror")
    return (streaks - streaks.min()) / (streaks.max() - streaks.min()) * 255


def test_rain_follows_the_definition() -> None:
    params = {"length": 31, "angle": 20, "value": 60, "seed": 5}
    streaks = rain_streaks((200, 200), params)
    np.testing.assert_allclose(streaks, slow_rain((200, 200), **params), atol=1.01)  # ours is cut to whole levels
    assert (streaks.min(), streaks.max()) == (0, 255)


def test_rain_leans_to_the_side_of_its_sign() -> None:
    def similar(angle: int, lean: int) -> float:
        """How much of the rain a shift along that lean (counter-clockwise from upright) keeps."""
        streaks = rain_streaks((256, 256), {"length": 30, "angle": angle, "value": 60, "seed": 5})
        moved = np.roll(streaks, (8, round(8 * math.tan(math.radians(lean)))), (0, 1))
        return float(np.corrcoef(streaks.ravel(), moved.ravel())[0, 1])

    for angle in (-25, 25):
        assert similar(angle, angle) > 0.3 + similar(angle, -angle)
    assert similar(0, 0) > 0.5


def test_jpeg_is_libjpegs_at_that_quality(photo: Image) -> None:
    for quality in (10, 23, 29):
        stream = io.BytesIO()
        Pillow.fromarray(photo).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
        np.testing.assert_allclose(jpeg(photo, {"quality": quality}).astype(int), np.asarray(Pillow.open(stream)), atol=2)


def test_jpeg_and_levels_at_their_ends(photo: Image) -> None:
    errors = [np.abs(jpeg(photo, {"quality": q}).astype(int) - photo).mean() for q in (10, 29, 100)]
    assert errors[0] > errors[1] > errors[2]
    np.testing.assert_array_equal(level_blur(photo, {"level": 0}), photo)
    np.testing.assert_array_equal(level_noise(photo, {"level": 0, "seed": 1}), photo)
    assert level_noise(grey(128, 200), {"level": 10, "seed": 1}).std() == pytest.approx(50, rel=0.03)


def test_level_blur_has_its_sigma() -> None:
    image = grey(0, 101)
    image[50] = 255
    profile = level_blur(image, {"level": 10})[:, 50, 0].astype(float)
    variance = (profile * (np.arange(101) - 50) ** 2).sum() / profile.sum()
    assert math.sqrt(variance) == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize("name", EIGHT)
@pytest.mark.parametrize("shape", [(8, 8), (9, 31), (64, 48)])
def test_every_degradation_takes_any_size_and_leaves_its_input_alone(name: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    before = image.copy()
    spoilt = degrade(image, Case.parse(name), 7).image
    expected = tuple(-(-side // 4) for side in shape) if name == "low resolution" else shape
    assert (spoilt.dtype, spoilt.shape) == (np.uint8, (*expected, 3))
    np.testing.assert_array_equal(image, before)
    if name != "low resolution" and shape == (64, 48):  # on a handful of pixels no raindrop may fall
        assert not np.array_equal(spoilt, image)

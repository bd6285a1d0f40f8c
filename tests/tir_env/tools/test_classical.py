"""The shipped classical tools: exact where the papers are exact, pure and defined for every size, and each helps where it should."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tests.tir_env.tools.conftest import noise_image
from tir_env.degradations import Case, degrade
from tir_env.images.operations import quantize, quarter, resize_bicubic
from tir_env.tools import MADE_FOR, Toolbox
from tir_env.tools.classical import blur, brighten, dehaze, dejpeg, denoise, derain, filters, super_resolve

CLASSICAL, POCKET = Toolbox.load("classical"), Toolbox.load("pocket")
NAMES = [tool.name for tool in CLASSICAL]


def spoil(image, name, seed=0):
    return degrade(image, Case.parse(name), seed)


# --- exact ----------------------------------------------------------------------------------------------------------------------


def grey(level):
    return np.full((8, 8, 3), level, np.uint8)


@pytest.mark.parametrize(("level", "expected"), [(0, 40), (10, 50), (200, 240), (215, 255), (230, 255)])
def test_shift_adds_40_to_the_value(level, expected):
    assert (brighten.shift(grey(level)) == expected).all()


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (1, 6), (32, 64), (64, 101), (128, 161), (255, 255)])
def test_gamma_is_the_power_two_thirds(level, expected):
    assert (brighten.gamma(grey(level)) == expected).all()  # 255 (32/255)^(2/3) = 63.88, 255 (1/255)^(2/3) = 6.34


def test_brightening_keeps_the_hue():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 100
    assert (brighten.shift(red) == (140, 0, 0)).all()


def test_clahe_is_opencvs_on_the_value_of_hsv(photo):
    hsv = cv2.cvtColor(photo, cv2.COLOR_RGB2HSV)
    expected = cv2.createCLAHE(2.0, (8, 8)).apply(np.ascontiguousarray(hsv[..., 2]))
    result = cv2.cvtColor(brighten.clahe(photo), cv2.COLOR_RGB2HSV)
    assert np.abs(result[..., 2].astype(int) - expected).max() <= 1  # back and forth through RGB
    assert brighten.clahe(photo).mean() != photo.mean()


def test_stretch_spans_the_full_range():
    ramp = np.repeat(np.linspace(20, 100, 64 * 64).reshape(64, 64, 1), 3, axis=2).astype(np.uint8)
    result = brighten.stretch(ramp, 0, 100)
    assert result.min() == 0
    assert result.max() == 255


def bicubic(image):
    height, width = image.shape[:2]
    return quantize(resize_bicubic(image, height * 4, width * 4))


def test_back_projection_shrinks_to_its_input(photo):
    small = quarter(photo)
    error = [np.abs(quarter(f(small)).astype(int) - small).mean() for f in (bicubic, super_resolve.back_projection)]
    assert error[1] < 0.2 * error[0]


# --- what they find in the image --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0, 10, 30, 50])
def test_noise_level_is_found(sigma):
    noisy = 128 + sigma * np.random.default_rng(0).standard_normal((128, 128, 3))
    assert denoise.noise_level(noisy.round().clip(0, 255).astype(np.uint8)) == pytest.approx(sigma, abs=1 + 0.05 * sigma)


@pytest.mark.parametrize("quality", [10, 17, 23, 29, 45])
def test_jpeg_quality_is_found(photo, quality):
    assert dejpeg.estimate_quality(dejpeg.recompress(photo, quality)) == pytest.approx(quality, abs=1)


def test_an_image_that_was_never_compressed_has_the_best_quality(photo):
    assert dejpeg.estimate_quality(photo) == 95


@pytest.mark.parametrize("radius", [3, 4, 6])
def test_defocus_radius_is_found(photo, radius):
    spoilt = cv2.filter2D(photo, -1, blur.disk(radius), borderType=cv2.BORDER_REFLECT_101)
    found = blur.estimate(spoilt, blur.disks())
    np.testing.assert_array_equal(found.kernel, blur.disk(radius))


def test_a_sharp_image_has_no_blur(photo):
    assert blur.estimate(photo, blur.disks()).none


@pytest.mark.parametrize("angle", [-70, -20, 0, 35, 60])
def test_motion_angle_is_found(photo, angle):
    kernel = blur.trail(15, 5.0, angle)
    spoilt = cv2.filter2D(photo, -1, kernel[::-1, ::-1], borderType=cv2.BORDER_REPLICATE)
    found, at = blur.motion(spoilt)
    assert at == pytest.approx(angle, abs=2)
    assert found.kernel.sum() == pytest.approx(1)


@pytest.mark.parametrize("kernel", [*blur.disks(), blur.trail(10, 3.0, 17), blur.trail(15, 8.0, -88)])
def test_kernels_are_odd_and_sum_to_one(kernel):
    assert kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1
    assert kernel.sum() == pytest.approx(1)
    assert kernel.min() >= 0


def test_transfer_of_a_kernel_larger_than_the_grid_keeps_its_sum():
    assert blur.transfer(blur.trail(15, 8.0, 30), (12, 9))[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("angle", [-25, 0, 25])
def test_the_lean_of_rain_is_found(photo, angle):
    case = Case.parse("rain")
    spoilt = next(s for s in (degrade(photo, case, i) for i in range(999)) if abs(s.record[0]["params"]["angle"] - angle) <= 2)
    assert derain.lean(spoilt.image) == pytest.approx(spoilt.record[0]["params"]["angle"], abs=5)


def test_guided_filter_keeps_an_edge_of_its_guide_and_flattens_noise():
    guide = np.zeros((64, 64), np.float32)
    guide[:, 32:] = 1
    noisy = guide + 0.1 * np.random.default_rng(0).standard_normal(guide.shape).astype(np.float32)
    result = filters.guided(guide, noisy, 4, 1e-4)
    assert np.abs(result - guide).max() < 0.1
    assert (result - guide).std() < 0.03


def test_dark_channel_undoes_uniform_haze(photo):
    hazy = (photo * 0.6 + 255 * 0.9 * 0.4).round().astype(np.uint8)
    result = dehaze.dark_channel(hazy)
    assert np.abs(result.astype(int) - photo).mean() < 0.6 * np.abs(hazy.astype(int) - photo).mean()


# --- all of them ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("toolbox", [CLASSICAL, POCKET], ids=lambda toolbox: toolbox.name)
def test_two_tools_for_each_of_the_eight_tasks(toolbox):
    models = {entry["name"]: entry["arguments"]["model"] for entry in toolbox.schema()}
    assert set(models) == set(MADE_FOR) - {"deblur", "all_in_one"}
    assert all(len(names) >= 2 for names in models.values())
    assert all(tool.traits.cost > 0 for tool in toolbox)


@pytest.mark.parametrize("tool", [*CLASSICAL, *(tool for tool in POCKET if tool.name not in NAMES)], ids=lambda tool: tool.name)
def test_defined_pure_and_repeatable_for_every_size(tool, photo):
    name = tool.name
    for size in [(8, 8), (9, 8), (8, 61), (61, 8), (17, 23), (64, 65)]:
        images = {
            "photo": np.ascontiguousarray(photo[: size[0], : size[1]]),
            "noise": noise_image(*size),
            "black": np.zeros((*size, 3), np.uint8),
            "white": np.full((*size, 3), 255, np.uint8),
        }
        for kind, image in images.items():
            before = image.copy()
            result = tool(image)
            tool.check(image, result)
            np.testing.assert_array_equal(image, before, err_msg=f"{name} writes into its {kind} input of {size}")
            np.testing.assert_array_equal(tool(image), result, err_msg=f"{name} differs on the same {kind} of {size}")


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("brighten")])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_flat_image_stays_as_it_is(name, level):
    result = CLASSICAL[name](np.full((40, 33, 3), level, np.uint8))
    assert np.abs(result.astype(int) - level).max() <= 1


@settings(max_examples=25, deadline=None)
@given(height=st.integers(8, 90), width=st.integers(8, 90), index=st.integers(0, len(NAMES) - 1), seed=st.integers(0, 99))
def test_any_size_gives_a_valid_result(height, width, index, seed):
    tool, image = CLASSICAL[index], noise_image(height, width, seed)
    tool.check(image, tool(image))


@pytest.mark.parametrize("name", [tool.name for tool in CLASSICAL if tool.scale == 1])
def test_helps_on_its_own_degradation(name, photo):
    tool = CLASSICAL[name]
    gains = []
    for seed in range(4):
        spoilt = spoil(photo, MADE_FOR[tool.task], seed).image
        result = tool(spoilt)
        psnr = peak_signal_noise_ratio(photo, result) - peak_signal_noise_ratio(photo, spoilt)
        ssim = [structural_similarity(photo, image, channel_axis=2) for image in (spoilt, result)]
        gains.append((psnr, ssim[1] - ssim[0]))
    assert all(map(math.isfinite, np.ravel(gains)))
    assert max(np.mean(gains, axis=0)) > 0


@pytest.mark.parametrize("name", ["super_resolve/lanczos", "super_resolve/back_projection"])
def test_super_resolution_beats_bicubic(name, photo):
    small = quarter(photo)
    assert peak_signal_noise_ratio(photo, CLASSICAL[name](small)) > peak_signal_noise_ratio(photo, bicubic(small))

"""What spoils an image: the eight degradations of AgenticIR (arXiv:2410.17809) and the three of RL-Restore (arXiv:1804.03312).

Each is a pair of pure functions. `draw(rng)` chooses the parameters, plain numbers and strings; `apply(image, params)` spoils the
image with exactly these. The parameters are the whole record: where noise is involved they hold its seed, so the same record gives
the same bytes at any time. Everything is computed in float64 and quantised once at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tir_env.images.operations import Image, quantize, quarter

Params = dict[str, Any]
Rng = np.random.Generator


@dataclass(frozen=True)
class Parameter:
    """What a user's suite may pin or narrow: the limits that make sense, and to which kind it belongs if there are several."""

    low: float
    high: float
    whole: bool = False
    kind: str = ""
    drawn: tuple[float, float] = (0, 0)  # the papers' range, for a suite that pins the kind alone


SEED = Parameter(0, 2**32 - 1, whole=True)
LEVEL = Parameter(0, 10, whole=True)


@dataclass(frozen=True)
class Degradation:
    """A way to spoil an image."""

    name: str
    draw: Callable[[Rng], Params]
    apply: Callable[..., Image]  # (image, params), and depth where `needs_depth`
    parameters: Mapping[str, Parameter]
    needs_depth: bool = False

    @property
    def kinds(self) -> dict[str, str]:
        """Each kind, and the parameter that is its own."""
        return {parameter.kind: name for name, parameter in self.parameters.items() if parameter.kind}


def _seed(rng: Rng) -> int:
    return int(rng.integers(2**32))


# --- low resolution -----------------------------------------------------------------------------------------------------------


def low_resolution(image: Image, params: Params) -> Image:
    """MATLAB's bicubic x0.25. The image stays small: sizes vary from here on."""
    return quarter(image)


# --- noise --------------------------------------------------------------------------------------------------------------------


def draw_noise(rng: Rng) -> Params:
    if rng.random() < 0.5:
        return {"kind": "gaussian", "sigma": float(rng.uniform(20, 50)), "seed": _seed(rng)}
    return {"kind": "poisson", "scale": float(rng.uniform(1, 3)), "seed": _seed(rng)}


def noise(image: Image, params: Params) -> Image:
    """Gaussian with σ on the 0..255 scale, or Poisson: x + (Poisson(x·v)/v − x)·scale, v = 2^ceil(log2 #unique values of the image)."""
    rng = np.random.Generator(np.random.PCG64(params["seed"]))
    if params["kind"] == "gaussian":
        return quantize(image + rng.standard_normal(image.shape) * params["sigma"])
    clean = image / 255.0
    levels = 2.0 ** math.ceil(math.log2(len(np.unique(image))))
    shot = rng.poisson(clean * levels) / levels - clean
    return quantize((clean + shot * params["scale"]) * 255)


# --- JPEG ---------------------------------------------------------------------------------------------------------------------


def draw_jpeg(rng: Rng) -> Params:
    return {"quality": int(rng.integers(10, 30))}


def jpeg(image: Image, params: Params) -> Image:
    """Through a JPEG file of this quality and back (4:2:0, the encoder's default tables)."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, int(params["quality"])])
    if not ok:
        raise ValueError(f"the JPEG encoder refused an image of {image.shape[1]}x{image.shape[0]} pixels")
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "what was just encoded can be decoded"
    return np.ascontiguousarray(decoded[..., ::-1], np.uint8)


# --- dark ---------------------------------------------------------------------------------------------------------------------


def draw_dark(rng: Rng) -> Params:
    kind = ("shift", "gamma", "stretch")[int(rng.integers(3))]
    if kind == "shift":
        return {"kind": kind, "shift": int(rng.integers(30, 50))}
    if kind == "gamma":
        return {"kind": kind, "gamma": float(rng.uniform(0.5, 0.7))}
    return {"kind": kind, "peak": int(rng.integers(100, 150))}


def dark(image: Image, params: Params) -> Image:
    """Darken V of HSV, hue and saturation kept. V is max(R, G, B), so scaling the colours by V'/V is that, without 8-bit hues."""
    value = image.max(axis=2).astype(np.float64)
    if params["kind"] == "shift":
        darker = np.maximum(value - params["shift"], 0)
    elif params["kind"] == "gamma":
        darker = (value / 255) ** (1 / params["gamma"]) * 255
    else:
        low, high = value.min(), value.max()
        darker = (value - low) / max(high - low, 1) * params["peak"]
    return quantize(image * (darker / np.maximum(value, 1))[..., None])


# --- haze ---------------------------------------------------------------------------------------------------------------------


def draw_haze(rng: Rng) -> Params:
    return {"airlight": float(rng.uniform(0.7, 1.0)), "beta": float(rng.uniform(0.6, 1.8)), "depth_seed": _seed(rng)}


def haze(image: Image, params: Params, depth: NDArray[np.float64]) -> Image:
    """Atmospheric scattering: I = J·t + 255·A·(1 − t), t = exp(−β d), d in 0..1 [H, W]."""
    t = np.exp(-params["beta"] * depth)[..., None]
    return quantize(image * t + 255 * params["airlight"] * (1 - t))


# --- blurs --------------------------------------------------------------------------------------------------------------------

MOTION = ((10, 3), (15, 5), (15, 8))  # (radius, σ), mild to strong
DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5))  # (radius, σ of the smoothing), mild to strong


def draw_motion_blur(rng: Rng) -> Params:
    radius, sigma = MOTION[int(rng.integers(3))]
    return {"radius": radius, "sigma": float(sigma), "angle": float(rng.uniform(-90, 90))}


def motion_kernel(radius: int, sigma: float, angle: float) -> NDArray[np.float64]:
    """The one-sided trail exp(−i²/2σ²), i = 0..2r, laid along the angle on whole pixels; [4r+1, 4r+1], centre = where it begins."""
    width = 2 * radius + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2.0 * sigma**2))
    kernel = np.zeros((2 * width - 1, 2 * width - 1))
    for i, weight in enumerate(weights / weights.sum()):
        dy = -math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        dx = -math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        kernel[width - 1 + dy, width - 1 + dx] += weight
    return kernel


def motion_blur(image: Image, params: Params) -> Image:
    """Each pixel is a weighted mean of what trails it; the border is stretched outwards."""
    kernel = motion_kernel(params["radius"], params["sigma"], params["angle"])
    centre = kernel.shape[0] // 2
    padded = np.pad(image, ((centre, centre), (centre, centre), (0, 0)), mode="edge").astype(np.float64)
    height, width = image.shape[:2]
    out = np.zeros(image.shape)
    for y, x in zip(*np.nonzero(kernel), strict=True):
        # The image moved by (dy, dx) is the padded one read at the opposite offset.
        top, left = 2 * centre - y, 2 * centre - x
        out += kernel[y, x] * padded[top : top + height, left : left + width]
    return quantize(out)


def draw_defocus_blur(rng: Rng) -> Params:
    radius, alias = DEFOCUS[int(rng.integers(3))]
    return {"radius": radius, "alias": alias}


def defocus_kernel(radius: int, alias: float) -> NDArray[np.float64]:
    """A disk of ones, normalised, its edge softened by a 3x3 Gaussian; [17, 17]."""
    grid = np.arange(-8, 9)
    disk = (grid[:, None] ** 2 + grid[None, :] ** 2 <= radius**2).astype(np.float64)
    taps = np.exp(-(np.arange(-1, 2) ** 2) / (2 * alias**2))
    return _filter(disk / disk.sum(), np.outer(taps, taps) / taps.sum() ** 2)


def defocus_blur(image: Image, params: Params) -> Image:
    return quantize(_filter(image, defocus_kernel(params["radius"], params["alias"])))


def _filter(values: NDArray[Any], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation in float64, borders mirrored about the edge pixel."""
    out = cv2.filter2D(values.astype(np.float64), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(out, np.float64)


# --- rain ---------------------------------------------------------------------------------------------------------------------


def draw_rain(rng: Rng) -> Params:
    return {
        "length": int(rng.integers(20, 40)),
        "angle": int(rng.integers(-30, 30)),
        "value": int(rng.integers(50, 100)),
        "seed": _seed(rng),
    }


def rain_streaks(shape: tuple[int, int], params: Params) -> NDArray[np.float64]:
    """Sparse drops (value/100 of 256 grey levels), drawn out along a rotated line, stretched to 0..255; [H, W]."""
    rng = np.random.Generator(np.random.PCG64(params["seed"]))
    drops = rng.uniform(0, 256, shape)
    drops[drops < 256 - 0.01 * params["value"]] = 0
    drops = _filter(drops, np.array([[0, 0.1, 0], [0.1, 8, 0.1], [0, 0.1, 0]]))
    length = params["length"]
    # The diagonal leans by 45°, which the rotation takes back; long streaks are scaled down so that they stay in the kernel.
    turn = cv2.getRotationMatrix2D((length / 2, length / 2), params["angle"] - 45, 1 - length / 100)
    line = np.asarray(cv2.GaussianBlur(cv2.warpAffine(np.eye(length), turn, (length, length)), (3, 3), 0), np.float64)
    streaks = _filter(drops, line)
    low, high = streaks.min(), streaks.max()
    return np.floor((streaks - low) / max(high - low, 1e-12) * 255 + 1e-7)


def rain(image: Image, params: Params) -> Image:
    return quantize(image + rain_streaks(image.shape[:2], params)[..., None])


# --- RL-Restore: levels 0..10 of blur, noise and JPEG ---------------------------------------------------------------------------

LEVEL_QUALITY = (100, 80, 60, 50, 45, 40, 35, 30, 25, 20, 10)


def draw_level(rng: Rng) -> Params:
    return {"level": int(rng.integers(11))}


def level_blur(image: Image, params: Params) -> Image:
    """Gaussian blur, σ = level/2 pixels (0 … 5)."""
    if params["level"] == 0:
        return image.copy()
    return quantize(
        cv2.GaussianBlur(image.astype(np.float64), (0, 0), params["level"] * 0.5, borderType=cv2.BORDER_REFLECT_101)
    )


def draw_level_noise(rng: Rng) -> Params:
    return {"level": int(rng.integers(11)), "seed": _seed(rng)}


def level_noise(image: Image, params: Params) -> Image:
    """Gaussian noise, σ = 5·level grey levels (0 … 50)."""
    return noise(image, {"kind": "gaussian", "sigma": 5.0 * params["level"], "seed": params["seed"]})


def level_jpeg(image: Image, params: Params) -> Image:
    """JPEG of quality 100, 80, 60, 50, 45, 40, 35, 30, 25, 20, 10."""
    return jpeg(image, {"quality": LEVEL_QUALITY[params["level"]]})


_NOISE = {
    "sigma": Parameter(0, 255, kind="gaussian", drawn=(20, 50)),
    "scale": Parameter(0, 50, kind="poisson", drawn=(1, 3)),
    "seed": SEED,
}
_DARK = {
    "shift": Parameter(0, 255, whole=True, kind="shift", drawn=(30, 49)),
    "gamma": Parameter(0.05, 1, kind="gamma", drawn=(0.5, 0.7)),
    "peak": Parameter(1, 255, whole=True, kind="stretch", drawn=(100, 149)),
}
_HAZE = {"airlight": Parameter(0, 1), "beta": Parameter(0, 20), "depth_seed": SEED}
_MOTION = {"radius": Parameter(1, 64, whole=True), "sigma": Parameter(0.1, 100), "angle": Parameter(-90, 90)}
_DEFOCUS = {"radius": Parameter(1, 8, whole=True), "alias": Parameter(0.05, 5)}
_RAIN = {
    "length": Parameter(3, 90, whole=True),
    "angle": Parameter(-90, 90),
    "value": Parameter(1, 25_600, whole=True),
    "seed": SEED,
}

DEGRADATIONS: dict[str, Degradation] = {
    degradation.name: degradation
    for degradation in (
        Degradation("low resolution", lambda rng: {}, low_resolution, {}),
        Degradation("noise", draw_noise, noise, _NOISE),
        Degradation("jpeg", draw_jpeg, jpeg, {"quality": Parameter(1, 100, whole=True)}),
        Degradation("dark", draw_dark, dark, _DARK),
        Degradation("haze", draw_haze, haze, _HAZE, needs_depth=True),
        Degradation("motion blur", draw_motion_blur, motion_blur, _MOTION),
        Degradation("defocus blur", draw_defocus_blur, defocus_blur, _DEFOCUS),
        Degradation("rain", draw_rain, rain, _RAIN),
        Degradation("level blur", draw_level, level_blur, {"level": LEVEL}),
        Degradation("level noise", draw_level_noise, level_noise, {"level": LEVEL, "seed": SEED}),
        Degradation("level jpeg", draw_level, level_jpeg, {"level": LEVEL}),
    )
}

ALIASES = {"lr": "low resolution", "jpeg compression artifact": "jpeg", "blur": "defocus blur", "low light": "dark"}
EIGHT = tuple(DEGRADATIONS)[:8]

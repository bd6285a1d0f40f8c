"""Many versions of one clean picture: spoilt, restored well and badly, and overdone.

A scorer that is to be a reward must know what a policy can do to an image, not only what a camera can: tools where they are wanted
and where they are not, one to three in a row, again and again, on clean images too; and every way to make a picture look striking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pool import Call, LocalPool
from tir_env.degradations.suites import SUITES, Case, Stage, degrade
from tir_env.images.operations import Image, digest, quantize, resize_like
from tir_env.tools import MADE_FOR, Tool, Toolbox

Rng = np.random.Generator


@dataclass(frozen=True)
class Variant:
    image: Image
    kind: str  # clean, spoilt, restored, meddled (tools on a clean picture), overdone
    made: str  # how, in words
    degradations: tuple[str, ...] = ()


WEAK = {
    "noise": Stage("noise", {"kind": "gaussian", "sigma": (2.0, 20.0)}),
    "jpeg": Stage("jpeg", {"quality": (30, 92)}),
    "dark": Stage("dark", {"kind": "shift", "shift": (8, 35)}),
    "haze": Stage("haze", {"beta": (0.1, 0.7)}),
    "motion blur": Stage("motion blur", {"radius": (2, 8), "sigma": (0.7, 3.0)}),
    "level blur": Stage("level blur", {"level": (1, 5)}),
    "rain": Stage("rain", {"value": (5, 50)}),
    "defocus blur": Stage("defocus blur", {"radius": (1, 3)}),
}
SINGLE = tuple(SUITES["single"])
MIXED = tuple(
    case for name, suite in SUITES.items() if name.startswith(("mio100", "restore-r1", "rl-restore")) for case in suite
)


def draw_case(rng: Rng) -> Case:
    """A suite's own single or mixed case, or one to three weak degradations."""
    which = rng.random()
    if which < 0.25:
        return SINGLE[int(rng.integers(len(SINGLE)))]
    if which < 0.6:
        return MIXED[int(rng.integers(len(MIXED)))]
    names = rng.choice(list(WEAK), size=int(rng.integers(1, 4)), replace=False)
    return Case("weak " + "+".join(names), tuple(WEAK[name] for name in names))


class Maker:
    """Makes variants with the tools of one toolbox. A tool that fails leaves the image as it was, as in the environment."""

    def __init__(self, toolbox: Toolbox) -> None:
        self.tools = list(toolbox)
        self.pool = LocalPool(cache_bytes=0)
        self.pool.add(*self.tools)

    def make(self, clean: Image, rng: Rng, spoilt: int = 6, chains: int = 5, meddled: int = 2) -> list[Variant]:
        """The clean picture first, then its variants: all of its size, no two alike."""
        made = [spoil(clean, rng) for _ in range(spoilt)]
        whole = [v for v in made if v.image.shape == clean.shape]
        for _ in range(chains):
            made += self.restore(made[int(rng.integers(spoilt))], rng, steps=int(rng.integers(1, 4)))
        start = Variant(clean, "clean", "clean")
        for _ in range(meddled):
            made += self.restore(start, rng, steps=int(rng.integers(1, 3)), kind="meddled")
        made += self.repeat(start if rng.random() < 0.5 or not whole else whole[0], rng)
        return finished(start, made, rng)

    def restore(self, start: Variant, rng: Rng, steps: int, kind: str = "restored") -> Iterator[Variant]:
        """Every image on the way: right tools more often than chance would, wrong ones often enough."""
        image, made, left = start.image, start.made, list(start.degradations)
        for _ in range(steps):
            tool = self._tool(rng, left, small="low resolution" in left)
            if tool is None:
                return
            image, made = self._apply(tool, image), f"{made} > {tool.name}"
            left = [name for name in left if name != MADE_FOR[tool.task]]
            yield Variant(image, kind, made, tuple(left))

    def repeat(self, start: Variant, rng: Rng) -> Iterator[Variant]:
        """One tool two to four times: the second result and the last."""
        tool = self._tool(rng, list(start.degradations), small=False)
        if tool is None:
            return
        image, times = start.image, int(rng.integers(2, 5))
        for number in range(1, times + 1):
            image = self._apply(tool, image)
            if number in (2, times):
                yield Variant(image, "overdone", f"{start.made} > {number} x {tool.name}", start.degradations)

    def _tool(self, rng: Rng, left: Sequence[str], small: bool) -> Tool | None:
        """Enlarging is for small images only: elsewhere its result would not be of the clean picture's size."""
        wanted = {name: name for name in left}
        fit = [tool for tool in self.tools if (tool.scale > 1) <= small]
        right = [tool for tool in fit if MADE_FOR[tool.task] in wanted]
        choice = right if right and rng.random() < 0.6 else fit
        return choice[int(rng.integers(len(choice)))] if choice else None

    def _apply(self, tool: Tool, image: Image) -> Image:
        [outcome] = self.pool.run([Call(tool.name, image)])
        return np.array(outcome.value) if outcome.ok else image


def without_tools(clean: Image, rng: Rng, spoilt: int = 6) -> list[Variant]:
    """The clean picture first, then variants that no tool has touched: many times faster to make."""
    return finished(Variant(clean, "clean", "clean"), [spoil(clean, rng) for _ in range(spoilt)], rng)


def finished(start: Variant, made: Sequence[Variant], rng: Rng, overdone: int = 7) -> list[Variant]:
    """`start` and `made`, and overdone versions of them; of one size, and no two alike: a tool that does nothing makes no variant."""
    made = list(made)
    for _ in range(overdone):
        base = start if rng.random() < 0.6 else made[int(rng.integers(len(made)))]
        made.append(overdo(base, rng))
    made += [Variant(touch(start.image, rng), "overdone", f"clean > {name}") for name, touch in TOUCHES]
    sized = [start, *(Variant(resize_like(v.image, start.image), v.kind, v.made, v.degradations) for v in made)]
    return list({digest(v.image): v for v in reversed(sized)}.values())[::-1]


def spoil(clean: Image, rng: Rng) -> Variant:
    case = draw_case(rng)
    result = degrade(clean, case, int(rng.integers(2**32)))
    return Variant(result.image, "spoilt", case.name, case.degradations)


def overdo(base: Variant, rng: Rng) -> Variant:
    """One way to overdo it, or two."""
    image, made = base.image, base.made
    for _ in range(1 + (rng.random() < 0.2)):
        name = str(rng.choice(list(OVERDOING), p=_CHANCES))
        image, made = OVERDOING[name][0](image, rng), f"{made} > {name}"
    return Variant(image, "overdone", made, base.degradations)


# --- ways to overdo it: pure functions of an image and a generator -----------------------------------------------------------------


def sharpen(image: Image, amount: float, sigma: float) -> Image:
    """Unsharp masking: x + amount (x - blurred x)."""
    values = image.astype(np.float32)
    return quantize(values + amount * (values - cv2.GaussianBlur(values, (0, 0), sigma)))


def smooth(image: Image, sigma: float) -> Image:
    return quantize(cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma))


def paint(image: Image, strength: float) -> Image:
    """Bilateral filtering, strong enough to leave flat patches."""
    return np.asarray(cv2.bilateralFilter(image, 9, 25 * strength, 3 * strength), np.uint8)


def saturate(image: Image, factor: float) -> Image:
    values = image.astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    return quantize(grey + (values - grey) * factor)


def contrast(image: Image, factor: float) -> Image:
    values = image.astype(np.float32)
    return quantize(values.mean() + (values - values.mean()) * factor)


def ring(image: Image, cutoff: float) -> Image:
    """An ideal low-pass: all frequencies above `cutoff` (of the highest) go, and edges ring."""
    height, width = image.shape[:2]
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) * 2
    spectrum = np.fft.rfft2(image, axes=(0, 1)) * (radius <= cutoff)[..., None]
    return quantize(np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1)))


def posterise(image: Image, levels: int) -> Image:
    step = 255 / (levels - 1)
    return quantize(np.round(image / step) * step)


def mosaic(image: Image, side: int) -> Image:
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, width // side), max(1, height // side)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def equalise(image: Image, clip: float) -> Image:
    """CLAHE channel by channel: local contrast and false colours."""
    filter_ = cv2.createCLAHE(clip, (4, 4))
    return np.dstack([filter_.apply(np.ascontiguousarray(image[..., c])) for c in range(3)])


def gamma(image: Image, power: float) -> Image:
    return quantize((image / 255.0) ** power * 255)


def cast(image: Image, gains: np.ndarray) -> Image:
    return quantize(image * gains)


OVERDOING: dict[str, tuple[Callable[[Image, Rng], Image], float]] = {  # name: (how, how often)
    "sharpen": (lambda image, rng: sharpen(image, float(np.exp(rng.uniform(-0.9, 2.1))), float(rng.uniform(0.6, 3))), 3),
    "smooth": (lambda image, rng: smooth(image, float(rng.uniform(0.5, 4))), 2),
    "median": (lambda image, rng: np.asarray(cv2.medianBlur(image, int(rng.choice([3, 5, 7, 9]))), np.uint8), 1),
    "paint": (lambda image, rng: paint(image, float(rng.uniform(0.8, 5))), 1.5),
    "saturate": (lambda image, rng: saturate(image, float(rng.choice([rng.uniform(0, 0.6), rng.uniform(1.4, 3)]))), 1),
    "contrast": (lambda image, rng: contrast(image, float(rng.choice([rng.uniform(0.3, 0.8), rng.uniform(1.25, 2.5)]))), 1),
    "ring": (lambda image, rng: ring(image, float(rng.uniform(0.15, 0.6))), 1),
    "posterise": (lambda image, rng: posterise(image, int(rng.integers(3, 20))), 1),
    "mosaic": (lambda image, rng: mosaic(image, int(rng.choice([2, 3, 4, 8]))), 0.7),
    "equalise": (lambda image, rng: equalise(image, float(rng.uniform(2, 12))), 0.7),
    "gamma": (lambda image, rng: gamma(image, float(rng.choice([rng.uniform(0.35, 0.8), rng.uniform(1.3, 2.5)]))), 1),
    "cast": (lambda image, rng: cast(image, rng.uniform(0.7, 1.3, 3)), 0.7),
}
# Each once on every clean picture: so little that a scorer easily takes it for an improvement.
TOUCHES: tuple[tuple[str, Callable[[Image, Rng], Image]], ...] = (
    ("a little smooth", lambda image, rng: smooth(image, float(rng.uniform(0.4, 0.9)))),
    ("smooth", lambda image, rng: smooth(image, float(rng.uniform(0.8, 1.8)))),
    ("smooth colours", lambda image, rng: paint(image, float(rng.uniform(0.5, 2)))),
    ("a little sharper", lambda image, rng: sharpen(image, float(rng.uniform(0.3, 1.2)), float(rng.uniform(0.7, 2)))),
)
_CHANCES = np.array([weight for _, weight in OVERDOING.values()]) / sum(weight for _, weight in OVERDOING.values())

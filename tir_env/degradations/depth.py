"""Where haze takes its depth from: a file beside the photograph, a depth model from Hugging Face, or a synthetic scene.

Every source says in the record what it used, so that a table of results can be honest about it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from pool.errors import Problem
from tir_env.images.operations import Image, digest
from tir_env.images.reading import MAX_PIXELS, ImageError, read_levels

Depth = NDArray[np.float64]  # [H, W], 0 near … 1 far
FALLBACK = "synthetic"


class DepthError(Problem):
    """No depth could be had for an image."""


class DepthSource(Protocol):
    def __call__(self, image: Image, name: str, seed: int) -> tuple[Depth, str]:
        """Depth of `image` (photograph `name`), 0..1 and of its size, and a word for the record."""


def synthetic_depth(shape: tuple[int, int], seed: int) -> Depth:
    """A plausible outdoor scene: near at the bottom, far at the top, with a smooth random field of five waves."""
    height, width = shape
    rng = np.random.Generator(np.random.PCG64(seed))
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    field = np.zeros(shape)
    for frequency in (1, 1, 2, 2, 3):
        fy, fx = rng.uniform(-frequency, frequency, 2)
        phase, weight = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1) / frequency
        field += weight * np.sin(2 * np.pi * (fy * y + fx * x) + phase)
    depth = (1 - y) + 0.35 * field / max(np.abs(field).max(), 1e-9)
    depth = depth - min(depth.min(), 0) + 0.05
    return depth / depth.max()


class Synthetic:
    """The offline default."""

    def __call__(self, image: Image, name: str, seed: int) -> tuple[Depth, str]:
        return synthetic_depth(image.shape[:2], seed), FALLBACK


class DepthFolder:
    """Maps given by the user, of whole photographs: `<name>.npy` or `.png` (any range, larger is farther).

    A photograph in a sub-folder has its map in the same sub-folder here, or simply here.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DepthError(self.folder, "no such folder", "Name a folder with one .npy or .png depth map per photograph.")

    def __call__(self, image: Image, name: str, seed: int) -> tuple[Depth, str]:
        stem = Path(name).stem
        for base in (self.folder / Path(name).parent / stem, self.folder / stem):
            for path in (base.with_name(f"{stem}.npy"), base.with_name(f"{stem}.png")):
                if path.is_file() and path.resolve().is_relative_to(self.folder.resolve()):
                    return _normalised(self._read(path), image, path), f"file:{path.name}"
        raise DepthError(
            self.folder, f"holds no depth map for {name!r}", f"Add {stem}.npy or {stem}.png, or use the synthetic depth."
        )

    @staticmethod
    def _read(path: Path) -> NDArray[Any]:
        """A .npy stays in the file until its form is known to be that of a map."""
        if path.suffix == ".npy":
            try:
                return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            except Exception as error:  # of a header that means harm NumPy raises many kinds
                raise DepthError(path, f"is no .npy array: {error}", "Save it with numpy.save.") from error
        try:
            return read_levels(path)
        except ImageError as error:
            raise DepthError(path, error.reason, "Save depth as 8- or 16-bit grey PNG.") from error


class DepthModel:
    """A monocular depth model from the Hugging Face hub or a local folder, loaded when it is first needed."""

    def __init__(self, model: str = "depth-anything/Depth-Anything-V2-Small-hf", device: str = "cpu") -> None:
        self.model, self.device = model, device
        self._loaded: Any = None
        self._recent: tuple[str, Depth] | None = None  # the crops of one photograph often follow each other

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_recent": None}  # weights are loaded again where it arrives

    def _load(self) -> Any:
        if self._loaded is None:
            from transformers import AutoImageProcessor, AutoModelForDepthEstimation

            try:
                processor = AutoImageProcessor.from_pretrained(self.model, trust_remote_code=False)
                network = AutoModelForDepthEstimation.from_pretrained(self.model, trust_remote_code=False)
                self._loaded = processor, network.to(self.device).eval()
            except (OSError, ValueError) as error:
                reason = f"cannot be loaded: {str(error).splitlines()[0]}"
                remedy = (
                    "Fetch it with `hf download`, or name a local folder, or use depth maps from files or the synthetic depth."
                )
                raise DepthError(f"depth model {self.model!r}", reason, remedy) from error
        return self._loaded

    def __call__(self, image: Image, name: str, seed: int) -> tuple[Depth, str]:
        import torch

        key = digest(image)
        if self._recent is not None and self._recent[0] == key:
            return self._recent[1], f"model:{self.model}"
        processor, network = self._load()
        with torch.inference_mode():
            inverse = network(**processor(images=np.array(image), return_tensors="pt").to(self.device)).predicted_depth[0]
        near = inverse.float().cpu().numpy().astype(np.float64)  # these models predict disparity: large is near
        self._recent = key, _normalised(near.max() - near, image, self.model)
        return self._recent[1], f"model:{self.model}"


class CroppedDepth:
    """The part of a whole photograph's depth that belongs to a crop of it, shrunk if the crop has been."""

    def __init__(self, source: DepthSource, whole: Image, corner: tuple[int, int], crop: int) -> None:
        self.source, self.whole, self.corner, self.crop = source, whole, corner, crop

    def __call__(self, image: Image, name: str, seed: int) -> tuple[Depth, str]:
        depth, word = self.source(self.whole, name, seed)
        top, left = self.corner
        part = depth[top : top + self.crop, left : left + self.crop]
        return np.minimum(_resized(part, image.shape[:2]), 1), word  # bicubic overshoots


def _normalised(depth: NDArray[Any], image: Image, thing: object) -> Depth:
    """Resized to the image and divided by its largest value."""
    if depth.ndim == 3 and depth.shape[2] in (3, 4):
        depth = depth[..., 0]
    if depth.size > MAX_PIXELS:
        reason = f"has {depth.size:,} values, over the limit of {MAX_PIXELS:,}"
        raise DepthError(thing, reason, "Save it smaller: it is enlarged to the photograph.")
    if depth.ndim != 2 or depth.dtype.kind not in "biuf" or 0 in depth.shape or not _is_range(depth):
        reason = f"is no depth map: {depth.dtype} {list(depth.shape)}; needs numbers [H, W], finite, not negative, not all zero"
        raise DepthError(thing, reason, "Larger values must mean farther away.")
    depth = _resized(depth.astype(np.float64), image.shape[:2])
    return depth / depth.max()


def _is_range(depth: NDArray[Any]) -> bool:
    return bool(np.isfinite(depth).all() and depth.min() >= 0 and 1e-300 < float(depth.max()) < 1e300)  # or resizing overflows


def _resized(depth: Depth, shape: tuple[int, ...]) -> Depth:
    if depth.shape == shape:
        return depth
    return np.clip(cv2.resize(depth, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), 0, None)


def open_depth(spec: str = FALLBACK) -> DepthSource:
    """`synthetic`, `folder:PATH` or `model:ID`."""
    kind, _, rest = spec.partition(":")
    if spec == FALLBACK:
        return Synthetic()
    if kind == "folder" and rest:
        return DepthFolder(rest)
    if kind == "model":
        return DepthModel(rest) if rest else DepthModel()
    raise DepthError(f"depth {spec!r}", "is not known", "Use synthetic, folder:PATH or model:HUGGING_FACE_ID.")

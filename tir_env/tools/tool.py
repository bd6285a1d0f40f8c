"""One restoration tool: a name, what it needs, and a pure function from images to images.

What computes (a Python function, a network file, an exported program) is its *engine*: plain data until `load`, a function after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pool.errors import Problem
from pool.model import Model, Traits
from tir_env.images.operations import Image, check_image, quantize
from tir_env.tools import tiles

if TYPE_CHECKING:
    from tir_env.tools.weights import Weights

TASKS = (
    "denoise",
    "defocus_deblur",
    "motion_deblur",
    "dejpeg",
    "derain",
    "dehaze",
    "brighten",
    "super_resolve",
    "deblur",  # RL-Restore's: any blur
    "all_in_one",
)
MADE_FOR = {  # the case that shows what a task is for
    "denoise": "noise",
    "defocus_deblur": "defocus blur",
    "motion_deblur": "motion blur",
    "dejpeg": "jpeg",
    "derain": "rain",
    "dehaze": "haze",
    "brighten": "dark",
    "super_resolve": "low resolution",
    "deblur": "level blur",
    "all_in_one": "rain+haze",
}
MIN_SIDE = 8

# uint8 [N, H, W, 3] to uint8, or to floats on the 0..255 scale, [N, H * scale, W * scale, 3].
Function = Callable[[NDArray[np.uint8]], NDArray[Any]]


class ToolError(Problem):
    """A tool that cannot be made ready for another reason than its weights: a missing package, a function that is not there."""


class Engine(Protocol):
    """What computes. Plain data that can be pickled; `load` builds the function."""

    @property
    def weights(self) -> Weights | None:
        """The file that it needs, if it needs one."""

    def load(self, tool: Tool) -> Function: ...


class Tool(Model):
    """A model of the pool that turns an image into a better one, `scale` times as large.

    Any image from 8x8 on is taken: sides are padded to `multiple`, and images with a side above `tile` go through in tiles that
    overlap (0: never). A `Tool` can be pickled at any time; what `load` built stays behind.
    """

    def __init__(
        self,
        task: str,
        model: str,
        engine: Engine,
        *,
        scale: int = 1,
        multiple: int = 1,
        tile: int = 0,
        overlap: int = 64,
        traits: Traits | None = None,
        about: str = "",
        source: str = "",
        license: str = "",
    ) -> None:
        if task not in TASKS:
            raise ToolError(
                f"tool {task}/{model}", f"has the task {task!r}, which is not known", f"Use one of {', '.join(TASKS)}."
            )
        self.name = f"{task}/{model}"
        self.task, self.model, self.engine = task, model, engine
        self.scale, self.multiple, self.tile, self.overlap = scale, multiple, tile, overlap
        self.traits = traits or Traits()
        self.about, self.source, self.license = about, source, license
        self._function: Function | None = None
        self._file = ""  # see `__getstate__`

    def load(self) -> None:
        if self._function is None:
            self._function = self.engine.load(self)

    def run(self, items: Sequence[Image]) -> list[Image]:
        """One restored image per image, in order. Images of one shape are computed together, `traits.batch` at a time."""
        for item in items:
            check_image(item)
            if min(item.shape[:2]) < MIN_SIDE:
                height, width = item.shape[:2]
                raise ValueError(
                    f"{self.name} takes images from {MIN_SIDE}x{MIN_SIDE} on; this one has {width}x{height} pixels"
                )
        self.load()
        results: list[Image | None] = [None] * len(items)
        for group in _groups(items, max(1, self.traits.batch)):
            for index, result in zip(group, self._compute(np.stack([items[i] for i in group])), strict=True):
                results[index] = np.ascontiguousarray(result)
        return [result for result in results if result is not None]

    def _compute(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        assert self._function is not None, "run() loads first"
        return tiles.apply(
            self._function, batch, scale=self.scale, multiple=self.multiple, tile=self.tile, overlap=self.overlap, finish=_bytes
        )

    def __call__(self, image: Image) -> Image:
        [result] = self.run([image])
        return result

    def check(self, item: Image, result: Any) -> None:
        """Raise `ValueError` unless the result is uint8 [H * scale, W * scale, 3]."""
        check_image(result)
        height, width = item.shape[:2]
        expected = (height * self.scale, width * self.scale, 3)
        if result.shape != expected:
            raise ValueError(f"{self.name} must turn {list(item.shape)} into {list(expected)}, not into {list(result.shape)}")

    def __getstate__(self) -> dict[str, Any]:
        """Without what `load` built. What the weight file holds belongs to it: trained anew, it is another tool to a pool."""
        return self.__dict__ | {"_function": None, "_file": self.engine.weights.sample() if self.engine.weights else ""}

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return values if values.dtype == np.uint8 else quantize(values)


def _groups(items: Sequence[Image], size: int) -> Iterator[list[int]]:
    """Indices of equal-shaped items, at most `size` together."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, item in enumerate(items):
        by_shape.setdefault(item.shape, []).append(index)
    for indices in by_shape.values():
        for start in range(0, len(indices), size):
            yield indices[start : start + size]

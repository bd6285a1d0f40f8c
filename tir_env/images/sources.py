"""Where clean photographs come from: a folder, scikit-image's own, or generated ones; and how they are split.

A source is a sequence of `Photo`s that are read when asked for. `open_images("PATH")`, `"skimage"` or `"generated:500"` opens one.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import skimage.data
from cachetools import LRUCache, cached

from pool.errors import readable
from tir_env.images.generate import dead_leaves
from tir_env.images.operations import Image, check_image, digest
from tir_env.images.reading import MAX_PIXELS, MIN_SIDE, SUFFIXES, ImageError, read_image

log = logging.getLogger(__name__)

Part = Literal["train", "validation", "test", "all"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
FRACTIONS = (0.7, 0.15, 0.15)
MEMORY = 512 << 20  # bytes of photographs that are kept after reading
MOST_GENERATED = 1_000_000  # each has a name in memory


@cached(LRUCache(MEMORY, getsizeof=lambda image: image.nbytes), lock=Lock())
def _read(read: Callable[[], Image]) -> Image:
    image = read()
    check_image(image)
    image.setflags(write=False)
    return image


@lru_cache(MOST_GENERATED)
def _digest_of(read: Callable[[], Image]) -> str:
    """Of a file that is found again, such as by a second world, without decoding it."""
    return digest(read())


@dataclass(frozen=True)
class Photo:
    """A clean photograph. `kin` is shared by pictures that must stay on one side of a split (a stereo pair)."""

    name: str
    read: Callable[[], Image]
    kin: str = ""

    @property
    def image(self) -> Image:
        """Its pixels, read-only. Read when asked for; the last ones used stay in memory (`MEMORY` bytes in all)."""
        return _read(self.read)

    @cached_property
    def digest(self) -> str:
        return digest(self.image)

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "read": self.read, "kin": self.kin}


class Images(Sequence[Photo]):
    """A named sequence of photographs. `problems` lists the files that could not be used, each with its reason."""

    def __init__(self, name: str, photos: Sequence[Photo], problems: Sequence[ImageError] = ()) -> None:
        self.name, self.photos, self.problems = name, tuple(photos), tuple(problems)
        self._by_name = {photo.name: photo for photo in self.photos}
        if not self.photos:
            first = f"; the first: {self.problems[0]}" if self.problems else ""
            raise ImageError(name, f"holds no usable picture{first}", f"Formats: {', '.join(SUFFIXES)}.")

    def __getitem__(self, index: Any) -> Any:
        return self.photos[index]

    def __len__(self) -> int:
        return len(self.photos)

    def __iter__(self) -> Iterator[Photo]:
        return iter(self.photos)

    def find(self, name: str) -> Photo:
        if name in self._by_name:
            return self._by_name[name]
        raise ImageError(f"image {name!r}", f"is not in {self.name}", f"It holds {len(self)}, such as {self.photos[0].name!r}.")

    def part(self, part: Part, fractions: tuple[float, float, float] = FRACTIONS) -> Images:
        """The train, validation or test part, decided for every picture by its own pixels.

        A picture stays in its part whatever it is called, wherever it lies and whatever is added beside it, and copies of one
        picture are always together.
        """
        if part == "all":
            return self
        if part not in PARTS:
            raise ImageError(f"part {part!r}", "is not known", f"Use one of {', '.join(PARTS)}, all.")
        if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
            raise ImageError(
                f"fractions {fractions}", "must be three numbers that are not negative and add up to 1", "Correct them."
            )
        edges = np.cumsum(fractions)[:2]
        mine = [p for p in self.photos if PARTS[int(np.searchsorted(edges, _position(p), side="right"))] == part]
        if not mine:
            reason = f"has no {part} picture among its {len(self)}"
            raise ImageError(self.name, reason, "Add pictures, use other fractions, or part='all'.")
        return Images(f"{self.name}:{part}", mine, self.problems)


def _position(photo: Photo) -> float:
    """Where a picture falls in [0, 1): from its pixels, or its kin's name. The salt puts some of scikit-image's in each part."""
    key = f"tir-681/{photo.kin or photo.digest}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def folder(
    path: str | Path,
    *,
    on_bad: Literal["skip", "raise"] = "skip",
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
) -> Images:
    """Every picture below `path`, at any depth, in the order of their names. Files of other kinds are passed over.

    Files are read once here, so that a bad one is found now: `on_bad="skip"` logs it and keeps it in `problems`, `"raise"` stops.
    """
    root = Path(path)
    if root.is_file():
        files, root = [root], root.parent
    elif root.is_dir():
        files = sorted(f for f in root.rglob("*") if f.suffix.lower() in SUFFIXES and not f.is_dir())
    else:
        raise ImageError(root, "no such file or folder", "Name a picture or a folder of pictures.")
    photos, problems = [], []

    def look(file: Path) -> Photo | ImageError:
        try:
            photo = Photo(readable(file.relative_to(root).as_posix()), FileReader.of(file, max_pixels, min_side))
            photo.__dict__["digest"] = _digest_of(photo.read)  # known from now on; the pixels are let go
            return photo
        except ImageError as error:
            return error
        except OSError as error:  # it vanished, or may not be looked at
            return ImageError(file, f"cannot be read: {error}", "Check the path and its permissions.")

    with ThreadPoolExecutor() as threads:
        for found in threads.map(look, files):
            if isinstance(found, Photo):
                photos.append(found)
            elif on_bad == "raise":
                raise found
            else:
                log.warning("skipped %s", found)
                problems.append(found)
    return Images(readable(str(path)), photos, problems)


@dataclass(frozen=True)
class FileReader:
    path: str
    max_pixels: int
    min_side: int
    changed: int  # when, in ns: a file that is replaced is read again

    @classmethod
    def of(cls, path: Path, max_pixels: int, min_side: int) -> FileReader:
        return cls(str(path), max_pixels, min_side, path.stat().st_mtime_ns)

    def __call__(self) -> Image:
        return read_image(self.path, max_pixels=self.max_pixels, min_side=self.min_side)


# Colour photographs inside scikit-image's wheel: nothing is fetched. The stereo pair is kin.
SKIMAGE = {
    "astronaut": "", "chelsea": "", "coffee": "", "rocket": "", "retina": "", "hubble_deep_field": "", "immunohistochemistry": "",
    "motorcycle_left": "motorcycle", "motorcycle_right": "motorcycle",
}  # fmt: skip


def skimage_photos() -> Images:
    """The nine colour photographs that ship inside scikit-image."""
    return Images("skimage", [Photo(name, SkimageReader(name), kin) for name, kin in SKIMAGE.items()])


@dataclass(frozen=True)
class SkimageReader:
    name: str

    def __call__(self) -> Image:
        if self.name.startswith("motorcycle"):
            # stereo_motorcycle() would also load the disparity map, which takes a second.
            return read_image(Path(inspect.getfile(skimage.data)).with_name(f"{self.name}.png"))
        return np.ascontiguousarray(getattr(skimage.data, self.name)()[..., :3])


def generated(count: int, *, seed: int = 0, size: int = 256) -> Images:
    """`count` generated pictures; the same seed and size give the same ones on every machine."""
    if not 1 <= count <= MOST_GENERATED or not 32 <= size <= 2048:
        reason = f"needs a count of 1 to {MOST_GENERATED:,} and a size of 32 to 2048, not {size}"
        raise ImageError(f"generated:{count}", reason, "Correct it.")
    names = [f"leaves-{seed}-{i}-{size}" for i in range(count)]
    # Their names say what they hold, so that a split need not make them all.
    photos = [Photo(name, LeavesReader(seed * 1_000_003 + i, size), kin=name) for i, name in enumerate(names)]
    return Images(f"generated:{count}", photos)


@dataclass(frozen=True)
class LeavesReader:
    seed: int
    size: int

    def __call__(self) -> Image:
        return dead_leaves(self.seed, self.size)


def in_both(first: Images, second: Images) -> list[str]:
    """Names in `second` of what is in `first`, too: the same picture, or another one of the same thing."""
    known = {photo.kin or photo.digest for photo in first}
    return [photo.name for photo in second if (photo.kin or photo.digest) in known]


def open_images(spec: str | Path | Images, **options: Any) -> Images:
    """`skimage`, `generated:COUNT`, several joined by commas, or the path of a folder or picture."""
    if isinstance(spec, Images):
        return spec
    text = str(spec)
    if not text.strip():
        raise ImageError(f"images {text!r}", "name nothing", "Write skimage, generated:COUNT, or the path of a folder.")
    if text == "skimage":
        return skimage_photos()
    kind, _, count = text.partition(":")
    if kind == "generated" and (not count or count.isdecimal()):
        return generated(int(count[:9] or 200))  # more are too many in any case
    if "," in text and not Path(text).exists():
        sources = [open_images(part.strip(), **options) for part in text.split(",")]
        photos = [replace(photo, name=f"{s.name}/{photo.name}") for s in sources for photo in s]
        return Images(readable(text), photos, [p for s in sources for p in s.problems])
    return folder(text, **options)

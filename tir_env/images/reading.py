"""Any picture file to a correct RGB uint8 image, or an `ImageError` that says why not.

Grey, 16-bit, float grey, alpha (laid on white), palette, CMYK, and rotated-by-EXIF pictures all become uint8 [H, W, 3].
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageFile, ImageOps

from pool.errors import Problem
from tir_env.files import write_aside
from tir_env.images.operations import Image, quantize

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # JPEG includes the MPO that many phones write
MAX_PIXELS = 64_000_000  # 8,000 x 8,000; 192 MB as uint8, and five times that while an alpha channel is laid on white
MAX_BYTES = 512 << 20  # of the file
MIN_SIDE = 8
PILLOWS = 2 * (Pillow.MAX_IMAGE_PIXELS or 0)  # pixels that it refuses to read more than

_bound = threading.Lock()


class ImageError(Problem):
    """A file that cannot become an image: which, why, and what to do."""


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE) -> Image:
    """Read a picture file. Raises `ImageError`; never returns a half-read picture."""
    return decode_image(_bytes_of(Path(path)), name=str(path), max_pixels=max_pixels, min_side=min_side)


def read_levels(path: str | Path) -> NDArray[Any]:
    """[H, W] of a PNG that is a map and no photograph: grey levels as they are, 8 or 16 bits; of colours the blue."""
    data = _bytes_of(Path(path))
    picture = _loaded(data, str(path), MAX_PIXELS, 1, ("PNG",))
    if picture.mode.startswith("I"):
        return np.asarray(picture)
    if data[24] == 16:  # bits, as the header says
        raise ImageError(path, "has 16-bit colours or alpha, of which Pillow keeps eight", "Convert it to 16-bit grey.")
    return np.asarray(picture.convert("RGB"))[..., 2]


def _bytes_of(path: Path) -> bytes:
    try:
        if not path.is_file():
            reason = "is a folder, not a file" if path.is_dir() else "no such file"
            raise ImageError(path, reason, "Check the path.")
        size = path.stat().st_size
        if size == 0:
            raise ImageError(path, "the file is empty", "Fetch or export it again.")
        if size > MAX_BYTES:
            raise ImageError(path, f"the file has {size >> 20} MiB, over the limit of {MAX_BYTES >> 20}", "Export it smaller.")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageError(path, f"cannot be read: {error}", "Check the path and its permissions.") from error


def decode_image(data: bytes, *, name: str = "image", max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE) -> Image:
    """`read_image` for bytes that are already in memory."""
    with _up_to(max_pixels):
        return _decode(data, name, max_pixels, min_side)


@contextmanager
def _up_to(pixels: int) -> Iterator[None]:
    """Pillow has a bound of its own, one for all that read: where the caller's is higher, that holds."""
    if pixels <= PILLOWS:
        yield
        return
    with _bound:
        own, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, pixels
        try:
            yield
        finally:
            Pillow.MAX_IMAGE_PIXELS = own


def _decode(data: bytes, name: str, max_pixels: int, min_side: int) -> Image:
    picture = _loaded(data, name, max_pixels, min_side)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = dict(getattr(picture, "tag_v2", {}))  # of a TIFF; turning it loses them
            return _to_rgb(ImageOps.exif_transpose(picture), tags)
    except Exception as error:
        raise _unreadable(name, data, error) from error


def _loaded(data: bytes, name: str, max_pixels: int, min_side: int, formats: tuple[str, ...] = FORMATS) -> ImageFile.ImageFile:
    """Unpacked whole, and not before its size is known to be within the limits."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here, and odd metadata does not matter
            picture = Pillow.open(io.BytesIO(data), formats=formats)
    except Pillow.DecompressionBombError as error:
        raise ImageError(name, str(error), "Crop or shrink it first.") from error
    except Exception as error:  # Pillow raises whatever its plug-ins raise: SyntaxError, struct.error, MemoryError ...
        raise _unreadable(name, data, error, formats) from error
    width, height = picture.size
    if width * height > max_pixels:
        reason = f"has {width}x{height} pixels, over the limit of {max_pixels:,}"
        raise ImageError(name, reason, "Crop or shrink it, or raise max_pixels if you trust it.")
    if min(width, height) < min_side:
        raise ImageError(name, f"has {width}x{height} pixels; the shorter side must be at least {min_side}", "Leave it out.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ImageFile.LOAD_TRUNCATED_IMAGES = False  # others in this process may have asked for halves: pyiqa's data sets do
            picture.load()  # raises on truncated data: half a picture is not a picture
    except Exception as error:
        raise _unreadable(name, data, error, formats) from error
    return picture


def _unreadable(name: str, data: bytes, error: Exception, formats: tuple[str, ...] = FORMATS) -> ImageError:
    if isinstance(error, Pillow.UnidentifiedImageError) or not data:
        return ImageError(name, f"is no picture in {', '.join(formats)}, of a kind that can be read", "Convert it to PNG.")
    if type(error) is ValueError and str(error).startswith("its "):
        return ImageError(name, str(error), "Convert it to PNG.")
    detail = f"{type(error).__name__}: {error}".splitlines()[0]
    return ImageError(name, f"the picture is damaged or cut short ({detail})", "Fetch or export it again.")


def _to_rgb(picture: Pillow.Image, tags: dict[int, Any]) -> Image:
    mode = picture.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return np.repeat(_grey_levels(picture, tags)[..., None], 3, axis=2)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Pillow.new("RGBA", picture.size, "white")
        picture = Pillow.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"), np.uint8)


def _grey_levels(picture: Pillow.Image, tags: dict[int, Any]) -> Image:
    """Single-channel deep pixels to 0..255: 16 unsigned bits, or floats that plainly lie in 0..1 or 0..255."""
    bits, sample_format = tags.get(258, (16,))[0], tags.get(339, (1,))[0]
    if picture.mode == "F":
        values = np.asarray(picture, np.float32)
        low, high = (float(values.min()), float(values.max())) if np.isfinite(values).all() else (-np.inf, np.inf)
        peak = next((p for p in (1.0, 255.0) if -0.05 * p <= low and high <= 1.05 * p), 0.0)
        if not peak:
            raise ValueError(f"its float pixels range from {low:g} to {high:g}, not over 0..1 or 0..255")
        return quantize(values * np.float32(255.0 / peak))
    if bits != 16 or sample_format != 1:
        raise ValueError(f"its {bits}-bit integer pixels have no agreed range; export 8 or 16 unsigned bits")
    levels = ((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8)
    return 255 - levels if tags.get(262) == 0 else levels  # 0: white is zero


def write_image(path: str | Path, image: Image) -> None:
    """Write a PNG (or what the suffix says); the folder is made if it is missing."""
    path = Path(path)
    kind = Pillow.registered_extensions().get(path.suffix.lower())
    if kind not in Pillow.SAVE:
        raise Problem(path, "is no picture that can be written", "End the name in .png.")
    write_aside(path, lambda aside: Pillow.fromarray(image).save(aside, kind))

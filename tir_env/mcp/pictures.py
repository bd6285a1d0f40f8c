"""How pictures come in and results go out: by path inside one folder, or inline as base64. Sizes are limited both ways.

What an assistant says is not trusted: a path that leads out of the folder, also by a symbolic link, is refused before anything is
known of what lies there; a result takes a new name and never the place of another file.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Pillow
from pydantic import BaseModel, Field

from pool import Problem
from pool.errors import readable
from tir_env.images import Image
from tir_env.images.reading import SUFFIXES, decode_image

SHOWN = 80  # characters of a name in an error
LONGEST = 1024  # characters of a path; what is longer is a picture given as a string


class PictureError(Problem):
    """A picture that cannot be taken or handed out: a path that is not allowed, a name that is taken, too many bytes or pixels."""

    def __init__(self, thing: object, reason: object, remedy: str = "") -> None:
        text = str(thing)  # an assistant's own, of any length
        super().__init__(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...", reason, remedy)


class Inline(BaseModel):
    """A picture in the message itself; an image block of the protocol is one."""

    data: str = Field(description="A PNG, JPEG, WebP, TIFF or BMP file, as base64")


Picture = str | Inline  # a path inside the folder, or the picture itself


@dataclass(frozen=True)
class Limits:
    bytes: int = 32 << 20  # of a picture file, coming in or going out
    pixels: int = 64_000_000  # of a picture or a result, which may be 16 times as large
    scored: int = 4_000_000  # pixels of a picture that metrics see: ssim takes a kilobyte for each

    def check_pixels(self, width: int, height: int, what: str) -> None:
        if width * height > self.pixels:
            reason = f"would have {width}x{height} pixels, over the limit of {self.pixels:,}"
            raise PictureError(what, reason, "Give a smaller picture, or start the server with a larger --max-pixels.")

    def check_scored(self, image: Image, what: str) -> None:
        height, width = image.shape[:2]
        if width * height > self.scored:
            reason = f"has {width}x{height} pixels, over the limit of {self.scored:,} for metrics"
            raise PictureError(what, reason, "Score a reduced copy, or start the server with a larger --max-scored-pixels.")


class Folder:
    """The one folder whose pictures may be read and into which results may be written."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise PictureError(root, "is no folder", "Make it first, or name another one.")
        self.root = root.resolve()

    def read(self, name: str, limits: Limits) -> bytes:
        try:
            path = self._inside(name)
            if not path.is_file():  # nor a pipe, which would never end
                raise PictureError(name, "there is no such picture in the folder", "list_images names those that there are.")
            with path.open("rb") as file:
                data = file.read(limits.bytes + 1)
        except OSError as error:
            raise PictureError(name, f"cannot be read: {error.strerror}", "Check its name and permissions.") from error
        if len(data) > limits.bytes:
            raise PictureError(name, f"has over {limits.bytes:,} bytes, which is the limit", "Export it smaller.")
        return data

    def write(self, name: str, data: bytes) -> str:
        """A new file; the name that it has inside the folder."""
        path = self.free(name)
        try:
            with path.open("xb") as file:
                try:
                    file.write(data)
                    file.flush()
                except OSError:
                    path.unlink()  # half a picture is none
                    raise
        except OSError as error:
            raise PictureError(name, f"cannot be written: {error.strerror}", "Choose another name.") from error
        return path.relative_to(self.root).as_posix()

    def free(self, name: str) -> Path:
        """Where a new file of that name goes. Asked before the work is done, too."""
        path = self._inside(name)
        if path.suffix != ".png":
            raise PictureError(name, "is no name for a result", "Results are PNG files: end it in .png.")
        try:
            if path.exists() or path.is_symlink():
                raise PictureError(name, "is there already, and nothing is overwritten", "Choose a new name.")
            if not path.parent.is_dir():
                raise PictureError(name, "lies in a folder that there is not", "Name one that is there, or none.")
        except OSError as error:
            raise PictureError(name, f"is no file's name: {error.strerror}", "Choose a shorter one.") from error
        return path

    def names(self, most: int) -> tuple[list[str], bool]:
        """The pictures in it, sorted within each folder, at most so many; and whether there are more."""
        found: list[str] = []
        for name in self._walk():
            if len(found) == most:
                return found, True
            found.append(name)
        return found, False

    def _walk(self) -> Iterator[str]:
        for place, folders, files in os.walk(self.root):  # it does not follow links to folders
            folders.sort()
            for file in sorted(files):
                name = (Path(place) / file).relative_to(self.root).as_posix()
                if Path(name).suffix.lower() in SUFFIXES and self._has(name):
                    yield name

    def _has(self, name: str) -> bool:
        if readable(name) != name:  # not UTF-8: no message can hold it
            return False
        try:
            self._inside(name)
        except PictureError:  # a link that leads out, or round in a circle
            return False
        return True

    def _inside(self, name: str) -> Path:
        """Where a path leads once all links in it are followed."""
        try:
            path = (self.root / name).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte
            raise PictureError(repr(name), "is no path", "Give that of a picture, relative to the folder.") from error
        if not path.is_relative_to(self.root):
            raise PictureError(name, "lies outside of the folder that is served", "list_images names the pictures in it.")
        return path


def read_picture(picture: Picture, folder: Folder | None, limits: Limits) -> Image:
    if isinstance(picture, Inline):
        return decode_image(_decoded(picture.data, limits), name="the inline picture", max_pixels=limits.pixels)
    if len(picture) > LONGEST or picture.startswith("data:"):
        raise PictureError(picture, "is no path", 'Give a picture itself as {"data": BASE64}.')
    return decode_image(_folder(folder, picture).read(picture, limits), name=picture, max_pixels=limits.pixels)


def check_place(name: str, folder: Folder | None) -> None:
    """Find mistakes about where a result goes before a minute is spent on making it."""
    if name:
        _folder(folder, name).free(name)


def hand_out(image: Image, name: str, folder: Folder | None, limits: Limits) -> tuple[str | None, bytes | None]:
    """Save it under this name, or without one give its bytes: (saved as, PNG bytes)."""
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "PNG")
    data = buffer.getvalue()
    if name:
        return _folder(folder, name).write(name, data), None
    if len(data) > limits.bytes:
        reason = f"has {len(data):,} bytes, over the limit of {limits.bytes:,} for an inline one"
        raise PictureError("the result", reason, "Give save_as, a file name in the folder.")
    return None, data


def _folder(folder: Folder | None, name: str) -> Folder:
    if folder is None:
        reason = "is a path, and this server was started without a folder"
        raise PictureError(
            name, reason, 'Give pictures inline as {"data": BASE64} and leave save_as empty, or start it with --folder.'
        )
    return folder


def _decoded(text: str, limits: Limits) -> bytes:
    text = "".join(text.rpartition("base64,")[2].split())  # a data URL is one, too
    if len(text) * 3 // 4 > limits.bytes:
        raise PictureError("the inline picture", f"has over {limits.bytes:,} bytes, which is the limit", "Export it smaller.")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise PictureError("the inline picture", f"is no base64: {error}", "Encode the file's bytes, nothing else.") from error

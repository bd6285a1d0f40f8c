"""Broken picture files: bytes flipped, cut, doubled, spliced; headers with absurd sizes; odd modes and bit depths."""

from __future__ import annotations

import io
import math
import random
import struct
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from experiments.drills.fuzzing.trials import Trial
from tir_env.images.operations import check_image
from tir_env.images.reading import MAX_PIXELS, read_image
from tir_env.images.sources import skimage_photos


def pictures(rng: random.Random, folder: Path) -> Generator[Trial]:
    good = good_pictures()
    while True:
        yield from trial(folder, *mutated_picture(rng, good))


def largest(rng: random.Random, folder: Path) -> Generator[Trial]:
    """Not fuzzed, and few: what must fit into the memory."""
    for suffix, data in largest_pictures():
        yield from trial(folder, suffix, data)


def trial(folder: Path, suffix: str, data: bytes) -> Generator[Trial]:
    path = folder / f"input.{suffix}"
    path.write_bytes(data)
    yield lambda: check_image(read_image(path))
    path.unlink()


def good_pictures() -> list[tuple[str, bytes]]:
    """Small pictures in every format and mode that we claim to read, from a real photograph."""
    photo = Pillow.fromarray(skimage_photos().find("coffee").image[100:164, 200:280])
    made: list[tuple[str, bytes]] = []

    def add(suffix: str, picture: Pillow.Image, **options: Any) -> None:
        stream = io.BytesIO()
        picture.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **options)
        made.append((suffix, stream.getvalue()))

    for mode in ("RGB", "L", "1", "P", "RGBA", "LA"):
        add("png", photo.convert(mode))
    add("png", Pillow.fromarray(np.asarray(photo.convert("L"), np.uint16) * 257))
    for mode in ("RGB", "L", "CMYK"):
        add("jpg", photo.convert(mode), quality=90)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    add("jpg", photo, exif=exif, progressive=True)
    for mode in ("RGB", "L", "RGBA", "CMYK", "F", "I"):
        add("tif", photo.convert(mode))
    add("tif", photo, compression="tiff_lzw")
    add("webp", photo, quality=80)
    add("webp", photo.convert("RGBA"), lossless=True)
    add("bmp", photo)
    add("bmp", photo.convert("P"))
    return made


def mutated_picture(rng: random.Random, good: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    suffix, data = rng.choice(good)
    raw = bytearray(data)
    kind = rng.randrange(9)
    if kind == 0:
        raw = raw[: rng.randrange(len(raw))]
    elif kind == 1:
        for _ in range(rng.choice((1, 3, 20, 200))):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    elif kind == 2:  # the header, where sizes and depths are
        for _ in range(rng.randrange(1, 8)):
            raw[rng.randrange(min(64, len(raw)))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    elif kind == 3:
        other = rng.choice(good)[1]
        raw = raw[: rng.randrange(len(raw))] + other[rng.randrange(len(other)) :]
    elif kind == 4:
        start = rng.randrange(len(raw))
        raw = raw[:start] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 500))) + raw[start:]
    elif kind == 5:
        return suffix, bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 10, 1000))))
    elif kind == 6:
        return "png", bomb(rng)
    elif kind == 7:
        return rng.choice(("png", "jpg", "tif", "webp", "bmp")), bytes(raw)  # the wrong suffix
    return suffix, bytes(raw)


def largest_pictures() -> Iterator[tuple[str, bytes]]:
    """Honest pictures as large as we take them, in the modes that need most memory; tiny as files."""
    side = math.isqrt(MAX_PIXELS)
    for values in (np.zeros((side, side), np.uint16), np.zeros((side, side, 4), np.uint8), np.zeros((side, side, 2), np.uint8)):
        stream = io.BytesIO()
        Pillow.fromarray(values).save(stream, "PNG", compress_level=1)
        del values
        yield "png", stream.getvalue()


def bomb(rng: random.Random) -> bytes:
    """A tiny PNG that claims to be huge, with correct checksums; sometimes its pixels are really there, all zero."""
    width, height = (rng.choice((1, 30_000, 100_000, 2**31 - 1)) for _ in range(2))
    depth, colour = rng.choice(((8, 2), (16, 2), (8, 6), (1, 0), (8, 3)))
    body = zlib.compress(bytes(rng.choice((10, 1_000_000))))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")

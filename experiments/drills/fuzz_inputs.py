"""Feed malformed and odd files to everything that reads a user's files: pictures, suite YAML, toolbox YAML.

Every input must end in a result or in a typed `Problem` with a name, a reason and a remedy, soon, and within the memory limit. The
inputs are made by mutating good files (bytes flipped, cut, doubled, spliced; headers with absurd sizes; odd modes and bit depths)
and by mutating good YAML as text and as data. Exits with 1 if anything else happens, and prints the input's number and seed.
"""

from __future__ import annotations

import io
import math
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image as Pillow
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.console import main, write_json
from pool import Problem
from tir_env.degradations.suites import open_suite
from tir_env.images.operations import check_image
from tir_env.images.reading import MAX_PIXELS, read_image
from tir_env.images.sources import skimage_photos
from tir_env.tools import Toolbox
from tir_env.tools.toolbox import FOLDER

GOOD_SUITE = """\
name: mine
cases:
  - rain+haze
  - name: night
    steps:
      - dark: {kind: gamma, gamma: [0.3, 0.4]}
      - noise: {kind: gaussian, sigma: 60}
      - jpeg
  - name: blurred
    steps: [motion blur, {defocus blur: {radius: 4}}]
"""


@dataclass
class Fuzz:
    images: int = 2000
    """Picture files."""
    yaml: int = 500
    """YAML files, half suites and half toolboxes."""
    seed: int = 0
    """Decides every mutation."""
    seconds: float = 20.0
    """Longest that one input may take."""
    memory_gib: float = 2.0
    """Peak memory of the process that must not be passed."""
    json: Path | None = None
    """Write the counts here."""


class Hang(BaseException):
    """An input took too long. Not an `Exception`, so that no handler swallows it."""


# --- pictures -------------------------------------------------------------------------------------------------------------------


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


# --- YAML -----------------------------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 3.5, float("nan"), float("inf"), 10**30, "", " ", "x" * 3000, "rain+", "+", "ünï", [], {}, [[]], [1, 2, 3],
    {"a": 1}, "../../etc/passwd", "os:system", "\x00", {"kind": "gaussian"}, [None], ["noise"], "2020-13-45",
)  # fmt: skip
SNIPPETS = (
    "\t", ":", "- ", "{", "}", "[", "&a ", "*a", "!!python/object/apply:os.system ['true']", "%", "\x00", "\ufeff", "---\n", "? ", "|",
    "<<: *a", "2020-99-99", "0x", "!!binary x", "!!set", "a: &a [*a]", "'", '"', "#", ",", "é",
)  # fmt: skip


def mutated_yaml(rng: random.Random, good: str) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:  # as text
        text = good
        for _ in range(rng.randrange(1, 6)):
            place = rng.randrange(len(text) + 1)
            text = text[:place] + rng.choice(SNIPPETS) + text[place + rng.choice((0, 0, 1, 10)) :]
        return text.encode("utf-8", "replace")
    if kind == 1:  # as bytes
        raw = bytearray(good.encode())
        for _ in range(rng.randrange(1, 20)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        return bytes(raw[: rng.randrange(len(raw)) + 1])
    if kind == 2 and rng.random() < 0.1:  # the billion laughs, and endless nesting
        laughs = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
        )
        return rng.choice((laughs.encode(), b"name: " + b"[" * 5000, b"{" * 3000 + b"}" * 3000))
    data = yaml.safe_load(good)
    for _ in range(rng.randrange(1, 4)):  # as data: some node replaced, dropped, doubled, renamed
        mutate_node(rng, data)
    return yaml.safe_dump(data, allow_unicode=True).encode()


def mutate_node(rng: random.Random, node: Any) -> None:
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        child = node[key]
        if isinstance(child, dict | list) and child and rng.random() < 0.7:
            node = child
            continue
        action = rng.randrange(4)
        if action == 0:
            del node[key]
        elif action == 1 and isinstance(node, dict):
            node[rng.choice(("nmae", "Tools", "extra", 5, None))] = node.pop(key)
        elif action == 2 and isinstance(node, list):
            node.append(child)
        else:
            node[key] = rng.choice(ODD)
        return


# --- the drill ------------------------------------------------------------------------------------------------------------------


def feed(
    reader: Callable[[Path], None], inputs: Iterator[tuple[str, bytes]], settings: Fuzz
) -> tuple[Counter[str], list[str], float]:
    """Counts of how inputs ended, what must not happen, and the longest time."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = 0.0

    def alarm(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, alarm)
    with tempfile.TemporaryDirectory() as folder:
        for number, (suffix, data) in enumerate(inputs):
            path = Path(folder) / f"input-{number}.{suffix}"
            path.write_bytes(data)
            began = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, settings.seconds)
            try:
                reader(path)
                counts["result"] += 1
            except Problem as problem:
                counts[type(problem).__name__] += 1
                if not (problem.thing and problem.reason and problem.remedy):
                    wrong.append(f"input {number}: an error without thing, reason or remedy: {problem!r}")
            except Hang:
                wrong.append(f"input {number}: took more than {settings.seconds} s")
            except BaseException as error:
                wrong.append(f"input {number}: {type(error).__name__}: {error}")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            slowest = max(slowest, time.perf_counter() - began)
            path.unlink()
    return counts, wrong, slowest


def read_picture(path: Path) -> None:
    check_image(read_image(path))


def read_suite(path: Path) -> None:
    open_suite(str(path))


def read_toolbox(path: Path) -> None:
    Toolbox.load(path)


def drill(settings: Fuzz) -> None:
    good, rng = good_pictures(), random.Random(settings.seed)
    toolbox = (FOLDER / "pocket.yaml").read_text(encoding="utf-8")
    half = settings.yaml // 2
    runs: dict[str, tuple[Callable[[Path], None], Iterator[tuple[str, bytes]]]] = {
        "largest pictures": (read_picture, largest_pictures()),
        "pictures": (read_picture, (mutated_picture(rng, good) for _ in range(settings.images))),
        "suites": (read_suite, (("yaml", mutated_yaml(rng, GOOD_SUITE)) for _ in range(half))),
        "toolboxes": (read_toolbox, (("yaml", mutated_yaml(rng, toolbox)) for _ in range(settings.yaml - half))),
    }
    table = Table("inputs", "ended in", "slowest", "wrong", box=box.SIMPLE_HEAD)
    report: dict[str, Any] = {}
    problems: list[str] = []
    for name, (reader, inputs) in runs.items():
        counts, wrong, slowest = feed(reader, inputs, settings)
        problems += [f"{name}: {line}" for line in wrong]
        ended = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        table.add_row(f"{sum(counts.values()) + len(wrong)} {name}", ended, f"{slowest:.2f} s", str(len(wrong)))
        report[name] = {"ended": counts, "wrong": wrong, "slowest_s": slowest}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if peak > settings.memory_gib:
        problems.append(f"peak memory {peak:.2f} GiB is over {settings.memory_gib}")
    Console().print(table)
    print(f"peak memory of the process {peak:.2f} GiB, limit {settings.memory_gib}")
    write_json(settings.json, {"seed": settings.seed, "peak_gib": peak, **report})
    for line in problems:
        print(line, file=sys.stderr)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main(Fuzz, drill, __doc__)

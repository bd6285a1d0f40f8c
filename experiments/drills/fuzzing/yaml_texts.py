"""Suites and toolboxes as YAML, mutated as text, as bytes and as data."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from experiments.drills.fuzzing.data import NAMES, PLAIN, mutate
from experiments.drills.fuzzing.trials import Trial
from tir_env.degradations import degrade
from tir_env.degradations.suites import open_suite
from tir_env.images.operations import check_image
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
    data = mutate(rng, loaded(good), PLAIN, (*NAMES, 5, None))
    return yaml.safe_dump(data, allow_unicode=True).encode()


@cache
def loaded(text: str) -> Any:
    return yaml.safe_load(text)


def suites(rng: random.Random, folder: Path) -> Generator[Trial]:
    """What is read must also spoil a picture."""
    clean = skimage_photos().find("coffee").image[100:140, 200:248]

    def use(path: Path) -> None:
        for case in open_suite(str(path)):
            check_image(degrade(clean, case, 0).image)

    return _files(rng, folder, GOOD_SUITE, use)


def toolboxes(rng: random.Random, folder: Path) -> Generator[Trial]:
    return _files(rng, folder, (FOLDER / "pocket.yaml").read_text(encoding="utf-8"), Toolbox.load)


def _files(rng: random.Random, folder: Path, good: str, read: Callable[[Path], object]) -> Generator[Trial]:
    path = folder / "input.yaml"
    while True:
        path.write_bytes(mutated_yaml(rng, good))
        yield lambda: read(path)

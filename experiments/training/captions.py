"""Captions of degraded images: how severe each degradation is, the many ways to say so, and of which images a caption is true.

A caption makes *claims*: one entry for each of the eight degradations, a level 0..4, `ANY` (there is some) or `SILENT` (not said).
It is true of an image to the degree to which all its claims are, so that an image may have several true captions in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from agents.training_free.perceive import LEVELS, NAMES, TEMPLATES

DEGRADATIONS = tuple(NAMES)
SILENT, ANY = -1, len(LEVELS)
CONTEXT = 40  # tokens; the longest caption has fewer

Claims = NDArray[np.int64]  # [degradations]
Rng = np.random.Generator

# The first of each is what prompts say.
SAY_LEVEL = (
    ("very low", "no", "no visible"),
    ("low", "slight", "light", "weak", "a little"),
    ("medium", "moderate", "some", "noticeable"),
    ("high", "strong", "heavy", "considerable"),
    ("very high", "very strong", "very heavy", "severe", "extreme"),
)
SAY_NAME = {
    "low resolution": ("low resolution", "loss of resolution", "downsampling"),
    "noise": ("noise", "grain", "sensor noise"),
    "jpeg": ("jpeg compression artifacts", "jpeg compression artifact", "jpeg", "jpeg artifacts", "blocking", "compression artifacts"),
    "dark": ("darkness", "dark", "low light", "underexposure"),
    "haze": ("haze", "fog", "mist"),
    "motion blur": ("motion blur", "camera shake"),
    "defocus blur": ("defocus blur", "out of focus blur", "defocus"),
    "rain": ("rain", "rain streaks"),
}  # fmt: skip
OPENINGS = ("a photo with", "an image with", "a picture with", "this photo has", "the image shows", "", "a photograph with")
CLEAN = (
    "a clean photo",
    "a clear image",
    "a photo with nothing wrong",
    "a sharp clean photo without degradation",
    "a perfect picture",
)
NOTHING_ELSE = ("and nothing else", "only", "alone", "but otherwise clean")


# --- severity -----------------------------------------------------------------------------------------------------------------


def severity(entry: Mapping[str, Any]) -> float:
    """How bad one entry of `degrade`'s record is, in 0..1: its parameters on one scale for all kinds of a degradation."""
    name, params = entry["degradation"], entry["params"]
    if name == "low resolution":
        value = 1.0  # there is only one
    elif name == "noise":  # σ; Poisson's is about 0.042 of the range at mid-grey (256 levels) for each unit of scale
        value = (params["sigma"] if params["kind"] == "gaussian" else 10.7 * params["scale"]) / 50
    elif name == "jpeg":
        value = (100 - params["quality"]) / 90
    elif name == "dark":  # the share of its light that mid-grey loses
        lost = {
            "shift": lambda p: p["shift"] / 128,
            "gamma": lambda p: 1 - 2 * 0.5 ** (1 / p["gamma"]),
            "stretch": lambda p: 1 - p["peak"] / 255,
        }
        value = lost[params["kind"]](params) / 0.65
    elif name == "haze":  # the share of the light that comes from the haze at half the depth
        value = (1 - math.exp(-params["beta"] / 2)) / 0.6
    elif name == "motion blur":
        value = params["sigma"] / 8
    elif name == "defocus blur":
        value = params["radius"] / 6
    elif name == "rain":
        value = params["value"] / 100
    else:
        raise ValueError(f"no severity is defined for {name!r}")
    return min(max(value, 0.0), 1.0)


def severities(record: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """[degradations]; 0 for what is not in the record."""
    values = np.zeros(len(DEGRADATIONS), np.float32)
    for entry in record:
        index = DEGRADATIONS.index(entry["degradation"])
        values[index] = max(values[index], severity(entry))
    return values


# --- claims and captions --------------------------------------------------------------------------------------------------------


def truth(values: NDArray[np.float32], claims: Claims) -> float:
    """To what degree `claims` hold for an image with these severities: the product over what is claimed."""
    position = 4.0 * values
    near = np.clip(1 - np.abs(position - claims), 0, 1)  # linear between neighbouring levels
    there = np.clip(position, 0, 1)
    return float(np.where(claims == SILENT, 1.0, np.where(claims == ANY, there, near)).prod())


def claim(rng: Rng, values: NDArray[np.float32]) -> Claims:
    """Claims that are true of an image: all that is wrong with it, a part of that, or that besides nothing is."""
    present = np.flatnonzero(values)
    claims = np.full(len(DEGRADATIONS), SILENT)
    kind = rng.random()
    said = present if kind < 0.7 or len(present) < 2 else rng.choice(present, int(rng.integers(1, len(present))), replace=False)
    for index in said:
        # Between two levels the nearer one is the likelier: on average the truth.
        claims[index] = ANY if rng.random() < 0.15 else int(4 * values[index] + rng.random())
    if kind < 0.35 or not len(present):
        claims[[i for i in range(len(claims)) if values[i] == 0]] = 0
    elif kind > 0.8 and (values == 0).any():
        claims[rng.choice(np.flatnonzero(values == 0))] = 0
    return claims


def falsified(rng: Rng, claims: Claims) -> Claims:
    """The same claims with one of them changed: a caption that differs in a word and is wrong."""
    wrong = claims.copy()
    index = int(rng.choice(np.flatnonzero(claims != SILENT)))
    others = [level for level in range(len(LEVELS)) if level != claims[index] and (claims[index] != ANY or level == 0)]
    wrong[index] = rng.choice(others)
    return wrong


def say(rng: Rng, claims: Claims) -> str:
    """One of the many ways to say `claims`."""
    absent, present = np.flatnonzero(claims == 0), rng.permutation(np.flatnonzero(claims > 0))
    exclusive = len(absent) > 1 and len(absent) + len(present) == len(claims)
    if exclusive and not len(present):
        return _one(rng, CLEAN)
    if len(present) + len(absent) == 1 and rng.random() < 0.3:
        [index] = np.flatnonzero(claims != SILENT)
        return say_level(rng, DEGRADATIONS[index], int(claims[index]))
    parts = [_phrase(rng, int(index), int(claims[index])) for index in present]
    if not exclusive:
        parts += [_phrase(rng, int(index), 0) for index in absent]
    text = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return " ".join(part for part in (_one(rng, OPENINGS), text, _one(rng, NOTHING_ELSE) if exclusive else "") if part)


def say_level(rng: Rng, degradation: str, level: int) -> str:
    """One degradation at one level, often word for word as a prompt says it."""
    plain = rng.random() < 0.6
    name = NAMES[degradation] if plain else _one(rng, SAY_NAME[degradation])
    if level == ANY:
        return f"a photo with {name}"
    words = LEVELS[level] if plain else _one(rng, SAY_LEVEL[level])
    return _one(rng, TEMPLATES).format(level=words, name=name)


def _phrase(rng: Rng, index: int, level: int) -> str:
    name = _one(rng, SAY_NAME[DEGRADATIONS[index]])
    return name if level == ANY else f"{_one(rng, SAY_LEVEL[level])} {name}"


def _one(rng: Rng, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


# --- tokens ---------------------------------------------------------------------------------------------------------------------

PAD, UNKNOWN, END = "[PAD]", "[UNK]", "[EOS]"
SPECIAL = (PAD, UNKNOWN, END)


def vocabulary() -> list[str]:
    """Every word that a caption may hold, after the special ones."""
    phrases: list[str] = [*OPENINGS, *CLEAN, *NOTHING_ELSE, *NAMES.values(), "and", ","]
    phrases += [word for words in (*SAY_LEVEL, *SAY_NAME.values()) for word in words]
    phrases += [template.format(level="", name="") for template in TEMPLATES]
    return [*SPECIAL, *sorted({word for phrase in phrases for word in phrase.split()})]


def tokenizer() -> Tokenizer:
    """Words as tokens, lower case, ended by [EOS], padded to `CONTEXT`."""
    words = {word: index for index, word in enumerate(vocabulary())}
    made = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, words[END])])
    made.enable_padding(pad_id=words[PAD], pad_token=PAD, length=CONTEXT)
    made.enable_truncation(CONTEXT)
    return made

"""Model cards: what a weight file is, what it was made from and how, and what it reaches. One Markdown page beside each file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

DATA = (
    "Generated dead leaves (`tir_env.images.generate`) and the photographs inside scikit-image: of the colour ones those of the train "
    "part, and monochrome ones, tinted. Cropped, shrunk, turned and recoloured (`experiments/training/pictures.py`)."
)


def write_card(path: Path, name: str, about: str, recipe: dict[str, Any], facts: dict[str, Any]) -> None:
    """`facts`: seed, steps, minutes, device and the figures, as `make_weights` hands them over."""
    figures = facts.get("figures", {})
    lines = [
        f"# {name}", "", about, "",
        f"**Made from.** {DATA}", "",
        "**Recipe.** " + f"`python experiments/make_weights.py --only {name}`", "",
        *(f"- {key}: {value}" for key, value in recipe.items()),
        *(f"- {key}: {value}" for key, value in facts.items() if key != "figures"), "",
        "**Reached on held-out pictures** (scikit-image's validation part and generated ones, never trained on)", "",
        "| figure | value |", "|---|---|",
        *(f"| {key} | {value:.3f} |" for key, value in figures.items()), "",
        f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}, {path.stat().st_size:,} bytes. License: MIT, as the project.", "",
    ]  # fmt: skip
    path.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")

"""Small things that the tests of tools share: images, weight folders, toolbox files, network files with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tir_env.images.operations import Image
from tir_env.tools import Tool, Toolbox


@pytest.fixture
def photo() -> Image:
    import skimage.data

    return np.ascontiguousarray(skimage.data.astronaut()[:128, 150:278])


@pytest.fixture(autouse=True)
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty $TIR_WEIGHTS, so that no file of the machine's user decides a test."""
    folder = tmp_path / "weights-of-user"
    folder.mkdir()
    monkeypatch.setenv("TIR_WEIGHTS", str(folder))
    monkeypatch.delenv("TIR_DATA", raising=False)
    return folder


@pytest.fixture
def toolbox_file(tmp_path: Path) -> Callable[..., Path]:
    def write(*entries: dict[str, object], **more: object) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"name": "mine", "tools": list(entries), **more}))
        return path

    return write


@pytest.fixture
def tool_of(toolbox_file: Callable[..., Path]) -> Callable[..., Tool]:
    """The one tool of a toolbox file with this entry: always through the real path, from YAML to tool."""

    def make(**entry: object) -> Tool:
        return Toolbox.load(toolbox_file({"task": "denoise", "model": "m", **entry}))[0]

    return make


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)


def noise_image(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

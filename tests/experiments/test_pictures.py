"""What lies in a run's folder in a thumbnail's place."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from experiments.report_page.pictures import LARGEST, SIDE, gather, place, thumbnail
from experiments.report_page.reading import read_run
from tests.experiments.report_runs import make_run, played


def webp(side: int) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (side, side)).save(file, "WEBP")
    return file.getvalue()


def linked(path: Path) -> None:
    secret = path.parents[2] / "secret.webp"
    secret.write_bytes(thumbnail(np.zeros((8, 8, 3), np.uint8)))
    path.symlink_to(secret)


def linked_folder(path: Path) -> None:
    path.parent.rename(path.parents[2] / "elsewhere")
    path.parent.symlink_to(path.parents[2] / "elsewhere")
    path.write_bytes(webp(8))


@pytest.mark.parametrize(
    "spoil",
    [
        linked, linked_folder, os.mkfifo, Path.mkdir,
        lambda path: path.write_bytes(b"<script>"),
        lambda path: path.write_bytes(webp(8)[:-9]),
        lambda path: path.write_bytes(webp(SIDE + 1)),
        lambda path: path.write_bytes(webp(8) + bytes(LARGEST)),
    ],
)  # fmt: skip
def test_what_is_no_thumbnail_is_not_shown(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    trajectories = played(1)
    folder = make_run(tmp_path / "run", trajectories, toolbox="nowhere.yaml")
    assert gather(read_run(folder, "run"), 1e9).pictures
    path = place(folder, trajectories[0].input_digest)
    path.unlink()
    spoil(path)
    assert gather(read_run(folder, "run"), 1e9).pictures == {}

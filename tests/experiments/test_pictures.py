"""Where a report's pictures come from, and what is in their place."""

from __future__ import annotations

import io
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from experiments.report_page import pictures
from experiments.report_page.pictures import LARGEST, SIDE, gather, place, thumbnail
from experiments.report_page.reading import read_run
from experiments.runs import THUMBNAILS, TRAJECTORIES
from tests.experiments.report_runs import make_run, played
from tir_env import trajectory_file
from tir_env.images.reading import read_image
from tir_env.trajectory import Trajectory


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


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A run whose trajectories were saved with their images."""
    trajectories = played(4)
    folder = make_run(tmp_path / "run", trajectories, toolbox="nowhere.yaml")
    for number, trajectory in enumerate(trajectories):
        trajectory.save(folder / TRAJECTORIES / f"{number:04d}")
    return folder


def test_of_images_saved_with_a_run_no_more_than_two_are_in_memory(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = gather(read_run(whole, "run"), 1e9).pictures
    shutil.rmtree(whole / THUMBNAILS)
    seen: list[weakref.ref[np.ndarray]] = []

    def read(path: Path, **options: Any) -> np.ndarray:
        assert sum(each() is not None for each in seen) <= 1, path
        seen.append(weakref.ref(image := read_image(path, **options)))
        return image

    monkeypatch.setattr(trajectory_file, "read_image", read)
    run = read_run(whole, "run")
    assert seen == []
    assert gather(run, 1e9).pictures == kept
    assert len(seen) > len(run.trajectories)


def test_an_image_that_is_too_large_or_damaged_costs_the_pictures_alone(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(whole / THUMBNAILS)
    (whole / TRAJECTORIES / "0001" / "input.png").write_bytes(b"no picture")
    run = read_run(whole, "run")
    assert len(run.trajectories) == 4
    [told] = gather(run, 1e9).notes
    assert told.startswith("1 of 4 trajectories have no pictures")
    shutil.rmtree(whole / THUMBNAILS)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 10)
    assert "over the limit of 10" in "".join(gather(run, 1e9).notes)
    assert Trajectory.load(whole / TRAJECTORIES / "0000").image.size > 10, "what a user loads may be larger"


def test_what_lies_in_a_thumbnails_place_stays_and_the_picture_is_shown(whole: Path) -> None:
    kept = gather(read_run(whole, "run"), 1e9).pictures
    there = place(whole, next(iter(kept)))
    shutil.rmtree(whole / THUMBNAILS)
    there.mkdir(parents=True)
    (there / "mine.txt").write_text("mine")
    album = gather(read_run(whole, "run"), 1e9)
    assert (album.pictures, album.notes) == (kept, [])
    assert (there / "mine.txt").read_text() == "mine"
    assert {path.stem for path in (whole / THUMBNAILS).iterdir()} == set(kept)
    shutil.rmtree(whole / THUMBNAILS)
    (whole / THUMBNAILS).write_text("mine")
    assert gather(read_run(whole, "run"), 1e9).pictures == kept

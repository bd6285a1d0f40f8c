"""The bounds that the light agent is held against, on tools simple enough to know the answer."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.bench_light import (
    DEPTH,
    LEVELS,
    PUBLISHED,
    Bench,
    bounds,
    greedy_oracle,
    samples,
    samples_table,
    sequences,
    table,
)
from experiments.cells import Cells
from pool import Problem
from tests.conftest import fake_toolbox
from tir_env.images import operations
from tir_env.world import World

TOOLS = ("denoise/brighter", "denoise/darker")  # by 10 grey levels


@pytest.fixture
def world() -> World:
    return World(toolbox=fake_toolbox().subset(TOOLS), suite="dark", crop=32, horizon=DEPTH)


def pairs(*distances: int) -> tuple[list[operations.Image], list[operations.Image | None], list[float]]:
    """Grey images that are so many levels too dark, their references and their PSNR."""
    clean = np.full((32, 32, 3), 128, np.uint8)
    images = [np.full_like(clean, 128 - distance) for distance in distances]
    return images, [clean] * len(images), [psnr(distance) for distance in distances]


def psnr(distance: int) -> float:
    return 20 * float(np.log10(255 / abs(distance)))


def test_the_greedy_oracle_stops_where_nothing_helps(world: World) -> None:
    found = greedy_oracle(world.pool, TOOLS, *pairs(25, 12, -4, 95))
    # 25 -> 15 -> 5, and a third step would end as far on the other side; 12 -> 2; -4 is best left alone; 95 -> 65
    assert found == pytest.approx([psnr(5), psnr(2), psnr(4), psnr(65)], abs=0.01)


def test_every_sequence_is_there_and_its_score_is_its_own(world: World) -> None:
    found = sequences(world.pool, TOOLS, *pairs(25, 12))
    assert len(found) == 1 + 2 + 4 + 8
    assert found["denoise/brighter+denoise/brighter"] == pytest.approx([psnr(5), psnr(8)], abs=0.01)
    assert found["denoise/brighter+denoise/darker"] == pytest.approx(found[""], abs=0.01)


def test_bounds_are_ordered(world: World) -> None:
    found = bounds(world, [world.draw(0, k) for k in range(6)], exhaustive=3, count=5)
    none, single, greedy = (np.array(found[name]) for name in ("no tool", "best single", "greedy oracle"))
    assert found["best single is"] == "denoise/brighter"
    assert single.mean() > none.mean()
    assert (greedy >= np.maximum(none, single) - 1e-6).all()
    assert (np.array(found["exhaustive oracle"]) >= greedy[:3] - 1e-6).all()
    assert len(found["best fixed"]) == 6
    assert found["best fixed is"].count("+") < DEPTH, "of at most so many"
    assert np.mean(found["best fixed"]) >= single.mean() - 1e-6


def test_cells_are_computed_once_and_other_settings_refused(tmp_path: Path) -> None:
    settings = {"patches": 2, "out": tmp_path}
    cells = Cells(tmp_path / "cells.json", settings)
    count = itertools.count()
    for _ in range(2):
        cells.fill("a", lambda: next(count))
        cells = Cells(tmp_path / "cells.json", settings)
    assert (cells.done["a"], next(count)) == (0, 1)
    with pytest.raises(Problem, match="other settings"):
        Cells(tmp_path / "cells.json", {**settings, "patches": 3})
    (tmp_path / "cells.json").write_text('{"settings": ')
    with pytest.raises(Problem, match="is no JSON file"):
        Cells(tmp_path / "cells.json", settings)


def test_the_table_says_how_much_of_the_way_was_gone() -> None:
    row = {"no tool": [20.0], "best single": [21.0], "best fixed": [22.0], "greedy oracle": [24.0], "exhaustive oracle": [25.0]}
    done = {f"bounds {level}": row for level in LEVELS} | {"ppo 0": {level: [23.0] for level in LEVELS}}
    made = table(done, Bench("skimage", algos=("ppo",), seeds=1, exhaustive=1, patches=1))
    cells = [[str(cell) for cell in column.cells] for column in made.columns]
    assert cells[0][0] == "no tool"
    assert cells[2][:4] == ["0%", "25%", "50%", "100%"]
    assert (cells[1][-1], cells[2][-1]) == ("23.00", "75%")


def test_the_published_samples_come_in_their_order(tmp_path: Path) -> None:
    for level, base in zip(LEVELS, (0, 40, 80), strict=True):
        for part in ("in", "gt"):
            (tmp_path / f"{level}_{part}").mkdir()
        for number in range(1, 5):
            clean = Image.fromarray(np.full((63, 63, 3), base + number, np.uint8))
            clean.save(tmp_path / f"{level}_in" / (f"{number}.png" if level == "severe" else f"{number}_in.png"))
            clean.save(tmp_path / f"{level}_gt" / f"{number}_gt.png")
    found = samples(tmp_path)
    assert [int(image[0, 0, 0]) for _, image, _ in found] == [1, 2, 3, 4, 41, 42, 43, 44, 81, 82, 83, 84]
    assert all(np.array_equal(image, clean) for _, image, clean in found)
    (tmp_path / "mild_in" / "2_in.png").unlink()
    with pytest.raises(Problem, match="holds 11 samples, not 12"):
        samples(tmp_path)


def test_the_table_of_samples_has_means_of_levels_and_of_all() -> None:
    done = {"samples ppo 0": [20.0] * 4 + [22.0] * 4 + [24.0] * 4, "samples ppo 1": [21.0] * 12}
    made = samples_table(done, Bench("skimage", algos=("ppo",), seeds=2))
    cells = [[str(cell) for cell in column.cells] for column in made.columns]
    assert cells[4][0] == f"{np.mean(PUBLISHED):.2f}"
    assert [column[1] for column in cells[1:]] == ["20.50 ±0.71", "21.50 ±0.71", "22.50 ±2.12", "21.50 ±0.71"]

"""Demonstrations: played, perturbed as TIR-Agent's equations 1-4 say, played again, saved and read."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.training_free.bounds import FixedAgent, RandomAgent
from agents.vlm.demonstrations import (
    JSON,
    DemonstrationsError,
    demonstrate,
    execute,
    load,
    permuted,
    perturb,
    read_index,
    resampled,
    save,
)
from pool import Problem
from tests.conftest import BRIGHTER, DARKER, FAILS, LARGER
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory, TrajectoryError
from tir_env.world import World

POCKET = Toolbox.load("pocket")
PLAN = ("denoise/dct", "dejpeg/dct", "dehaze/dark_channel")
PLANS = st.lists(st.lists(st.sampled_from(sorted(PLAN)), max_size=4).map(tuple), max_size=6)


@pytest.fixture(scope="module")
def classical() -> World:
    return World(toolbox="classical", crop=32, horizon=3, suite="noise+jpeg")


@pytest.fixture(scope="module")
def demonstrations(classical: World) -> list[Trajectory]:
    return demonstrate(classical, RandomAgent(3), [classical.draw(0, k) for k in range(12)])


def test_the_teacher_plays_every_start(classical: World, demonstrations: list[Trajectory]) -> None:
    assert [t.start for t in demonstrations] == [classical.draw(0, k) for k in range(12)]
    assert all(t.ended for t in demonstrations)


def test_what_failed_is_left_out(world: World) -> None:
    starts = [world.draw(0, k) for k in range(3)]
    assert demonstrate(world, FixedAgent([BRIGHTER, FAILS], world.stop, "fails"), starts) == []
    assert len(demonstrate(world, FixedAgent([BRIGHTER], world.stop, "works"), starts)) == 3


def test_a_tool_that_runs_twice_is_not_demonstrated(world: World) -> None:
    """In a rollout the second call would be answered that it ran already."""
    starts = [world.draw(0, k) for k in range(3)]
    assert demonstrate(world, FixedAgent([BRIGHTER, BRIGHTER], world.stop, "twice"), starts) == []
    assert len(demonstrate(world, FixedAgent([BRIGHTER, DARKER], world.stop, "once"), starts)) == 3


# -- permutation -----------------------------------------------------------------------------------------------------------------


@given(PLANS, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_permuted_is_all_plans_and_permutations_of_some(plans: list[tuple[str, ...]], alpha: float, seed: int) -> None:
    found = permuted(plans, alpha, np.random.default_rng(seed))
    assert found[: len(plans)] == list(enumerate(plans))
    sources = [i for i, _ in found[len(plans) :]]
    assert sources == sorted(set(sources)), "each is sampled once at the most"
    assert all(Counter(plan) == Counter(plans[i]) for i, plan in found)
    assert found == permuted(plans, alpha, np.random.default_rng(seed))


def test_permuted_samples_a_share_of_alpha_and_every_order_alike() -> None:
    found = permuted([PLAN] * 20_000, 0.3, np.random.default_rng(0))[20_000:]
    assert len(found) / 20_000 == pytest.approx(0.3, abs=0.01)
    orders = Counter(plan for _, plan in found)
    assert len(orders) == 6
    assert all(count / len(found) == pytest.approx(1 / 6, abs=0.02) for count in orders.values())
    assert permuted([PLAN], 0, np.random.default_rng(0)) == [(0, PLAN)]
    assert len(permuted([PLAN], 1, np.random.default_rng(0))) == 2


# -- tools -----------------------------------------------------------------------------------------------------------------------


def test_resampled_mixes_the_demonstrated_tool_with_an_even_choice() -> None:
    rng = np.random.default_rng(0)
    drawn = [resampled(PLAN, POCKET, 0.4, rng) for _ in range(10_000)]
    for place, own in enumerate(PLAN):
        names = [tool.name for tool in POCKET if tool.task == own.partition("/")[0]]
        counts = Counter(plan[place] for plan in drawn)
        assert set(counts) == set(names)
        for name in names:
            expected = 0.6 * (name == own) + 0.4 / len(names)
            assert counts[name] / 10_000 == pytest.approx(expected, abs=0.02)


@given(PLANS, st.integers(0, 2**32 - 1))
def test_resampled_keeps_the_tasks(plans: list[tuple[str, ...]], seed: int) -> None:
    for plan in plans:
        found = resampled(plan, POCKET, 1.0, np.random.default_rng(seed))
        assert [tool.partition("/")[0] for tool in found] == [tool.partition("/")[0] for tool in plan]
        assert resampled(plan, POCKET, 0.0, np.random.default_rng(seed)) == plan


def test_resampled_repeats_no_tool() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(resampled(("denoise/dct", "denoise/drunet"), POCKET, 1.0, rng) for _ in range(3000))
    names = [tool.name for tool in POCKET if tool.task == "denoise"]
    assert set(drawn) == {(a, b) for a in names for b in names if a != b}
    assert min(drawn.values()) > 0.6 * 3000 / len(drawn), "all pairs alike"


# -- played again ----------------------------------------------------------------------------------------------------------------


def test_perturbed_trajectories_hold_what_their_own_tools_give(classical: World, demonstrations: list[Trajectory]) -> None:
    found = list(perturb(demonstrations, classical, 0.5, 0.5, seed=3))
    assert found == list(perturb(demonstrations, classical, 0.5, 0.5, seed=3))
    assert found != list(perturb(demonstrations, classical, 0.5, 0.5, seed=4))
    assert [t.start for t in found[:12]] == [t.start for t in demonstrations]
    own = {id(t) for t in demonstrations}
    fresh = [t for t in found if id(t) not in own]
    assert 0 < len(fresh) < len(found)
    for t in fresh:
        assert t.ended
        assert t.failures == []
        again = classical.remake(t)  # every digest is checked
        assert all(np.array_equal(a.image, b.image) for a, b in zip(again.steps, t.steps, strict=True))


def test_without_perturbation_nothing_is_played_again(classical: World, demonstrations: list[Trajectory]) -> None:
    calls = classical.pool.stats().calls
    assert [id(t) for t in perturb(demonstrations, classical, 0, 0)] == [id(t) for t in demonstrations]
    assert classical.pool.stats().calls == calls
    with pytest.raises(Problem, match="alpha_t: is a probability"):
        list(perturb(demonstrations, classical, 1.5, 0))


def test_plans_of_all_lengths_are_played_in_small_batches(world: World) -> None:
    plans = [(), ("denoise/brighter",), ("denoise/brighter", "denoise/darker", "super_resolve/larger")] * 2
    starts = [world.draw(0, k) for k in range(6)]
    done = execute(world, starts, plans, at_once=4)
    assert [t.start for t in done] == starts
    assert [tuple(t.tool_names) for t in done] == plans
    assert [len(t.steps) for t in done] == [1, 2, 3] * 2, "a stop, unless the horizon came first"
    assert execute(world, [], []) == []


def test_a_plan_that_cannot_be_played_is_left_out(world: World) -> None:
    starts = [world.draw(0, k) for k in range(8)]
    source = demonstrate(world, FixedAgent([BRIGHTER, LARGER], world.stop, "works"), starts)
    found = list(perturb(source, world, 0.0, 1.0))  # half of the tools of denoise fail
    assert 0 < len(found) < 8
    assert not any(t.failures for t in found)
    [twice] = execute(world, starts[:1], [("super_resolve/larger", "super_resolve/larger")])
    assert [failure.kind for failure in twice.failures] == ["refused"]


# -- as a folder -----------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_they_are_the_same(classical: World, demonstrations: list[Trajectory], tmp_path: Path) -> None:
    folder = save(demonstrations, tmp_path / "d", classical, alpha_t=0.3, alpha_m=0.4)
    loaded = list(load(folder, classical))
    assert loaded == demonstrations
    assert all(np.array_equal(a.image, b.image) for a, b in zip(loaded, demonstrations, strict=True))
    index = read_index(folder)
    assert (index.count, index.starts, index.horizon, index.alpha_t, index.alpha_m) == (12, 12, 3, 0.3, 0.4)
    assert (index.toolbox, index.suite) == ("classical", "noise+jpeg")
    assert index.steps == sum(len(t.steps) for t in demonstrations)
    save(demonstrations[:2], folder, classical)
    assert list(load(folder, classical)) == demonstrations[:2], "replaced whole"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def _cut(folder: Path) -> None:
    text = (folder / JSON).read_text()
    (folder / JSON).write_text(text[: len(text) // 2])


def _count(folder: Path) -> None:
    data = json.loads((folder / JSON).read_text())
    (folder / JSON).write_text(json.dumps(data | {"count": 0}))


def _version(folder: Path) -> None:
    data = json.loads((folder / JSON).read_text())
    (folder / JSON).write_text(json.dumps(data | {"version": 2}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / JSON).unlink(), "cannot be read"),
        (lambda folder: shutil.rmtree(folder), "cannot be read"),
        (_cut, "no index of demonstrations of version 1"),
        (_count, "count: Input should be greater than 0"),
        (_version, "version: Input should be 1"),
        (lambda folder: shutil.rmtree(folder / "0001"), "0001 missing or not its own"),
        (lambda folder: shutil.copytree(folder / "0000", folder / "0009"), "0009 missing or not its own"),
        (lambda folder: (folder / "0001" / "input.png").unlink(), "input.png"),
        (lambda folder: (folder / "0001" / "trajectory.json").write_text("{"), "no saved trajectory"),
    ],
)
def test_torn_folders_are_named(  # type: ignore[no-untyped-def]
    classical: World, demonstrations: list[Trajectory], tmp_path: Path, spoil, reason: str
) -> None:
    folder = save(demonstrations[:3], tmp_path / "d", classical)
    spoil(folder)
    with pytest.raises(Problem, match=reason):
        load(folder, classical)


def test_another_toolbox_and_mixed_folders_are_refused(
    classical: World, demonstrations: list[Trajectory], world: World, tmp_path: Path
) -> None:
    folder = save(demonstrations[:2], tmp_path / "d", classical)
    with pytest.raises(DemonstrationsError, match="other tools than toolbox 'fake' has"):
        load(folder, world)
    others = demonstrate(world, FixedAgent([BRIGHTER], world.stop, "works"), [world.draw(0, 0)])
    with pytest.raises(DemonstrationsError, match="other tools than the world's"):
        save(others, tmp_path / "e", classical)
    foreign = save(others, tmp_path / "f", world)
    shutil.rmtree(folder / "0001")
    shutil.copytree(foreign / "0000", folder / "0001")
    with pytest.raises(DemonstrationsError, match="0001 was made with other tools"):
        load(folder, classical)


def test_nothing_else_is_overwritten(classical: World, demonstrations: list[Trajectory], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DemonstrationsError, match="holds other files"):
        save(demonstrations, tmp_path, classical)
    with pytest.raises(DemonstrationsError, match="would hold no demonstrations"):
        save([], tmp_path / "d", classical)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_picture_that_cannot_be_kept_leaves_the_old_folder(
    classical: World, demonstrations: list[Trajectory], tmp_path: Path
) -> None:
    folder = save(demonstrations[:2], tmp_path / "d", classical)
    [bad] = demonstrate(classical, RandomAgent(0), [classical.draw(9, 0)])
    bad.steps[0].notes["policy"] = object()
    with pytest.raises(TrajectoryError, match="cannot be saved"):
        save([demonstrations[0], bad], folder, classical)
    assert list(load(folder, classical)) == demonstrations[:2]
    assert [path.name for path in tmp_path.iterdir()] == ["d"]

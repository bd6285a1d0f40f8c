"""The file: what is read is what was written, and what is damaged, foreign or newer is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.conftest import DARKER, FAILS, LARGER, Mean
from tests.tir_env.tree.forest import grown, real_world, starts_of
from tir_env.tree import Tree, TreeError
from tir_env.tree.file import KEY, REFUSED, checksum, narrow
from tir_env.tree.growing import ground_of, grow


class Loud(Mean):
    def run(self, items: Any) -> Any:
        return [1e4 * each for each in super().run(items)]


@pytest.fixture(scope="module")
def tree() -> Tree:
    world = real_world()
    return grown(world, starts_of(world, 2), Mean(), depth=2)


def test_it_is_read_as_it_was_written(tree: Tree, tmp_path: Path) -> None:
    read = Tree.load(tree.save(tmp_path / "t.safetensors"))
    assert (read.ground, read.starts, read.failures) == (tree.ground, tree.starts, tree.failures)
    for name in ("digests", "sizes", "values", "raws", "features", "children", "unscored"):
        mine, theirs = getattr(tree, name), getattr(read, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_what_one_start_leads_to(tree: Tree) -> None:
    children = tree.children[0]
    assert tree.failure(int(children[FAILS])).kind == "ModelRaised"
    assert tree.children[children[LARGER], LARGER] == REFUSED
    assert tree.children[children[LARGER], DARKER] > 0


def test_joined_trees_keep_their_own(tree: Tree) -> None:
    world = real_world()
    alone = grown(world, starts_of(world, 2)[1:], Mean(), depth=2)
    root = tree.starts[1].root
    np.testing.assert_array_equal(alone.values, tree.values[root:])
    children = tree.children[root:]
    np.testing.assert_array_equal(np.where(children >= 0, children - root, children), alone.children)


@pytest.mark.parametrize("where", [0.2, 0.5, 0.9])
def test_a_file_that_was_cut_short(tree: Tree, tmp_path: Path, where: float) -> None:
    path = tree.save(tmp_path / "t.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * where)])
    with pytest.raises(TreeError, match="cannot be read"):
        Tree.load(path)


def test_a_byte_that_changed(tree: Tree, tmp_path: Path) -> None:
    path = tree.save(tmp_path / "t.safetensors")
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)
    with pytest.raises(TreeError, match="is damaged: its checksum"):
        Tree.load(path)


def test_files_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(TreeError, match="is no file"):
        Tree.load(path)
    path.write_bytes(b"no tensors here")
    with pytest.raises(TreeError, match="cannot be read"):
        Tree.load(path)
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(TreeError, match="is no tree"):
        Tree.load(path)


def rewritten(tree: Tree, path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Path:
    """The file with its record or arrays changed, and a checksum that fits."""
    tree.save(path)
    with safe_open(path, "np") as file:
        told = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118
    change(told, tensors)
    told["checksum"] = checksum(tensors)
    save_file(tensors, path, {KEY: json.dumps(told)})
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda told, _: told.update(version=2), "has schema 2, and this program reads up to 1"),
        (lambda told, _: told.update(version="1"), "is no tree of schema 1: version"),
        (lambda told, _: told["ground"].pop("depth"), "is no tree of schema 1: ground.depth"),
        (lambda told, _: told["ground"].update(depth=10**12), "is no tree of schema 1: ground.depth"),
        (lambda told, _: told["starts"].clear(), "the starts are not in a row"),
        (lambda told, _: told["starts"][1].update(root=0), "the starts are not in a row"),
        (lambda told, _: told["failures"].clear(), "a child is no state of its start"),
        (lambda _, tensors: tensors.pop("value/psnr"), "does not hold together"),
        (lambda _, tensors: tensors["children"].__setitem__((0, 0), 10_000), "a child is no state of its start"),
        (lambda _, tensors: tensors["children"].__setitem__((-1, 0), 0), "a child is no state of its start"),
        (lambda _, tensors: tensors["children"].__setitem__((0, 0), -1), "was not grown"),
        (lambda _, tensors: tensors.update(sizes=tensors["sizes"][:-1]), "sizes has the shape"),
        (lambda _, tensors: tensors.update(unscored=np.array([[0, 9, 0]], np.int32)), "failure is of no state"),
        (lambda _, tensors: tensors["value/psnr"].__setitem__(0, np.nan), "a start is not scored"),
        (lambda _, tensors: tensors["value/psnr"].__setitem__(1, np.inf), "a value is infinite"),
        (lambda _, tensors: tensors["value/psnr"].__setitem__(1, np.nan), "a state is not scored, and nothing says why"),
        (
            lambda _, tensors: tensors.update({"value/psnr": np.full(len(tensors["sizes"]), -1e300)}),
            "a value is infinite, or as",
        ),
        (lambda _, tensors: tensors["raw/psnr"].__setitem__(1, np.inf), "a raw value is not finite"),
        (lambda _, tensors: tensors["raw/psnr"].__setitem__(1, np.nan), "a raw value is not finite"),
        (lambda _, tensors: tensors["features"].__setitem__((1, 0), np.nan), "a feature is not finite"),
        (lambda _, tensors: tensors["sizes"].__setitem__((1, 0), -4), "an image has no size"),
        (lambda _, tensors: tensors.update(digests=tensors["digests"].astype(np.uint16)), "digests is uint16, not uint8"),
        (lambda _, tensors: tensors.update(sizes=tensors["sizes"].astype(np.float32)), "sizes is float32, not signedinteger"),
        (lambda _, tensors: tensors.update(children=tensors["children"].astype(np.float64)), "children is float64"),
        (lambda _, tensors: tensors.update(unscored=tensors["unscored"].astype(np.float64)), "unscored is float64"),
        (lambda told, _: told["starts"][0].update(reference_digest="../../x"), r"starts\.0\.reference_digest"),
    ],
)
def test_what_does_not_hold_together_is_refused(tree: Tree, tmp_path: Path, change: Any, reason: str) -> None:
    path = rewritten(tree, tmp_path / "t.safetensors", change)
    with pytest.raises(TreeError, match=reason):
        Tree.load(path)


def test_a_record_without_end_is_refused(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(3)}, tmp_path / "t", {KEY: "[" * 100_000})
    with pytest.raises(TreeError, match="cannot be read"):
        Tree.load(tmp_path / "t")


def test_trees_of_different_settings_are_not_joined(tree: Tree) -> None:
    other = replace(tree, ground=tree.ground.model_copy(update={"depth": 1}))
    with pytest.raises(TreeError, match="were grown with different settings"):
        Tree.joined([tree, other])


def test_features_that_a_precision_does_not_hold_are_not_grown() -> None:
    world, encoder = real_world(), Loud()
    [trajectory] = world.begin(starts_of(world, 1))
    with pytest.raises(TreeError, match=r"gives features that float16 does not hold\. Grow it with --precision float32"):
        grow(world, trajectory, ground_of(world, 1, encoder), encoder)
    assert np.isfinite(grow(world, trajectory, ground_of(world, 1, encoder), encoder, precision="float32").features).all()


def test_columns_are_narrowed_where_nothing_is_lost() -> None:
    assert narrow(np.array([0.5, np.nan])).dtype == np.float32
    assert narrow(np.array([0.1])).dtype == np.float64

"""A tree: every state that sequences of tools lead to from some starts, with qualities and features but without pixels.

It is one safetensors file: an array for each thing that is known of the states, and a JSON record of all the rest. What is read is
checked (kind, version, every byte by a checksum, every index) before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pool import Problem
from rewards import Quality, Score
from tir_env.files import write_aside
from tir_env.trajectory import Failure, Start
from tir_env.trajectory_file import DegradationRecord, Digest, Record
from tir_env.yaml_files import suggest

VERSION: Literal[1] = 1
KEY = "tir_env.tree"  # of the JSON record in the file
DEEPEST = 64  # steps: with five tools a tree of ten has ten million states
LARGEST = 1e100  # value: of two larger ones even the difference may be infinite, and no trajectory holds that
SHIPPED = Path(__file__).parent / "pocket.safetensors"

# What stands among the children in place of a state. Less than REFUSED: the failure of number REFUSED - 1 - child.
UNKNOWN, REFUSED = -1, -2


class TreeError(Problem):
    """A tree that cannot be read or grown, or that was asked for what it does not hold."""


class ToolRecord(Record):
    name: str
    scale: int


class MetricRecord(Record):
    name: str
    needs_reference: bool


class EncoderRecord(Record):
    name: str  # "" if no features are kept
    dim: int


class StartRecord(Record):
    start: Start
    part: str  # train, validation, test
    record: list[DegradationRecord]
    reference_digest: Digest | None
    root: int  # its first state


class Ground(Record):
    """What the tree was grown from: the settings of `World` that make the same pixels again, and how deep it is."""

    images: str
    suite: str
    toolbox: str
    crop: int
    haze: str  # World's `depth`
    depth: int = Field(ge=1, le=DEEPEST)
    tools: list[ToolRecord]
    metrics: list[MetricRecord]
    encoder: EncoderRecord


class TreeRecord(Record):
    version: Literal[1]
    checksum: str
    ground: Ground
    starts: list[StartRecord]
    failures: list[Failure]


@dataclass(frozen=True, eq=False)
class Tree:
    """The states of one start lie together, its own first; those with an equal image are one."""

    ground: Ground
    starts: list[StartRecord]
    digests: NDArray[np.uint8]  # [states, 16]
    sizes: NDArray[np.int32]  # [states, 2], height and width
    values: NDArray[np.float64]  # [states, metrics], higher is better; NaN where the metric failed
    raws: NDArray[np.float64]  # [states, metrics]
    features: NDArray[Any]  # float16 or float32 [states, dim]
    children: NDArray[np.int32]  # [states, tools]
    unscored: NDArray[np.int32]  # [n, 3]: state, metric, number of the failure
    failures: list[Failure] = field(default_factory=list)

    def __len__(self) -> int:
        """How many states."""
        return len(self.digests)

    @property
    def metrics(self) -> list[str]:
        return [metric.name for metric in self.ground.metrics]

    def digest(self, state: int) -> str:
        return self.digests[state].tobytes().hex()

    def quality(self, state: int) -> Quality:
        """Of all metrics that could be computed."""
        pairs = zip(self.metrics, self.values[state].tolist(), self.raws[state].tolist(), strict=True)
        return {metric: Score(value, raw) for metric, value, raw in pairs if value == value}

    def failure(self, child: int) -> Failure:
        """What the number of a child below REFUSED stands for."""
        return self.failures[REFUSED - 1 - child]

    def column(self, metric: str) -> int:
        """Of the arrays of values."""
        if metric not in self.metrics:
            raise TreeError(f"metric {metric!r}", "is not in this tree", suggest(metric, self.metrics))
        return self.metrics.index(metric)

    def unscored_by(self, state: int, metric: str) -> Failure:
        """Why this metric has no value there."""
        [number, *_] = self.unscored[(self.unscored[:, 0] == state) & (self.unscored[:, 1] == self.column(metric)), 2].tolist()
        return self.failures[number]

    def ways(self, state: int, depth: int) -> dict[int, list[int]]:
        """Every state that at most `depth` tools lead to, with the shortest way there; the nearest first."""
        found: dict[int, list[int]] = {state: []}
        level = [state]
        for _ in range(depth):
            following = []
            for place in level:
                for action, child in enumerate(self.children[place].tolist()):
                    if child >= 0 and child not in found:
                        found[child] = [*found[place], action]
                        following.append(child)
            level = following
        return found

    def best(self, states: Sequence[int], metric: str) -> int:
        """The first of the best."""
        values = self.values[states, self.column(metric)]
        return states[int(np.nan_to_num(values, nan=-np.inf).argmax())]

    @cached_property
    def tried(self) -> NDArray[np.int64]:
        """[states]: how many tools were run on each."""
        return np.asarray(((self.children >= 0) | (self.children < REFUSED)).sum(axis=1))

    def after_all(self, state: int, depth: int) -> NDArray[np.int64]:
        """Where every sequence of `depth` actions ends, in the order of counting; an action that fails or stops leaves the image."""
        count = self.children.shape[1] + 1
        states = np.array([state])
        for _ in range(depth):
            children = np.pad(self.children[states], ((0, 0), (0, 1)), constant_values=REFUSED)
            states = np.where(children < 0, states[:, None], children).reshape(len(states) * count)
        return states

    def save(self, path: Path) -> Path:
        """All or nothing."""
        tensors: dict[str, NDArray[Any]] = {
            "digests": self.digests, "sizes": self.sizes, "features": self.features, "children": self.children,
            "unscored": self.unscored,
        }  # fmt: skip
        for column, metric in enumerate(self.metrics):
            tensors |= {f"value/{metric}": narrow(self.values[:, column]), f"raw/{metric}": narrow(self.raws[:, column])}
        told = TreeRecord(
            version=VERSION, checksum=checksum(tensors), ground=self.ground, starts=self.starts, failures=self.failures
        )
        whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        return write_aside(path, lambda aside: save_file(whole, aside, {KEY: told.model_dump_json()}))

    @staticmethod
    def load(path: str | Path) -> Tree:
        """`pocket` is the one that ships."""
        place = SHIPPED if str(path) == "pocket" else Path(path)
        if not place.is_file():
            raise TreeError(place, "is no file", "Name one that experiments/grow_tree.py wrote, or pocket, which ships.")
        try:
            with safe_open(place, "np") as file:
                said = (file.metadata() or {}).get(KEY)
                if said is None:
                    raise TreeError(place, "is no tree", "Name a file that experiments/grow_tree.py wrote.")
                told = read_record(said, place)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise TreeError(
                place, f"cannot be read: {error}", "It was cut short or damaged: restore it or grow it again."
            ) from error
        if checksum(tensors) != told.checksum:
            raise TreeError(place, "is damaged: its checksum is another", "Restore it, or grow it again.")
        try:
            return built(told, tensors)
        except (KeyError, IndexError, ValueError) as error:
            raise TreeError(place, f"does not hold together: {error}", "Grow it again.") from error

    @staticmethod
    def joined(trees: Sequence[Tree]) -> Tree:
        """Several trees of one ground as one."""
        ground = trees[0].ground
        if any(tree.ground != ground for tree in trees):
            raise TreeError("these trees", "were grown with different settings", "Join those of one setting.")
        failures = list(dict.fromkeys(failure for tree in trees for failure in tree.failures))
        offsets = np.cumsum([0, *map(len, trees)]).tolist()
        starts, children, unscored = [], [], []
        for tree, offset in zip(trees, offsets, strict=False):
            starts += [each.model_copy(update={"root": each.root + offset}) for each in tree.starts]
            number = np.array([failures.index(failure) for failure in tree.failures] + [0])
            kept = tree.children
            moved = np.where(kept >= 0, kept + offset, kept)
            children.append(
                np.where(kept < REFUSED, REFUSED - 1 - number[np.clip(REFUSED - 1 - kept, 0, None) % len(number)], moved)
            )
            states, metrics, numbers = tree.unscored.T
            unscored.append(np.stack([states + offset, metrics, number[numbers]], axis=1))

        def all_of(name: str) -> Any:
            return np.concatenate([getattr(tree, name) for tree in trees])

        return Tree(
            ground, starts, all_of("digests"), all_of("sizes"), all_of("values"), all_of("raws"), all_of("features"),
            np.concatenate(children).astype(np.int32), np.concatenate(unscored).astype(np.int32), failures,
        )  # fmt: skip

    def part(self, part: str) -> list[int]:
        """The numbers of the starts of a part, or of all."""
        mine = [number for number, each in enumerate(self.starts) if part in ("all", each.part)]
        if not mine:
            held = sorted({each.part for each in self.starts})
            raise TreeError(f"part {part!r}", "is not in this tree", f"It holds {', '.join(held)}; all takes every start.")
        return mine


def read_record(said: str, place: Path) -> TreeRecord:
    try:
        found = json.loads(said)
        version = found.get("version") if isinstance(found, dict) else None
        if isinstance(version, int) and version > VERSION:
            reason = f"has schema {version}, and this program reads up to {VERSION}"
            raise TreeError(place, reason, "Use the version of this program that wrote it, or a later one.")
        return TreeRecord.model_validate_json(said)
    except ValidationError as error:
        problem = error.errors()[0]
        reason = f"is no tree of schema {VERSION}: {'.'.join(map(str, problem['loc'])) or 'the record'}: {problem['msg']}"
        raise TreeError(place, reason, "It was changed by hand, or written by another version.") from error


def built(told: TreeRecord, tensors: dict[str, NDArray[Any]]) -> Tree:
    """The tree of a file, if all of it fits together; else `KeyError`, `IndexError` or `ValueError`."""
    names = [metric.name for metric in told.ground.metrics]
    values, raws = (
        np.stack([tensors[f"{what}/{name}"] for name in names], axis=1).astype(np.float64) for what in ("value", "raw")
    )
    plain = [tensors[name] for name in ("digests", "sizes")]
    rest = [tensors[name] for name in ("features", "children", "unscored")]
    tree = Tree(told.ground, told.starts, plain[0], plain[1], values, raws, rest[0], rest[1], rest[2], told.failures)
    kinds = {
        "digests": np.uint8, "sizes": np.signedinteger, "features": np.floating, "children": np.signedinteger,
        "unscored": np.signedinteger,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not np.issubdtype(getattr(tree, name).dtype, kind):
            raise ValueError(f"{name} is {getattr(tree, name).dtype}, not {kind.__name__}")
    count = len(tree)
    shapes = {
        "digests": (count, 16), "sizes": (count, 2), "values": (count, len(names)), "raws": (count, len(names)),
        "features": (count, told.ground.encoder.dim), "children": (count, len(told.ground.tools)),
        "unscored": (len(tree.unscored), 3),
    }  # fmt: skip
    for name, shape in shapes.items():
        if getattr(tree, name).shape != shape:
            raise ValueError(f"{name} has the shape {getattr(tree, name).shape}, not {shape}")
    roots = [each.root for each in tree.starts]
    if not roots or roots[0] != 0 or sorted(set(roots)) != roots or roots[-1] >= count:
        raise ValueError("the starts are not in a row")
    ends = np.repeat([*roots[1:], count], np.diff([*roots, count]))
    firsts = np.repeat(roots, np.diff([*roots, count]))
    low, high = np.where(tree.children >= 0, tree.children, firsts[:, None]), tree.children
    if (low < firsts[:, None]).any() or (high >= ends[:, None]).any() or high.min() < REFUSED - len(tree.failures):
        raise ValueError("a child is no state of its start")
    if len(tree.unscored) and (
        tree.unscored.min() < 0 or (tree.unscored.max(axis=0) >= [count, len(names), len(tree.failures)]).any()
    ):
        raise ValueError("a metric's failure is of no state")
    if np.isnan(values[roots]).any():
        raise ValueError("a start is not scored")
    if (np.abs(values) > LARGEST).any():
        raise ValueError("a value is infinite, or as good as that")
    if not (np.isnan(values) | (np.abs(raws) <= LARGEST)).all():
        raise ValueError("a raw value is not finite where its value is")
    if not np.isfinite(tree.features).all():
        raise ValueError("a feature is not finite")
    if (tree.sizes < 1).any():
        raise ValueError("an image has no size")
    if set(zip(*np.nonzero(np.isnan(values)), strict=True)) - {(state, metric) for state, metric, _ in tree.unscored.tolist()}:
        raise ValueError("a state is not scored, and nothing says why")
    level = np.array(roots)
    for _ in range(told.ground.depth):
        children = tree.children[level]
        if (children == UNKNOWN).any():
            raise ValueError("a state that sequences lead through was not grown")
        level = np.unique(children[children >= 0])
    return tree


def narrow(column: NDArray[np.float64]) -> NDArray[Any]:
    """As float32 where that loses nothing: most metrics are computed in it."""
    small = column.astype(np.float32)
    return small if np.array_equal(small.astype(np.float64), column, equal_nan=True) else column


def checksum(tensors: dict[str, NDArray[Any]]) -> str:
    hasher = xxhash.xxh3_128()
    for name in sorted(tensors):
        hasher.update(f"{name}{tensors[name].dtype}{tensors[name].shape}".encode())
        hasher.update(np.ascontiguousarray(tensors[name]).data)
    return hasher.hexdigest()

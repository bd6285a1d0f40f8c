"""What a run came to, without what a clock says: so that two runs can be held against each other, to the bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from experiments.runs import CHECKPOINTS, TABLE, TRAJECTORIES, RunFolder
from tir_env.trajectory import Trajectory

TIMES = (  # what no two runs share
    "seconds", "tool_calls_per_second", "seconds per image", "seconds/generation", "seconds/tools", "seconds/learning",
)  # fmt: skip


def outcome(folder: Path) -> dict[str, Any]:
    """The log, the table, what was learnt, and every step of what was played at the end."""
    done = RunFolder(folder).last_checkpoint()[0]
    return {"log": log(folder), "table": table(folder), "learnt": learnt(folder, done), "played": played(folder)}


def log(folder: Path) -> list[dict[str, Any]]:
    return [untimed(row) for row in RunFolder(folder).rows()]


def table(folder: Path) -> dict[str, Any]:
    return {name: untimed(row) for name, row in json.loads((folder / TABLE).read_text())["rows"].items()}


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMES}


def learnt(folder: Path, iteration: int) -> dict[str, str]:
    """The last checkpoint and the agent."""
    return checkpoint(folder, iteration) | tensors(folder / "agent")


def checkpoint(folder: Path, iteration: int) -> dict[str, str]:
    return tensors(folder / CHECKPOINTS / f"{iteration:06d}")


def tensors(place: Path) -> dict[str, str]:
    """Every tensor and number of the files in a folder: a digest or the number itself."""
    found = {}
    for path in sorted(place.rglob("*")):
        if path.suffix in (".pt", ".safetensors"):
            read = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
            found |= {f"{place.name}/{path.relative_to(place)}: {name}": value for name, value in leaves(read)}
    assert any(value.startswith("torch.float32") for value in found.values())
    return found


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict | list | tuple):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, f"{name}/{key}")
    elif isinstance(value, torch.Tensor):
        data = value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        yield name, f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data).hexdigest()[:16]}"
    else:
        yield name, repr(value)


def played(folder: Path) -> list[Trajectory]:
    return [Trajectory.load(path) for path in sorted((folder / TRAJECTORIES).iterdir())]

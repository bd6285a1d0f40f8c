"""What a run of the light agent goes on from, as one file of plain tensors and numbers: to read it runs no code.

RLlib's own checkpoints are pickles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pool import Problem

STATE = "state.pt"


class StateError(Problem):
    """A state that cannot be read."""


def save(state: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(as_tensors(state), folder / STATE)


def load(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = as_arrays(torch.load(folder / STATE, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load raises many kinds for a file that is cut short or is no state
        reason = f"cannot be read: {type(error).__name__}: {str(error)[:100]}"
        raise StateError(folder / STATE, reason, "Delete this checkpoint; the one before it is used then.") from error
    return state


def as_tensors(value: Any) -> Any:
    """NumPy's arrays and numbers as tensors, at any depth."""
    if isinstance(value, dict):
        return {key: as_tensors(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(as_tensors, value))
    return torch.as_tensor(value) if isinstance(value, np.ndarray | np.generic) else value


def as_arrays(value: Any) -> Any:
    """The way back."""
    if isinstance(value, dict):
        return {key: as_arrays(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(as_arrays, value))
    return value.numpy() if isinstance(value, torch.Tensor) else value

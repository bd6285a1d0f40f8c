"""Weight files: where they are looked for, and reading them without running any code that they might hold."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from pool.errors import Problem

if TYPE_CHECKING:
    from torch import Tensor

SHIPPED = Path(__file__).parent / "weights"
PARTS, PART = 16, 1 << 14  # of a weight file, by which it is known again; bytes of each


class MissingWeights(Problem):
    """A tool's weight file is in none of the places where it is looked for."""


class BadWeights(Problem):
    """A weight file is there but is not what the tool needs: corrupt, another network, or code in place of numbers."""


def weights_folder() -> Path:
    """Where a user keeps weights: $TIR_WEIGHTS, or ~/.cache/tir/weights."""
    return at_home(Path(os.environ.get("TIR_WEIGHTS") or "~/.cache/tir/weights"))


def at_home(path: Path) -> Path:
    """With the user's folder in place of ~."""
    try:
        return path.expanduser()
    except RuntimeError as error:  # another user's, who is not known here
        raise MissingWeights(path, f"has no place: {error}", "Write the whole path.") from error


@dataclass(frozen=True)
class Weights:
    """A weight file by name, as a toolbox gives it."""

    name: str  # "swinir/005_colorDN.pth", or an absolute path
    folder: Path  # that of the toolbox file
    source: str = ""  # where a person gets it
    sha256: str = ""

    def paths(self) -> list[Path]:
        """Every place where it may lie, in the order in which they are looked at."""
        folders = [self.folder, self.folder / "weights", SHIPPED, weights_folder()]
        if data := os.environ.get("TIR_DATA"):
            folders.append(Path(data))
        # An absolute or ~ path stands for itself; `dict` keeps the order and drops repeats.
        return list(dict.fromkeys(folder / at_home(Path(self.name)) for folder in folders))

    def found(self) -> Path | None:
        return next((path for path in self.paths() if path.is_file()), None)

    def sample(self) -> str:
        """A digest of the file's size and of parts of it: enough to tell trainings apart. Empty where none can be read."""
        path = self.found()
        if path is None:
            return ""
        try:
            size = path.stat().st_size
            hasher = xxhash.xxh3_128(str(size).encode())
            with path.open("rb") as file:
                for place in range(0, size, max(1, size // PARTS)):
                    file.seek(place)
                    hasher.update(file.read(PART))
        except OSError:
            return ""  # `load` says why
        return hasher.hexdigest()

    def find(self, tool: str) -> Path:
        """The file; `MissingWeights` names the tool, every place, and the remedy."""
        path = self.found()
        if path is None:
            looked = ", ".join(str(place) for place in self.paths())
            get = f"Get it: {self.source} " if self.source else ""
            raise MissingWeights(
                f"tool {tool!r}",
                f"its weight file {self.name!r} is missing; looked at {looked}",
                f"{get}Put it at one of these places, or set TIR_WEIGHTS to the folder that holds it.",
            )
        if self.sha256:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest != self.sha256.lower():
                reason = f"has SHA-256 {digest[:12]}..., expected {self.sha256[:12]}..."
                raise BadWeights(path, reason, f"It is another version or was cut short. {self.source}".strip())
        return path


def read_state(path: Path, expected: str, source: str = "") -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth, .pt or .ckpt file by name. `expected` says in words what the file should hold."""
    import torch
    from safetensors.torch import load_file

    remedy = f"It should hold {expected}. {source}".strip()
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many kinds: RuntimeError, EOFError, UnpicklingError, SafetensorError ...
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else "no detail"
        reason = f"cannot be read as plain tensors ({type(error).__name__}: {first})"
        raise BadWeights(
            path, reason, f"{remedy} Files that need code to load are refused; save its state_dict instead."
        ) from error
    if not isinstance(loaded, dict):
        raise BadWeights(path, f"holds a {type(loaded).__name__}, not named tensors", remedy)
    return loaded

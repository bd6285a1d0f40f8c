"""The kinds of engine that a toolbox file can name. Plain data here; what needs torch or onnxruntime is imported on `load`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tir_env.tools.tool import Function, Tool, ToolError

if TYPE_CHECKING:
    from tir_env.tools.weights import Weights


@dataclass(frozen=True)
class PythonCall:
    """`call: "module:name"`: a function of an image, or a class whose instances are one (made once, on load)."""

    call: str
    params: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None  # handed over as the keyword `weights`

    def load(self, tool: Tool) -> Function:
        target = _imported(self.call, tool.name)
        params = dict(self.params)
        if self.weights is not None:
            params["weights"] = self.weights.find(tool.name)
        is_class = inspect.isclass(target)
        _check_params(target, params, () if is_class else (None,), tool.name, self.call)
        if is_class:
            target, params = target(**params), {}

        def function(batch: NDArray[np.uint8]) -> NDArray[Any]:
            return np.stack([np.asarray(target(image, **params)) for image in batch])

        return function


def _imported(call: str, tool: str) -> Callable[..., Any]:
    module_name, _, attribute = call.partition(":")
    try:
        target = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except Exception as error:  # importing a module runs it, and it may raise anything
        reason = f"cannot import {call!r} ({type(error).__name__}: {error})"
        raise ToolError(f"tool {tool!r}", reason, "Install the package or correct `call`.") from error
    if not callable(target):
        raise ToolError(
            f"tool {tool!r}", f"{call!r} is not callable", "Name a function, or a class whose instances are callable."
        )
    return target


def _check_params(target: Callable[..., Any], params: dict[str, Any], args: tuple[None, ...], tool: str, call: str) -> None:
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return  # some compiled functions have none
    try:
        signature.bind(*args, **params)
    except TypeError as error:
        raise ToolError(
            f"tool {tool!r}", f"{call} does not take these parameters: {error}", f"It takes {signature}."
        ) from error


@dataclass(frozen=True)
class Spandrel:
    """A network file of any architecture that spandrel (or spandrel_extra_arches, if installed) knows."""

    weights: Weights
    architecture: str = ""  # spandrel's name for it; when given, another one is refused

    def load(self, tool: Tool) -> Function:
        from tir_env.tools import networks

        return networks.spandrel_function(tool, self.weights, self.architecture)


@dataclass(frozen=True)
class FBCNN:
    """FBCNN told which JPEG quality to undo, in place of estimating it (blind is plain `spandrel`)."""

    weights: Weights
    quality: float

    def load(self, tool: Tool) -> Function:
        from tir_env.tools import networks

        return networks.fbcnn_function(tool, self.weights, self.quality)


@dataclass(frozen=True)
class Exported:
    """A `torch.export` program (.pt2): RGB floats in 0..1, [N, 3, H, W], in and out."""

    weights: Weights

    def load(self, tool: Tool) -> Function:
        from tir_env.tools import programs

        return programs.exported_function(tool, self.weights)


@dataclass(frozen=True)
class Onnx:
    """An ONNX file: RGB floats in 0..1, [N, 3, H, W], in and out."""

    weights: Weights

    def load(self, tool: Tool) -> Function:
        from tir_env.tools import programs

        return programs.onnx_function(tool, self.weights)


@dataclass(frozen=True)
class RLRestore:
    """One of the twelve small networks of RL-Restore (arXiv:1804.03312), numbered as there."""

    weights: Weights
    number: int

    def load(self, tool: Tool) -> Function:
        from tir_env.tools import rl_restore

        return rl_restore.function(tool, self.weights, self.number)

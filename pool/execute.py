"""Running a model on items so that whatever it does comes back as data: the innermost layer, shared by both pools."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pool.errors import BadOutput, CallFailed, LoadFailed, ModelRaised, Problem, describe
from pool.model import Model

OK, RAISED, BAD, LOAD = range(4)


class Answer(NamedTuple):
    """One item's end as it travels: only plain values, because a model's exception may not survive pickling."""

    status: int
    value: Any
    seconds: float
    remedy: str = ""


def error_of(model: str, answer: Answer, attempts: int = 1) -> CallFailed:
    kind = {RAISED: ModelRaised, BAD: BadOutput, LOAD: LoadFailed}[answer.status]
    return kind(model, answer.value, attempts, answer.remedy)


def load(model: Model) -> Answer:
    """Call `model.load`; the answer's value says why it failed."""
    began = time.perf_counter()
    try:
        model.load()
    except Problem as cause:
        return Answer(LOAD, f"{cause.thing}: {cause.reason}", time.perf_counter() - began, cause.remedy)
    except KeyboardInterrupt:
        raise
    except BaseException as cause:  # SystemExit in a model must not take the worker along
        return Answer(LOAD, describe(cause), time.perf_counter() - began)
    return Answer(OK, None, time.perf_counter() - began)


def run(model: Model, items: Sequence[Any], again: bool = True) -> list[Answer]:
    """One answer per item. A batch that fails as a whole is tried one by one, so that one bad item spoils no other; what found no room
    on a GPU is tried once more."""
    began, fault = time.perf_counter(), ""
    try:
        values = model.run(items)
    except KeyboardInterrupt:
        raise
    except BaseException as cause:
        fault = describe(cause)  # with the exception go the tensors of the batch, which its frames hold
    if fault:
        room = "OutOfMemoryError" in fault and free_memory()
        if len(items) > 1:
            return [run(model, [item])[0] for item in items]
        return run(model, items, again=False) if room and again else [Answer(RAISED, fault, time.perf_counter() - began)]
    seconds = (time.perf_counter() - began) / max(1, len(items))
    if not isinstance(values, (list, tuple)) or len(values) != len(items):
        found = f"{len(values)} results" if isinstance(values, (list, tuple)) else type(values).__name__
        return [Answer(BAD, f"run() got {len(items)} items and returned {found}", seconds)] * len(items)
    return [_checked(model, item, value, seconds) for item, value in zip(items, values, strict=True)]


def _checked(model: Model, item: Any, value: Any, seconds: float) -> Answer:
    try:
        model.check(item, value)
        fault = _unsound(value)
    except ValueError as cause:
        return Answer(BAD, str(cause), seconds)
    except Exception as cause:
        return Answer(BAD, f"check() failed: {describe(cause)}", seconds)
    return Answer(BAD, fault, seconds) if fault else Answer(OK, value, seconds)


def _unsound(value: Any) -> str:
    """Why a value is no result of any model: NaN is never one (infinity can be: the PSNR of two equal images)."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return "the result is an array of Python objects"
        return "the result holds NaN" if value.dtype.kind in "fc" and np.isnan(value).any() else ""
    if isinstance(value, (float, complex, np.inexact)):
        return "the result is NaN" if value != value else ""
    if isinstance(value, (tuple, list)):
        return next(filter(None, map(_unsound, value)), "")
    if isinstance(value, dict):
        return next(filter(None, map(_unsound, value.values())), "")
    return ""


def batches(items: Sequence[Any], size: int) -> list[list[int]]:
    """Indices of items that can be computed together: same shapes, at most `size` at a time, in order of first sight."""
    if size <= 1:
        return [[index] for index in range(len(items))]
    buckets: dict[Any, list[int]] = {}
    for index, item in enumerate(items):
        buckets.setdefault(shape(item), []).append(index)
    return [bucket[start : start + size] for bucket in buckets.values() for start in range(0, len(bucket), size)]


def shape(item: Any) -> Any:
    """Items of equal shape are computed together."""
    if isinstance(item, np.ndarray):
        return item.shape, item.dtype.str
    if isinstance(item, (tuple, list)):
        return type(item).__name__, *map(shape, item)
    if isinstance(item, dict):
        return tuple((key, shape(part)) for key, part in item.items())
    return type(item).__name__


def settle(model: Model) -> None:
    """Put the convolutions that a model holds into channels_last, the layout in which GPUs run them fastest."""
    torch = sys.modules.get("torch")
    if torch is not None:
        for part in vars(model).values():
            for tensor in (*part.parameters(), *part.buffers()) if isinstance(part, torch.nn.Module) else ():
                if tensor.dim() == 4:  # others have no such layout: a Qwen-VL has a convolution in three dimensions
                    tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def free_memory() -> bool:
    """Give back to the GPU what torch keeps for later; whether there is one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    torch.cuda.empty_cache()
    return True


def precision(model: Model, gpu: bool) -> contextlib.AbstractContextManager[Any]:
    """Autocast for models that stand it, on a GPU; nothing elsewhere."""
    torch = sys.modules.get("torch")
    if gpu and model.traits.half and torch is not None:
        return torch.autocast("cuda", dtype=torch.float16)
    return contextlib.nullcontext()

"""Whole programs as tools: `torch.export` files (.pt2), read only after a look inside, and ONNX files."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import re
import zipfile
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export.passes import move_to_device_pass

from pool.worker import threads_wanted
from tir_env.tools.networks import torch_function
from tir_env.tools.tool import Function, Tool, ToolError
from tir_env.tools.weights import BadWeights, Weights


def exported_function(tool: Tool, weights: Weights) -> Function:
    path = weights.find(tool.name)
    remedy = f"It should hold a torch.export program for {tool.name}, saved with torch.export.save. {weights.source}".strip()
    checked = inspect_program(path, remedy)
    causes: list[BaseException] = []
    try:
        with _unsaid(causes):
            program = torch.export.load(checked)
        if tool.traits.gpu and torch.cuda.is_available():  # it was made on a CPU, and says so wherever it makes a tensor
            program = move_to_device_pass(program, "cuda")
        # Guards are code in the file; they only repeat which sizes were foreseen. Older versions of PyTorch have none.
        guards = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
        module = program.module(**guards)
    except Exception as error:  # made by another version, or damaged: it can raise anything
        cause = causes[-1] if causes else error
        raise BadWeights(path, f"cannot be loaded ({type(cause).__name__}: {str(cause)[:200]})", remedy) from error
    return torch_function(module, module, tool)


@contextlib.contextmanager
def _unsaid(causes: list[BaseException]) -> Iterator[None]:
    """PyTorch logs what went wrong, with a traceback or (2.9) in words, in place of raising it; here it is kept, for who says it."""

    def keep(record: logging.LogRecord) -> bool:
        told = [*(record.exc_info or ()), *(record.args if isinstance(record.args, tuple) else ())]
        found = [each for each in told if isinstance(each, BaseException)]
        causes.extend(found)
        return not found

    logger = logging.getLogger("torch.export")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


# --- a look inside ----------------------------------------------------------------------------------------------------------------
# torch.export.load unpickles parts of some files, evaluates size expressions as Python, looks operators up by name, and writes
# names into the source of a function. A file is read only if none of these can reach anything but tensor arithmetic.

_ENTRIES = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|models/\w+\.json|extra/.*|data/sample_inputs/\w+\.pt|"
    r"data/weights/(weight_\d+|\w+_config\.json)|data/constants/(tensor_\d+|\w+_config\.json)"
)
_ARITHMETIC = "add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem"
_CONTROL = (
    "cond|while_loop|map_impl|scan|associative_scan|wrap_with_set_grad_enabled|wrap_with_autocast|wrap_activation_checkpoint|"
    "tag_activation_checkpoint|invoke_subgraph|flex_attention|out_dtype"
)
_TARGETS = re.compile(
    rf"torch\.ops\.(aten|prim|prims)\.\w+\.\w+|torch\.ops\.higher_order\.({_CONTROL})|_operator\.({_ARITHMETIC})|"
    r"math\.(ceil|floor|trunc|sqrt)|torch\.sym_\w+|torch\._sym_sqrt"
)
_TEXTS = {  # that an operator may take: which way, and what an assertion says. Others take files' names
    "activation", "algorithm", "approximate", "assert_msg", "driver", "equation", "indexing", "interpolation", "mode", "norm", "ord",
    "p", "pad_mode", "padding", "padding_side", "reduce", "rounding_mode", "side", "UPLO",
}  # fmt: skip
_SIZE_WORDS = re.compile(
    r"[a-z]{1,2}\d+|\d+|Symbol|Integer|Rational|Float|Mul|Add|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv|"
    r"TruncToInt|CeilToInt|FloorToInt|ToFloat|Where|Eq|Ne|Equality|Unequality|Le|Lt|Ge|Gt|LessThan|GreaterThan|StrictLessThan|"
    r"StrictGreaterThan|And|Or|Not|true|false|True|False|positive|nonnegative|integer|real|oo|int_oo"
)
_SIZE_MARKS = re.compile(r"[\w\s'(),+\-*/=<>]*")
_NAME = re.compile(r"[\w.+-]*")  # of tensors, arguments, files, devices, versions: no quote, bracket, blank or line end
_TEXT = re.compile(r"[\w\s.,+>-]*")  # that an operator is given, such as "b c, c d -> b d": no path
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict")
_PROSE = {"metadata", "guards_code"}  # never becomes code


def inspect_program(path: Path, remedy: str = "") -> io.BytesIO:
    """What was checked, as an archive of its own: two readers of one zip file may find two programs in it.

    Raises `BadWeights` unless the .pt2 file holds plain tensors and a graph of tensor operators, nothing else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in found)
            if packed or sum(entry.file_size for entry in found) > path.stat().st_size:
                raise zipfile.BadZipFile("it would grow when unpacked")  # torch.export.save packs nothing
            names = [entry.filename for entry in found]
            entries = {name.partition("/")[2]: archive.read(name) for name in names}
    except Exception as error:  # a damaged zip raises many kinds: BadZipFile, zlib.error, NotImplementedError ...
        raise BadWeights(path, f"is no .pt2 archive ({type(error).__name__}: {error})", remedy) from error
    if len(entries) < len(names) or len({name.partition("/")[0] for name in names}) > 1:
        # Of two with one name PyTorch reads the other one than Python.
        raise BadWeights(path, "holds a name twice, or more than one folder", remedy)
    for complaint in _complaints(entries):
        raise BadWeights(path, complaint, remedy)
    checked = io.BytesIO()
    with zipfile.ZipFile(checked, "w") as archive:
        for name, data in entries.items():
            archive.writestr(f"program/{name}", data)
    checked.seek(0)
    return checked


def _complaints(entries: dict[str, bytes]) -> Iterator[str]:
    if "archive_format" not in entries or not any(name.startswith("models/") for name in entries):
        yield "holds no exported program in the present format"
    for name, data in entries.items():
        if not _ENTRIES.fullmatch(name):
            yield f"holds {name!r}, which could run code when loaded"
        elif name.startswith("data/sample_inputs/"):
            try:
                torch.load(io.BytesIO(data), weights_only=True)
            except Exception as error:  # torch.export.load would fall back to unpickling it
                yield f"its {name} needs code to load ({type(error).__name__})"
        elif name.endswith(".json"):
            try:
                content = json.loads(data)
            except (ValueError, RecursionError) as error:
                yield f"its {name} is damaged ({error})"
            else:
                yield from _json_complaints(name, content)


def _json_complaints(name: str, content: Any) -> Iterator[str]:
    for key, value in _strings(content):
        if key == "expr_str":
            if not _is_harmless_size(value):
                yield f"its program holds the size {value[:80]!r}, which is no plain arithmetic"
        elif key in ("in_spec", "out_spec"):
            if not _is_plain_spec(value):
                yield f"its {name} holds the structure {value[:80]!r}, which is not of tuples, lists and dicts alone"
        elif not (_TEXT if key in ("as_string", "as_strings") else _NAME).fullmatch(value):
            yield f"its {name} holds the name {value[:80]!r}"
        elif key in ("target", "as_operator") and "." in value and not _is_tensor_operator(value):
            yield f"its program calls {value!r}, which is no tensor operator"
        elif key == "use_pickle":
            yield f"its {name} asks for a pickle, which could run code"


def _is_tensor_operator(target: str) -> bool:
    """Whether it neither takes a file's name nor arguments of any kind."""
    if not _TARGETS.fullmatch(target):
        return False
    _, *rest = target.split(".")
    if rest[0] != "ops" or rest[1] == "higher_order":
        return True
    try:
        operator = reduce(getattr, rest, torch)
    except (AttributeError, RuntimeError):  # there is no such operator
        return False
    if not isinstance(operator, torch._ops.OpOverload) or "..." in str(operator._schema):
        return False
    return all(each.name in _TEXTS or not re.search(r"\bstr\b", str(each.type)) for each in operator._schema.arguments)


def _is_plain_spec(text: str) -> bool:
    """Of how arguments and results are nested. Other types than these import what they name."""
    try:
        _, spec = json.loads(text)
        return _is_plain(spec)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_plain(spec: Any) -> bool:
    if spec["type"] is None:
        return spec["context"] is None
    names = json.loads(spec["context"]) or []  # a dict's keys
    plain = isinstance(names, list) and all(isinstance(each, str) and _NAME.fullmatch(each) for each in names)
    return plain and spec["type"] in _CONTAINERS and all(map(_is_plain, spec["children_spec"]))


def _is_harmless_size(expression: str) -> bool:
    words = re.findall(r"\w+", expression)
    return _SIZE_MARKS.fullmatch(expression) is not None and all(_SIZE_WORDS.fullmatch(word) for word in words)


def _strings(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text at any depth with the key that it stands under, keys too, prose left out. A true `use_pickle` counts as text."""
    if isinstance(content, dict):
        argument = content.get("arg")
        message = content.get("name") == "assert_msg" and isinstance(argument, dict) and argument.keys() == {"as_string"}
        for name, value in content.items():
            yield "expr_str" if key == "range_constraints" else "", name
            if name not in _PROSE and not (message and name == "arg"):
                yield from _strings(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value, key)
    elif isinstance(content, str):
        yield key, content
    elif key == "use_pickle" and content is not False:
        yield key, "true"


# --- ONNX -------------------------------------------------------------------------------------------------------------------------


def onnx_function(tool: Tool, weights: Weights) -> Function:
    path = weights.find(tool.name)
    try:
        import onnxruntime
    except ImportError as error:
        raise ToolError(
            f"tool {tool.name!r}", "needs onnxruntime, which is not installed", "`pip install onnxruntime`."
        ) from error
    remedy = f"It should hold an ONNX network for {tool.name}, [N, 3, H, W] in and out. {weights.source}".strip()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads_wanted()  # as the rest of the process; 0: all cores
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider"] if tool.traits.gpu else []
    providers = [name for name in [*wanted, "CPUExecutionProvider"] if name in onnxruntime.get_available_providers()]
    try:
        # With one provider there is nothing to fall back on, and to say so on standard output would be all that it does.
        session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=len(providers) > 1)
        inputs = [(each.name, each.type, each.shape) for each in session.get_inputs()]  # a name need not be UTF-8
        output = session.get_outputs()[0].name
    except Exception as error:  # onnxruntime's own exceptions have no common base but Exception
        raise BadWeights(path, f"cannot be loaded ({type(error).__name__}: {str(error)[:200]})", remedy) from error
    name, kind, shape = inputs[0] if len(inputs) == 1 else ("", "", [])
    if kind != "tensor(float)" or len(shape) != 4 or shape[1] != 3:
        found = ", ".join(f"{name}: {kind} {shape}" for name, kind, shape in inputs)
        raise BadWeights(path, f"takes ({found}), not one float [N, 3, H, W]", remedy)

    def function(batch: NDArray[np.uint8]) -> NDArray[Any]:
        images = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
        [result] = session.run([output], {name: images})
        result = np.asarray(result)
        if result.ndim != 4:
            raise ValueError(f"{tool.name} returned no image batch but {list(result.shape)}")
        return result.astype(np.float32).transpose(0, 2, 3, 1) * np.float32(255)

    return function

"""A toolbox's YAML file to tools. Every mistake in it is a `Problem` that names the file, the entry and the remedy.

Nothing that the file names is imported or opened here: that waits for a tool's `load`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pool.model import Traits
from tir_env.tools import engines
from tir_env.tools.tool import TASKS, Engine, Tool
from tir_env.tools.weights import Weights
from tir_env.yaml_files import YamlError, check_keys, list_value, number_value, read_mapping, suggest, text_value

# The kind of an entry, and the keys that belong to it beside those below.
KINDS: dict[str, tuple[list[str], list[str]]] = {  # kind: (required, optional)
    "callable": (["call"], ["weights"]),
    "spandrel": (["weights"], ["architecture"]),
    "fbcnn": (["weights", "quality"], []),
    "export": (["weights"], []),
    "onnx": (["weights"], []),
    "rl_restore": (["weights", "number"], []),
}
TEXTS = ["about", "source", "license", "sha256"]
NUMBERS: dict[str, tuple[float, float, bool]] = {  # key: (lowest, highest, whole)
    "scale": (1, 8, True),
    "multiple": (1, 1024, True),
    "tile": (0, 16384, True),  # pixels a side; 0: never
    "overlap": (0, 1024, True),  # pixels that two tiles share
    "memory": (1, 1 << 20, True),  # MiB once loaded
    "batch": (1, 1024, True),
    "deadline": (0.1, 86400, False),  # seconds an image
    "cost": (0, 86400, False),  # seconds for 256x256 on one core
}
SWITCHES = ["gpu", "half", "deterministic"]
DEFAULTS = ["tile", "overlap", "memory", "batch", "deadline", "cost", *SWITCHES]  # may stand once, for all entries with weights
NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,63}")
CALL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
MAX_TOOLS = 1000


def read_toolbox(path: Path) -> tuple[str, str, list[Tool]]:
    """Name, description and tools of a toolbox file."""
    data = check_keys(str(path), read_mapping(path), ["name", "tools"], ["description", "defaults"])
    name = text_value(f"{path}: name", data["name"])
    description = text_value(f"{path}: description", data["description"]) if "description" in data else ""
    entries = list_value(f"{path}: tools", data["tools"])
    if len(entries) > MAX_TOOLS:
        raise YamlError(f"{path}: tools", f"has {len(entries)} entries, over the limit of {MAX_TOOLS}", "Split it.")
    defaults = check_keys(f"{path}: defaults", data.get("defaults", {}), [], DEFAULTS)
    folder = path.parent.absolute()
    return name, description, [_tool(f"{path}: tools[{i}]", entry, defaults, folder) for i, entry in enumerate(entries)]


def _tool(place: str, entry: Any, defaults: dict[str, Any], folder: Path) -> Tool:
    if isinstance(entry, dict) and "weights" in entry:
        entry = {**defaults, **entry}
    kind = entry.get("kind", "callable") if isinstance(entry, dict) else "callable"
    if not isinstance(kind, str) or kind not in KINDS:
        raise YamlError(f"{place}.kind", f"{kind!r} is not a kind of tool", suggest(str(kind), KINDS))
    required, optional = KINDS[kind]
    entry = check_keys(place, entry, ["task", "model", *required], ["kind", "with", *optional, *TEXTS, *NUMBERS, *SWITCHES])
    task = text_value(f"{place}.task", entry["task"])
    if task not in TASKS:
        raise YamlError(f"{place}.task", f"{task!r} is not a task", suggest(task, TASKS))
    model = text_value(f"{place}.model", entry["model"])
    if not NAME.fullmatch(model):
        raise YamlError(f"{place}.model", f"{model!r} is not a plain name", "Use small letters, digits and _ . + - only.")
    texts = {key: text_value(f"{place}.{key}", entry[key]) for key in TEXTS if key in entry}
    numbers = {
        key: number_value(f"{place}.{key}", entry[key], *NUMBERS[key][:2], whole=NUMBERS[key][2])
        for key in NUMBERS
        if key in entry
    }
    for key in SWITCHES:
        if not isinstance(entry.get(key, False), bool):
            raise YamlError(f"{place}.{key}", f"must be true or false, not {entry[key]!r}", "Correct it.")
    layout: dict[str, int] = {key: int(numbers[key]) for key in ("scale", "multiple", "tile", "overlap") if key in numbers}
    if (tile := layout.get("tile", 0)) and not layout.get("overlap", 64) * 2 <= tile:
        raise YamlError(
            f"{place}.tile",
            f"{tile} is too small for an overlap of {layout.get('overlap', 64)}",
            "Make it at least twice that.",
        )
    return Tool(
        task,
        model,
        _engine(place, kind, entry, folder, texts),
        **layout,
        traits=_traits(entry, numbers),
        about=texts.get("about", ""),
        source=texts.get("source", ""),
        license=texts.get("license", ""),
    )


def _traits(entry: dict[str, Any], numbers: dict[str, float]) -> Traits:
    given: dict[str, Any] = {key: entry[key] for key in SWITCHES if key in entry}
    given |= {key: numbers[key] for key in ("batch", "deadline", "cost") if key in numbers}
    if "memory" in numbers:
        given["memory"] = int(numbers["memory"]) << 20
    return Traits(**given)


def _engine(place: str, kind: str, entry: dict[str, Any], folder: Path, texts: dict[str, str]) -> Engine:
    params = _params(f"{place}.with", entry["with"]) if "with" in entry else {}
    if params and kind != "callable":
        raise YamlError(f"{place}.with", f"a tool of kind {kind!r} takes no parameters", "Take `with` out.")
    weights = None
    if "weights" in entry:
        name = text_value(f"{place}.weights", entry["weights"])
        if "\0" in name:
            raise YamlError(f"{place}.weights", "has a null byte", "Correct the path.")
        weights = Weights(name, folder, texts.get("source", ""), texts.get("sha256", ""))
    if kind == "callable":
        call = text_value(f"{place}.call", entry["call"])
        if not CALL.fullmatch(call):
            raise YamlError(f"{place}.call", f"{call!r} names no function", "Write `package.module:function`.")
        return engines.PythonCall(call, params, weights)
    assert weights is not None, "every other kind requires the key `weights`"
    match kind:
        case "spandrel":
            architecture = entry.get("architecture")
            return engines.Spandrel(
                weights, text_value(f"{place}.architecture", architecture) if architecture is not None else ""
            )
        case "fbcnn":
            return engines.FBCNN(weights, number_value(f"{place}.quality", entry["quality"], 1, 100))
        case "export":
            return engines.Exported(weights)
        case "onnx":
            return engines.Onnx(weights)
        case _:
            return engines.RLRestore(weights, int(number_value(f"{place}.number", entry["number"], 1, 12, whole=True)))


def _params(place: str, params: Any) -> dict[str, Any]:
    if not isinstance(params, dict) or not all(isinstance(key, str) and key.isidentifier() for key in params):
        raise YamlError(place, "must be a mapping from parameter names to values", "Write `name: value` lines.")
    return params

"""Reading a user's YAML file strictly: every mistake is a `Problem` that names the file, the place and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from pool.errors import Problem

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 20


class YamlError(Problem):
    """A YAML file that cannot be used: which file and place, why, and what to write instead."""


def read_mapping(path: Path) -> dict[str, Any]:
    """The file's top-level mapping. Only plain data is built: no tags, no code; alias bombs and endless nesting are refused."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise YamlError(
                path, f"is larger than {MAX_BYTES >> 10} KiB", "A toolbox or suite is a page of text; is this the right file?"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null byte in the path
        raise YamlError(path, f"cannot be read as text: {error}", "Check the path; the file must be UTF-8.") from error
    return parse_mapping(text, str(path))


def parse_mapping(text: str, name: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise YamlError(name, "is not valid YAML: " + " ".join(str(error).split()), "Mend the line that it names.") from error
    except (RecursionError, ValueError, OverflowError, TypeError, AttributeError) as error:
        # PyYAML lets these through for impossible dates and numbers, unhashable keys and very deep nesting.
        raise YamlError(name, f"is not valid YAML: {type(error).__name__}: {error}", "Mend it.") from error
    if not isinstance(data, dict):
        raise YamlError(
            name, f"must be a mapping (key: value lines), not {_kind(data)}", "See the ones that ship for the form."
        )
    _measure(data, name)
    return data


def _measure(data: Any, name: str) -> None:
    """Walk the tree as a reader would, aliases expanded, and stop at a size no honest file has."""
    count, stack = 0, [(data, 0)]
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise YamlError(
                name, "is nested or aliased beyond any use", f"Keep it under {MAX_NODES} values and {MAX_DEPTH} levels."
            )
        if isinstance(node, dict):
            stack += [(child, depth + 1) for child in node.values()]
        elif isinstance(node, list | tuple | set):
            stack += [(child, depth + 1) for child in node]


def check_keys(place: str, mapping: Any, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """The mapping itself, if it has all required keys and no unknown ones."""
    if not isinstance(mapping, dict):
        raise YamlError(place, f"must be a mapping (key: value), not {_kind(mapping)}", f"Give it the keys {sorted(required)}.")
    known = [*required, *optional]
    for key in mapping:
        if key not in known:
            raise YamlError(place, f"unknown key {key!r}", suggest(str(key), known))
    for key in required:
        if key not in mapping:
            raise YamlError(place, f"lacks the key {key!r}", f"Add `{key}: ...`.")
    return mapping


def text_value(place: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 500:
        raise YamlError(place, f"must be a short text, not {_kind(value)}", "Put it in quotes if it is meant as text.")
    return value.strip()


def list_value(place: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise YamlError(place, f"must be a list with at least one entry, not {_kind(value)}", "Write one `- entry` a line.")
    return value


def number_value(place: str, value: Any, low: float, high: float, *, whole: bool = False) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or (whole and value != int(value)):
        what = "a whole number" if whole else "a number"
        raise YamlError(place, f"must be {what} between {low:g} and {high:g}, not {_kind(value)}", "Correct it.")
    return int(value) if whole else value


def suggest(word: str, known: Collection[str]) -> str:
    """A remedy for a name that is not known: the nearest one, then all."""
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(sorted(known))}."


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str | int | float | bool) else ""
    return f"{type(value).__name__} {text[:60]}".strip()

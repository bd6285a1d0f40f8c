"""Mutations of plain data: what YAML and JSON files hold once they are read."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from experiments.drills.fuzzing.trials import mutated_bytes

DEEP = 3000
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3.5, -0.0, 1e308, float("nan"), float("inf"), 10**30, -(2**63) - 1, "", " ", "x" * 3000, "rain+", "+",
    "ünï", "\ud800", "\x00", "1", "²", [], {}, [[]], [1, 2, 3], {"a": 1}, "../../etc/passwd", "/etc/passwd", "os:system",
    {"kind": "gaussian"}, [None], ["noise"], "2020-13-45", "<script>alert(1)</script>", "</script>",
)  # fmt: skip
PLAIN = tuple(value for value in ODD if value != "\ud800")
NAMES = ("nmae", "Tools", "extra", "__class__", "", "../x")


def mutate(rng: random.Random, data: Any, odd: tuple[Any, ...] = ODD, names: tuple[Any, ...] = NAMES) -> Any:
    """A copy in which a few nodes are replaced, dropped, doubled or renamed."""
    holder = [copy.deepcopy(data)]
    for _ in range(rng.randrange(1, 4)):
        _mutate_node(rng, holder, odd, names)
    return holder[0] if holder else None


def _mutate_node(rng: random.Random, node: Any, odd: tuple[Any, ...], names: tuple[Any, ...]) -> None:
    top = True
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        child = node[key]
        if isinstance(child, dict | list) and child and rng.random() < (0.99 if top else 0.75):
            node, top = child, False
            continue
        action = rng.randrange(5)
        if action == 0:
            del node[key]
        elif action == 1 and isinstance(node, dict):
            node[rng.choice(names)] = node.pop(key)
        elif action == 2 and isinstance(node, list):
            node.append(child)
        elif action == 3 and isinstance(child, int | float) and not isinstance(child, bool):
            node[key] = rng.choice((-child, child + 1, child * 10**6, child / 2, str(child)))
        else:
            node[key] = copy.deepcopy(rng.choice(odd))
        return


def mutated_json(rng: random.Random, good: Any) -> bytes:
    """As data, as text, as bytes; sometimes nested without end."""
    kind = rng.randrange(10)
    if kind < 6:
        return json.dumps(mutate(rng, good)).encode()
    if kind == 6 and rng.random() < 0.2:
        return rng.choice((b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP, b"1" * 5000, b"{}", b"null", b"[]"))
    return mutated_bytes(rng, json.dumps(good).encode())

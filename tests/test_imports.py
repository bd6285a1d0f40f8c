"""Imports run downwards only: experiments → agents → tir_env → rewards → pool."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("pool", "rewards", "tir_env", "agents", "experiments")  # lowest first


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the floor they lead to"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_what_lies_below(floor: str) -> None:
    files = list((ROOT / floor).rglob("*.py"))
    assert files
    above = {*FLOORS[FLOORS.index(floor) + 1 :], "tests"}
    offenders = {str(f.relative_to(ROOT)): sorted(imported(f) & above) for f in files if imported(f) & above}
    assert offenders == {}


def test_every_room_says_what_it_is_for() -> None:
    rooms = [f for floor in FLOORS for f in (ROOT / floor).rglob("*.py") if f.stat().st_size]
    assert [str(f) for f in rooms if not ast.get_docstring(ast.parse(f.read_text(encoding="utf-8")))] == []


def test_no_room_is_over_400_lines() -> None:
    rooms = [f for floor in FLOORS for f in (ROOT / floor).rglob("*.py")]
    assert {str(f): n for f in rooms if (n := len(f.read_text(encoding="utf-8").splitlines())) > 400} == {}

"""The blocks of docs/*.md run: a page's in their order, in a folder of its own. One that cannot says why in a comment above it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pytest

from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


class Block(NamedTuple):
    note: str
    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["note"] or "", found["language"], found["text"], text[: found.start("text")].count("\n"))
        for found in BLOCK.finditer(text)
    ]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a `tir` on the PATH that is this checkout's."""
    tir = tmp_path / "bin" / "tir"
    tir.parent.mkdir()
    path = f'export PYTHONPATH="{ROOT}${{PYTHONPATH:+:$PYTHONPATH}}"'
    tir.write_text(f'#!/bin/sh\n{path}\nexec "{sys.executable}" -m experiments.cli "$@"\n')
    tir.chmod(0o755)
    place = tmp_path / "page"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("PATH", f"{tir.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    matplotlib.use("agg")
    return place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, elsewhere: Path) -> None:
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        if block.note.startswith("file: "):
            (elsewhere / block.note.removeprefix("file: ")).write_text(block.text)
        elif block.note.startswith("not run: "):
            assert len(block.note) > 25, f"{where} does not say why"
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        elif block.language == "sh":
            done = subprocess.run(["bash", "-euc", block.text], capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{where}: {done.stderr}"
        else:
            assert block.language == "json", f"{where} is no block that can be run or read"
            json.loads(block.text)


def test_every_block_is_found() -> None:
    """A fence that the pattern misses would never be run."""
    for page in PAGES:
        fences = re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), page.name


def test_commands_that_are_not_run_are_there() -> None:
    """What a page only shows names a script, a module or a command that exists, with options that it has."""
    from experiments.cli import COMMANDS

    for page in PAGES:
        for block in blocks(page):
            for line in block.text.splitlines() if block.language == "sh" else ():
                if found := re.search(r"python (experiments/\S+\.py)", line):
                    assert (ROOT / found[1]).is_file(), line
                if found := re.search(r"python -m ([\w.]+)", line):
                    assert (ROOT / f"{found[1].replace('.', '/')}.py").is_file(), line
                if found := re.search(r"\btir (\w+)", line):
                    assert found[1] in COMMANDS, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_and_its_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
    assert [link for link in LINK.findall(text) if not (page.parent / link).is_file()] == []

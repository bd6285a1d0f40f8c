"""What docs/*.md and the README files show is run: a page's blocks in their order, in a folder of its own.

A comment above a block says what else is done with it: `file: NAME` writes it down, `smaller: OLD -> NEW; ...` runs it at another size,
`not run: REASON` only has each of its commands read its options, as is done with every command within the prose.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import gymnasium
import matplotlib
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from experiments.run import Run
from experiments.runs import RunFolder
from pool import Pool
from tests.conftest import ROOT
from tests.experiments.test_scripts import within
from tests.shell import Command, check, commands
from tir_env.degradations import open_suite
from tir_env.images import write_image
from tir_env.images.generate import dead_leaves
from tir_env.tools import Toolbox

README = ROOT / "README.md"
PAGES = [README, ROOT / "pool/README.md", ROOT / "tir_env/tree/README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
INLINE = re.compile(r"(?<!`)`((?:python|tir|pip|ray|(?:experiments/|\.ci/)?\S+\.py)(?: [^`\n]+)?)`(?!`)")
IN_THE_GATE = {"main-job", "test-job"}  # notes of the two commands that .ci/run runs
PLACES = (ROOT / "experiments", ROOT / "experiments/drills")  # of scripts that prose calls by their names
RUNS = ("out/run", "out/tir-agent")  # folders that pages resume from

# Commands of README.md that are really run, one after another in one folder, with what makes them small.
TINY = {
    "python experiments/run.py --env tree:pocket": "--iterations 1 --episodes 8 --minibatch 8 --test-episodes 2",
    "python experiments/evaluate.py --agent out/run --suite restore-r1-iv --images FOLDER --part all --json figures.json": "--episodes 2",  # noqa: E501
    "python experiments/evaluate.py --agent random": "--episodes 2 --crop 32",
    "python experiments/restore.py photo.jpg --agent out/run": "",
    "python experiments/report.py out/run out/run-2 --out both.html": "",
    "python experiments/make_weights.py --list": "",
    "python experiments/show.py cases --suite mio100-a --image photo.jpg": "--out cases.png",
}


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


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def needs_ray(page: Path) -> bool:
    return any(b.language == "python" and '("ray"' in b.text and not b.note.startswith("not run: ") for b in blocks(page))


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


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.ray] if needs_ray(p) else [], id=name_of(p)) for p in PAGES]
)
def test_a_page_does_what_it_says(page: Path, elsewhere: Path, request: pytest.FixtureRequest) -> None:
    if needs_ray(page):
        request.getfixturevalue("cluster")
    names: dict[str, Any] = {"__name__": page.stem}
    try:
        for block in blocks(page):
            do(block, f"{name_of(page)}, line {block.line}", elsewhere, names)
    finally:
        for thing in names.values():
            if isinstance(thing, (Pool, gymnasium.Env, gymnasium.vector.VectorEnv)):
                thing.close()


def do(block: Block, where: str, folder: Path, names: dict[str, Any]) -> None:
    text = block.text
    if block.note.startswith("smaller: "):
        for change in block.note.removeprefix("smaller: ").split("; "):
            old, new = change.split(" -> ")
            assert text.count(old) == 1, f"{where}: {old}"
            text = text.replace(old, new)
    if block.note in IN_THE_GATE:
        assert f"$(command_after {block.note})" in (ROOT / ".ci/run").read_text(), f"{where}: .ci/run does not run it"
    elif block.note.startswith("not run: "):
        assert len(block.note) > 25, f"{where} does not say why"
    elif block.note.startswith("file: "):
        (folder / block.note.removeprefix("file: ")).write_text(text)
    elif block.language == "python":
        exec(compile(text, where, "exec"), names)
    elif block.language == "sh":
        done = subprocess.run(["bash", "-euc", text], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{where}: {done.stderr}"
    elif block.language == "json":
        json.loads(text)
    else:
        assert block.language in ("yaml", "text"), f"{where} is no block that can be run or read"
    if block.language == "yaml":
        read(text)


def read(text: str) -> None:
    """By what reads it: a toolbox and a suite lie in a folder of their own, a cluster's description is Ray's."""
    content = yaml.safe_load(text)
    if "cluster_name" in content:
        filled = prepare_config(content)
        validate_config(filled)
        assert not set(content) - set(filled)
        return
    Path("read.yaml").write_text(text)
    if "tools" in content:
        assert len(Toolbox.load("read.yaml")) == len(content["tools"])
    else:
        assert len(open_suite("read.yaml")) == len(content["cases"])


# -- commands ----------------------------------------------------------------------------------------------------------------------


def shown(page: Path, folder: Path) -> Iterator[Command]:
    """Every command of a page: of its blocks, and in its prose those that have options."""
    for block in blocks(page):
        if block.language == "sh":
            yield from commands(block.text, folder)
    for span in INLINE.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        first, _, options = span.partition(" ")
        if first.endswith(".py"):
            found = [place / first for place in (ROOT, *PLACES, page.parent) if (place / first).is_file()]
            assert found or ("/" not in first and not options), f"{name_of(page)}: no {span}"
            if options:
                yield from commands(f"python {found[0].relative_to(ROOT)} {options}", folder)
        elif options:
            yield from commands(f"{span} --help" if re.fullmatch(r"tir \w+", span) else span, folder)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_scripts_understand_the_commands_that_a_page_shows(page: Path, elsewhere: Path) -> None:
    for run in RUNS:
        RunFolder.create(Path(run), Run())
    seen = list(dict.fromkeys(shown(page, elsewhere.parent / "shell")))
    for command in seen:
        check(command)


@pytest.mark.parametrize(
    "command",
    [
        "python experiments/run.py --no-such-option 1",
        "python experiments/no_such.py",
        "python experiments/diversity.py",
        "tir eval --agent random --episodes many",
        "tir no-such",
        "python -m experiments.drills.no_such",
        "python -m pool.top --no-such",
        "ray up --no-such cluster.yaml",
        'pip install -e ".[no-such]"',
        "convert photo.jpg photo.png",
    ],
)
def test_a_command_that_is_wrong_is_found(command: str, elsewhere: Path) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        [check(one) for one in commands(command, elsewhere)]


@pytest.mark.ray
def test_commands_of_the_readme_run(cluster: None, elsewhere: Path) -> None:
    write_image(Path("photo.jpg"), dead_leaves(0, 64))
    for number in range(2):
        write_image(Path("FOLDER") / f"{number}.png", dead_leaves(number, 64))
    there = {" ".join(command) for command in shown(README, elsewhere.parent / "shell")}
    tree = next(iter(TINY))
    for command in (tree, *TINY):
        assert command in there, f"README.md does not show {command}"
        _, script, *words = command.split()
        done = within(script.removeprefix("experiments/"), *words, *TINY[command].split())
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert {"figures.json", "both.html", "cases.png"} <= {path.name for path in elsewhere.iterdir()}
    assert (elsewhere / "out/restored/photo.png").is_file()


def test_every_block_is_found() -> None:
    """A fence that the pattern misses would never be run."""
    for page in PAGES:
        fences = re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), page.name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_short_and_its_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert sum(not line.startswith("|") for line in text.splitlines()) < 200
    assert [link for link in LINK.findall(text) if not (page.parent / link).is_file()] == []

"""The scripts run as a user runs them: in a process of their own, small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tir_env.images import read_image


def script(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "experiments" / str(args[0])), *map(str, args[1:])]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd or ROOT, env=environment, timeout=300)


@pytest.mark.parametrize("what", [("cases", "--suite", "restore-r1-i"), ("extremes",)])
def test_show_draws_contact_sheets(tmp_path: Path, what: tuple[str, ...]) -> None:
    done = script("show.py", *what, "--out", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "sheet.png").std() > 10


def test_bench_env_writes_its_figures(tmp_path: Path) -> None:
    done = script("bench_env.py", "--rounds", 1, "--episodes", 8, "--size", 32, "--json", tmp_path / "f.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())["figures"]
    assert set(figures) >= {"light tools: single", "light tools: vector 64", "whole toolbox: bare loop"}
    assert all(value > 0 for row in figures.values() for value in row["steps_per_s"])


def test_broken_files_end_in_typed_errors(tmp_path: Path) -> None:
    done = script("drills/fuzz_inputs.py", "--images", 200, "--yaml", 60, "--seed", 5, "--json", tmp_path / "f.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "f.json").read_text())
    assert report["pictures"]["ended"]["ImageError"] > 50
    assert report["pictures"]["ended"]["result"] > 20


def test_a_users_mistake_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = script("show.py", "cases", "--suite", "mio100", "--out", tmp_path / "a.png")
    assert done.returncode == 2
    assert done.stderr.startswith("error: suite 'mio100': is not known. Did you mean 'mio100-")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("run.py", "--episodes", 0),
        ("run.py", "--seed", -1),
        ("run.py", "--out", "/proc/none"),
        ("run.py", "--reward", "json:loads"),
        ("show.py", "extremes", "--seed", -1),
        ("show.py", "cases", "--out", "e.xyz"),
        ("show.py", "tools", "--image", "/none.png"),
        ("bench_tools.py", "--images", "/none"),
    ],
)
def test_more_mistakes(command: tuple[object, ...]) -> None:
    done = script(*command)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr

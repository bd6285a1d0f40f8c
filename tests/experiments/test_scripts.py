"""The scripts run as a user runs them, small: in a process of their own, or where nothing depends on it in this one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pool import Problem
from tests.conftest import ROOT
from tir_env.images import read_image


def script(*args: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "experiments" / str(args[0])), *map(str, args[1:])]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)


def within(*args: object) -> subprocess.CompletedProcess[str]:
    """As `script`, in this process: to start Python and PyTorch anew takes longer than many a script."""
    command = [str(ROOT / "experiments" / str(args[0])), *map(str, args[1:])]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


@pytest.mark.parametrize("what", [("cases", "--suite", "restore-r1-i"), ("extremes",)])
def test_show_draws_contact_sheets(tmp_path: Path, what: tuple[str, ...]) -> None:
    done = within("show.py", *what, "--out", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "sheet.png").std() > 10


def test_bench_env_writes_its_figures(tmp_path: Path) -> None:
    done = script("bench_env.py", "--rounds", 1, "--episodes", 8, "--size", 32, "--json", tmp_path / "f.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())["figures"]
    assert set(figures) >= {"light tools: single", "light tools: vector 8", "whole toolbox: bare loop"}
    assert all(value > 0 for row in figures.values() for value in row["steps_per_s"])


def test_broken_files_end_in_typed_errors(tmp_path: Path) -> None:
    parts = ("pictures", "suites", "tool-calls", "endpoint-replies", "metric-outputs", "trees", "checkpoints", "run-options")
    done = script("drills/fuzz_inputs.py", "--only", *parts, "--count", 60, "--seed", 5, "--json", tmp_path / "f.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "f.json").read_text())
    for part, error in (
        ("pictures", "ImageError"),
        ("endpoint-replies", "Nonsense"),
        ("metric-outputs", "BadOutput"),
        ("trees", "TreeError"),
    ):
        assert report[part]["ended"][error] > 5
        assert report[part]["ended"]["result"] > 0
    assert all(report[part]["inputs"] == 60 and not report[part]["wrong"] for part in parts)


def test_the_other_parts_of_that_drill(tmp_path: Path) -> None:
    parts = {
        "toolboxes": 20, "weights": 20, "metric-networks": 20, "endpoint-http": 1, "trajectories": 20, "agents": 20, "reports": 4,
        "evaluate-options": 20, "restore-options": 1,
    }  # fmt: skip
    done = script("drills/fuzz_inputs.py", "--only", *parts, "--count", 20, "--json", tmp_path / "f.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "f.json").read_text())
    assert {part: report[part]["inputs"] for part in parts} == parts
    assert not any(report[part]["wrong"] for part in parts)


def test_a_users_mistake_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = script("show.py", "cases", "--suite", "mio100", "--out", tmp_path / "a.png")
    assert done.returncode == 2
    assert done.stderr.startswith("error: suite 'mio100': is not known. Did you mean 'mio100-")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "thing"),
    [
        (("run.py", "--episodes", 0), "--episodes"),
        (("run.py", "--seed", -1), "--seed"),
        (("run.py", "--out", "/proc/none"), "/proc/none"),
        (("run.py", "--reward", "json:loads"), "reward 'json:loads'"),
        (("show.py", "extremes", "--seed", -1), "--seed"),
        (("show.py", "cases", "--out", "e.xyz"), "e.xyz"),
        (("show.py", "tools", "--image", "/none.png"), "/none.png"),
        (("bench_tools.py", "--images", "/none"), "/none"),
        (("bench_report.py", "--trajectories", 0), "--trajectories"),
        (("report.py", "/none"), "/none"),
        (("report.py",), "report.py: was given no run"),
    ],
)
def test_more_mistakes(command: tuple[object, ...], thing: str) -> None:
    done = within(*command)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert thing in done.stderr
    assert "Traceback" not in done.stderr


def test_every_script_starts_in_one_way() -> None:
    """So all of them end a user's mistake in one line, and know --debug."""
    scripts = [path for path in (ROOT / "experiments").rglob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    assert len(scripts) > 25
    others = [
        path.name for path in scripts if not re.search(r"^from experiments\.console import .*\bmain\b", path.read_text(), re.M)
    ]
    assert others == ["cli.py"], "which chooses a script, and starts it like that"


def test_examples_in_a_help_keep_their_lines() -> None:
    """Lines that are not indented run into one."""
    files = [path for room in ("experiments", "tir_env", "agents", "rewards", "pool") for path in (ROOT / room).rglob("*.py")]
    run_together = [path.name for path in files if re.search(r"^python ", path.read_text(encoding="utf-8"), re.M)]
    assert not run_together


@pytest.mark.parametrize("name", ["run.py", "show.py", "restore.py", "drills/pool_simulation.py"])
def test_help_names_debug(name: str) -> None:
    done = within(name, "--help")
    assert done.returncode == 0
    assert "--debug (or TIR_DEBUG=1) shows where an error comes from." in done.stdout


def test_debug_shows_where_an_error_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = ("show.py", "cases", "--out", tmp_path / "none" / "e.xyz")
    assert within(*command).returncode == 2
    with pytest.raises(Problem):
        within(*command, "--debug")
    with pytest.raises(Problem):
        within("run.py", "--debug", "--seed", -1)
    monkeypatch.setenv("TIR_DEBUG", "1")
    with pytest.raises(Problem):
        within(*command)


def test_trl_trains_in_our_world(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    sizes = ("--steps", 1, "--prompts", 1, "--rollouts", 2, "--warm-up", 2, "--completion", 128)
    done = within("examples/train_with_trl.py", *sizes, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step 1: gain:psnr" in done.stdout

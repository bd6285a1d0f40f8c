"""The console script `tir`, in this process, and from a wheel that was installed away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tir_env
from experiments import cli
from experiments.console import command_for
from experiments.run import Run
from experiments.runs import RunFolder
from pool import Problem
from tests.conftest import ROOT
from tests.test_imports import FLOORS

FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def tir(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tir", *map(str, arguments)])
        cli.main()


def test_help_has_a_line_for_each_command_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    tir()
    lines = capsys.readouterr().out.splitlines()
    for name, command in cli.COMMANDS.items():
        [line] = [line for line in lines if line.startswith(f"  {name} ")]
        assert len(line) > 40, f"the first line of {command.module}'s docstring says nothing"
    heavy = {"numpy", "ray", "torch", "tyro", "gymnasium"}
    code = f"import sys, experiments.cli as c; c.usage(); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_shows_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tir(name, "--help")
    assert not ended.value.code
    assert f"usage: tir {name} " in capsys.readouterr().out


def test_what_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tir("restor")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: tir restor: is no command. Did you mean 'restore'?")


def test_a_commands_exit_status_is_tirs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tir("tools", "list", "--toolbox", "poket")
    assert ended.value.code == 2
    tir("--version")
    assert capsys.readouterr().out == f"{tir_env.__version__}\n"


def test_hints_name_the_command_that_their_reader_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert command_for("run.py") == "python experiments/run.py"
    folder = RunFolder.create(tmp_path / "run", Run())
    (folder.path / "log.jsonl").mkdir()
    monkeypatch.setattr(sys, "argv", ["tir train"])
    with pytest.raises(Problem, match=f"then: tir train --resume {folder.path}$"):
        folder.append({"iteration": 1})
    monkeypatch.setattr(sys, "argv", ["default_worker.py"])
    monkeypatch.chdir(tmp_path)
    assert [command_for(script) for script in ("evaluate.py", "restore.py")] == ["tir eval", "tir restore"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy (building leaves things behind), installed into a folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in FLOORS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    build = [*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "-w", str(source / "dist")]
    subprocess.run(build, check=True, timeout=300)
    [wheel] = (source / "dist").glob("tir_env-*.whl")
    assert wheel.name.startswith(f"tir_env-{tir_env.__version__}-")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, timeout=300)
    return target


@pytest.fixture
def away(installed: Path, tmp_path: Path) -> Any:
    """Runs the installed `tir` in another folder, with nothing of the checkout on the path."""

    def run(*arguments: object) -> str:
        environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        command = [str(installed / "bin" / "tir"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_everything_that_git_does(installed: Path) -> None:
    """Weights, YAML, templates, model cards: whatever lies in the packages, save for notes to readers of the source."""
    here = {file.relative_to(ROOT) for name in FLOORS for file in (ROOT / name).rglob("*") if file.is_file()}
    wanted = {file for file in here if "__pycache__" not in file.parts and file.name != "README.md"}
    assert {str(file) for file in wanted if not (installed / file).is_file()} == set()
    assert not (installed / "tests").exists()
    [points] = installed.glob("tir_env-*.dist-info/entry_points.txt")
    assert "[tir_env.restorer]\nagent = experiments.restore:Restorer" in points.read_text()


def test_the_wheel_works_elsewhere(away: Any, installed: Path, tmp_path: Path) -> None:
    listed = away("tools", "list")
    assert "24 tools: 24 ready" in listed
    assert str(installed)[-20:] in listed.replace("\n", "")  # its own weights, not the checkout's
    sizes = ("--suite", "noise", "--episodes", 4, "--crop", 32, "--json", "figures.json")
    away("eval", "--agent", "denoise/drunet", *sizes)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["all"]["psnr gain"] > 3
    assert away("--version") == f"{tir_env.__version__}\n"

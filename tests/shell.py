"""What a shell would run, and whether the command that is named would understand it: nothing is run but the reading of options."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import runpy
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import tyro

from tests.conftest import ROOT

PYTHONS = ("python", "python3", ".venv/bin/python")
PROGRAMS = (*PYTHONS, "tir", "ray", "pip", ".venv/bin/pip")
OTHERS = ("venv", "pytest", "pip")  # modules whose options are not ours
RECORD = '#!/bin/bash\n{ printf "%s\\037" "$0" "$@"; printf "\\036"; } >> "$RECORD"\n'

Command = tuple[str, ...]


def commands(text: str, folder: Path) -> list[Command]:
    """Bash reads the text (loops, quotes, comments and all), and finds in place of each program one that notes how it was called."""
    for name in PROGRAMS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RECORD)
        path.chmod(0o755)
    record = folder / "record"
    record.write_text("")
    environment = {"PATH": str(folder), "RECORD": str(record), "PYTHONPATH": ""}
    bash = ["/bin/bash", "-euc", text]
    done = subprocess.run(bash, capture_output=True, text=True, cwd=folder, env=environment, timeout=60)
    assert done.returncode == 0, f"{done.stderr}\n{text}"
    called = [line.split("\037")[:-1] for line in record.read_text().split("\036")[:-1]]
    return [(os.path.relpath(program, folder) if "/" in program else program, *words) for program, *words in called]


class Understood(BaseException):
    """The options were read; no script catches this."""


def check(command: Command) -> None:
    """Fails unless the program named understands the words that follow it."""
    program, *words = command
    if program in PYTHONS:
        check_python(command, words)
    elif program == "tir":
        if words not in (["--help"], ["--version"]):
            starts(command, lambda: runpy.run_module("experiments.cli", run_name="__main__"), words)
    elif program == "ray":
        from ray.scripts.scripts import cli

        cli.commands[words[0]].make_context(words[0], list(words[1:]))
    else:
        check_extras(words)


def check_python(command: Command, words: list[str]) -> None:
    if words[0] == "-m":
        if words[1] in OTHERS:
            check_extras(words)
            return
        assert importlib.util.find_spec(words[1]) is not None, f"no such module: {command}"
        starts(command, lambda: runpy.run_module(words[1], run_name="__main__", alter_sys=True), words[2:])
    else:
        script = ROOT / words[0]
        assert script.is_file(), f"no such script: {command}"
        starts(command, lambda: runpy.run_path(str(script), run_name="__main__"), words[1:])


def check_extras(words: list[str]) -> None:
    """`pip install -e ".[test]"`: what is in brackets is in setup.cfg."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for word in words:
        if word.endswith("]"):
            asked = word.rpartition("[")[2].rstrip("]").split(",")
            assert set(asked) <= set(setup["options.extras_require"]), word


def starts(command: Command, run: Any, words: list[str]) -> None:
    """The script begins, and is stopped as soon as it has read its options."""

    def stopped(read: Any) -> Any:
        def once(*given: Any, **more: Any) -> None:
            read(*given, **more)
            raise Understood

        return once

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        patch.setattr(tyro, "cli", stopped(tyro.cli))
        patch.setattr(argparse.ArgumentParser, "parse_args", stopped(argparse.ArgumentParser.parse_args))
        patch.setattr(sys, "argv", [command[0], *words])
        with pytest.raises((Understood, SystemExit)) as ended:
            run()
    if isinstance(ended.value, SystemExit):
        assert not ended.value.code, f"{' '.join(command)}\n{said.getvalue()}"
        assert "--help" in words, f"{' '.join(command)} read no options"

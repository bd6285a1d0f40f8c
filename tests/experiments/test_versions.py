"""The drill that runs the tests on other versions: what it reads. To install them takes too long for here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from experiments.drills.versions import SETUP, bounds, installed, not_reached, run_tests
from pool import Problem

TESTS = """
import pytest

def test_holds():
    pass

@pytest.mark.parametrize("number", [1, 2])
def test_fails(number):
    assert number == 1

@pytest.mark.skip
def test_waits():
    pass

def test_breaks(nothing_of_that_name):
    pass
"""


def test_every_requirement_has_a_lower_bound() -> None:
    found = bounds(SETUP)
    assert len(found) > 40
    assert [name for name, bound in found.items() if not bound] == []


def test_the_strictest_bound_counts_and_what_is_above_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "setup.cfg").write_text("""
[options]
install_requires =
    ray[rllib]>=2.50
    Some_Thing>=1.10,<3
    free
[options.extras_require]
# a comment
one = Some-Thing>=1.9
two =
    # another
    other>=4
dev =
    %(two)s
""")
    found = bounds(tmp_path / "setup.cfg")
    assert found == {"ray": "2.50", "some-thing": "1.10", "free": "", "other": "4"}
    versions = {"ray": "2.50.0", "some-thing": "1.11", "free": "7", "more": "1"}
    assert not_reached(found, versions) == {"some-thing": ("1.10", "1.11"), "free": ("", "7")}


def test_results_are_counted(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    (tmp_path / "test_some.py").write_text(TESTS)
    result = run_tests(tmp_path, [str(tmp_path / "test_some.py")], processes=1)
    assert (result.passed, result.skipped) == (2, 1)
    assert [name.rpartition("::")[2] for name in result.failed] == ["test_fails[2]", "test_breaks"]
    assert {"python", "pytest", "tir-env"} <= set(installed(tmp_path))
    with pytest.raises(Problem, match="did not run"):
        run_tests(tmp_path, ["--no-such-option"], processes=1)

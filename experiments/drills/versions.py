"""The test suite on the oldest versions that setup.cfg allows, and on the newest.

    python -m experiments.drills.versions --json versions.json
    python -m experiments.drills.versions --sets oldest --tests tests/rewards tests/pool

Each set gets a virtual environment, is tested, and the environment is deleted; PyTorch for CUDA takes 7 GB. The oldest are the lower
bounds of setup.cfg themselves (uv's `--resolution lowest-direct`; what those need in turn is the newest that goes with them), the
newest what a fresh install gives today. A lower bound that cannot be installed, because another requirement wants more, is named: it
promises what nobody has tried.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from rich.console import Console

from experiments.console import at_least, main, write_json
from pool import Problem

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "setup.cfg"
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}


@dataclass
class Versions:
    sets: tuple[Literal["oldest", "newest"], ...] = ("oldest", "newest")
    """Which environments to make, one after the other."""
    tests: tuple[str, ...] = ("tests",)
    """What pytest shall run."""
    python: str = sys.executable
    """The interpreter to make them from."""
    folder: Path = Path("out/versions")
    """Where the environments lie while they are needed."""
    processes: int = 2
    """Of pytest, side by side."""
    keep: bool = False
    """Leave the environments there. One that is there is used as it is."""
    json: Path | None = None
    """Write versions and results here."""


@dataclass(frozen=True)
class Result:
    passed: int
    skipped: int
    failed: list[str]
    seconds: float


def run(settings: Versions) -> int:
    at_least(1, processes=settings.processes, sets=len(settings.sets))
    console = Console()
    found: dict[str, Any] = {}
    for name in settings.sets:
        place = settings.folder.resolve() / name
        try:
            if not place.exists():
                console.print(f"{name}: installing into {place}", soft_wrap=True)
                install(place, settings.python, RESOLUTIONS[name])
            versions = installed(place)
            console.print(f"{name}: {len(versions)} packages; {' '.join(settings.tests)}")
            result = run_tests(place, settings.tests, settings.processes)
        finally:
            if not settings.keep:
                shutil.rmtree(place, ignore_errors=True)
        above = not_reached(bounds(SETUP), versions) if name == "oldest" else {}
        found[name] = {**asdict(result), "not reached": above, "versions": versions}
        write_json(settings.json, found)
        counts = f"{result.passed} passed, {len(result.failed)} failed, {result.skipped} skipped in {result.seconds:.0f} s"
        console.print(f"{name}: {counts}")
        for each in result.failed:
            console.print(f"  failed: {each}", soft_wrap=True)
        for package, (bound, version) in above.items():
            console.print(f"  {package}>={bound} was not tried: the others want {version}")
    return int(any(each["failed"] or each["not reached"] for each in found.values()))


def install(place: Path, python: str, resolution: str) -> None:
    """The project and what its tests need."""
    at = place / "bin" / "python"
    try:
        subprocess.run([python, "-m", "venv", place], check=True)
        subprocess.run([at, "-m", "pip", "install", "-q", "uv"], check=True)
        subprocess.run(
            # Compiled, because every process would do it anew where Python is told to write none of it down.
            [at, "-m", "uv", "pip", "install", "-q", "--compile-bytecode", "--resolution", resolution, "-e", ".[test]"],
            cwd=ROOT,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(place, ignore_errors=True)
        raise Problem(place, f"cannot be made: {error}", "What was printed above says why.") from error


def installed(place: Path) -> dict[str, str]:
    """Versions by name, Python's among them."""
    program = (
        "import json, platform; from importlib.metadata import distributions; "
        "print(json.dumps({'python': platform.python_version()} | {d.name: d.version for d in distributions()}))"
    )
    done = subprocess.run([place / "bin" / "python", "-c", program], check=True, capture_output=True, text=True)
    return {canonicalize_name(name): version for name, version in sorted(json.loads(done.stdout).items())}


def run_tests(place: Path, tests: Sequence[str], processes: int) -> Result:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [str(place / "bin" / "python"), "-m", "pytest", "-n", str(processes), f"--junitxml={report}", *tests]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
        if not report.exists():
            raise Problem(" ".join(tests), "did not run", "What pytest printed above says why.")
        return read_report(report, time.perf_counter() - began)


def read_report(report: Path, seconds: float) -> Result:
    failed, skipped, count = [], 0, 0
    for case in ElementTree.parse(report).iter("testcase"):
        count += 1
        ends = {child.tag for child in case}
        if ends & {"failure", "error"}:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in ends:
            skipped += 1
    return Result(count - len(failed) - skipped, skipped, failed, seconds)


def bounds(setup: Path) -> dict[str, str]:
    """The lower bound of everything that setup.cfg names; empty where it gives none. The strictest where it does so twice."""
    parser = configparser.RawConfigParser()
    parser.read(setup, encoding="utf-8")
    lists = [parser["options"]["install_requires"], *parser["options.extras_require"].values()]
    found: dict[str, str] = {}
    for line in (line.strip() for each in lists for line in each.splitlines()):
        if not line or line.startswith(("#", "%")):
            continue
        requirement = Requirement(line)
        lower = next((spec.version for spec in requirement.specifier if spec.operator == ">="), "")
        name = canonicalize_name(requirement.name)
        found[name] = max(lower, found.get(name, lower), key=lambda version: Version(version or "0"))
    return found


def not_reached(bounds: dict[str, str], versions: dict[str, str]) -> dict[str, tuple[str, str]]:
    """(bound, version) of what is installed in a newer version than its lower bound."""
    both = {name: (bound, versions[name]) for name, bound in bounds.items() if name in versions}
    return {name: (bound, has) for name, (bound, has) in both.items() if not bound or Version(has) != Version(bound)}


if __name__ == "__main__":
    main(Versions, run, __doc__)

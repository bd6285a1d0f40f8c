"""One HTML file about one run or several: what was run, curves, rivals, tools, and every step of every trajectory to look at.

    python experiments/report.py out/run                            out/run/report.html; run.py writes it at its end, too
    python experiments/report.py out/run out/run-2 --out both.html  side by side: settings that differ, curves over each other

The file needs no network and can be sent to anybody. Pictures are those that run.py kept; what it did not keep is made again with the
run's photographs and tools, byte for byte, or left out with a note that says so. Tools from a YAML file may run any program, and
depth from elsewhere is a stranger's file: they are used if you ask for it by --remake.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from jinja2 import UndefinedError

from experiments.console import at_least, main, write_json
from experiments.report_page.page import page
from experiments.report_page.reading import SHOWN, names_of, read_run
from experiments.runs import REPORT, TABLE
from pool import Problem
from tir_env.files import write_aside

MEGABYTES = 24.0


@dataclass
class Report:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders that run.py made."""
    out: Path | None = None
    """The HTML file; not given: report.html in the folder of the first run."""
    megabytes: float = MEGABYTES
    """Room for pictures; when it is full, the other trajectories are shown by their figures alone."""
    trajectories: int = SHOWN
    """Trajectories of each run, at most; where there are more, that many are shown, spread evenly."""
    remake: bool = False
    """Make missing pictures again with a run's own toolbox file and depth, too: for runs that you trust."""
    json: Path | None = None
    """Write the file's size, and how long it took, here."""


def write_report(
    runs: tuple[Path, ...],
    out: Path | None = None,
    megabytes: float = MEGABYTES,
    trajectories: int = SHOWN,
    remake: bool = False,
) -> Path:
    """The report of one run or several; returns where it is."""
    if not runs:
        raise Problem("report.py", "was given no run", "Name the folder that run.py printed when it began.")
    if not 0 <= megabytes <= 1000:
        raise Problem("--megabytes", f"must be from 0 to 1000, not {megabytes:g}", "Correct it.")
    at_least(1, trajectories=trajectories)
    read = [read_run(path, name, trajectories) for path, name in zip(runs, names_of(runs), strict=True)]
    try:
        text = page(read, megabytes, remake).encode("utf-8", "replace")  # file names may hold what is no text
    except UndefinedError as error:
        tables = ", ".join(str(path / TABLE) for path in runs)
        raise Problem(tables, f"lacks a figure: {error}", "It was changed by hand: restore it, or delete it.") from error
    return write_aside(out or runs[0] / REPORT, lambda aside: aside.write_bytes(text))


def run(settings: Report) -> None:
    began = time.perf_counter()
    path = write_report(settings.runs, settings.out, settings.megabytes, settings.trajectories, settings.remake)
    seconds, size = time.perf_counter() - began, path.stat().st_size
    write_json(settings.json, {"report": str(path), "bytes": size, "seconds": seconds})
    print(f"wrote {path}: {size / 1e6:.1f} MB in {seconds:.1f} s. Open it in a browser.")


if __name__ == "__main__":
    main(Report, run, __doc__)

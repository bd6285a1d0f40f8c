"""One HTML file that needs no network: template, style, scripts, figures and pictures put together, all that a run says escaped."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from experiments.report_page.charts import charts
from experiments.report_page.explorer import explorer
from experiments.report_page.pictures import SIDE, gather
from experiments.report_page.reading import Run, differing
from experiments.report_page.usage import HeatMap, order, streams, tool_usage

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("core.js", "charts.js", "tables.js", "list.js", "viewer.js", "explorer.js")


def page(runs: Sequence[Run], megabytes: float, remake: bool = False) -> str:
    albums = [gather(run, megabytes * 1e6 / len(runs), remake) for run in runs]
    data = explorer(runs, albums)
    data |= {"digits": digits_of(runs, data["metrics"]), "side": SIDE}
    pictures = data.pop("pictures")
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    facts = {
        "title": " · ".join(run.name for run in runs),
        "runs": [Told(r, r.flat(), times(r), [*r.notes, *a.notes], best_singles(r)) for r, a in zip(runs, albums, strict=True)],
        "metrics": data["metrics"],
        "digits": data["digits"],
        "side": SIDE,
        "differing": differing(runs),
        "charts": charts(runs),
        "rivals": rivals(runs),
        "same": same_starts(runs),
        "cases": cases(runs),
        "usage": [usage_of(run, place) for place, run in enumerate(runs) if run.trajectories],
        "count": len(data["trajectories"]),
    }
    parts = {
        "style": Markup((ASSETS / "style.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "hash": script_hash(script),
        "data": json_for_html(data),
        "pictures": json_for_html(pictures),
    }
    return environment().get_template("page.html.jinja").render(**facts, **parts)


def json_for_html(data: Any) -> Markup:
    """Nothing in it can end the element that holds it."""
    return htmlsafe_json_dumps(data, separators=(",", ":"), allow_nan=False)


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "figure": figure,
        "signed": signed,
        "minutes": minutes,
        "day": day,
        "direction": direction,
        "breakable": breakable,
    }
    return made


def script_hash(script: str) -> str:
    """For the page's own policy: no other script runs in it, whatever a run's texts hold."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


@dataclass(frozen=True)
class Told:
    """What the page says first of a run."""

    run: Run
    settings: Mapping[str, str]
    times: list[tuple[str, float, float]]
    notes: list[str]
    singles: dict[str, tuple[str, float]]


@dataclass(frozen=True)
class Usage:
    run: Run
    place: int  # among the runs: its colour
    tools: HeatMap
    streams: Markup
    order: HeatMap


@dataclass(frozen=True)
class Rival:
    place: int  # of its run
    name: str
    kind: str  # trained, rival, single
    best: bool  # of the single tools, by one of the metrics
    row: Mapping[str, Any]


def rivals(runs: Sequence[Run]) -> list[Rival]:
    """Every policy in every table."""
    return [
        Rival(place, name, kind_of(name, run), name in best, row)
        for place, run in enumerate(runs)
        for best in [{run.best_single, *(name for name, _ in best_singles(run).values())}]
        for name, row in run.table.items()
    ]


def same_starts(runs: Sequence[Run]) -> bool:
    """Whether all runs were tested on the same images."""
    first, *others = [[t.input_digest for t in run.trajectories] for run in runs]
    return not others or (bool(first) and all(inputs == first for inputs in others))


def kind_of(name: str, run: Run) -> str:
    return "trained" if name == run.trained else "single" if "/" in name and not {":", "+"} & set(name) else "rival"


def best_singles(run: Run) -> dict[str, tuple[str, float]]:
    """By metric the single tool with the highest gain, and that gain."""
    singles = {name: row for name, row in run.table.items() if kind_of(name, run) == "single"}
    found = {}
    for metric in run.metrics:
        gains = {name: gain for name, row in singles.items() if math.isfinite(gain := row.get(f"{metric} gain", math.nan))}
        if gains:
            found[metric] = max(gains.items(), key=lambda pair: pair[1])
    return found


def cases(runs: Sequence[Run]) -> list[tuple[int, str, Mapping[str, Any], Mapping[str, Any]]]:
    """The trained policy and the best single tool on every case of every run."""
    found: list[tuple[int, str, Mapping[str, Any], Mapping[str, Any]]] = []
    for place, run in enumerate(runs):
        single = run.cases.get(run.best_single, {})
        found += [(place, case, row, single.get(case, {})) for case, row in run.cases.get(run.trained, {}).items()]
    return found


def usage_of(run: Run, place: int) -> Usage:
    return Usage(run, place, tool_usage(run.trajectories), streams(run.trajectories), order(run.trajectories))


def times(run: Run) -> list[tuple[str, float, float]]:
    """Kind, seconds, share; the longest first."""
    spent = sorted(run.seconds().items(), key=lambda pair: -pair[1])
    whole = sum(seconds for _, seconds in spent)
    return [(kind, seconds, seconds / whole) for kind, seconds in spent]


def digits_of(runs: Sequence[Run], metrics: Sequence[str]) -> dict[str, int]:
    """Behind the point, the same in all places: two for metrics that reach 10, three for the others."""
    seen = {metric: [abs(row[metric]) for run in runs for row in run.table.values() if metric in row] for metric in metrics}
    for metric in metrics:
        seen[metric] += [abs(t.quality[metric].raw) for run in runs for t in run.trajectories if metric in t.quality]
    return {metric: 2 if any(value >= 10 for value in values) else 3 for metric, values in seen.items()}


def figure(value: float | None, digits: int = 3, sign: str = "") -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if float(f"{value:.{digits}f}") == 0:
        return f"{0:.{digits}f}"
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    return figure(value, digits, "+")


def direction(value: float | None) -> str:
    """The class of a gain: only losses are coloured."""
    return "loss" if value is not None and value < 0 else ""


def breakable(tool: str) -> Markup:
    """A tool's name may break behind its task and between words."""
    return Markup("/<wbr>").join(Markup("_<wbr>").join(part.split("_")) for part in tool.split("/"))


def minutes(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def day(moment: datetime) -> str:
    return moment.strftime("%-d %B %Y, %H:%M")

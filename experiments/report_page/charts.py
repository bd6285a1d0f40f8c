"""Line charts as inline SVG: numbers become paths, colours are left to the style sheet, so that they suit light and dark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from experiments.report_page.reading import Run
from experiments.reporting import panels, short, smooth

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
LARGEST = 1e30  # value that is drawn; of the largest floats even a difference is infinite
FEW = 12  # points that are drawn as they are
MORE = [  # what the picture in figures/ has no room for
    ("tokens right, imitation", ["sft/right"]),
    ("calls that were wrong", ["malformed", "unknown", "repeated", "refused"]),
    ("value explained", ["explained_variance"]),
    ("failures", ["failures"]),
    ("tool calls per second", ["tool_calls_per_second"]),
    ("seconds of an iteration", ["seconds"]),
]


@dataclass(frozen=True)
class Series:
    run: str
    key: str
    colour: int
    dash: int
    x: list[int]
    y: list[float]


@dataclass(frozen=True)
class Chart:
    title: str
    series: list[Series]
    svg: Markup
    legend: list[tuple[str, str]]  # name, style


def charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart for each quantity that moves in any run, all runs in it."""
    wanted: dict[str, list[str]] = {}
    for run in runs:
        for title, keys in [*panels(run.rows, run.metrics), *MORE]:
            wanted[title] = list(dict.fromkeys([*wanted.get(title, []), *keys]))
    made = []
    alone = len(runs) == 1
    for title, keys in wanted.items():
        series = [s for place, run in enumerate(runs) for s in _series(run, keys, None if alone else place)]
        if any(len(set(s.y)) > 1 for s in series):
            legend = {s.key: f"c{s.colour} d{s.dash}" if alone else f"d{s.dash}" for s in reversed(series)}  # the first run's
            made.append(Chart(title, series, draw(title, series), list(legend.items())[::-1] if len(legend) > 1 else []))
    return made


def _series(run: Run, keys: Sequence[str], place: int | None) -> list[Series]:
    """Counted from the first row that knows one of them, so that stages that follow others begin at 1. One run: a colour for each
    key; several: a colour for each run, a dash for each key. From the seventh of a colour on, another dash."""
    rows = [row for row in run.rows if any(key in row for key in keys)]
    found = []
    for number, key in enumerate(keys):
        values = ((x, row.get(key)) for x, row in enumerate(rows, start=1))
        known = [(x, value) for x, value in values if value is not None and abs(value) <= LARGEST]  # NaN is not
        if known:
            colour, dash = (number, number // 6) if place is None else (place, number + place // 6)
            name = "" if place is None else run.name
            found.append(Series(name, short(key), colour % 6, dash % 6, [x for x, _ in known], [float(y) for _, y in known]))
    return found


def draw(title: str, series: Sequence[Series]) -> Markup:
    xs, ys = [x for s in series for x in s.x], [y for s in series for y in s.y]
    low, high = min(ys), max(ys)
    ticks = MaxNLocator(4).tick_values(low, high if high > low else low + (abs(low) or 1.0) * 0.1)
    low, high = float(ticks[0]), float(ticks[-1])
    first, last = 1, max(max(xs), 2)

    def across(x: float) -> float:
        return LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks:
        kind = "grid zero" if abs(tick) < 1e-12 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{up(tick) + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in sorted({first, *(int(t) for t in MaxNLocator(4, integer=True).tick_values(first, last) if first < t <= last)}):
        parts.append(f'<text class="tick" x="{across(tick):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{tick}</text>')
    for s in series:
        raw = _path([(across(x), up(y)) for x, y in zip(s.x, s.y, strict=True)])
        style = f"c{s.colour} d{s.dash}"
        if len(s.x) > FEW:
            parts.append(f'<path class="raw {style}" d="{raw}"/>')
            level = smooth(np.array(s.y))
            raw = _path([(across(x), up(float(y))) for x, y in zip(s.x, level, strict=True)])
        parts.append(f'<path class="line {style}" d="{raw}"/>')
        if len(s.x) <= FEW:
            parts += [
                f'<circle class="dot c{s.colour}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.2"/>'
                for x, y in zip(s.x, s.y, strict=True)
            ]
    several = len({s.key for s in series}) > 1
    names = [": ".join(filter(None, (s.run, s.key if several or not s.run else ""))) for s in series]
    data = [{"name": name, "x": s.x, "y": [float(f"{y:.4g}") for y in s.y]} for name, s in zip(names, series, strict=True)]
    frame = {"left": LEFT, "right": WIDTH - RIGHT, "first": first, "last": last, "bottom": HEIGHT - BOTTOM, "top": TOP}
    said = "; ".join(
        f"{name} from {number(s.y[0])} to {number(s.y[-1])} in {len(s.y)} iterations"
        for name, s in zip(names, series, strict=True)
    )
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" tabindex="0" aria-label="{}" data-series="{}" data-frame="{}">{}'
        '<line class="cursor" y1="{}" y2="{}" x1="-9" x2="-9"/></svg>'
    ).format(
        WIDTH, HEIGHT, f"{title}: {said}", json.dumps(data), json.dumps(frame), Markup("".join(parts)), TOP, HEIGHT - BOTTOM
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def number(value: float) -> str:
    """Four digits at most, without the noise of binary fractions."""
    return escape(f"{0.0 if abs(value) < 1e-12 else value:.4g}".replace("-", "−"))

"""Which tools ran on what, and in which order: counts for the heat maps, and the order as a drawing of streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from tir_env.degradations import DEGRADATIONS
from tir_env.tools import MADE_FOR, TASKS
from tir_env.trajectory import STOP, Trajectory

COLUMN, BAR, TALL, GAP = 168, 12, 300, 7  # of the drawing: a step's width, a block's, the height, between blocks
LABEL = 118  # room for the names behind the last step
LINE = 13  # of a name
INPUT = "input"


@dataclass(frozen=True)
class Cell:
    share: float
    count: int
    of: int
    meant: bool = False  # the tool was made for this

    @property
    def text(self) -> str:
        return f"{self.share:.0%}" if self.count else "·"


@dataclass(frozen=True)
class HeatMap:
    columns: list[tuple[str, int]]  # name, how many there are
    rows: list[tuple[str, list[Cell]]]


def tool_usage(trajectories: Sequence[Trajectory]) -> HeatMap:
    """Of the images with a degradation, the share on which a tool was called."""
    spoilt = [{entry["degradation"] for entry in t.record} for t in trajectories]
    kinds = [kind for kind in DEGRADATIONS if any(kind in seen for seen in spoilt)]
    groups = [(kind, [t for t, seen in zip(trajectories, spoilt, strict=True) if kind in seen]) for kind in kinds]
    groups.append(("all", list(trajectories)))
    rows = []
    for tool in by_task({name for t in trajectories for name in t.tool_names}):
        meant = MADE_FOR.get(tool.partition("/")[0], "").split("+")
        counts = [(kind, sum(tool in t.tool_names for t in group), len(group)) for kind, group in groups]
        rows.append((tool, [Cell(count / max(of, 1), count, of, kind in meant) for kind, count, of in counts]))
    return HeatMap([(kind, len(group)) for kind, group in groups], rows)


def order(trajectories: Sequence[Trajectory]) -> HeatMap:
    """Which decision followed which: of all times that the row's tool ran, the share after which came the column's."""
    pairs: Counter[tuple[str, str]] = Counter()
    for t in trajectories:
        chain = [INPUT, *(step.tool for step in t.steps)]
        pairs.update(pairwise(chain))
    followers = [
        *by_task({after for _, after in pairs} - {STOP}),
        *([STOP] if any(after == STOP for _, after in pairs) else []),
    ]
    before = [INPUT, *by_task({tool for tool, _ in pairs} - {INPUT, STOP})]
    total = {tool: sum(n for (first, _), n in pairs.items() if first == tool) for tool in before}
    rows = [
        (tool, [Cell(pairs[tool, after] / max(total[tool], 1), pairs[tool, after], total[tool]) for after in followers])
        for tool in before
    ]
    return HeatMap([(after, sum(n for (_, second), n in pairs.items() if second == after)) for after in followers], rows)


def by_task(tools: set[str]) -> list[str]:
    def place(tool: str) -> tuple[int, str]:
        task = tool.partition("/")[0]
        return (TASKS.index(task) if task in TASKS else len(TASKS), tool)

    return sorted(tools, key=place)


def streams(trajectories: Sequence[Trajectory]) -> Markup:
    """Tasks step by step, from left to right; as high as there are trajectories. Empty if there is none."""
    chains = [[INPUT, *(step.tool.partition("/")[0] for step in t.steps)] for t in trajectories]
    length = max(map(len, chains), default=0)
    if length < 2:
        return Markup("")
    columns = [Counter(chain[k] for chain in chains if len(chain) > k) for k in range(length)]
    scale = (TALL - GAP * max(map(len, columns))) / len(chains)
    tops: list[dict[str, float]] = []
    bottom = float(TALL)
    for k, column in enumerate(columns):
        least = LINE - GAP if k == length - 1 else 0  # all of the last step's names stand there
        y, places = 0.0, {}
        for name in sorted(column, key=_rank):
            places[name] = y
            y += max(column[name] * scale, least) + GAP
        bottom = max(bottom, y)
        tops.append(places)
    ribbons, blocks = [], []
    for k in range(length - 1):
        flows = Counter((chain[k], chain[k + 1]) for chain in chains if len(chain) > k + 1)
        out, into = dict(tops[k]), dict(tops[k + 1])
        for (a, b), count in sorted(flows.items(), key=lambda item: (_rank(item[0][0]), _rank(item[0][1]))):
            x0, x1, high = k * COLUMN + BAR, (k + 1) * COLUMN, count * scale
            ribbons.append(_ribbon(x0, out[a], x1, into[b], high, _colour(b), f"{a}, then {b}: {count}"))
            out[a] += high
            into[b] += high
    for k, column in enumerate(columns):
        for name, count in column.items():
            y, high = tops[k][name], count * scale
            blocks.append(
                Markup(
                    '<rect class="t{}" x="{}" y="{:.1f}" width="{}" height="{:.1f}" rx="1.5"><title>{}</title></rect>'
                ).format(_colour(name), k * COLUMN, y, BAR, max(high, 1), f"{name}: {count}")
            )
            if high > 9 or k == length - 1:
                blocks.append(
                    Markup('<text x="{}" y="{:.1f}">{} <tspan class="n">{}</tspan></text>').format(
                        k * COLUMN + BAR + 5, y + max(high, LINE - GAP) / 2 + 4, name, count
                    )
                )
    said = ", ".join(f"{name} {count}" for name, count in columns[1].most_common())
    width = (length - 1) * COLUMN + BAR + LABEL
    told = f"Order of the tasks in {len(chains)} trajectories. First step: {said}."
    return Markup(
        '<svg class="streams" viewBox="-2 -6 {} {}" width="{}" height="{}" style="min-width:{}px" role="img" aria-label="{}">{}{}</svg>'
    ).format(
        width, round(bottom) + 12, width, round(bottom) + 12, round(0.72 * width), told,
        Markup("").join(ribbons), Markup("").join(blocks),
    )  # fmt: skip


def _ribbon(x0: float, y0: float, x1: float, y1: float, high: float, colour: str, said: str) -> Markup:
    middle = (x0 + x1) / 2
    path = (
        f"M{x0} {y0:.1f}C{middle} {y0:.1f} {middle} {y1:.1f} {x1} {y1:.1f}V{y1 + high:.1f}"
        f"C{middle} {y1 + high:.1f} {middle} {y0 + high:.1f} {x0} {y0 + high:.1f}Z"
    )
    return Markup('<path class="flow t{}" d="{}"><title>{}</title></path>').format(colour, path, said)


def _rank(task: str) -> tuple[int, str]:
    """Stop at the bottom, own tasks above it."""
    return (TASKS.index(task) if task in TASKS else len(TASKS) + (task == STOP), task)


def _colour(task: str) -> str:
    return str(TASKS.index(task)) if task in TASKS else "-stop" if task == STOP else "-other"

"""How agents are held against each other: means and spreads over episodes, a table, curves, pictures of the best and the worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.runs import Row
from tir_env.drawing import save_figure
from tir_env.trajectory import Trajectory

FEW = 3  # metrics that fit side by side into 80 columns with all that is said of them
COLUMNS = 3  # of panels


def summary(trajectories: Sequence[Trajectory], metrics: Sequence[str], seconds: float | None = None) -> dict[str, Any]:
    """Means and standard deviations over episodes; what could not be scored counts among the failures and nowhere else.

    Calls are what the decisions cost: an agent that tries several tools for one action says so in the notes of its steps.
    """
    row: dict[str, Any] = {"reward": float(np.mean([t.total_reward for t in trajectories]))}
    for metric in metrics:
        scored = [t for t in trajectories if metric in t.gains()]
        end = np.array([t.end_quality[metric].raw for t in scored] or [np.nan])
        gain = np.array([t.gains()[metric] for t in scored] or [np.nan])
        row |= {metric: float(end.mean()), f"{metric} std": float(end.std())}
        row |= {f"{metric} gain": float(gain.mean()), f"{metric} gain std": float(gain.std())}
        row[f"{metric} better"] = float((gain > 0).mean()) if scored else float("nan")
    decisions = [step for t in trajectories for step in t.steps]
    usage = Counter(step.tool for step in decisions)
    row["episodes"] = float(len(trajectories))
    row["calls"] = sum(t.calls for t in trajectories) / len(trajectories)
    row["policy calls"] = sum(step.notes.get("policy_calls", 1) for step in decisions) / len(trajectories)
    row["failures"] = float(sum(len(t.failures) for t in trajectories))
    if seconds is not None:
        row["seconds per image"] = seconds / len(trajectories)
    ran = ([s.tool.partition("/")[0] for s in t.steps if s.changed] for t in trajectories)
    tasks = Counter(task for names in ran for task in dict.fromkeys(names))
    row["tasks"] = {task: count / len(trajectories) for task, count in tasks.most_common()}  # share of episodes
    row["usage"] = {tool: count / len(decisions) for tool, count in usage.most_common()}
    return row


def tell_failures(trajectories: Iterable[Trajectory], console: Console) -> None:
    """The commonest reasons."""
    for message, count in Counter(f.message for t in trajectories for f in t.failures).most_common(3):
        console.print(f"  {count} x {message}", markup=False, soft_wrap=True)


def by_case(trajectories: Sequence[Trajectory], metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    cases = list(dict.fromkeys(t.start.case for t in trajectories))
    return {case: summary([t for t in trajectories if t.start.case == case], metrics) for case in cases}


def table(rows: dict[str, dict[str, Any]], metrics: Sequence[str], bold: str = "") -> Table:
    """Fits 80 columns: of the first metric the value and the gain, of the others the gain; of many in two lines."""
    title = "Means over episodes, ± standard deviation between them. better: share with a gain"
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column("policy", overflow="fold")  # of a narrow terminal the names pay, not the numbers
    between = " " if len(metrics) <= FEW else "\n"
    heads = [f"{metric if len(metrics) <= FEW else narrow(metric)}{between}gain" for metric in metrics]
    for column in (metrics[0], *heads, "better", "calls"):
        made.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        digits = {m: 1 if abs(row[m]) >= 10 else 3 for m in metrics}
        gains = [f"{row[f'{m} gain']:+.{digits[m]}f}{between}±{row[f'{m} gain std']:.{digits[m]}f}" for m in metrics]
        better = f"{row[f'{metrics[0]} better']:.0%}"
        cells = [f"{row[metrics[0]]:.{digits[metrics[0]]}f}", *gains, better, f"{row['calls']:.1f}"]
        cells = ["–" if "nan" in cell else cell for cell in cells]  # no episode could be scored
        made.add_row(name, *cells, style="bold" if name == bold else "")
    return made


def rank(row: dict[str, Any], metrics: Sequence[str]) -> float:
    """The first metric's gain; the lowest of all if it is not known."""
    gain = float(row[f"{metrics[0]} gain"])
    return gain if np.isfinite(gain) else -np.inf


def narrow(metric: str) -> str:
    """Its name in lines of a word each."""
    return metric.replace("-", "-\n")


def draw_extremes(
    trajectories: Sequence[Trajectory],
    metrics: Sequence[str],
    folder: Path,
    remake: Callable[[Trajectory], Trajectory] | None = None,
) -> None:
    """Best, median and worst by the first metric: a reward that adapts means little where it has not learnt its scales.

    `remake` makes those again that have no images.
    """
    order = sorted(trajectories, key=lambda t: t.gains().get(metrics[0], -np.inf))
    for name, trajectory in (("best", order[-1]), ("median", order[len(order) // 2]), ("worst", order[0])):
        whole = remake(trajectory) if remake and trajectory.pixels is None else trajectory
        save_figure(whole.figure(metrics), folder / f"{name}.png")


def panels(rows: Sequence[Row], metrics: Sequence[str]) -> list[tuple[str, list[str]]]:
    """What is drawn of a training, a title and the log's keys for each: metrics have scales of their own, and so panels."""
    logged = {key for row in rows for key in row}
    gains = [(f"gain, {m}", [key for key in (f"gain/{m}", f"validation/{m}") if key in logged]) for m in metrics]
    found = [("reward", ["reward"]), *gains, ("entropy of the policy", ["entropy"])]
    found += [("decisions, share of stops", ["length", "stops"]), ("distinct sequences", ["distinct_sequences"])]
    weights = sorted(key for key in logged if key.startswith("reward_design/") and key.endswith("/weight"))
    found.append(("weights of the reward", weights) if weights else ("failures", ["failures"]))
    found.append(("loss of imitation", ["sft/loss"]))
    return [(title, keys) for title, keys in found if any(row.get(key) is not None for row in rows for key in keys)]


def draw_curves(rows: Sequence[Row], metrics: Sequence[str], path: Path) -> Path:
    """`panels` against iterations; with nothing to draw, an empty picture."""
    drawn = panels(rows, metrics) or [("nothing was logged", [])]
    count = -(-len(drawn) // COLUMNS)
    figure = Figure(figsize=(12, 3 * count), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, COLUMNS, squeeze=False)
    for axis in axes.flat[len(drawn) :]:
        axis.set_axis_off()
    for axis, (title, keys) in zip(axes.flat, drawn, strict=False):
        for key in keys:
            known = [(row["iteration"], row[key]) for row in rows if row.get(key) is not None]
            if not known:
                continue
            x, y = np.array(known).T
            axis.plot(
                x,
                y,
                alpha=0.3,
                color=(line := axis.plot(x, smooth(y), label=short(key))[0]).get_color(),
            )
            line.set_linewidth(2)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("iteration", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        if len(keys) > 1:
            axis.legend(fontsize=7, frameon=False)
    return save_figure(figure, path)


def short(key: str) -> str:
    """`reward_design/psnr/weight` is psnr's; a panel for a metric's gain knows which one it is."""
    first, *rest = key.split("/")
    known = {"gain": "training", "validation": "validation"}
    return known.get(first) or (rest[-2] if len(rest) > 1 else key.rpartition("/")[2])


def smooth(values: np.ndarray, span: int = 9) -> np.ndarray:
    """A moving mean that ignores what is missing; shorter at the ends."""
    half = span // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return np.array([np.nanmean(w) if np.isfinite(w).any() else np.nan for w in windows])

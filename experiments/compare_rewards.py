"""Reward designs against each other: the same agent, seeds, images and budget, only the reward differs.

    python experiments/compare_rewards.py --designs mar mar:no-mar sum gain:psnr --seeds 3
    python experiments/compare_rewards.py --designs mar mymodule:MyReward --env tree:pocket --json rewards.json

Every cell is a training by run.py, tested on held-out images. You see for each design the gain of every metric with a bootstrap
interval over seeds; the area under its training curve; its worst drop during training; the share of seeds in which some metric ended
worse than no tool leaves it (reward hacking); and how probable it is that a run with one design beats a run with another. Means are
interquartile means, as rliable has them. Tables are also written as Markdown and LaTeX beside the JSON file, with a figure of the
curves and of MAR's weights. What is done is kept: run it again to go on.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import bootstrap, trim_mean

from experiments.cells import Cells, contents_of, more_options, train_run, workers_for
from experiments.console import at_least, figures, main, plain_console
from experiments.grids import Grid, write_grids
from experiments.reporting import smooth
from experiments.runs import RunFolder
from rewards import make_reward
from tir_env.drawing import save_figure

Cell = dict[str, Any]  # of one training: {"gain": {metric: x}, "curve": {metric: [x]}, "weight": {metric: [x]}}
OURS = (  # what it gives to run.py itself
    "--algo", "--policy", "--reward", "--seed", "--metrics", "--test-episodes", "--pool", "--env", "--iterations", "--out", "--resume",
)  # fmt: skip
WEIGHT = r"reward_design/[^/]+/weight"
ENOUGH = 5  # seeds, for an interval


@dataclass
class CompareRewards:
    designs: tuple[str, ...] = (
        "mar",
        "mar:no-weights",
        "mar:no-decouple",
        "mar:no-mar",
        "sum",
        "gain:psnr",
        "gain:pocket-deqa",
    )
    """Reward designs, in the words of run.py's --reward; your own as module:Class."""
    agent: Literal["clip_mlp", "vlm"] = "clip_mlp"
    """Who learns."""
    algo: Literal["ppo", "grpo"] = "grpo"
    """How; the vlm learns by grpo."""
    env: str = ""
    """Where: the real environment, or a tree as tree:PATH (seconds for a training)."""
    seeds: int = 5
    """Trainings with each design."""
    metrics: tuple[str, ...] = ("psnr", "ssim", "pocket-deqa", "piqe")
    """Qualities to judge by, whatever the designs reward."""
    pool: Literal["local", "ray"] = "local"
    """Where the tools run. local: all trainings of the light agent in this process, and what they all ask for is computed once."""
    test_episodes: int = 96
    """Held-out starts of each test."""
    iterations: int | None = None
    """Of each training; not given: the preset's."""
    options: str = ""
    """More options of run.py for all trainings, in one word: --options="--suite restore-r1-i --crop 96"."""
    json: Path = Path("out/rewards/rewards.json")
    """All figures; the runs lie in the same folder."""


def compare(settings: CompareRewards) -> None:
    at_least(1, seeds=settings.seeds, designs=len(settings.designs), metrics=len(settings.metrics))
    if settings.iterations is not None:
        at_least(1, iterations=settings.iterations)
    more_options(settings.options, OURS)
    for design in settings.designs:
        make_reward(design)  # a mistake shows before the first training
    same: dict[str, Any] = {"designs": "", "seeds": "", "pool": "", "json": "", "tested": "on the same starts for all seeds"}
    if contents := contents_of([settings.env, *settings.metrics, *shlex.split(settings.options)]):
        same["contents"] = contents
    cells = Cells(settings.json, asdict(settings) | same)
    with workers_for(settings.pool) as (_, share):
        for seed in range(settings.seeds):
            for design in settings.designs:
                cells.fill(
                    f"{known_as(design)} {seed}", trained, design, seed, settings, None if settings.agent == "vlm" else share
                )
    found = {
        design: [figures(cells.done[f"{known_as(design)} {seed}"]) for seed in range(settings.seeds)]
        for design in settings.designs
    }
    grids = [gains(found, settings), dynamics(found, settings), improvement(found, settings)]
    console = plain_console()
    for grid in grids:
        console.print(grid.terminal())
    written = [*write_grids(grids, settings.json), draw(found, settings)]
    console.print(f"wrote {settings.json}, {', '.join(path.name for path in written)}", soft_wrap=True)


def trained(design: str, seed: int, settings: CompareRewards, share: str | None) -> Cell:
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in known_as(design))
    more = more_options(settings.options, OURS)
    more += ["--env", settings.env] if settings.env else []
    more += ["--iterations", str(settings.iterations)] if settings.iterations is not None else []
    folder = train_run(
        settings.json.parent / "runs" / f"{plain}-{seed}", "--algo", settings.algo, "--policy", settings.agent, "--reward", design,
        "--seed", seed, "--metrics", *settings.metrics, "--test-episodes", settings.test_episodes,
        "--pool", settings.pool, *more, share=share,
    )  # fmt: skip
    return read(folder, settings.metrics)


def known_as(design: str) -> str:
    """What its results are kept under: one of the user's own, or of a metric of theirs, is another once that text has changed."""
    return " ".join([design, *contents_of([design]).values()])


def read(folder: Path, metrics: Sequence[str]) -> Cell:
    rows = [row for row in RunFolder.open(folder).rows() if "reward" in row]  # of stage 1 there are others
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))["rows"]
    agent = next(iter(table.values()))  # the trained one comes first
    return {
        "gain": {metric: agent[f"{metric} gain"] for metric in metrics},
        "curve": {metric: [row.get(f"gain/{metric}") for row in rows] for metric in metrics},
        "weight": {key.split("/")[1]: [row[key] for row in rows] for key in (rows or [{}])[-1] if re.fullmatch(WEIGHT, key)},
    }


# -- statistics --------------------------------------------------------------------------------------------------------------------


def interquartile(values: Sequence[float]) -> float:
    return float(trim_mean(np.asarray(values, float), 0.25))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % of the interquartile means of resampled seeds; of a few just the lowest and the highest."""
    if len(values) < ENOUGH or np.ptp(values) == 0:
        return float(np.min(values)), float(np.max(values))
    found = bootstrap(
        (np.asarray(values, float),), trim_mean_axis, method="percentile", n_resamples=2000, rng=np.random.default_rng(0)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def trim_mean_axis(values: np.ndarray, axis: int = -1) -> Any:
    return trim_mean(values, 0.25, axis=axis)


def curve_of(cell: Cell, metric: str) -> np.ndarray:
    return smooth(np.array(cell["curve"][metric], float), span=5)


def area(curve: np.ndarray) -> float:
    """The mean height of a training curve."""
    return float(np.nanmean(curve)) if np.isfinite(curve).any() else float("nan")


def worst_drop(curve: np.ndarray, forgiven: np.ndarray | float = 0.0) -> float:
    """The most that a curve ever was below what it had reached, less what is forgiven at each point."""
    fallen = np.fmax.accumulate(curve) - curve - forgiven
    return max(0.0, float(np.nanmax(fallen))) if np.isfinite(fallen).any() else float("nan")


def hacked(cell: Cell) -> bool:
    """Some metric ended below what no tool leaves it at, or images that it cannot score."""
    return any(not gain >= 0 for gain in cell["gain"].values())


def beats(ours: Sequence[Cell], theirs: Sequence[Cell], metrics: Sequence[str]) -> tuple[float, ...]:
    """rliable's probability of improvement: that a run with one design gains more than a run with another, the mean over metrics.

    Runs of one seed are held against each other: they share first weights and starts. With 95 % of what other seeds would say, where
    there are enough: of two or three that agree by chance a bootstrap would make a certainty.
    """
    mine, yours = (np.array([[cell["gain"][metric] for metric in metrics] for cell in cells]) for cells in (ours, theirs))
    higher = np.sign(mine - yours).mean(axis=1) / 2 + 0.5  # [seeds], ties count a half
    if len(higher) < ENOUGH:
        return (float(higher.mean()),)
    drawn = np.random.default_rng(0).integers(len(higher), size=(2000, len(higher)))
    low, high = np.quantile(higher[drawn].mean(axis=1), (0.025, 0.975))
    return float(higher.mean()), float(low), float(high)


# -- tables ------------------------------------------------------------------------------------------------------------------------


def gains(found: dict[str, list[Cell]], settings: CompareRewards) -> Grid:
    brackets = "95 % interval" if settings.seeds >= ENOUGH else "lowest, highest"
    title = f"Gain on held-out images: interquartile mean of {settings.seeds} seeds [{brackets}]"
    grid = Grid(title, ["design", *settings.metrics, "some metric fell"])
    for design, cells in found.items():
        grid.add(
            design, *(told([c["gain"][m] for c in cells]) for m in settings.metrics), f"{np.mean([*map(hacked, cells)]):.0%}"
        )
    for column, metric in enumerate(settings.metrics, 1):
        grid.mark(column, [interquartile([c["gain"][metric] for c in cells]) for cells in found.values()])
    return grid


def told(values: Sequence[float]) -> str:
    middle, (low, high) = interquartile(values), interval(values)
    digits = 2 if abs(middle) >= 1 else 3
    return f"{middle:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def luck(found: dict[str, list[Cell]], design: str, seed: int, metric: str) -> np.ndarray | float:
    """How far the median of the other designs' curves has fallen: the starts of these rounds. Without others nobody can tell."""
    curves = [curve_of(cells[seed], metric) for other, cells in found.items() if other != design]
    if not curves:
        return 0.0
    course = np.nanmedian(curves, axis=0)
    return np.nan_to_num(np.fmax.accumulate(course) - course)


def dynamics(found: dict[str, list[Cell]], settings: CompareRewards) -> Grid:
    """The training starts of a round differ from those of the next, and are the same for all designs of a seed."""
    columns = [f"{metric}, {what}" for metric in settings.metrics for what in ("area", "drop")]
    what = (
        "its worst drop, beyond that of the other designs' median at the time"
        if len(found) > 1
        else "its worst drop, luck of the starts among it"
    )
    grid = Grid(f"During training: area under the curve of the gain, and {what}", ["design", *columns])
    for design, cells in found.items():
        cellular = []
        for metric in settings.metrics:
            curves = [curve_of(cell, metric) for cell in cells]
            drops = [worst_drop(curve, luck(found, design, seed, metric)) for seed, curve in enumerate(curves)]
            cellular += [f"{interquartile([*map(area, curves)]):+.3f}", f"{interquartile(drops):.3f}"]
        grid.add(design, *cellular)
    return grid


def improvement(found: dict[str, list[Cell]], settings: CompareRewards) -> Grid:
    title = "Probability that the design of the row beats that of the column, mean over metrics"
    title += " [95 % interval over seeds]" if settings.seeds >= ENOUGH else ""
    grid = Grid(title, ["design", *found])
    for design, cells in found.items():
        chances = ["" if other == design else beats(cells, found[other], settings.metrics) for other in found]
        form = "{:.0%} [{:.0%}, {:.0%}]" if settings.seeds >= ENOUGH else "{:.0%}"
        grid.add(design, *(form.format(*chance) if chance else "" for chance in chances))
    return grid


def draw(found: dict[str, list[Cell]], settings: CompareRewards) -> Path:
    """Curves of the gains, the mean over seeds with their range, and the weights of the first design that has them."""
    adaptive = next((design for design, cells in found.items() if cells[0]["weight"]), None)
    count = len(settings.metrics) + (adaptive is not None)
    figure = Figure(figsize=(4.2 * count, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis, metric in zip(axes, settings.metrics, strict=False):
        for number, (design, cells) in enumerate(found.items()):
            curves = np.stack([curve_of(cell, metric) for cell in cells])  # [seeds, iterations]
            x = np.arange(1, curves.shape[1] + 1)
            axis.plot(x, curves.mean(axis=0), color=f"C{number % 10}", label=design)
            axis.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=f"C{number % 10}", alpha=0.12, linewidth=0)
        axis.set_title(f"gain in training, {metric}", fontsize=10, loc="left")
    axes[0].legend(fontsize=7, frameon=False)
    if adaptive is not None:
        for metric in found[adaptive][0]["weight"]:
            weights = np.stack([cell["weight"][metric] for cell in found[adaptive]])
            axes[-1].plot(np.arange(1, weights.shape[1] + 1), weights.mean(axis=0), label=metric)
        axes[-1].set_title(f"weights, {adaptive}", fontsize=10, loc="left")
        axes[-1].legend(fontsize=7, frameon=False)
    for axis in axes:
        axis.set_xlabel("iteration", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, settings.json.with_suffix(".png"))


if __name__ == "__main__":
    main(CompareRewards, compare, __doc__)

"""Pictures of what happened: a trajectory in a row, and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pool import Problem
from rewards import Quality
from tir_env.files import write_aside
from tir_env.images.operations import Image

if TYPE_CHECKING:
    from tir_env.trajectory import Trajectory

INCH = 2.6  # of one picture
DRAWN = 1024  # pixels of a picture's longer side, at least, where it has as many
FAULT_LINES = 3  # that are shown of what went wrong
RED, GREY = "#b3261e", "#555555"


def draw_trajectory(trajectory: Trajectory, metrics: Sequence[str] | None = None, columns: int | None = None) -> Figure:
    """Input, each step with its tool and scores, reference. A failed step is framed in red and says why.

    With `columns` the figure has the same size whatever comes next, as the frames of a film need it.
    """
    before = trajectory.input
    if before is None:
        raise Problem("figure", "this trajectory was loaded without its images", "World.remake(trajectory) makes them again.")
    tiles = [(before, f"input: {trajectory.start.case}", _scores(trajectory.quality, metrics), False)]
    for step in trajectory.steps:
        image = before if step.image is None else step.image
        if step.failure is not None:
            tiles.append((image, f"{step.tool} failed", _wrap(step.failure.message, 34, FAULT_LINES), True))
        elif step.unscored is not None:
            tiles.append((image, f"{step.tool}, not scored", _wrap(step.unscored.message, 34, FAULT_LINES), True))
        else:
            tiles.append((image, step.tool, _scores(step.quality, metrics), False))
    if trajectory.reference is not None:
        tiles.append((trajectory.reference, "reference", "", False))
    figure = draw_tiles(tiles, columns=max(columns or 0, len(tiles)), lines=FAULT_LINES if columns else 1)
    gains = ", ".join(f"{m} {g:+.2f}" for m, g in trajectory.gains().items())
    title = f"{trajectory.start.image}   {gains}".strip()
    figure.suptitle(title, fontsize=9, x=0.01, ha="left", color=GREY, parse_math=False)
    return figure


def draw_tiles(tiles: Sequence[tuple[Image, str, str, bool]], columns: int | None = None, lines: int = 1) -> Figure:
    """Pictures in a grid, each with a title above, `lines` below or more, and a red frame if it is marked."""
    columns = columns or max(1, len(tiles))
    rows = max(1, -(-len(tiles) // columns))
    ratio = max((image.shape[0] / image.shape[1] for image, *_ in tiles), default=1.0)
    lines = max([lines, *(below.count("\n") + 1 for _, _, below, _ in tiles)])
    figure = Figure(figsize=(columns * INCH, rows * (INCH * ratio + 0.73 + 0.12 * lines) + 0.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (image, title, below, marked) in zip(axes.flat, tiles, strict=False):
        step = max(1, max(image.shape[:2]) // DRAWN)  # Matplotlib would make several copies of a whole photograph
        axis.imshow(image[::step, ::step], interpolation="nearest")
        axis.set_title(title, fontsize=9, color=RED if marked else "black", parse_math=False)
        size = f"{image.shape[1]}×{image.shape[0]}"
        axis.text(
            0.5, -0.03, f"{below}\n{size}" if below else size, fontsize=7, ha="center", va="top", transform=axis.transAxes,
            parse_math=False,
        )  # fmt: skip
        if marked:
            axis.set_axis_on()
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set(color=RED, linewidth=2)
    return figure


def save_figure(figure: Figure, path: str | Path, dpi: int = 110) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg"):
        raise Problem(path, "is no picture that can be drawn", "End the name in .png, .pdf, .svg or .jpg.")
    return write_aside(path, lambda aside: figure.savefig(aside, dpi=dpi, format=path.suffix[1:].lower()))


def _scores(quality: Quality, metrics: Sequence[str] | None) -> str:
    chosen = quality if metrics is None else {m: quality[m] for m in metrics if m in quality}
    said = [
        f"{metric} {score.raw:.2f}" if abs(score.raw) >= 10 else f"{metric} {score.raw:.3f}" for metric, score in chosen.items()
    ]
    lines = [said] if len(said) <= 3 else [said[k : k + 2] for k in range(0, len(said), 2)]  # as wide as a picture
    return "\n".join("  ".join(line) for line in lines)


def _wrap(text: str, width: int, lines: int) -> str:
    import textwrap

    return textwrap.fill(text, width, max_lines=lines, placeholder=" …")

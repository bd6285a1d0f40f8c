"""One table, three ways to read it: in the terminal, as Markdown, as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from tir_env.files import write_aside

LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}
LATEX |= {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "−": "$-$", "→": r"$\to$"}
LATEX |= {character: f"${character}$" for character in "<>|"}


def spread(values: Sequence[float] | np.ndarray, digits: int | None = None, sign: str = "") -> str:
    """Mean ± standard deviation of a few, such as trainings or rounds, as an estimate for others like them (n - 1).

    `sign` "+" writes that of a gain, too. Of one there is no deviation, of none nothing.
    """
    if not len(values):
        return ""
    middle = float(np.mean(values))
    if digits is None:
        digits = 2 if abs(middle) >= 1 else 3
    return f"{middle:{sign}.{digits}f}" + (f" ±{np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")


@dataclass
class Grid:
    """Cells are text. The first column names the row; of the others the best may be marked."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    bold: set[tuple[int, int]] = field(default_factory=set)  # (row, column)

    def add(self, *cells: str) -> None:
        assert len(cells) == len(self.columns), (cells, self.columns)
        self.rows.append(list(cells))

    def mark(self, column: int, values: Sequence[float], highest: bool = True) -> None:
        """Make the best of a column bold, ties included; what is not a number is never the best."""
        known = [value for value in values if value == value]
        best = (max if highest else min)(known, default=None)
        self.bold |= {(row, column) for row, value in enumerate(values) if value == best}

    def terminal(self) -> Table:
        made = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for place, column in enumerate(self.columns):
            made.add_column(column, justify="right" if place else "left", no_wrap=not place)
        for row, cells in enumerate(self.rows):
            made.add_row(*(Text(cell, "bold" if (row, k) in self.bold else "") for k, cell in enumerate(cells)))
        return made

    def markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"

        rule = "|" + "|".join("---:" if place else "---" for place in range(len(self.columns))) + "|"
        body = [
            line([f"**{cell}**" if (row, k) in self.bold else cell for k, cell in enumerate(cells)])
            for row, cells in enumerate(self.rows)
        ]
        return "\n".join([f"**{self.title}**", "", line(self.columns), rule, *body, ""])

    def latex(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return " & ".join(cells) + r" \\"

        body = [
            "{}"
            + line([rf"\textbf{{{plain(cell)}}}" if (row, k) in self.bold else plain(cell) for k, cell in enumerate(cells)])
            for row, cells in enumerate(self.rows)
        ]
        head = [
            r"\begin{table}",
            rf"\caption{{{plain(self.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
        ]
        rules = [r"\hline", line([plain(column) for column in self.columns]), r"\hline"]
        return "\n".join([*head, *rules, *body, r"\hline", r"\end{tabular}", r"\end{table}", ""])


def plain(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX.get(character, character) for character in text.replace("\n", " "))


def write_grids(grids: Sequence[Grid], beside: Path) -> list[Path]:
    """All tables as NAME.md and NAME.tex beside NAME.json."""
    written = []
    for suffix, texts in ((".md", [grid.markdown() for grid in grids]), (".tex", [grid.latex() for grid in grids])):
        path = beside.with_suffix(suffix)
        text = "\n".join(texts)
        write_aside(path, lambda aside, text=text: aside.write_text(text, encoding="utf-8"))  # type: ignore[misc]
        written.append(path)
    return written

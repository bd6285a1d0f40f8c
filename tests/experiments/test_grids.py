"""One table in three forms."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from experiments.grids import Grid, plain, spread, write_grids


def test_a_spread_is_an_estimate_for_others_like_these() -> None:
    assert spread([1.0, 3.0]) == "2.00 ±1.41"
    assert spread([0.1, 0.2, 0.3], sign="+") == "+0.200 ±0.100"
    assert (spread([5.0], 1), spread([])) == ("5.0", "")


def grid() -> Grid:
    made = Grid("Gains ± error of 100% {all}", ["agent", "psnr"])
    made.add("a_1", "+1.0 ±0.1")
    made.add("b|2", "+2.0 ±0.2")
    made.mark(1, [1.0, 2.0])
    return made


def test_the_best_is_bold_in_all_forms() -> None:
    console = Console(width=60, record=True, file=None, force_terminal=True)
    with console.capture() as capture:
        console.print(grid().terminal())
    assert "\x1b[1m+2.0 ±0.2" in capture.get()
    assert "| b\\|2 | **+2.0 ±0.2** |" in grid().markdown()
    assert r"{}b$|$2 & \textbf{+2.0 $\pm$0.2} \\" in grid().latex()
    assert r"{}a\_1 & +1.0 $\pm$0.1 \\" in grid().latex()


def test_what_looks_like_markup_is_text() -> None:
    made = Grid("Gains", ["agent", "psnr"])
    made.add("[old]", "[nan%, nan%]")
    made.add("[/b]", ":cat:")
    made.mark(1, [1.0, 1.0])
    console = Console(width=60, emoji=False)
    with console.capture() as capture:
        console.print(made.terminal())
    assert all(text in capture.get() for text in ("[old]", "[nan%, nan%]", "[/b]", ":cat:"))


def test_what_is_no_number_is_never_the_best() -> None:
    made = Grid("t", ["a", "x"])
    for _ in range(3):
        made.add("", "")
    made.mark(1, [float("nan"), 1.0, 1.0], highest=False)
    assert made.bold == {(1, 1), (2, 1)}
    made.mark(0, [float("nan")] * 3)
    assert made.bold == {(1, 1), (2, 1)}


def test_latex_prints_what_was_said() -> None:
    assert plain("50% a_b {x} ~^\\ #$&") == (r"50\% a\_b \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} \#\$\&")


def test_tables_lie_beside_the_figures(tmp_path: Path) -> None:
    written = write_grids([grid(), grid()], tmp_path / "compare.json")
    assert [path.name for path in written] == ["compare.md", "compare.tex"]
    assert written[0].read_text().count("| agent | psnr |") == 2
    assert written[1].read_text().count(r"\end{table}") == 2

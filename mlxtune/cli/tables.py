"""Tables and headings for the command line."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from mlxtune.cli.output import Cell, out, show, styled

if TYPE_CHECKING:
    from mlxtune.evaluation.render.comparison_table import ReportTable

_BAR_WIDTH = 25
_OUTCOMES: dict[str, Cell] = {"better": ("✓ ", "bold success"), "worse": ("✗ ", "bold error")}


def print_heading(console: Console, title: str, note: str = "") -> None:
    """Print a section title followed by a light rule, with a note at the right end."""
    width = max(40, min(console.width, 100))
    rule = "─" * max(2, width - len(title) - len(note) - (3 if note else 1))
    console.print(Text.assemble((title, "bold"), " ", (rule, "line"), (f" {note}" if note else "", "muted")))


def print_section(title: str, note: str = "") -> None:
    """Print a blank line and a section heading on stdout."""
    show("")
    print_heading(out, title, note)


def print_columns(
    rows: Sequence[Sequence[Cell | Text]], *, right: Sequence[int] = (), required: int | None = None, console: Console = out
) -> int:
    """Print rows in aligned columns, two spaces apart, and return the number of columns printed.

    ``right`` lists the right-aligned columns. On a terminal, columns after the first ``required`` are left out if they do not fit.
    """
    texts = [[cell if isinstance(cell, Text) else styled(cell) for cell in row] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*texts, strict=True)]
    if required is not None and console.is_terminal:
        ends = itertools.accumulate(width + 2 for width in widths)
        widths = widths[: max(required, sum(end <= console.width for end in ends))]
        texts = [row[: len(widths)] for row in texts]
    for row in texts:
        text = Text("  ")
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            padding = Text(" " * (width - cell.cell_len))
            text.append_text(padding + cell if index in right else cell + padding)
            text.append("  ")
        text.rstrip()
        console.print(text)
    return len(widths)


def share_bar(share: float, width: int) -> str:
    """Draw a share of a whole as a bar. Any share above zero is visible."""
    cells = round(width * share)
    return ("━" * cells or ("╸" if share else "")).ljust(width)


def print_facts(facts: Iterable[tuple[str, Cell]], *, console: Console = out) -> None:
    """Print each fact's name and value on its own line."""
    print_columns([[(name, "muted"), value] for name, value in facts], console=console)


def interval_bar(low: float, mid: float, high: float, width: int, style: str) -> Text:
    """Draw a rate and its interval on an axis from 0 to 1."""
    cells: list[tuple[str, str]] = [("·" if index % ((width - 1) // 4) == 0 else " ", "line") for index in range(width)]
    start, middle, end = (round(value * (width - 1)) for value in (low, mid, high))
    cells[start : end + 1] = [("━", style)] * (end + 1 - start)
    cells[start], cells[end] = ("╺", style), ("╸", style)
    cells[middle] = ("●", style)
    return Text.assemble(*cells)


def print_table(table: ReportTable) -> None:
    """Print a report table under its title, and draw its intervals as bars."""
    table = table.visible(1)
    print_heading(out, table.title[0].upper() + table.title[1:], table.note)
    labels = [column.label for column in table.columns]
    rows: list[list[Cell | Text]] = [[(label, "faint") for label in labels]] if any(labels) else []
    for row in table.rows:
        style = "primary" if any(cell.style == "primary" for cell in row) else "muted"
        rows.append([])
        for cell in row:
            if cell.bar:
                start, span = cell.bar.minimum, (cell.bar.maximum - cell.bar.minimum) or 1.0
                low, value, high = ((point - start) / span for point in (cell.bar.low, cell.bar.value, cell.bar.high))
                rows[-1].append(interval_bar(low, value, high, _BAR_WIDTH, style))
            else:
                rows[-1].append((cell.text, cell.style))
    print_columns(rows, right=[index for index, column in enumerate(table.columns) if column.right])
    show("")


def print_verdict(note: str, outcome: str, verdict: str) -> None:
    """Print a verdict with its outcome's glyph."""
    print_heading(out, "Verdict", note)
    show("  ", _OUTCOMES.get(outcome, ("· ", "muted")), (verdict, "bold"))

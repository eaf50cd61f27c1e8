"""Headings, columns and verdicts on stdout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from mlxtune.cli.output import Cell, draw, out, show
from mlxtune.present import terminal
from mlxtune.present.blocks import Heading, Table, text
from mlxtune.present.labels import outcome_mark
from mlxtune.present.terminal import print_heading as print_heading


def print_section(title: str, note: str = "") -> None:
    """Print a blank line and a section heading on stdout."""
    show("")
    print_heading(out, title, note)


def print_columns(
    rows: Sequence[Sequence[Cell | Text]], *, right: Sequence[int] = (), required: int | None = None, console: Console = out
) -> int:
    """Print rows in aligned columns, as :func:`mlxtune.present.terminal.print_columns` does."""
    return terminal.print_columns(rows, right=right, required=required, console=console)


def share_bar(share: float, width: int) -> str:
    """Draw a share of a whole as a bar. Any share above zero is visible."""
    cells = round(width * share)
    return ("━" * cells or ("╸" if share else "")).ljust(width)


def print_facts(facts: Iterable[tuple[str, Cell]], *, console: Console = out) -> None:
    """Print each fact's name and value on its own line."""
    print_columns([[(name, "muted"), value] for name, value in facts], console=console)


def print_table(table: Table) -> None:
    """Print a table, and an empty line."""
    draw((table,))
    show("")


def print_verdict(note: str, outcome: str, verdict: str) -> None:
    """Print a verdict with its outcome's glyph."""
    draw((Heading("Verdict", note), text(verdict, "bold", outcome_mark(outcome))))

"""Draw documents in a terminal, with rich."""

import itertools
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from mlxtune.core.text import safe_text
from mlxtune.present.blocks import ActionBlock, Bars, Block, Document, Fact, Facts, Heading, IntervalBar, Square, Table, Text
from mlxtune.present.labels import GLYPHS

_BAR = 24  # cells of a bar
_INTERVAL = 25  # cells of an interval
_FIXED = 40  # cells up to which a column does not wrap

Part = str | tuple[str, str] | RichText


def styled(*parts: Part) -> RichText:
    """Return text from plain strings, ``(text, style)`` pairs, and text; markup in them is not interpreted."""
    texts: list[str | RichText | tuple[str, str]] = []
    for part in parts:
        if isinstance(part, tuple):
            texts.append((safe_text(part[0]), part[1]))
        else:
            texts.append(part if isinstance(part, RichText) else safe_text(part))
    return RichText.assemble(*texts)


def print_document(document: Document, console: Console) -> None:
    """Print every block. Each heading except the first, and each table, has an empty line above."""
    for index, block in enumerate(document):
        if index and (isinstance(block, Heading | Square) or (isinstance(block, Table) and block.title)):
            console.print()
        _print_block(block, console)


def _print_block(block: Block, console: Console) -> None:
    match block:
        case Heading(title, note):
            print_heading(console, title, note)
        case Text(spans, mark):
            glyph: Sequence[Part] = [(f"{GLYPHS[mark]} ", f"bold {mark}")] if mark else []
            console.print(styled("  ", *glyph, *spans))
        case Facts(facts):
            print_columns([[(fact.label, "muted"), _value(fact)] for fact in facts], console=console)
        case Bars(bars):
            rows: list[list[Part]] = []
            for bar in bars:
                first, length = bar.cells(_BAR)
                drawn = (" " * first + "━" * length).ljust(_BAR)
                style = "bold" if bar.style == "primary" else ""
                rows.append([(bar.label, "muted"), (bar.value, style), (drawn, bar.style), (bar.note, "muted")])
            print_columns(rows, right=(1,), console=console)
        case Table():
            _print_table(block, console)
        case Square():
            _print_table(block.table, console)
        case ActionBlock(_, label, command):
            console.print(
                styled("  ", (command, "primary"), (f"   {label}" if label else "", "muted")) if command else styled("  ", label)
            )


def _value(fact: Fact) -> RichText:
    parts: list[Part] = [(f"{GLYPHS[fact.mark]} ", f"bold {fact.mark}")] if fact.mark else []
    if fact.value:
        parts.append(fact.value)
    if fact.note:
        parts.append((f"{'  ' if fact.value else ''}{fact.note}", "muted"))
    if fact.action and fact.action.command:
        parts += [f"  {fact.action.label} " if fact.action.label else "  ", (fact.action.command, "primary")]
    return styled(*parts)


def print_heading(console: Console, title: str, note: str = "") -> None:
    """Print a title followed by a light rule, with a note at the right end."""
    width = max(40, min(console.width, 100))
    title, note = safe_text(title), safe_text(note)
    rule = "─" * max(2, width - len(title) - len(note) - (3 if note else 1))
    console.print(RichText.assemble((title, "bold"), " ", (rule, "line"), (f" {note}" if note else "", "muted")))


def print_columns(
    rows: Sequence[Sequence[Part]], *, console: Console, right: Sequence[int] = (), required: int | None = None
) -> int:
    """Print rows in aligned columns, two spaces apart, and return the number of columns printed.

    ``right`` lists the right-aligned columns. On a terminal, long texts wrap in their columns, and columns after the first ``required`` are
    left out if they do not fit.
    """
    texts = [[styled(part) for part in row] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*texts, strict=True)]
    if required is not None and console.is_terminal:
        ends = itertools.accumulate(width + 2 for width in widths)
        widths = widths[: max(required, sum(end <= console.width for end in ends))]
    grid = RichTable.grid(padding=(0, 2))
    for index, width in enumerate(widths):
        grid.add_column(justify="right" if index in right else "left", no_wrap=width <= _FIXED, overflow="fold")
    for row in texts:
        grid.add_row(*row[: len(widths)])
    room = console.width - 2 if console.is_terminal else sum(widths) + 2 * len(widths)
    for segments in console.render_lines(grid, console.options.update(width=room, no_wrap=False), pad=False):
        text = RichText.assemble("  ", *((segment.text, segment.style or "") for segment in segments))
        text.rstrip()
        console.print(text)
    return len(widths)


def _print_table(table: Table, console: Console) -> None:
    table = table.visible(1)
    if table.title:
        print_heading(console, table.title[0].upper() + table.title[1:], table.note)
    labels = [column.label for column in table.columns]
    rows: list[list[Part]] = [[(label, "faint") for label in labels]] if any(labels) else []
    for row in table.rows:
        style = "primary" if any(cell.style == "primary" for cell in row) else "muted"
        rows.append([_interval(cell.bar, style) if cell.bar else (cell.text, cell.style) for cell in row])
    print_columns(rows, right=[index for index, column in enumerate(table.columns) if column.right], console=console)


def _interval(bar: IntervalBar, style: str) -> RichText:
    cells: list[tuple[str, str]] = [("·" if index % ((_INTERVAL - 1) // 4) == 0 else " ", "line") for index in range(_INTERVAL)]
    start, middle, end = (round(value * (_INTERVAL - 1)) for value in bar.shares)
    cells[start : end + 1] = [("━", style)] * (end + 1 - start)
    cells[start], cells[end] = ("╺", style), ("╸", style)
    cells[middle] = ("●", style)
    return RichText.assemble(*cells)

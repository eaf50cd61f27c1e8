"""Lines of a run's log, as the last rows of a section and as the rows of a page."""

from __future__ import annotations

import time
from collections.abc import Sequence

from textual.content import Content

from mlxtune.runs.narrate import Line
from mlxtune.tui.draw import Part, col, line, lines, wrap

INDENT = 15  # cells before the sentence: gutter, clock time, sign


def log_picture(items: Sequence[Line], width: int, height: int) -> Content:
    """The last lines that fit, each cut to ``width``."""
    return lines(*(_row(item, width) for item in items[-max(height, 1) :]))


def log_rows(items: Sequence[Line], width: int) -> list[tuple[Part, ...]]:
    """Every line, wrapped: what a page shows."""
    rows: list[tuple[Part, ...]] = []
    for item in items:
        first, *rest = wrap(item.text, width - INDENT)
        rows.append((*_lead(item), first))
        rows += [(" " * INDENT, more) for more in rest]
    return rows


def _row(item: Line, width: int) -> Content:
    return line(*_lead(item), col(item.text, width - INDENT).rstrip()).truncate(max(width, 0))


def _lead(item: Line) -> tuple[Part, ...]:
    clock = time.strftime("%H:%M:%S", time.localtime(item.t))
    return (f"  {clock}  ", "$faint"), (item.mark, f"bold ${item.token}"), "  "

"""Lines of a run's log, as pictures and as a list that scrolls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from textual.content import Content
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import RichVisual, Visual

from mlxtune.runs.narrate import Line
from mlxtune.tui.draw import col, line, lines


def log_row(item: Line, width: int) -> Content:
    """One line of the log: when, a sign, and a sentence cut to ``width``."""
    clock = time.strftime("%H:%M:%S", time.localtime(item.t))
    head = line((f"  {clock}  ", "$faint"), (item.mark, f"bold ${item.token}"), "  ")
    return line(head, col(item.text, width - head.cell_length).rstrip()).truncate(max(width, 0))


def log_picture(items: Sequence[Line], width: int, height: int) -> Content:
    """The last lines that fit."""
    return lines(*(log_row(item, width) for item in items[-max(height, 1) :]))

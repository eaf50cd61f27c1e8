"""A row of the list of runs: how it is, its name, what became of it, and when."""

from __future__ import annotations

from textual.content import Content

from mlxtune.tui.draw import age, col, line
from mlxtune.tui.snapshot import RunView
from mlxtune.tui.status import SIGNS, result


def run_row(view: RunView, now: float, width: int) -> Content:
    """``width`` cells of a run."""
    sign = SIGNS[view.status]
    return line(
        (sign.mark, f"bold {sign.token}"),
        " ",
        col(view.name, width - 20),
        col(result(view), 11, "$muted", right=True),
        col(age(now - view.updated), 7, "$faint", right=True),
    ).truncate(max(width, 0))

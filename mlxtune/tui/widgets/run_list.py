"""The runs of a workspace, newest first, with a row under the cursor."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from mlxtune.tui.draw import age, clickable, col, line, lines
from mlxtune.tui.snapshot import RunView
from mlxtune.tui.status import SIGNS, result


def run_list(views: Sequence[RunView], cursor: str | None, now: float, width: int, height: int) -> Content:
    """As many runs as fit, the one under the cursor among them. A click on a row opens it."""
    at = next((index for index, view in enumerate(views) if view.id == cursor), 0)
    rows = max(height, 1) if height else len(views)
    first = max(0, min(at - rows // 2, len(views) - rows))
    return lines(
        *(_row(view, view.id == cursor, index, now, width) for index, view in enumerate(views[first : first + rows], first))
    )


def _row(view: RunView, here: bool, index: int, now: float, width: int) -> Content:
    sign = SIGNS[view.status]
    row = line(
        ("▌ " if here else "  ", "$primary"),
        (sign.mark, f"bold {sign.token}"),
        " ",
        col(view.name, width - 22),
        col(result(view), 11, "$muted", right=True),
        col(age(now - view.updated), 7, "$faint", right=True),
    ).truncate(max(width, 0))
    if here:
        row = row.stylize_before("$select-ink on $select")
    return clickable(row, f"screen.open_run({index})")

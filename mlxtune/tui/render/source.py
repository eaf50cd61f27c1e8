"""Text shared by the Data and Review rooms: decision and finding glyphs, and the states of a source without rows to show."""

from __future__ import annotations

from pathlib import Path

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.data.review import Decision
from mlxtune.present import review
from mlxtune.tui.paths import relative_paths
from mlxtune.tui.render.text import RECIPE_KEY, error_rows, key, line, lines, marked, paragraph
from mlxtune.tui.source_session import SourceSession

SEVERITY_STYLE = {"block": "$error", "warn": "$warning", "note": "$muted"}
_ROLES = {  # glyph, and style of the name
    "system": ("◇", "$muted"),
    "developer": ("◇", "$muted"),
    "user": ("○", "$foreground"),
    "assistant": ("●", "$primary"),
    "tool": ("▷", "$muted"),
}


def role_glyph(role: str) -> tuple[str, str]:
    """Return the glyph of a role, and the style of its name."""
    return _ROLES.get(role, ("●", "$primary"))


def decision_glyph(decision: Decision) -> tuple[str, str]:
    """Return the glyph of a decision and its style."""
    glyph, style = review.decision_glyph(decision)
    return glyph, f"${style}"


def check_glyph(check: str) -> str:
    """Return the glyph of a data check."""
    from mlxtune.data.checks.registry import get_check

    return get_check(check).glyph


def source_unavailable(session: SourceSession, workspace: Path, map_key: str, width: int) -> Content:
    """Draw a message that the source is being opened, cannot be read, is empty, or needs a column map. ``map_key`` is empty outside Data."""
    if session.error is not None:
        message = relative_paths(workspace, one_line(session.error.message))
        rows = error_rows(MlxtuneError(message, hint=session.error.hint), width)
        rows.append(paragraph("Your decisions are safe. They are saved next to the source.", width, "    "))
    elif session.browser is None:
        return paragraph(f"reading {session.ref.name}", width)
    elif session.unmapped is not None:
        mapping = (
            (map_key, "map the columns", "screen.map_columns") if map_key else ("D", "map the columns in Data", "app.room('data')")
        )
        total = len(session.browser)
        rows = [
            *marked(
                "✗",
                "$error",
                f"The columns of {session.ref.name} are unknown, so none of its {total:,} rows can be used.",
                width,
                "bold",
            ),
            paragraph(f"First row: {one_line(session.unmapped.reason, 200)}", width, "    "),
            Content(""),
            line("  ", key(*mapping)),
        ]
    else:
        rows = [
            paragraph(f"{session.ref.name} has no rows.", width, style="bold"),
            paragraph("Add one JSON object per line. Rows appear here as soon as the file has some.", width),
        ]
    keys = line("  ", key("i", "import rows", "screen.import_rows"), "   ", key("r", "another recipe", "screen.recipe"))
    return lines(*rows, "", keys)


def no_source(error: str, has_recipes: bool, width: int) -> Content:
    """Describe the room while no source is selected, and the key that selects one."""
    rows = marked("✗", "$error", error, width) if error else [paragraph("No rows selected.", width, style="bold")]
    about = "This room lists the rows of a recipe, checks them and records your decisions. The file itself is never changed."
    other = key("r", "choose a recipe", "screen.recipe") if has_recipes else RECIPE_KEY
    keys = line("  ", key("i", "import rows", "screen.import_rows"), "   ", other)
    return lines(*rows, paragraph(about, width), "", keys)

"""Text shared by the Data and Review rooms: decision and finding glyphs, and the states of a source without rows to show."""

from collections.abc import Iterable
from pathlib import Path

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, safe_text
from mlxtune.data.review import Decision
from mlxtune.data.rows import Message
from mlxtune.present import review
from mlxtune.tui.paths import relative_paths
from mlxtune.tui.render.text import RECIPE_KEY, error_rows, invitation, key, line, lines, marked, paragraph, wrap
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
    return _ROLES.get(role, ("●", "$primary"))


def message_rows(messages: Iterable[Message], width: int) -> list[Content]:
    """Draw whole messages under their roles, each followed by an empty row."""
    rows: list[Content] = []
    for message in messages:
        rows.append(line((f"  {role_glyph(message.role)[0]} ", "$muted"), (one_line(message.role), "bold $muted")))
        rows += [Content(f"    {text}") for text in wrap(safe_text(message.content).expandtabs(4), width - 6)]
        rows.append(Content(""))
    return rows


def decision_glyph(decision: Decision) -> tuple[str, str]:
    glyph, style = review.decision_glyph(decision)
    return glyph, f"${style}"


def source_unavailable(session: SourceSession, workspace: Path, map_key: str, width: int) -> Content:
    """Draw a message that the source is being opened, cannot be read, is empty, or needs a column map. ``map_key`` is empty outside Data."""
    if session.error is not None:
        message = relative_paths(workspace, one_line(session.error.message))
        rows = error_rows(MlxtuneError(message, hint=session.error.hint), width)
        rows.append(paragraph("Your decisions are safe. They are saved next to the source.", width, "    "))
    elif session.browser is None:
        return paragraph(f"reading {session.ref.name}", width)
    elif session.unmapped is not None:
        elsewhere = ("D", "map the columns in Data", "app.room('data')")
        mapping = (map_key, "map the columns", "screen.map_columns") if map_key else elsewhere
        text = f"The columns of {session.ref.name} are unknown, so none of its {len(session.browser):,} rows can be used."
        rows = [
            *marked("✗", "$error", text, width, "bold"),
            paragraph(f"First row: {one_line(session.unmapped.reason, 200)}", width, "    "),
            Content(""),
            line("  ", key(*mapping)),
        ]
    else:
        rows = [
            paragraph(f"{session.ref.name} has no rows.", width, style="bold"),
            paragraph("Add one JSON object per line. Rows appear here as soon as the file has some.", width),
        ]
    keys = line("  ", key("i", "import rows", "screen.import_rows"), "   ", key("r", "another recipe", "screen.other"))
    return lines(*rows, "", keys)


def no_source(error: str, has_recipes: bool, width: int) -> Content:
    """Describe the room while no source is selected, and the key that selects one."""
    other = key("r", "choose a recipe", "screen.other") if has_recipes else RECIPE_KEY
    keys = key("i", "import rows", "screen.import_rows"), other
    if error:
        return lines(*marked("✗", "$error", error, width), "", line("  ", keys[0], "   ", keys[1]))
    return invitation(width, "No rows selected.", *keys, about="The file itself is never changed.")

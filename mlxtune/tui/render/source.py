"""Text shared by the Data and Review rooms: decision and finding glyphs, and the states of a source without rows to show."""

from collections.abc import Iterable
from pathlib import Path

from textual.content import Content

from mlxtune.core.errors import DataError, MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.data.checks.check_input import text_parts
from mlxtune.data.rows import Message, Row, RowError
from mlxtune.tui.paths import relative_paths
from mlxtune.tui.render.output_text import output_rows
from mlxtune.tui.render.text import cell, error_rows, key, line, lines, marked, paragraph, shorten
from mlxtune.tui.source_session import SourceSession

_MAX_SHOWN = 2000  # characters of a text beside a list
_ROLES = {  # glyph, and style of the name
    "system": ("◇", "$muted"),
    "developer": ("◇", "$muted"),
    "user": ("○", "$foreground"),
    "assistant": ("●", "$primary"),
    "tool": ("▷", "$muted"),
}


def role_glyph(role: str) -> tuple[str, str]:
    return _ROLES.get(role, ("●", "$primary"))


def turn_rows(row: Row | DataError, width: int, height: int) -> list[Content]:
    """Return the texts of a row beside their roles in at most ``height`` rows, or why it has none. The first texts are cut first."""
    if isinstance(row, DataError):
        text = output_rows(row.text, None, width - 6) if isinstance(row, RowError) else []
        return shorten([*error_rows(row, width), *(line("    ", one) for one in text)], max(height, 1), width)
    parts = [part for part in text_parts(row) if part.text.strip()][-max(height, 1) :]
    result: list[Content] = []
    for index, part in reversed([*enumerate(parts)]):
        glyph, style = role_glyph(part.role)
        head = line((f"  {glyph} ", style), cell(one_line(part.role), 11, style))
        room = max(width - head.cell_length, 1)
        rows = shorten(output_rows(part.text[:_MAX_SHOWN], None, room), max(height - len(result) - index, 1), room)
        result = [*(line(" " * head.cell_length if at else head, text) for at, text in enumerate(rows)), *result]
    return result


def message_rows(messages: Iterable[Message], width: int) -> list[Content]:
    """Draw whole messages under their roles, JSON indented and colored, each followed by an empty row."""
    rows: list[Content] = []
    for message in messages:
        glyph, style = role_glyph(message.role)
        text = output_rows(message.content, None, width - 6)
        rows += [line((f"  {glyph} {one_line(message.role)}", style)), *(line("    ", one) for one in text), Content("")]
    return rows


def source_unavailable(session: SourceSession, workspace: Path, in_data: bool, width: int) -> Content:
    """Draw a message that the source is being opened, cannot be read, is empty, or needs a column map, which is made in Data."""
    if session.error is not None:
        message = relative_paths(workspace, one_line(session.error.message))
        rows = error_rows(MlxtuneError(message, hint=session.error.hint), width)
        rows.append(paragraph("Your decisions are kept.", width, "    "))
    elif session.browser is None or session.has_rows:  # opened after the room was drawn
        return paragraph(f"reading {session.ref.name}", width)
    elif session.unmapped is not None:
        elsewhere = ("D", "map the columns in Data", "app.room('data')")
        mapping = ("e", "map the columns", "screen.map_columns") if in_data else elsewhere
        text = f"The columns of {session.ref.name} are unknown, so none of its {len(session.browser):,} rows can be used."
        rows = [
            *marked("✗", "$error", text, width, "bold"),
            paragraph(f"First row: {one_line(session.unmapped.reason, 200)}", width, "    "),
            Content(""),
            line("  ", key(*mapping)),
        ]
    else:
        rows = [paragraph(f"{session.ref.name} has no rows.", width, style="bold")]
    keys = line("  ", key("i", "import rows", "screen.import_rows"), "   ", key("o", "another recipe", "app.choose_recipe"))
    return lines(*rows, "", keys)

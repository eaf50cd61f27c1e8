"""Text as styled content: cells, rows, prose, keys.

Styles are theme tokens. Content is assembled and never parsed as markup, so data cannot inject any. Every function accepts a width
of zero or less, because Textual asks for a panel's height before its width is final.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from rich.cells import cell_len, chop_cells
from textual.content import Content
from textual.style import Style

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural

CLICK_ACTION = "action"  # in the meta of a style: a click on the text runs this action
KEY_ACTION = "key"  # the text is the name of the key that runs this action

Part = str | tuple[str, str] | Content


def line(*parts: Part) -> Content:
    """Join parts on one row: plain text, ``(text, style)`` or content."""
    return Content.assemble(*parts)


def lines(*rows: Content | str) -> Content:
    return Content("\n").join([Content(row) if isinstance(row, str) else row for row in rows])


def cell(text: str | Content, width: int, style: str = "", right: bool = False) -> Content:
    """Return a table cell, truncated with an ellipsis or padded to ``width`` cells."""
    body = Content(text) if isinstance(text, str) else text
    if style:
        body = body.stylize(style)
    if width <= 0:
        return Content("")
    if body.cell_length > width:
        return body.truncate(width, ellipsis=True)
    pad = " " * (width - body.cell_length)
    return Content.assemble(pad, body) if right else Content.assemble(body, pad)


def cut_middle(text: str, width: int) -> str:
    """Return ``text`` with its middle replaced by an ellipsis if it is longer than ``width`` cells, because names often differ at the end."""
    if cell_len(text) <= width or width < 3:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def cut_rows(rows: Sequence[Content], height: int, more: tuple[str, str, str] | None = None) -> Content:
    """Return the rows that fit, then how many do not, or the facts that fit, then the key ``more`` (its name, label, and action)."""
    if not 0 < height < len(rows):
        return lines(*rows)
    starts = (at for at in range(max(height - 4, 1), height) if not rows[at].plain.startswith("    "))
    shown = max(starts, default=height - 1) if more else height - 1
    last = key(*more) if more else f"… {plural(len(rows) - shown, 'more row')}"
    return lines(*rows[:shown], line("  ", last).stylize_before("$muted"))


def shorten(rows: list[Content], height: int, width: int) -> list[Content]:
    """Return the rows that fit; dots end the last one if there are more."""
    return rows if len(rows) <= height else [*rows[: height - 1], line(rows[height - 1].truncate(max(width - 1, 0)), "…")]


def section_title(title: str, width: int, note: Part = "", lit: bool = False) -> Content:
    """Return a title on its rule, with ``note`` at the end. ``lit`` adds a bar before it."""
    start = line(("▌ " if lit else "  ", "$primary"), (f"{title} ", "bold $primary" if lit else "bold"))
    end = line(" ", Content.assemble(note).stylize_before("$muted")) if note else Content("")
    end = cell(end, min(end.cell_length, max(width - start.cell_length - 2, 0)))
    rule = ("─" * max(width - start.cell_length - end.cell_length, 0), "$line")
    return line(start, rule, end)


def justify(width: int, left: Content, right: Content) -> Content:
    """Return a row of ``width`` cells with ``right`` at its end. ``left`` is truncated if they would overlap."""
    return line(cell(left, width - right.cell_length), right)


def side_by_side(left: Sequence[Content], right: Sequence[Content], half: int, gap: str = "  ") -> list[Content]:
    pairs = zip_longest(left, right, fillvalue=Content(""))
    return [line(cell(one, half), gap, other.truncate(max(half, 0))) for one, other in pairs]


def wrap(text: str, width: int) -> list[str]:
    """Wrap ``text`` to ``width`` cells, breaking between words or within a word that is longer than a row.

    ``Content.wrap`` is six times slower and keeps the spaces at a break.
    """
    width = max(width, 1)
    rows: list[str] = []
    for paragraph in text.split("\n"):
        if cell_len(paragraph) <= width:
            rows.append(paragraph.rstrip())
            continue
        current = ""
        for word in paragraph.split():
            if current and cell_len(current) + 1 + cell_len(word) > width:
                rows.append(current)
                current = ""
            current = f"{current} {word}" if current else word
            if cell_len(current) > width:
                *full, current = chop_cells(current, width)
                rows += full
        rows.append(current)
    return rows


def paragraph(text: str, width: int, indent: str = "  ", style: str = "$muted") -> Content:
    """Return prose on as many rows as it needs. Sentences are never cut."""
    return lines(*(line((indent + row, style)) for row in wrap(text, width - len(indent))))


def invitation(width: int, title: str, *keys: Content | None, about: str = "") -> Content:
    """Return what is missing, ``about`` it, and the keys that change that."""
    known = [line("  " if not index else "   ", one) for index, one in enumerate(filter(None, keys))]
    head = [paragraph(title, width, style="bold"), *([paragraph(about, width)] if about else [])]
    return lines(*head, *([Content(""), line(*known)] if known else []))


def marked(glyph: str, token: str, text: str, width: int, style: str = "") -> list[Content]:
    """Return ``text`` on rows of at most ``width - 2`` cells, after a colored glyph, with later rows indented to match."""
    first, *rest = wrap(text, width - 6)
    return [line((f"  {glyph} ", f"bold {token}"), (first, style)), *(line((f"    {row}", style)) for row in rest)]


def error_rows(error: MlxtuneError, width: int) -> list[Content]:
    hint = wrap(one_line(error.hint), width - 6) if error.hint else []
    return [*marked("✗", "$error", one_line(error.message), width, "bold"), *(Content(f"    {row}") for row in hint)]


def key(name: str, label: str, action: str, style: str = "") -> Content:
    """Return a key with its label. A click on it runs ``action``."""
    styled = Content.styled(name, "bold $primary").stylize(Style.from_meta({KEY_ACTION: action}))
    return clickable(line(styled, (f" {label}", style)), action)


def key_line(*names: tuple[str, str, str], style: str = "$muted") -> Content:
    return line("  ", *(part for name in names for part in (key(*name, style), "   ")))


def replace_keys(content: Content, names: Mapping[str, str]) -> Content:
    """Replace the displayed keys of some actions; ``names`` maps actions to keys."""
    for span in sorted(content.spans, key=lambda span: -span.start):
        action = span.style.meta.get(KEY_ACTION) if isinstance(span.style, Style) else None
        if (name := names.get(str(action))) and content.plain[span.start : span.end] != name:
            fresh = clickable(Content.styled(name, "bold $primary"), str(action))
            content = line(content[: span.start], fresh, content[span.end :])
    return content


def clickable(content: Content, action: str) -> Content:
    """Make a click on ``content`` run ``action``. Textual's own ``@click`` would color it as a link."""
    return content.stylize(Style.from_meta({CLICK_ACTION: action}))


def gigabytes(count: float) -> str:
    """Format bytes as gigabytes (2**30) with one decimal."""
    return f"{count / 2**30:.1f}"


RECIPE_KEY = key("H", "open a file on Home, with o", "app.room('home')")  # where there is no recipe yet

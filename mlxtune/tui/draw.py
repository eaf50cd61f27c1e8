"""Pictures in text: cells, prose, bars, keys. Styles are theme tokens.

Text is assembled with styles and never parsed as markup, so data cannot inject any. Every function bears a width of zero or
less: a picture's height is asked for before its width is final.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.cells import cell_len, chop_cells
from textual.content import Content
from textual.style import Style

CLICK = "action"  # the key of a picture's meta under which a click finds its action
KEY = "key"  # and the one that says: these cells are the name of the key that runs this action

Part = str | tuple[str, str] | Content


def line(*parts: Part) -> Content:
    """The parts one after another: plain text, ``(text, style)`` or content."""
    return Content.assemble(*parts)


def lines(*rows: Content | str) -> Content:
    """The rows one under another."""
    return Content("\n").join([Content(row) if isinstance(row, str) else row for row in rows])


def col(text: str | Content, width: int, style: str = "", right: bool = False) -> Content:
    """One table cell: cut with an ellipsis or padded to ``width`` cells."""
    body = Content(text) if isinstance(text, str) else text
    if style:
        body = body.stylize(style)
    if width <= 0:
        return Content("")
    if body.cell_length > width:
        return body.truncate(width, ellipsis=True)
    pad = " " * (width - body.cell_length)
    return Content.assemble(pad, body) if right else Content.assemble(body, pad)


def spread(width: int, left: Content, right: Content) -> Content:
    """Both on one row of ``width`` cells, ``right`` at its end; ``left`` is cut where they would meet."""
    return line(col(left, width - right.cell_length), right).truncate(max(width, 0))


def wrap(text: str, width: int) -> list[str]:
    """``text`` on rows of at most ``width`` cells, broken between words, and within a word that is longer than a row."""
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


def fold(text: str, width: int, indent: str = "  ", style: str = "$muted") -> Content:
    """Prose on as many rows as it needs: sentences are never cut."""
    return lines(*(line((indent + row, style)) for row in wrap(text, width - len(indent))))


def bar(share: float, width: int, style: str = "$primary") -> Content:
    """Heavy is filled, light is not: readable without colour, in steps of half a cell."""
    halves = round(max(0.0, min(1.0, share)) * max(width, 0) * 2)
    full, half = divmod(halves, 2)
    return line(("━" * full + "╸" * half, style), ("─" * (width - full - half), "$line"))


def spark(values: list[float]) -> str:
    """The values as a row of blocks that start at zero, so that a steady pace looks steady; the largest is half a cell."""
    high = max(values, default=0.0)
    return "".join("▁▂▃▄▅"[round(max(value, 0) / high * 4)] for value in values) if high > 0 else ""


def key(name: str, word: str, action: str, style: str = "") -> Content:
    """A key and what it does; a click on it does the same."""
    shown = Content.styled(name, "bold $primary").stylize(Style.from_meta({KEY: action}))
    return clickable(line(shown, (f" {word}", style)), action)


def renamed(content: Content, names: Mapping[str, str]) -> Content:
    """``content`` with other names for the keys of some actions."""
    for span in sorted(content.spans, key=lambda span: -span.start):
        action = span.style.meta.get(KEY) if isinstance(span.style, Style) else None
        if (name := names.get(str(action))) and content.plain[span.start : span.end] != name:
            fresh = clickable(Content.styled(name, "bold $primary"), str(action))
            content = line(content[: span.start], fresh, content[span.end :])
    return content


def clickable(content: Content, action: str) -> Content:
    """The same content; a click on it runs ``action`` (Textual's own ``@click`` would recolour it as a link)."""
    return content.stylize(Style.from_meta({CLICK: action}))


def gigabytes(count: float) -> str:
    """Bytes as gigabytes with one decimal, as memory is sold: 2**30."""
    return f"{count / 2**30:.1f}"


def memory_style(share: float) -> tuple[str, str]:
    """The token of a memory bar, and the sign beside it: memory warns at 75 % and alarms at 92 %."""
    if share >= 0.92:
        return "$error", "✗ "
    return ("$warning", "! ") if share >= 0.75 else ("$primary", "")


def age(seconds: float) -> str:
    """How long ago, in one unit: ``now``, ``3 min``, ``2 h``, ``5 d``."""
    if seconds < 60:
        return "now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    return f"{seconds // 3600:.0f} h" if seconds < 86400 else f"{seconds // 86400:.0f} d"


def ago(seconds: float) -> str:
    """The same as it is said in a sentence: ``just now``, ``3 min ago``."""
    return "just now" if seconds < 60 else f"{age(seconds)} ago"


def interval(low: float, middle: float, high: float, width: int, style: str) -> Content:
    """A point with its interval on an axis from 0 to 1, over marks at the quarters; nothing below 12 cells, which would be no picture."""
    if width < 12:
        return Content("")
    cells = [(" ", "")] * width
    for quarter in range(5):
        cells[_place(quarter / 4, width)] = ("┊", "$line")
    first, last = _place(low, width), _place(high, width)
    for at in range(first, last + 1):
        cells[at] = ("╺" if at == first else "╸" if at == last else "━", style)
    cells[_place(middle, width)] = ("●", style)
    return line(*cells)


def axis(width: int) -> Content:
    """The figures under the marks of :func:`interval`, in hundredths."""
    cells = list(" " * max(width, 0))
    for share, text in ((0.0, "0"), (0.5, "50"), (1.0, "100")) if width >= 12 else ():
        at = min(_place(share, width), width - len(text))
        cells[at : at + len(text)] = text
    return line(("".join(cells), "$faint"))


def _place(share: float, width: int) -> int:
    return round(max(0.0, min(1.0, share)) * (width - 1))

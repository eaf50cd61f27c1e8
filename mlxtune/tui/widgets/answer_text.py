"""An output as rows of a column: one member of a JSON object a row, what fails underlined, coloured and with a row of ^ below it."""

from __future__ import annotations

from rich.cells import cell_len
from textual.content import Content

from mlxtune.core.text import safe_text
from mlxtune.tui.draw import line

Span = tuple[int, int]  # the first character, and the one behind the last
FAILS = "underline $span-ink on $span"
HANG = 2  # cells by which a member's later rows stand further in
_CARETS = "bold $error"


def answer_rows(text: str, span: Span | None, width: int) -> list[Content]:
    """``text`` on rows of at most ``width`` cells. Whatever is in it is shown as text."""
    flat = text.replace("\r\n", " \n").replace("\t", " ")  # as long as before: the span still fits
    rows: list[Content] = []
    for start, end, indent in _wrapped(flat, width):
        first, last = (max(start, span[0]), min(end, span[1])) if span else (0, 0)
        before, marked, after = (safe_text(part) for part in (flat[start:first], flat[first:last], flat[last:end]))
        if first >= last:
            rows.append(line(" " * indent, safe_text(flat[start:end])))
            continue
        rows.append(line(" " * indent, before, (marked, FAILS), after))
        rows.append(line(" " * (indent + cell_len(before)), ("^" * cell_len(marked), _CARETS)))
    return rows


def marks(row: Content) -> bool:
    """Whether a row of :func:`answer_rows` marks what fails in the one above it."""
    told = row.plain.strip()
    return bool(told) and not told.strip("^") and any(span.style == _CARETS for span in row.spans)


def _wrapped(text: str, width: int) -> list[tuple[int, int, int]]:
    """The rows of ``text`` as start, end and indent: parts that do not fit are broken between words, where there are any."""
    width = max(width, 1)
    rows: list[tuple[int, int, int]] = []
    hang = HANG if width > 4 * HANG and text.lstrip().startswith("{") else 0
    for start, end in _parts(text):
        indent = 0
        while (fits := _fitting(text, start, end, width - indent)) < end:
            space = text.rfind(" ", start + 1, fits + 1)
            if space > start and text[start:space].strip():
                rows.append((start, space, indent))
                start = space + 1
            else:
                rows.append((start, max(fits, start + 1), indent))
                start = max(fits, start + 1)
            indent = hang
        rows.append((start, end, indent))
    return rows


def _fitting(text: str, start: int, end: int, width: int) -> int:
    """Behind the last character that still fits a row of ``width`` cells from ``start`` on."""
    cells = 0
    for at in range(start, end):
        cells += cell_len(safe_text(text[at]))
        if cells > width:
            return at
    return end


def _parts(text: str) -> list[Span]:
    """Lines, and the members of an object that begins the text, which need not be whole."""
    breaks, depth, quoted, skip = [], 0, False, False
    is_object = text.lstrip().startswith("{")
    for at, sign in enumerate(text):
        if sign == "\n":
            breaks.append((at, at + 1))
        if skip:
            skip = False
        elif sign == "\\":
            skip = quoted
        elif sign == '"':
            quoted = not quoted
        elif not quoted and sign in "{[":
            depth += 1
        elif not quoted and sign in "}]":
            depth -= 1
        elif not quoted and sign == "," and depth == 1 and is_object and text[at + 1 : at + 2] != "\n":
            breaks.append((at + 1, at + 1))
    parts, start = [], 0
    for end, following in [*breaks, (len(text), len(text))]:
        parts.append((start, end))
        start = following
    return parts

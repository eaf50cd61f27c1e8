"""Lay out a model's output in a column, JSON indented and colored, with the failing part marked, and compare two texts word by word."""

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from rich.cells import cell_len
from textual.content import Content
from textual.content import Span as ContentSpan

from mlxtune.core.text import safe_text
from mlxtune.tui.render.text import line

Span = tuple[int, int]  # start and end, exclusive
Styled = tuple[int, int, str]  # the same with a style
FAILURE_STYLE = "underline $span-ink on $span"
DIFFERENCE_STYLE = "underline $foreground on $trained-alt"
HANGING_INDENT = 2  # indent of a JSON member's continuation rows


def output_rows(text: str, span: Span | None, width: int) -> list[Content]:
    """Return ``text`` on rows of at most ``width`` cells, with ``span`` marked. Control characters are made visible."""
    return styled_rows(text, [(*span, FAILURE_STYLE)] if span else [], width)


def styled_rows(text: str, styles: Sequence[Styled], width: int) -> list[Content]:
    """Do the same with parts of ``text`` in ``styles``, of which the last one counts."""
    flat = text.replace("\r\n", " \n").replace("\t", " ")  # the length is unchanged, so that the spans stay valid
    return content_rows(Content(safe_text(flat), [ContentSpan(*one) for one in styles]), width)


def content_rows(content: Content, width: int) -> list[Content]:
    """Do the same with a text that is safe to show and has styles, which count more than those of JSON."""
    text = content.plain
    shown = Content(text, [*(ContentSpan(*one) for one in _json_styles(text)), *content.spans])
    rows = [(start, start + len(text[start:end].rstrip("\u200d")), indent) for start, end, indent in _wrap(text, width)]
    cuts = sorted({cut for start, end, _ in rows for cut in (start, end)} - {0, len(text)})
    parts = dict(zip((0, *cuts), shown.divide(cuts), strict=True))  # a joiner at the end of a row would join the next cell
    return [line(" " * indent, parts[start] if start < end else "") for start, end, indent in rows]


_JSON_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*(?:"(?P<key>\s*:)?|\Z)|(?P<literal>-?\d[\d.eE+-]*|true|false|null)|(?P<sign>[{}\[\],:])', re.DOTALL
)


@lru_cache(64)  # an answer is drawn many times
def _json_styles(text: str) -> tuple[Styled, ...]:
    """Return the styles of the names, literals, and signs of the JSON object that ``text`` begins with. It may be incomplete."""
    found, depth = [], 0
    for token in _JSON_TOKEN.finditer(text) if text.lstrip().startswith("{") else ():
        style = "$muted" if token["key"] or token["sign"] else "$second" if token["literal"] else ""
        found += [(*token.span(), style)] if style else []
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if not depth:
            break
    return tuple(found)


def is_marked(row: Content) -> bool:
    """Return whether a row of :func:`output_rows` has some of the failing part."""
    return any(span.style == FAILURE_STYLE for span in row.spans)


def _wrap(text: str, width: int) -> list[tuple[int, int, int]]:
    """Return the rows as start, end and indent. Long parts are broken between words where possible."""
    width = max(width, 1)
    rows: list[tuple[int, int, int]] = []
    hanging = HANGING_INDENT if width > 4 * HANGING_INDENT and text.lstrip().startswith("{") else 0
    for start, end, depth in _parts(text):
        indent = min(depth, width // 4)
        while (fits := _fit(text, start, end, width - indent)) < end:
            space = text.rfind(" ", start + 1, fits + 1)
            at_space = space > start and bool(text[start:space].strip())
            stop = space if at_space else max(fits, start + 1)
            rows.append((start, stop, indent))
            start, indent = stop + at_space, min(depth, width // 4) + (hanging and HANGING_INDENT - (depth > 0))
        rows.append((start, end, indent))
    return rows


def _fit(text: str, start: int, end: int, width: int) -> int:
    """Return the end of the longest part from ``start`` that fits ``width`` cells."""
    if (part := text[start : min(start + width + 1, end)]).isascii() and part.isprintable():
        return min(start + max(width, 0), end)
    cells = 0
    for index in range(start, end):
        cells += cell_len(safe_text(text[index]))
        if cells > width:
            return index
    return end


def _parts(text: str) -> list[tuple[int, int, int]]:
    """Split at line breaks and, if the text begins with a JSON object, after the members of objects, which it may not complete.

    Return the parts as start, end and depth. Arrays are not split.
    """
    parts: list[tuple[int, int, int]] = []
    start, depth, quoted, escaped = 0, 0, False, False
    opened = ""  # the brackets around the current place
    is_object = text.lstrip().startswith("{")
    for index, sign in enumerate(text):
        if sign == "\n":
            parts.append((start, index, depth))
            start, depth = index + 1, 0
        if escaped:
            escaped = False
        elif sign == "\\":
            escaped = quoted
        elif sign == '"':
            quoted = not quoted
        elif not quoted and sign in "{[":
            opened += sign
        elif not quoted and sign in "}]":
            opened = opened[:-1]
        elif not quoted and sign == "," and opened and "[" not in opened and is_object and text[index + 1 : index + 2] != "\n":
            parts.append((start, index + 1, depth))
            start, depth = index + 1, len(opened)
            start += len(text) - start - len(text[start:].lstrip(" "))
    return [*parts, (start, len(text), depth)]


_WORD = re.compile(r"\s+|\w+|[^\w\s]")
_MAX_DIFF_WORDS = 3000  # longer texts are not compared

Words = tuple[tuple[str, bool], ...]  # pieces of a text, each with whether only this text has it


@lru_cache(16)  # a pair is drawn many times
def word_diff(left: str, right: str) -> tuple[Words, Words]:
    """Split two texts into pieces that both share and pieces that only one has. A very long text is a single piece."""
    left_words, right_words = _WORD.findall(left), _WORD.findall(right)
    if max(len(left_words), len(right_words)) > _MAX_DIFF_WORDS:
        return ((left, False),), ((right, False),)
    sides: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    matcher = difflib.SequenceMatcher(None, left_words, right_words, autojunk=False)
    for operation, left_start, left_end, right_start, right_end in matcher.get_opcodes():
        texts = "".join(left_words[left_start:left_end]), "".join(right_words[right_start:right_end])
        for side, text in zip(sides, texts, strict=True):
            if text:
                side.append((text, operation != "equal"))
    return _smooth_spaces(sides[0]), _smooth_spaces(sides[1])


def difference_styles(words: Words) -> list[Styled]:
    """Return the styles of the pieces that only one of two texts has."""
    ends = accumulate(len(text) for text, _ in words)
    return [(end - len(text), end, DIFFERENCE_STYLE) for (text, differs), end in zip(words, ends, strict=True) if differs]


def _smooth_spaces(words: list[tuple[str, bool]]) -> Words:
    """Mark the space between two differing words as a difference, and all other spaces as shared."""
    for index, (text, _) in enumerate(words):
        if not text.strip():
            neighbors = words[max(index - 1, 0) : index] + words[index + 1 : index + 2]
            words[index] = (text, len(neighbors) == 2 and all(differs for _, differs in neighbors))
    return tuple(words)

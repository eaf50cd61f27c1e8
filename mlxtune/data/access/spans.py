"""Find where the records of a file begin and end: lines, CSV records, or elements of a JSON array.

Only record boundaries are parsed, so a broken record does not affect the others.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxtune.core.errors import DataError
from mlxtune.data.access.file_bytes import FileBytes

LIMIT = 32 << 20  # the largest record that is parsed, in bytes
csv.field_size_limit(LIMIT)  # a process-wide setting; the csv module's default is 128 KiB per field

IntArray = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_ROWS = 0.9  # least share of rows among the lines after an unclosed quote


@dataclass(frozen=True)
class RecordSpans:
    """``(records,)`` arrays of each record's first byte, the byte after its last, and its first line (1-based)."""

    starts: IntArray
    ends: IntArray
    lines: IntArray

    def __len__(self) -> int:
        return len(self.starts)

    def select(self, rows: Mask | slice) -> RecordSpans:
        return RecordSpans(self.starts[rows], self.ends[rows], self.lines[rows])


def line_spans(data: FileBytes) -> RecordSpans:
    """Return the spans of all lines that are not blank, without their line feeds."""
    spans, is_blank = _all_lines(data)
    return spans.select(~is_blank)


def _all_lines(data: FileBytes) -> tuple[RecordSpans, Mask]:
    """Return the spans of all lines without their line feeds, and which of them are blank."""
    sizes = np.fromiter(map(len, data.lines()), np.int64)
    starts = data.begin + sizes.cumsum() - sizes
    last = data.size - data.read(max(data.begin, data.size - 1), data.size).count(b"\n")
    spans = RecordSpans(starts, np.append(starts[1:] - 1, last)[: len(starts)], np.arange(1, 1 + len(starts)))
    return spans, np.fromiter(map(str.isspace, data.lines()), bool)


def csv_spans(data: FileBytes, delimiter: str) -> RecordSpans:
    """Return the spans of CSV records, including the header. As in the ``csv`` module, a quoted field may contain line feeds.

    Blank lines are skipped. After an unclosed quote, reading resumes at the next line if that is a row by itself; with two columns, which
    a line of text may look like, only if nearly all lines up to the next quote are.
    """
    lines, are_blank = _all_lines(data)
    texts = (line if len(line) <= LIMIT else "\n" for line in data.lines())
    counts = np.fromiter(_csv_records(texts, delimiter), np.int64)
    ends = counts.cumsum()
    spans = RecordSpans(lines.starts[ends - counts], lines.ends[ends - 1], ends - counts + 1)
    return spans.select(~are_blank[ends - counts])


def _csv_records(lines: Iterator[str], delimiter: str) -> Iterator[int]:
    """Yield the number of lines of each record, also of one that the ``csv`` module rejects."""
    waiting, read, width = deque[str](), list[str](), 0

    def feed() -> Iterator[str]:
        while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
            read.append(line)
            yield line

    reader = csv.reader(feed(), delimiter=delimiter)
    while True:
        read.clear()
        try:
            fields = len(next(reader))
        except StopIteration:
            return
        except csv.Error:
            fields = 0
        width = width or fields
        is_broken = len(read) > 1 and _field_count("".join(read), delimiter) != width > 1
        if is_broken and _are_rows(read[1:], delimiter, width):  # a quote was not closed
            waiting.extendleft(reversed(read[1:]))
            reader = csv.reader(feed(), delimiter=delimiter)
            del read[1:]
        yield len(read)


def _are_rows(lines: list[str], delimiter: str, width: int) -> bool:
    if width > 2:
        return _field_count(lines[0], delimiter) == width
    field = rf'(?:"(?:[^"]|"")*"|[^"{delimiter}\r\n]*)'
    whole = re.compile(rf"{field}{delimiter}(?!\s){field}[\r\n]*")
    unfinished = re.compile(rf'(?:{field}{delimiter})?"(?:[^"]|"")*')
    count = next((number for number, line in enumerate(lines) if unfinished.fullmatch(line)), len(lines))
    return sum(bool(whole.fullmatch(line)) for line in lines[:count]) >= _ROWS * count


def _field_count(text: str, delimiter: str) -> int:
    """Return the number of fields of a text that is one record, else 0."""
    with suppress(csv.Error):
        return len(next(csv.reader([text], delimiter=delimiter, strict=True), ()))
    return 0


# A string, up to the end of the file if it is not closed; an escape outside strings, which is not JSON; or a mark of the structure.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|\\["\\]|[][{},]', re.DOTALL)
_NESTING = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}  # change in depth
_NOT_SPACE = re.compile(rb"[^ \t\r\n]|\Z")


def array_spans(data: FileBytes, bracket: int) -> RecordSpans:
    """Return the spans of the elements of the JSON array that opens at byte ``bracket``.

    Text after the array is one more span, which begins with the closing bracket and so is not JSON. A file cut off after a complete
    element gets an empty span at its end. Raises ``DataError`` if the array is never closed and has no element.
    """
    text = data.read(bracket + 1, data.size)
    depth, ends = 1, []
    for match in _TOKEN.finditer(text):
        depth += _NESTING.get(match[0], 0)
        if not depth or (depth == 1 and match[0] == b","):
            ends.append(match.start())
        if not depth:
            break
    if depth:
        ends.append(len(text))
    starts = [found.start() for at in (0, *(end + 1 for end in ends[:-1])) if (found := _NOT_SPACE.search(text, at))]
    end = ends[-1]  # of the array
    is_empty = len(ends) == 1 and starts == ends
    if depth and is_empty:
        reason = f"{data.path} is not valid JSON: the array is never closed."
        raise DataError(reason, hint="A .json file must contain one array of rows.")
    has_more = depth == 1 and starts[-1] < end if depth else text[end + 1 :].strip()
    if is_empty:
        starts, ends = [], []
    if has_more:
        starts, ends = [*starts, end], [*ends, len(text)]
    begins = np.array(starts, np.int64)
    breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    lines = 1 + data.read(data.begin, bracket).count(b"\n") + np.searchsorted(breaks, begins)
    return RecordSpans(bracket + 1 + begins, bracket + 1 + np.array(ends, np.int64), lines)

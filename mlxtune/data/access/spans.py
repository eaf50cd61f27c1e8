"""Find where the records of a file begin and end: lines, CSV records, or elements of a JSON array.

Only record boundaries are parsed, in blocks of the file's bytes, so a broken record does not affect the others.
"""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from mlxtune.core.errors import DataError
from mlxtune.data.access.file_bytes import FileBytes

LIMIT = 32 << 20  # the largest record that is parsed, in bytes
csv.field_size_limit(LIMIT)  # a process-wide setting; the csv module's default is 128 KiB per field

IntArray = np.ndarray[Any, np.dtype[np.int64]]
Spans = IntArray  # (3, records): each record's first byte, the byte after its last, and its first line (1-based)

_ROWS = 0.9  # least share of rows among the lines after an unclosed quote
_WHITESPACE = b" \t\r\n"
_IS_SPACE = np.isin(np.arange(256), list(_WHITESPACE))


def line_spans(data: FileBytes) -> Spans:
    """Return the spans of all lines that are not blank, without their line feeds."""
    parts = []
    for spans, base, block in _scan_lines(data):
        starts, ends, _ = spans
        keep = ends > starts
        text = np.frombuffer(block, np.uint8)
        in_block = np.flatnonzero(keep & (starts >= base))
        # only lines that begin with whitespace, or before the block, are read
        doubtful = [*np.flatnonzero(keep & (starts < base)), *in_block[_IS_SPACE[text[starts[in_block] - base]]]]
        for index in doubtful:
            keep[index] = not _is_blank(data, *spans[:2, index].tolist())
        parts.append(spans if keep.all() else spans[:, keep])
    return np.concatenate(parts, axis=1)


def _scan_lines(data: FileBytes) -> Iterator[tuple[Spans, int, bytes]]:
    """Yield the lines that end in each block, with the block's offset and bytes, and finally the rest after the last line feed."""
    first, line = data.begin, 1  # the current record's offset and line
    for base, block in data.blocks(data.begin):
        text = np.frombuffer(block, np.uint8)
        breaks = np.flatnonzero(text == ord("\n"))
        heads, numbers = np.append(first, breaks + base + 1), np.arange(line, line + 1 + len(breaks))
        yield np.stack([heads[:-1], breaks + base, numbers[:-1]]), base, block
        first, line = int(heads[-1]), int(numbers[-1])
    yield np.array([[first], [data.size], [line]]), data.size, b""


def _is_blank(data: FileBytes, start: int, end: int) -> bool:
    step = 256
    while start < end:
        if data.read(start, min(end, start + step)).strip(_WHITESPACE):
            return False
        start, step = start + step, min(step * 16, LIMIT)
    return True


def csv_spans(data: FileBytes, delimiter: str) -> Spans:
    """Return the spans of CSV records, including the header. As in the ``csv`` module, a quoted field may contain line feeds.

    Blank lines are skipped. After an unclosed quote, reading resumes at the next line if that is a row by itself; with two columns, which
    a line of text may look like, only if nearly all lines up to the next quote are.
    """
    counts, fields = np.fromiter(_csv_records(_csv_lines(data), delimiter), np.dtype((np.int64, 2))).T
    starts, ends, _ = np.concatenate([spans for spans, _, _ in _scan_lines(data)], axis=1)
    lasts = counts.cumsum()
    spans = np.stack([starts[lasts - counts], ends[lasts - 1], lasts - counts + 1])
    keep = np.ones(len(counts), bool)
    for index in np.flatnonzero(fields < 2):  # they may be blank lines
        keep[index] = not _is_blank(data, *spans[:2, index].tolist())
    return spans[:, keep]


def _csv_records(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, int]]:
    """Yield the lines and the fields of each record; a record that the ``csv`` module rejects has no fields."""
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
            reader, fields = csv.reader(feed(), delimiter=delimiter), 0
            del read[1:]
        yield len(read), fields


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


def _csv_lines(data: FileBytes) -> Iterator[str]:
    """Yield lines for the ``csv`` module, one character per byte. A line above ``LIMIT`` is empty; its record is rejected."""
    pending, dropped = "", False  # an unfinished line
    for _, block in data.blocks(data.begin):
        head, feed, rest = block.decode("latin-1").rpartition("\n")
        if feed:
            yield from io.StringIO(("" if dropped else pending) + head + feed, newline="\n")
            pending, dropped = "", False
        pending += rest
        if len(pending) > LIMIT:
            pending, dropped = "", True
    if pending or dropped:
        yield pending


# A string, up to the end of the block if it is longer; an escape outside strings, which is not JSON; or a mark of the structure.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|(\\?)\Z)|\\(?:["\\]|\Z)|[][{},]', re.DOTALL)
_NESTING = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}  # change in depth
_NOT_SPACE = re.compile(rb"[^ \t\r\n]")


def array_spans(data: FileBytes, bracket: int) -> Spans:
    """Return the spans of the elements of the JSON array that opens at byte ``bracket``.

    Text after the array is one more span, which begins with the closing bracket and so is not JSON. A file cut off after a complete
    element gets an empty span at its end. Raises ``DataError`` if the array is never closed and has no element.
    """
    scan = _ArrayScan(1 + data.read(data.begin, bracket).count(b"\n"))
    for base, block in data.blocks(bracket + 1):
        scan.step(base, block)
        if not scan.depth:
            break
    if not scan.starts:
        raise DataError(
            f"{data.path} is not valid JSON: the array is never closed.", hint="A .json file must contain one array of rows."
        )
    whole = scan.after_comma or (scan.depth == 1 and not scan.carry.startswith(b'"'))  # if the file was cut off
    if scan.depth and not scan.after_comma:
        scan.ends.append(data.size)
    spans = np.array([scan.starts, scan.ends, scan.lines], np.int64)
    rest = scan.ends[-1] if not scan.depth else data.size
    if not scan.depth:
        if scan.starts[0] == rest:  # an empty array
            spans = spans[:, 1:]
        whole = not _is_blank(data, rest + 1, data.size)
    return np.append(spans, [[rest], [data.size], [scan.line]], axis=1) if whole else spans


class _ArrayScan:
    """The elements of an array that were found so far, and the state between two blocks."""

    def __init__(self, line: int) -> None:
        self.starts, self.ends, self.lines = array("q"), array("q"), array("q")
        self.line = line  # the next block's first line; the closing bracket's line once that is found
        self.depth = 1  # 0 after the closing bracket
        self.carry = b""  # the beginning of what continues in the next block: a string, or an escape

    @property
    def after_comma(self) -> bool:
        """Whether there was only whitespace since the last comma."""
        return len(self.starts) == len(self.ends)

    def step(self, base: int, block: bytes) -> None:
        """Scan the next block, at offset ``base``."""
        text, base = self.carry + block, base - len(self.carry)
        commas = [-1] if self.after_comma else []
        self.carry = b""
        for match in _TOKEN.finditer(text):
            token, at = match[0], match.start()
            self.depth += _NESTING.get(token, 0)
            if match[1] is not None or token == b"\\":
                self.carry = token[:1] + (match[1] or b"")
            elif not self.depth:
                self.ends.append(base + at)
                text = text[: at + 1]
                break
            elif token == b"," and self.depth == 1:
                self.ends.append(base + at)
                commas.append(at)
        starts = [found.start() for comma in commas if (found := _NOT_SPACE.search(text, comma + 1))]
        breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
        self.starts.extend(base + start for start in starts)
        self.lines.extend(int(line) for line in self.line + np.searchsorted(breaks, starts))
        self.line += len(breaks)

"""Find where the records of a file begin and end: lines, CSV records, or elements of a JSON array.

Only record boundaries are parsed, in blocks of the file's bytes, so a broken record does not affect the others. JSON arrays are
scanned with the masks of simdjson (Langdale and Lemire 2019, arXiv:1902.08318), with numpy in place of vector instructions.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxtune.core.errors import DataError
from mlxtune.data.access.file_bytes import FileBytes

LIMIT = 32 << 20  # the largest record that is parsed, in bytes
csv.field_size_limit(LIMIT)  # a process-wide setting; the csv module's default is 128 KiB per field

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_WHITESPACE = b" \t\r\n"
_IS_SPACE = np.isin(np.arange(256), list(_WHITESPACE))


@dataclass(frozen=True)
class RecordSpans:
    """``(records,)`` arrays of each record's first byte, the byte after its last, and its first line (1-based)."""

    starts: IntArray
    ends: IntArray
    lines: IntArray

    def __len__(self) -> int:
        return len(self.starts)

    def select(self, rows: IntArray | Mask | slice) -> RecordSpans:
        """Return the spans that ``rows`` selects."""
        return RecordSpans(self.starts[rows], self.ends[rows], self.lines[rows])


def _concatenate(parts: list[RecordSpans]) -> RecordSpans:
    starts, ends, lines = (
        np.concatenate([getattr(part, name) for part in parts]).astype(np.int64) for name in ("starts", "ends", "lines")
    )
    return RecordSpans(starts, ends, lines)


def line_spans(data: FileBytes) -> RecordSpans:
    """Return the spans of all lines that are not blank, without their line feeds."""
    return _concatenate([_without_blank(data, *block) for block in _scan_lines(data)])


def _scan_lines(data: FileBytes) -> Iterator[tuple[RecordSpans, int, bytes]]:
    """Yield the lines that end in each block, with the block's offset and bytes, and finally the rest after the last line feed."""
    first, line = data.begin, 1  # the current record's offset and line
    for base, block in data.blocks(data.begin):
        text = np.frombuffer(block, np.uint8)
        breaks = np.flatnonzero(text == ord("\n"))
        heads, numbers = np.append(first, breaks + base + 1), np.arange(line, line + 1 + len(breaks))
        yield RecordSpans(heads[:-1], breaks + base, numbers[:-1]), base, block
        first, line = int(heads[-1]), int(numbers[-1])
    yield RecordSpans(np.array([first]), np.array([data.size]), np.array([line])), data.size, b""


def _without_blank(data: FileBytes, spans: RecordSpans, base: int, block: bytes) -> RecordSpans:
    """Drop blank spans, reading only those that begin with whitespace, or before ``block`` at offset ``base``."""
    keep = spans.ends > spans.starts
    text = np.frombuffer(block, np.uint8)
    in_block = np.flatnonzero(keep & (spans.starts >= base))
    doubtful = [*np.flatnonzero(keep & (spans.starts < base)), *in_block[_IS_SPACE[text[spans.starts[in_block] - base]]]]
    for index in doubtful:
        keep[index] = not _is_blank(data, int(spans.starts[index]), int(spans.ends[index]))
    return spans if keep.all() else spans.select(keep)


def _is_blank(data: FileBytes, start: int, end: int) -> bool:
    """Return whether the bytes are all whitespace, reading no more of them than necessary."""
    step = 256
    while start < end:
        if data.read(start, min(end, start + step)).strip(_WHITESPACE):
            return False
        start, step = start + step, min(step * 16, LIMIT)
    return True


def csv_spans(data: FileBytes, delimiter: str) -> RecordSpans:
    """Return the spans of CSV records, including the header. As in the ``csv`` module, a quoted field may contain line feeds.

    Blank lines are skipped. An unclosed quote makes one record of all lines after it, up to ``LIMIT``.
    """
    reader = csv.reader(_csv_lines(data), delimiter=delimiter)
    lines_read: list[int] = []  # lines read by the end of each record
    doubtful: list[int] = []  # records that may be blank lines
    while True:
        try:
            if len(next(reader)) < 2:
                doubtful.append(len(lines_read))
        except StopIteration:
            break
        except csv.Error:  # still a record; reading it reports the error
            doubtful.append(len(lines_read))
        lines_read.append(reader.line_num)
    lines = _concatenate([spans for spans, _, _ in _scan_lines(data)])
    ends = np.array(lines_read, np.int64)
    firsts = np.concatenate([[0], ends])[:-1].astype(np.int64)
    spans = RecordSpans(lines.starts[firsts], lines.ends[ends - 1], firsts + 1)
    keep = np.ones(len(spans), bool)
    for index in doubtful:
        keep[index] = not _is_blank(data, int(spans.starts[index]), int(spans.ends[index]))
    return spans.select(keep)


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


_NESTING = np.zeros(256, np.int8)  # change in depth per byte, outside strings
_NESTING[list(b"[{")], _NESTING[list(b"]}")] = 1, -1
_NOT_SPACE = re.compile(rb"[^ \t\r\n]")
_VECTOR_STEPS = 32  # bytes of whitespace that are skipped for all elements at once


def array_spans(data: FileBytes, bracket: int) -> RecordSpans:
    """Return the spans of the elements of the JSON array that opens at byte ``bracket``.

    Text after the array is one more span, which begins with the closing bracket and so is not JSON. A file cut off after a complete
    element gets an empty span at its end. Raises ``DataError`` if the array is never closed and has no element.
    """
    scanner = _ArrayScanner(1 + data.read(data.begin, bracket).count(b"\n"))
    parts = []
    for base, block in data.blocks(bracket + 1):
        parts.append(scanner.step(base, block))
        if scanner.end is not None:
            break
    rest = RecordSpans(np.array([data.size]), np.array([data.size]), np.array([scanner.line]))
    if scanner.end is None:
        if not any(len(starts) for starts, _, _ in parts):
            raise DataError(
                f"{data.path} is not valid JSON: the array is never closed.", hint="A .json file must contain one array of rows."
            )
        parts.append((rest.starts[: int(scanner.after_comma)], rest.ends, rest.lines[: int(scanner.after_comma)]))
    starts, ends, lines = (np.concatenate(part).astype(np.int64) for part in zip(*parts, strict=True))
    spans = RecordSpans(starts, ends, lines)
    if scanner.end is None:
        whole = scanner.depth == 1 and not scanner.in_string and not scanner.after_comma
        return _concatenate([spans, rest]) if whole else spans
    if len(spans) == 1 and spans.starts[0] == spans.ends[0]:
        spans = spans.select(slice(1, None))
    if not _is_blank(data, scanner.end + 1, data.size):
        spans = _concatenate([spans, RecordSpans(np.array([scanner.end]), rest.ends, rest.lines)])
    return spans


class _ArrayScanner:
    """The state of a scan over an array between two blocks."""

    def __init__(self, line: int) -> None:
        self.line = line  # the next block's first line; the closing bracket's line once that is found
        self.end: int | None = None  # offset of the closing bracket
        self.after_comma = True  # only whitespace since the last comma
        self.depth = 1
        self.in_string = 0
        self.backslashes = 0  # parity of the backslashes right before the next block

    def step(self, base: int, block: bytes) -> tuple[IntArray, IntArray, IntArray]:
        """Return the starts of elements that begin in ``block``, the ends of those that end in it, and the lines of the starts."""
        data = np.frombuffer(block, np.uint8)
        marks, kinds = self._structure(data)
        depths = self.depth + np.cumsum(kinds, dtype=np.int64)
        if len(closing := np.flatnonzero(depths == 0)):
            marks, kinds, depths = (part[: closing[0] + 1] for part in (marks, kinds, depths))
            self.end = base + int(marks[-1])
        commas = marks[(kinds == 0) & (depths == 1)]
        starts = _skip_space(block, data, np.concatenate([np.zeros(int(self.after_comma), np.int64), commas + 1]))
        self.after_comma = self.end is None and bool(len(starts)) and int(starts[-1]) == len(data)
        starts = starts[: len(starts) - self.after_comma]
        breaks = np.flatnonzero(data == ord("\n"))
        lines = self.line + np.searchsorted(breaks, starts)
        self.depth = int(depths[-1]) if len(depths) else self.depth
        self.line += len(breaks) if self.end is None else int(np.searchsorted(breaks, self.end - base))
        return starts + base, base + (commas if self.end is None else np.append(commas, marks[-1])), lines

    def _structure(self, data: Bytes) -> tuple[IntArray, IntArray]:
        """Return the positions of brackets and commas outside strings, and the change in depth at each."""
        quotes = self._quotes(data)
        folded = data | 0x20  # maps [ to { and ] to }
        marks = np.flatnonzero((folded == ord("{")) | (folded == ord("}")) | (data == ord(",")))
        marks = marks[(np.searchsorted(quotes, marks) + self.in_string) % 2 == 0]
        self.in_string = (self.in_string + len(quotes)) % 2
        return marks, _NESTING[data[marks]].astype(np.int64)

    def _quotes(self, data: Bytes) -> IntArray:
        """Return the positions of quotes that are not escaped: those after an even run of backslashes."""
        quotes: IntArray = np.flatnonzero(data == ord('"'))
        slashes = np.flatnonzero(data == ord("\\"))
        carried, self.backslashes = self.backslashes, 0
        if not len(slashes):
            return quotes[1:] if carried and len(quotes) and quotes[0] == 0 else quotes
        first_of_run = np.concatenate([[True], np.diff(slashes) != 1])
        runs = np.maximum.accumulate(np.where(first_of_run, slashes, 0))  # where the run of each backslash begins
        counts = slashes - runs + 1 + np.where(runs == 0, carried, 0)
        if slashes[-1] == len(data) - 1:
            self.backslashes = int(counts[-1]) & 1
        before = np.searchsorted(slashes, quotes) - 1  # the last backslash before each quote
        escaped = (before >= 0) & (slashes[before] == quotes - 1) & (counts[before] % 2 == 1)
        escaped |= bool(carried) & (quotes == 0)
        plain: IntArray = quotes[~escaped]
        return plain


def _skip_space(block: bytes, data: Bytes, starts: IntArray) -> IntArray:
    """Move ``starts`` past whitespace, at most to the end of the block."""
    for _ in range(_VECTOR_STEPS):
        moving = np.flatnonzero(starts < len(data))
        moving = moving[_IS_SPACE[data[starts[moving]]]]
        if not len(moving):
            return starts
        starts[moving] += 1
    for index in moving:
        match = _NOT_SPACE.search(block, int(starts[index]))
        starts[index] = match.start() if match else len(data)
    return starts

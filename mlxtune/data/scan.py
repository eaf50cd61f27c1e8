"""Where the records of a file begin and end, found in blocks of its bytes: lines, or records of a CSV file.

Nothing is parsed here but what divides records, so a broken one does not harm the others.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxtune.data.mapped import Mapped

LIMIT = 32 << 20  # bytes a record may have and still be parsed
csv.field_size_limit(LIMIT)  # the module's own limit is 128 KiB a field, and a setting of the whole process

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_BLANK = b" \t\r\n"
SPACE = np.isin(np.arange(256), list(_BLANK))


@dataclass(frozen=True)
class Spans:
    """Of each record, ``(records,)`` each: the first byte, the byte behind the last, the line it begins on (1-based)."""

    starts: Numbers
    ends: Numbers
    lines: Numbers

    def __len__(self) -> int:
        return len(self.starts)

    def fit(self, size: int) -> bool:
        """Whether they can be spans of ``size`` bytes: in order, apart, inside."""
        if not len(self.starts) == len(self.ends) == len(self.lines):
            return False
        if not len(self):
            return True
        apart = (self.starts <= self.ends).all() and (self.ends[:-1] <= self.starts[1:]).all() and (np.diff(self.lines) >= 0).all()
        return bool(apart and self.starts[0] >= 0 and self.ends[-1] <= size and self.lines[0] >= 1)


def lines(data: Mapped) -> Spans:
    """Every line that is not blank, without its line feed."""
    return joined([_written(data, *found) for found in _every(data)])


def _every(data: Mapped, quotes: _Quotes | None = None) -> Iterator[tuple[Spans, int, bytes]]:
    """The lines that end in each block, without their line feeds, with the block; and what is behind the last line feed.

    With ``quotes``, line feeds between quotes end no line, and ``_Loose`` is raised where quotes cannot be counted.
    """
    first, line, here = data.begin, 1, 1  # the line that is being read, and the number of the one that the block begins in
    for base, block in data.blocks(data.begin):
        text = np.frombuffer(block, np.uint8)
        breaks = np.flatnonzero(text == ord("\n"))
        behind = np.arange(here + 1, here + 1 + len(breaks))
        here += len(breaks)
        if quotes:
            ends = quotes.outside(text, breaks)
            breaks, behind = breaks[ends], behind[ends]
        heads, numbers = np.append(first, breaks + base + 1), np.append(line, behind)
        yield Spans(heads[:-1], breaks + base, numbers[:-1]), base, block
        first, line = int(heads[-1]), int(numbers[-1])
    if quotes and quotes.inside:
        raise _Loose
    yield Spans(np.array([first]), np.array([data.size]), np.array([line])), data.size, b""


class _Loose(Exception):
    """Counting quotes does not divide this table as the ``csv`` module does."""


class _Quotes:
    """What stands between quotes, block after block, by counting them.

    That is the ``csv`` module's rule as long as a quote that opens begins a field or follows the one before it, and a carriage
    return outside quotes ends a line. Where it is not, ``_Loose`` is raised.
    """

    def __init__(self, delimiter: str) -> None:
        self._openers = list(b'\n"' + delimiter.encode())
        self._before = ord("\n")  # the last byte of the block before
        self.inside = 0

    def outside(self, text: Bytes, places: Numbers) -> Mask:
        """Which ``places`` in the block ``text`` are not between quotes."""
        quotes = np.flatnonzero(text == ord('"'))
        opening = quotes[self.inside :: 2]
        if not np.isin(np.where(opening > 0, text[opening - 1], self._before), self._openers).all():
            raise _Loose
        returns = np.flatnonzero(text[:-1] == ord("\r"))
        returns = returns[self._even(quotes, returns)]
        torn = self._before == ord("\r") and not self.inside and text[0] != ord("\n")
        if torn or (text[returns + 1] != ord("\n")).any():
            raise _Loose
        found = self._even(quotes, places)
        self._before, self.inside = int(text[-1]), (self.inside + len(quotes)) % 2
        return found

    def _even(self, quotes: Numbers, places: Numbers) -> Mask:
        even: Mask = (np.searchsorted(quotes, places) + self.inside) % 2 == 0
        return even


def _written(data: Mapped, spans: Spans, base: int, block: bytes) -> Spans:
    """``spans`` without the blank ones. Only those are read that begin with white space, or before ``block``, which is at ``base``."""
    keep = spans.ends > spans.starts
    heads = np.frombuffer(block, np.uint8)
    here = np.flatnonzero(keep & (spans.starts >= base))
    doubtful = [*np.flatnonzero(keep & (spans.starts < base)), *here[SPACE[heads[spans.starts[here] - base]]]]
    for at in doubtful:
        keep[at] = not blank(data, int(spans.starts[at]), int(spans.ends[at]))
    return spans if keep.all() else Spans(spans.starts[keep], spans.ends[keep], spans.lines[keep])


def blank(data: Mapped, start: int, end: int) -> bool:
    """Whether the bytes hold nothing but white space; they are read no further than that takes."""
    step = 256
    while start < end:
        if data.read(start, min(end, start + step)).strip(_BLANK):
            return False
        start, step = start + step, min(step * 16, LIMIT)
    return True


def records(data: Mapped, delimiter: str) -> Spans:
    """The records of a CSV file, its header among them, by the ``csv`` module's rules: a quoted field may hold line ends.

    Blank lines are none. A quote that is never closed makes one record of all lines behind it, up to ``LIMIT``.
    """
    try:
        return joined([_written(data, *found) for found in _every(data, _Quotes(delimiter))])
    except _Loose:
        return _parsed(data, delimiter)


def _parsed(data: Mapped, delimiter: str) -> Spans:
    """As :func:`records`, at the pace of the ``csv`` module."""
    reader = csv.reader(_fed(data), delimiter=delimiter)
    behind: list[int] = []  # how many lines were read when each record was whole
    doubtful: list[int] = []  # records that may be blank lines
    while True:
        try:
            if len(next(reader)) < 2:
                doubtful.append(len(behind))
        except StopIteration:
            break
        except csv.Error:  # a record all the same: it is refused when it is read
            doubtful.append(len(behind))
        behind.append(reader.line_num)
    every = joined([spans for spans, _, _ in _every(data)])
    ends = np.array(behind, np.int64)
    firsts = np.concatenate([[0], ends])[:-1].astype(np.int64)
    spans = Spans(every.starts[firsts], every.ends[ends - 1], firsts + 1)
    keep = np.ones(len(spans), bool)
    for at in doubtful:
        keep[at] = not blank(data, int(spans.starts[at]), int(spans.ends[at]))
    return Spans(spans.starts[keep], spans.ends[keep], spans.lines[keep])


def _fed(data: Mapped) -> Iterator[str]:
    """Lines as the ``csv`` module takes them, a character a byte. One above ``LIMIT`` is empty: its record is refused by its size."""
    begun, dropped = "", False  # a line whose end is not yet found
    for _, block in data.blocks(data.begin):
        head, feed, rest = block.decode("latin-1").rpartition("\n")
        if feed:
            yield from io.StringIO(("" if dropped else begun) + head + feed, newline="\n")
            begun, dropped = "", False
        begun += rest
        if len(begun) > LIMIT:
            begun, dropped = "", True
    if begun or dropped:
        yield begun


def joined(parts: list[Spans]) -> Spans:
    """The spans of all parts, one after the other."""
    starts, ends, lines = (
        np.concatenate([getattr(part, name) for part in parts]).astype(np.int64) for name in ("starts", "ends", "lines")
    )
    return Spans(starts, ends, lines)

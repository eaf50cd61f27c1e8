"""Where the records of a file begin and end, found in blocks of its bytes: lines, or records of a CSV file.

Nothing is parsed here but what divides records, so a broken one does not harm the others.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxtune.data.mapped import Mapped

LIMIT = 32 << 20  # bytes a record may have and still be parsed
csv.field_size_limit(LIMIT)  # the module's own limit is 128 KiB a field, and a setting of the whole process

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]

SPACE = np.isin(np.arange(256), list(b" \t\r\n"))


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
    return joined([_written(data, spans, base, block) for spans, base, block in _every(data)])


def _every(data: Mapped) -> Iterator[tuple[Spans, int, bytes]]:
    """The lines that end in each block, without their line feeds, with the block; and what is behind the last line feed."""
    first, number = data.begin, 1  # the line that is being read
    for base, block in data.blocks(data.begin):
        breaks = np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + base
        heads = np.concatenate([[first], breaks + 1])
        yield Spans(heads[:-1], breaks, np.arange(number, number + len(breaks))), base, block
        first, number = int(heads[-1]), number + len(breaks)
    yield Spans(np.array([first]), np.array([data.size]), np.array([number])), data.size, b""


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
        if data.read(start, min(end, start + step)).strip():
            return False
        start, step = start + step, min(step * 16, LIMIT)
    return True


def records(data: Mapped, delimiter: str) -> Spans:
    """The records of a CSV file, its header among them, by the ``csv`` module's rules: a quoted field may hold line ends.

    Blank lines are none. A quote that is never closed makes one record of all lines behind it, up to ``LIMIT``.
    """
    if not any(b'"' in block for _, block in data.blocks(data.begin)):
        return lines(data)
    reader = csv.reader(_fed(data), delimiter=delimiter)
    behind: list[int] = []  # how many lines were read when each record was whole
    doubtful: list[int] = []  # records that may be blank lines
    while True:
        try:
            fields = next(reader)
            if not fields or (len(fields) == 1 and not fields[0].strip()):
                doubtful.append(len(behind))
        except StopIteration:
            break
        except csv.Error:
            pass  # a record all the same: it is refused when it is read
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
    begun, dropped = b"", False
    for _, block in data.blocks(data.begin):
        *whole, rest = block.split(b"\n")
        for line in whole:
            yield "\n" if dropped else (begun + line + b"\n").decode("latin-1")
            begun, dropped = b"", False
        if dropped or len(begun) + len(rest) > LIMIT:
            begun, dropped = b"", True
        else:
            begun += rest
    if begun or dropped:
        yield begun.decode("latin-1")


def joined(parts: list[Spans]) -> Spans:
    """The spans of all parts, one after the other."""
    starts, ends, lines = (
        np.concatenate([getattr(part, name) for part in parts]).astype(np.int64) for name in ("starts", "ends", "lines")
    )
    return Spans(starts, ends, lines)

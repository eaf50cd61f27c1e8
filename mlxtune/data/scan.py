"""Where the records of a file begin and end, found in blocks of its bytes: lines, elements of a JSON array, records of a CSV file.

Nothing is parsed here but what divides records, so a broken one does not harm the others.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxtune.data.mapped import Mapped

LIMIT = 32 << 20  # bytes a record may have and still be parsed
csv.field_size_limit(LIMIT)  # the module's own limit is 128 KiB a field, and a setting of the whole process

Numbers = np.ndarray[Any, np.dtype[np.int64]]

_SPACE = np.isin(np.arange(256), list(b" \t\r\n"))
_NESTING = np.zeros(256, np.int8)  # what a byte does to the depth, outside strings
_NESTING[list(b"[{")], _NESTING[list(b"]}")] = 1, -1


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
    found: list[Spans] = []
    first, number = data.begin, 1  # the line that is being read
    for base, block in data.blocks():
        breaks = np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + base
        heads = np.concatenate([[first], breaks + 1])
        found.append(_written(data, Spans(heads[:-1], breaks, np.arange(number, number + len(breaks))), base, block))
        first, number = int(heads[-1]), number + len(breaks)
    last = Spans(np.array([first]), np.array([data.size]), np.array([number]))
    return _joined([*found, _written(data, last, data.size, b"")])


def _written(data: Mapped, spans: Spans, base: int, block: bytes) -> Spans:
    """``spans`` without the blank ones; ``block`` are the bytes from ``base`` on."""
    keep = spans.ends > spans.starts
    heads = np.frombuffer(block, np.uint8)
    here = np.flatnonzero(keep & (spans.starts >= base))
    doubtful = [*np.flatnonzero(keep & (spans.starts < base)), *here[_SPACE[heads[spans.starts[here] - base]]]]
    for at in doubtful:
        keep[at] = not _blank(data, int(spans.starts[at]), int(spans.ends[at]))
    return spans if keep.all() else Spans(spans.starts[keep], spans.ends[keep], spans.lines[keep])


def _blank(data: Mapped, start: int, end: int) -> bool:
    step = 256
    while start < end:
        if data.read(start, min(end, start + step)).strip():
            return False
        start, step = start + step, min(step * 16, LIMIT)
    return True


def _joined(parts: list[Spans]) -> Spans:
    starts, ends, lines = (np.concatenate(column) for column in zip(*((p.starts, p.ends, p.lines) for p in parts), strict=True))
    return Spans(starts.astype(np.int64), ends.astype(np.int64), lines.astype(np.int64))

"""Where the elements of a JSON array begin and end. Only strings, brackets and commas are looked at, in blocks of the file's bytes.

What else may be wrong with an element does not harm the next. The masks are simdjson's (Langdale and Lemire 2019, arXiv:1902.08318),
with numpy in place of vector instructions.
"""

from __future__ import annotations

import re

import numpy as np

from mlxtune.core.errors import DataError
from mlxtune.data.mapped import Mapped
from mlxtune.data.scan import SPACE, Bytes, Numbers, Spans, blank, joined

_NESTING = np.zeros(256, np.int8)  # what a byte does to the depth, outside strings
_NESTING[list(b"[{")], _NESTING[list(b"]}")] = 1, -1
_WRITTEN = re.compile(rb"[^ \t\r\n]")
_STEPS = 32  # bytes of white space that are walked over for all elements at once


def elements(data: Mapped, bracket: int) -> Spans:
    """The elements of the array that opens at byte ``bracket``.

    What stands behind its end is one more span, which begins with the closing bracket and so is no JSON; an array that ends behind
    a whole element, without a bracket, has an empty one more. Raises ``DataError`` when it is neither closed nor holds anything.
    """
    walk = _Walk(1 + data.read(data.begin, bracket).count(b"\n"))
    parts = []
    for base, block in data.blocks(bracket + 1):
        parts.append(walk.step(base, block))
        if walk.end is not None:
            break
    rest = Spans(np.array([data.size]), np.array([data.size]), np.array([walk.line]))
    if walk.end is None:
        if not any(len(starts) for starts, _, _ in parts):
            raise DataError(
                f"{data.path} is not valid JSON: the array is never closed.", mend="A .json file holds one array of rows."
            )
        parts.append((rest.starts[: int(walk.between)], rest.ends, rest.lines[: int(walk.between)]))
    starts, ends, lines = (np.concatenate(part).astype(np.int64) for part in zip(*parts, strict=True))
    spans = Spans(starts, ends, lines)
    if walk.end is None:
        return joined([spans, rest]) if walk.depth == 1 and not walk.inside and not walk.between else spans
    if len(spans) == 1 and spans.starts[0] == spans.ends[0]:
        spans = Spans(starts[1:], ends[1:], lines[1:])
    if not blank(data, walk.end + 1, data.size):
        spans = joined([spans, Spans(np.array([walk.end]), rest.ends, rest.lines)])
    return spans


class _Walk:
    """How far into the array the blocks so far have led."""

    def __init__(self, line: int) -> None:
        self.line = line  # of the next block's first byte; of the closing bracket, once that is found
        self.end: int | None = None  # where the closing bracket is
        self.between = True  # nothing but white space came behind the last comma
        self.depth = 1
        self.inside = 0  # 1 in a string
        self.slashes = 0  # how many backslashes, odd or even, came right before the next block

    def step(self, base: int, block: bytes) -> tuple[Numbers, Numbers, Numbers]:
        """Of elements that begin in ``block`` the first byte, of those that end in it the end, and of the first ones the line."""
        data = np.frombuffer(block, np.uint8)
        marks, kinds = self._structure(data)
        depths = self.depth + np.cumsum(kinds, dtype=np.int64)
        if len(closing := np.flatnonzero(depths == 0)):
            marks, kinds, depths = (part[: closing[0] + 1] for part in (marks, kinds, depths))
            self.end = base + int(marks[-1])
        commas = marks[(kinds == 0) & (depths == 1)]
        begins = _begins(block, data, np.concatenate([np.zeros(int(self.between), np.int64), commas + 1]))
        self.between = self.end is None and bool(len(begins)) and int(begins[-1]) == len(data)
        begins = begins[: len(begins) - self.between]
        breaks = np.flatnonzero(data == 10)
        lines = self.line + np.searchsorted(breaks, begins)
        self.depth = int(depths[-1]) if len(depths) else self.depth
        self.line += len(breaks) if self.end is None else int(np.searchsorted(breaks, self.end - base))
        return begins + base, base + (commas if self.end is None else np.append(commas, marks[-1])), lines

    def _structure(self, data: Bytes) -> tuple[Numbers, Numbers]:
        """Brackets and commas outside strings, and what each does to the depth."""
        quotes = self._quotes(data)
        folded = data | 0x20  # makes [ a {, and ] a }
        marks = np.flatnonzero((folded == ord("{")) | (folded == ord("}")) | (data == ord(",")))
        marks = marks[(np.searchsorted(quotes, marks) + self.inside) % 2 == 0]
        self.inside = (self.inside + len(quotes)) % 2
        return marks, _NESTING[data[marks]].astype(np.int64)

    def _quotes(self, data: Bytes) -> Numbers:
        """Quotes that no backslash escapes: those behind an even run of them."""
        quotes: Numbers = np.flatnonzero(data == ord('"'))
        slashes = np.flatnonzero(data == ord("\\"))
        carried, self.slashes = self.slashes, 0
        if not len(slashes):
            return quotes[1:] if carried and len(quotes) and quotes[0] == 0 else quotes
        fresh = np.concatenate([[True], np.diff(slashes) != 1])
        runs = np.maximum.accumulate(np.where(fresh, slashes, 0))  # where the run of each backslash begins
        counts = slashes - runs + 1 + np.where(runs == 0, carried, 0)
        if slashes[-1] == len(data) - 1:
            self.slashes = int(counts[-1]) & 1
        before = np.searchsorted(slashes, quotes) - 1  # the last backslash before each quote
        escaped = (before >= 0) & (slashes[before] == quotes - 1) & (counts[before] % 2 == 1)
        escaped |= bool(carried) & (quotes == 0)
        plain: Numbers = quotes[~escaped]
        return plain


def _begins(block: bytes, data: Bytes, begins: Numbers) -> Numbers:
    """``begins`` moved over white space, to the block's end at most."""
    for _ in range(_STEPS):
        at = np.flatnonzero(begins < len(data))
        at = at[SPACE[data[begins[at]]]]
        if not len(at):
            return begins
        begins[at] += 1
    for one in at:
        found = _WRITTEN.search(block, int(begins[one]))
        begins[one] = found.start() if found else len(data)
    return begins

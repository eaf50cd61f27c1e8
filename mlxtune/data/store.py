"""One source file as records that are found by number: an index of byte offsets over the untouched, memory-mapped file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mlxtune.core.errors import DataError
from mlxtune.core.text import nearest, size
from mlxtune.data import index
from mlxtune.data.formats import EMPTY, FORMATS, check_mapping, parse
from mlxtune.data.layout import Layout, layout
from mlxtune.data.mapped import Mapped
from mlxtune.data.rows import Place, Row, RowError
from mlxtune.data.scan import LIMIT, Spans
from mlxtune.data.turns import Refusal

RELEASE = 16 << 20  # bytes walked through before their pages are let go


class Store:
    """The records of one file, bad ones included; ``notes`` say how the file was read where that is not plain. To be closed."""

    def __init__(self, data: Mapped, layout: Layout, spans: Spans, format: str, mapping: Mapping[str, str]) -> None:
        self.path = data.path
        self.notes: tuple[str, ...] = (*data.notes, *layout.notes)
        self._data = data
        self._layout = layout
        self._spans = spans
        self._format = format
        self._mapping = dict(mapping)

    def __len__(self) -> int:
        return len(self._spans)

    def place(self, at: int) -> Place:
        """Where record ``at``, counted from 0, stands in the file."""
        return Place(self.path, int(self._spans.lines[at]), at + 1 if self._layout.kind == "array" else None)

    def row(self, at: int) -> Row:
        """Record ``at`` as a row. Raises ``RowError`` when it cannot be used, ``DataError`` when the file was written to meanwhile."""
        place, start, end = self.place(at), int(self._spans.starts[at]), int(self._spans.ends[at])
        if end - start > LIMIT:
            why = f"the row has {size(end - start)}; up to {size(LIMIT)} are read."
            raise RowError(place, why, mend="Divide it; or look for a quote or a line end that is missing.")
        raw = self._data.read(start, end)
        try:
            value = self._layout.value(raw)
        except Refusal as refusal:
            raise RowError(place, refusal.why, mend=refusal.mend) from None
        return parse(value, place, self._format, self._mapping)

    def record(self, at: int) -> Row | DataError:
        """Record ``at`` as a row, or the error that says why it is none."""
        try:
            return self.row(at)
        except DataError as error:
            return error

    def __iter__(self) -> Iterator[Row | DataError]:
        """All records in order. Of the file, no more than ``RELEASE`` bytes are held at a time."""
        released = 0
        for at in range(len(self)):
            yield self.record(at)
            if (walked := int(self._spans.ends[at])) - released > RELEASE:
                self._data.release(released, walked)
                released = walked

    def release(self) -> None:
        """Let the memory go that the file's pages take; what is asked for next is read again."""
        self._data.release(0, self._data.size)

    def close(self) -> None:
        """Let the file go."""
        self._data.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(path: Path, format: str = "auto", mapping: Mapping[str, str] = EMPTY) -> Store:
    """The records of ``path``: ``.json`` holds an array, ``.csv`` and ``.tsv`` a table with a header, all else a JSON value a line.

    ``mapping`` gives keys of ours the file's names for them. Raises ``DataError`` when the file as a whole cannot be read.
    """
    if format not in ("auto", *FORMATS):
        hint = nearest(format, FORMATS)
        raise DataError(
            f"There is no format {format}.", mend=f"Did you mean {hint}?" if hint else f"Formats are {', '.join(FORMATS)}."
        )
    check_mapping(mapping)
    data = Mapped(path)
    try:
        how = layout(data)
        return Store(data, how, index.spans(data, how), format, mapping)
    except BaseException:
        data.close()
        raise

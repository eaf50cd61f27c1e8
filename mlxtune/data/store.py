"""One source file as records that are found by number: an index of byte offsets over the untouched, memory-mapped file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from mlxtune.core.errors import DataError
from mlxtune.core.text import size
from mlxtune.data import scan
from mlxtune.data.formats import parse
from mlxtune.data.mapped import Mapped
from mlxtune.data.rows import Place, Row, RowError

RELEASE = 16 << 20  # bytes walked through before their pages are let go


class Store:
    """The records of one file, bad ones included. Close it, or use it as a context manager."""

    def __init__(self, path: Path, data: Mapped, spans: scan.Spans, format: str, mapping: Mapping[str, str]) -> None:
        self.path = path
        self.notes: tuple[str, ...] = data.notes
        self._data = data
        self._spans = spans
        self._format = format
        self._mapping = mapping

    def __len__(self) -> int:
        return len(self._spans)

    def place(self, at: int) -> Place:
        """Where record ``at`` stands in the file."""
        return Place(self.path, int(self._spans.lines[at]))

    def row(self, at: int) -> Row:
        """Record ``at`` as a row. Raises ``RowError`` when it cannot be used, ``DataError`` when the file changed."""
        place, start, end = self.place(at), int(self._spans.starts[at]), int(self._spans.ends[at])
        if end - start > scan.LIMIT:
            raise RowError(place, f"the row has {size(end - start)}; rows of up to {size(scan.LIMIT)} are read.", mend="Divide it.")
        try:
            record = json.loads(self._data.read(start, end))
        except (ValueError, RecursionError) as error:
            raise RowError(place, f"not valid JSON: {error}.", mend="Each line must be one whole JSON object.") from error
        return parse(record, place, self._format)

    def record(self, at: int) -> Row | DataError:
        """Record ``at`` as a row, or the error that says why it is none. Never raises for a bad record."""
        try:
            return self.row(at)
        except DataError as error:
            return error

    def __iter__(self) -> Iterator[Row | DataError]:
        released = 0
        for at in range(len(self)):
            yield self.record(at)
            if (walked := int(self._spans.ends[at])) - released > RELEASE:
                self._data.release(released, walked)
                released = walked

    def close(self) -> None:
        self._data.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(path: Path, format: str = "auto", mapping: Mapping[str, str] = MappingProxyType({})) -> Store:
    """The records of ``path``. Raises ``DataError`` when the file as a whole cannot be read."""
    data = Mapped(path)
    return Store(path, data, scan.lines(data), format, mapping)

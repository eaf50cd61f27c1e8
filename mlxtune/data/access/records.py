"""Access a source's records by number. They are read on demand from its files, which are never modified."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.core.files import Closeable
from mlxtune.core.text import size
from mlxtune.data.access.file_bytes import FileBytes, FileNote
from mlxtune.data.access.layout import detect_layout
from mlxtune.data.access.spans import LIMIT
from mlxtune.data.readers.formats import NO_MAPPING, check_format, check_mapping, parse
from mlxtune.data.readers.row_format import InvalidRecord
from mlxtune.data.rows import Location, Row, RowError
from mlxtune.data.source_files import GENERATED, all_files


class RecordFile(Closeable):
    """The records in one file, including invalid ones. ``notes`` says how the file was read. Must be closed."""

    def __init__(self, path: Path, format: str = "auto", mapping: Mapping[str, str] = NO_MAPPING) -> None:
        """Open a file: an array (``.json``), a table with a header (``.csv``, ``.tsv``), or else one JSON value per line.

        ``mapping`` maps our keys to the file's column names. Raises ``DataError`` if the file as a whole cannot be read.
        """
        check_format(format)
        check_mapping(mapping)
        self.path, self._format, self._mapping = path, format, dict(mapping)
        self._data = FileBytes(path)
        try:
            self._layout = detect_layout(self._data)
            self._spans = self._layout.spans(self._data)
        except BaseException:
            self._data.close()
            raise
        self.notes: tuple[FileNote, ...] = (*self._data.notes, *self._layout.notes)

    def __len__(self) -> int:
        return len(self._spans[0])

    def location(self, index: int) -> Location:
        return Location(self.path, int(self._spans[2, index]), index + 1 if self._layout.kind == "array" else None)

    def raw(self, index: int, text: str | None = None) -> Any:
        """Return a record, or ``text`` in its place, as it is in the file. Raises the errors of :meth:`row`."""
        location, (start, end) = self.location(index), self._spans[:2, index].tolist()
        if text is None and end - start > LIMIT:
            reason = f"the row is {size(end - start)} long, but the limit is {size(LIMIT)}."
            raise RowError(location, reason, hint="Split the row, or look for a missing quote or line break.")
        raw = self._data.read(start, end) if text is None else text.encode()
        try:
            return self._layout.value(raw)
        except InvalidRecord as error:
            raise RowError(location, error.reason, hint=error.hint, kind=error.kind, at=error.at) from None

    def row(self, index: int, text: str | None = None) -> Row:
        """Read a record, or ``text`` in its place, as a row.

        Raises ``RowError`` if it is invalid, ``DataError`` if the file has changed since it was opened.
        """
        try:
            return parse(self.raw(index, text), self.location(index), self._format, self._mapping)
        except RowError as error:
            start, end = self._spans[:2, index].tolist()
            error.raw = self._data.read(start, min(end, start + LIMIT))
            own = error.raw.decode("cp1252" if error.kind == "encoding" else "utf-8", "replace")
            error.text = own if text is None else text
            if error.kind == "encoding":
                self.row(index, own)  # raises what else is wrong with the row
            raise

    def record(self, index: int) -> Row | DataError:
        """Read a record as a row, or return the error."""
        try:
            return self.row(index)
        except DataError as error:
            return error

    def __iter__(self) -> Iterator[Row | DataError]:
        return map(self.record, range(len(self)))

    def close(self) -> None:
        self._data.close()


class SourceRecords(Closeable):
    """The records in all files of a source, numbered in order. Must be closed."""

    def __init__(self, path: Path, format: str, mapping: Mapping[str, str]) -> None:
        """Raises ``DataError`` if a file as a whole cannot be read."""
        self.files: list[tuple[str, RecordFile]] = []
        with ExitStack() as files:
            for part, file in all_files(path).items():
                settings = ("auto", NO_MAPPING) if part == GENERATED else (format, mapping)
                self.files.append((part, files.enter_context(RecordFile(file, *settings))))
            self._open_files = files.pop_all()
        self._starts = [*accumulate((len(records) for _, records in self.files), initial=0)]

    def __len__(self) -> int:
        return self._starts[-1]

    def _find(self, index: int) -> tuple[RecordFile, int]:
        number = bisect_right(self._starts, index) - 1
        return self.files[number][1], index - self._starts[number]

    def part(self, index: int) -> str:
        return self.files[bisect_right(self._starts, index) - 1][0]

    def record(self, index: int) -> Row | DataError:
        """Read a record as a row, or return the error."""
        file, number = self._find(index)
        return file.record(number)

    def row(self, index: int, text: str | None = None) -> Row:
        """Read a record, or ``text`` in its place, as a row. Raises ``RowError`` if it is invalid."""
        file, number = self._find(index)
        return file.row(number, text)

    def location(self, index: int) -> Location:
        file, number = self._find(index)
        return file.location(number)

    def close(self) -> None:
        self._open_files.close()

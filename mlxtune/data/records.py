"""All records of a source's files, a file or a folder of them, by one number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from mlxtune.core.errors import DataError
from mlxtune.data.rows import Place, Row
from mlxtune.data.source import files
from mlxtune.data.store import Store, open_store

_READS = 1000  # of single records, after which the file's pages are let go: they lie anywhere in it


class Records:
    """All records of a source's files, by one number. To be closed."""

    def __init__(self, path: Path, format: str, mapping: Mapping[str, str]) -> None:
        """Raises ``DataError`` when a file as a whole cannot be read."""
        self._open = ExitStack()
        self.stores: list[tuple[str, Store]] = []
        with ExitStack() as undo:
            undo.push(self._open)
            for part, file in files(path).items():
                self.stores.append((part, self._open.enter_context(open_store(file, format, mapping))))
            undo.pop_all()
        self._asked = 0
        self._starts = [0]
        for _, store in self.stores:
            self._starts.append(self._starts[-1] + len(store))

    def __len__(self) -> int:
        return self._starts[-1]

    def _find(self, at: int) -> tuple[Store, int]:
        self._asked += 1
        if not self._asked % _READS:
            self.release()
        which = bisect_right(self._starts, at) - 1
        return self.stores[which][1], at - self._starts[which]

    def part(self, at: int) -> tuple[str, range]:
        """The part of the source that record ``at`` is in, and which records are in the same file."""
        which = bisect_right(self._starts, at) - 1
        return self.stores[which][0], range(self._starts[which], self._starts[which + 1])

    def record(self, at: int) -> Row | DataError:
        store, local = self._find(at)
        return store.record(local)

    def row(self, at: int) -> Row:
        """Record ``at``, which is a row. Raises ``RowError`` where it is none."""
        store, local = self._find(at)
        return store.row(local)

    def place(self, at: int) -> Place:
        store, local = self._find(at)
        return store.place(local)

    def release(self) -> None:
        """Let the memory go that the files' pages take."""
        for _, store in self.stores:
            store.release()

    def close(self) -> None:
        """Let the files go."""
        self._open.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

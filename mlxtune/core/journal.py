"""Append-only JSON lines: one write a line, a torn last line is no line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.core.files import disk_errors


class Journal:
    """The writing end. One process writes; any number may read with :class:`Tail`."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending, cutting off a line that a crash left unfinished. Raises ``MachineError`` on a full disk."""
        self.path = path
        with disk_errors(path.name):
            truncate_torn_line(path)
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line with a single ``write``. Raises ``MachineError`` on a full disk."""
        data = (json.dumps(record, ensure_ascii=True, separators=(",", ":")) + "\n").encode()
        with disk_errors(self.path.name):
            start = os.fstat(self._handle).st_size
            try:
                while data:
                    data = data[os.write(self._handle, data) :]
            except OSError:
                os.ftruncate(self._handle, start)  # else the next record would be glued to half of this one
                raise

    def sync(self) -> None:
        """Flush to disk: call it for events that must survive a power cut. Raises ``MachineError`` on a full disk."""
        with disk_errors(self.path.name):
            os.fsync(self._handle)

    def close(self) -> None:
        """Close the file; appending afterwards raises ``OSError``."""
        os.close(self._handle)


class Tail:
    """The reading end: each :meth:`read` returns the whole lines that were added since the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0  # behind the last whole line, so that a torn one may be cut and written over

    def read(self) -> list[dict[str, Any]]:
        """New records, oldest first. A file that shrank is read again from its start; a missing one is empty."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [record for record in map(_parse, whole.split(b"\n")) if record is not None]


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole record of a journal, oldest first."""
    return Tail(path).read()


def truncate_torn_line(path: Path) -> None:
    """Cut ``path`` after its last newline, if anything stands behind it."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    keep = data.rfind(b"\n") + 1
    if keep != len(data):
        os.truncate(path, keep)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None

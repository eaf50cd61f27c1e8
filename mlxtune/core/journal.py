"""Append-only JSON Lines files. Each line is one write. An incomplete last line is ignored."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.core.files import disk_errors, sync_file, sync_folder


class Journal:
    """The writer. Only one process may write, but any number may read with :class:`Tail`."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending, and remove an incomplete last line. Raise ``MachineError`` if the disk is full."""
        self.path = path
        with disk_errors(path.name):
            is_new = not path.exists()
            truncate_torn_line(path)
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            if is_new:
                sync_folder(path.parent)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line. Raise ``MachineError`` if the disk is full."""
        data = (json.dumps(record, ensure_ascii=True, separators=(",", ":")) + "\n").encode()
        with disk_errors(self.path.name):
            start = os.fstat(self._handle).st_size
            try:
                while data:
                    data = data[os.write(self._handle, data) :]
            except OSError:
                os.ftruncate(self._handle, start)  # otherwise the next record would follow half of this one
                raise

    def sync(self) -> None:
        """Flush to disk, for records that a power failure must not destroy. Raise ``MachineError`` if the disk is full."""
        with disk_errors(self.path.name):
            sync_file(self._handle)

    def close(self) -> None:
        """Close the file. Appending afterwards raises ``OSError``."""
        os.close(self._handle)


class Tail:
    """The reader. Each :meth:`read` returns the complete lines added since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0  # after the last complete line; the writer may replace an incomplete one

    def read(self) -> list[dict[str, Any]]:
        """Return new records, oldest first. A file that shrank is read from the start. A missing file counts as empty."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [record for record in map(_parse, complete.split(b"\n")) if record is not None]


def read(path: Path) -> list[dict[str, Any]]:
    """Return every complete record in a journal, oldest first."""
    return Tail(path).read()


def truncate_torn_line(path: Path) -> None:
    """Remove an incomplete last line from ``path``."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    end = data.rfind(b"\n") + 1
    if end != len(data):
        os.truncate(path, end)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None

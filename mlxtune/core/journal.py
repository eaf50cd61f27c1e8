"""Append-only JSON Lines files. Each line is one write. An incomplete last line is ignored."""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import Closeable, disk_errors, file_stamp, sync_file, sync_folder


class Journal(Closeable):
    """The writer. Only one process may write, but any number may read with :class:`Tail`.

    Another program may replace the file with a new one by renaming it, as git, sync tools and editors do, or delete it. The next
    record is then appended to the new file, because the old one no longer has a name.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending, and remove an incomplete last line. Raise ``MachineError`` if the disk is full."""
        self.path = path
        self._open()

    def _open(self) -> None:
        with disk_errors(self.path.name):
            is_new = not self.path.exists()
            if not is_new and not self.path.is_file():
                raise InputError(f"{self.path} is not a regular file.")
            truncate_torn_line(self.path)
            self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            self._stamp = file_stamp(self._handle)
            if is_new:
                sync_folder(self.path.parent)

    @property
    def is_current(self) -> bool:
        """Whether the file is as this writer opened or left it."""
        return file_stamp(self.path) == self._stamp

    def reopen(self) -> None:
        """Open the file that is at the path now. Raise ``FileNotFoundError`` if its folder was deleted."""
        self.close()
        self._open()

    def append(self, record: Mapping[str, Any], *, sync: bool = False) -> None:
        """Write one line and, with ``sync``, flush it to disk. Raise ``MachineError`` if the disk is full, and ``FileNotFoundError`` if the folder was deleted."""
        data = (json.dumps(record, ensure_ascii=True, separators=(",", ":")) + "\n").encode()
        if not self.is_current:
            self.reopen()
        with disk_errors(self.path.name):
            start = os.fstat(self._handle).st_size
            try:
                while data:
                    data = data[os.write(self._handle, data) :]
            except OSError:
                os.ftruncate(self._handle, start)  # otherwise the next record would follow half of this one
                raise
            finally:
                self._stamp = file_stamp(self._handle)
        if sync:
            self.sync()

    def sync(self) -> None:
        """Flush to disk, for records that a power failure must not destroy. Raise ``MachineError`` if the disk is full."""
        with disk_errors(self.path.name):
            sync_file(self._handle)

    def close(self) -> None:
        """Close the file. Appending afterwards raises ``OSError``."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


class Tail:
    """The reader. Each :meth:`read` returns the complete lines added since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0  # after the last complete line; the writer may replace an incomplete one

    def read(self) -> list[dict[str, Any]]:
        """Return new records, oldest first. A file that shrank is read from the start. A missing file counts as empty.

        Raise ``InputError`` if it is a pipe or a device.
        """
        try:
            with open(self.path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a named pipe may never end
                    raise InputError(f"{self.path} is not a regular file.")
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
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None

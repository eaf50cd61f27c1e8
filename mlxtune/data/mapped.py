"""The bytes of a file that is never modified, memory-mapped, as UTF-8: how they are coded is found out and said."""

from __future__ import annotations

import codecs
import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mlxtune.core.errors import DataError
from mlxtune.core.files import disk_errors

BLOCK = 4 << 20  # bytes looked at in one go
_PROBE = 4096


class Mapped:
    """A file's bytes. ``begin`` is where they start behind a byte order mark; ``notes`` say what was converted.

    UTF-16 is read through a temporary UTF-8 copy, which is gone when the file is closed. Raises ``DataError`` when the file cannot
    be read or is UTF-32, ``MachineError`` when there is no room for the copy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise DataError(
                f"{path} is {'a folder' if path.is_dir() else 'no file'}.", mend="Name a file, or save the rows to one."
            )
        try:
            self._file: IO[bytes] = path.open("rb")
        except FileNotFoundError as error:
            raise DataError(f"There is no data at {path}.", mend="Check data.source; it is relative to the recipe.") from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.", mend="Name a file that you may read.") from error
        self._state = self._now()
        head = os.pread(self._file.fileno(), 64, 0)
        self.begin = 0
        self.notes: tuple[str, ...] = ()
        self.copied = False
        if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
            self._file.close()
            raise DataError(f"{path} is UTF-32, which is not read.", mend="Save it as UTF-8.")
        if head.startswith(codecs.BOM_UTF8):
            self.begin, self.notes = 3, ("A byte order mark was skipped.",)
        elif wide := _utf16(head):
            self._convert(wide)
            self.notes = ("UTF-16 was read as UTF-8.",)
        self.size = self._state[0]
        try:
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else None
        except OSError as error:
            raise DataError(f"{path} cannot be mapped: {error.strerror}.", mend="Copy it to a disk of this machine.") from error

    def read(self, start: int, end: int) -> bytes:
        """The bytes from ``start`` up to ``end``. Raises ``DataError`` when the file was written to since it was opened."""
        if self._now() != self._state:  # reading a map behind the end of a file that was cut would kill the process
            raise DataError(f"{self.path} changed while it was being read.", mend="Run it again when nothing writes to the file.")
        return self._map[start:end] if self._map is not None else b""

    def blocks(self, begin: int) -> Iterator[tuple[int, bytes]]:
        """All bytes from ``begin`` on, in blocks, each with its offset."""
        for start in range(begin, self.size, BLOCK):
            yield start, self.read(start, start + BLOCK)
            self.release(start, start + BLOCK)

    def release(self, start: int, end: int) -> None:
        """Let the pages wholly between ``start`` and ``end`` go: walking through a file must not fill memory with it."""
        start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, min(end, self.size)
        if self._map is not None and end > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)

    def key(self) -> dict[str, int | str]:
        """What tells this content from another at the same path: size, modification time, and a hash of 16 blocks over the file."""
        digest = hashlib.sha256()
        for part in range(16):
            start = max(0, self.size - _PROBE) * part // 15
            digest.update(self.read(start, start + _PROBE))
        return {"size": self._state[0], "mtime_ns": self._state[1], "probe": digest.hexdigest()}

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
        self._file.close()

    def _now(self) -> tuple[int, int]:
        state = os.fstat(self._file.fileno())
        return state.st_size, state.st_mtime_ns

    def _convert(self, encoding: str) -> None:
        """Go over to a UTF-8 copy. Halves of surrogate pairs and an odd last byte become bytes that are no UTF-8: bad for their row."""
        decode = codecs.getincrementaldecoder(encoding)("surrogatepass")
        with disk_errors(f"a UTF-8 copy of {self.path.name}"):
            copy = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
            self._file.seek(0)
            while block := self._file.read(BLOCK):
                copy.write(decode.decode(block).removeprefix("\ufeff").encode("utf-8", "surrogatepass"))
            rest, _ = decode.getstate()
            copy.write(b"\xff" * bool(rest))
            copy.flush()
        self._file.close()
        self._file, self.copied = copy, True
        self._state = self._now()


def _utf16(head: bytes) -> str | None:
    """The codec, by a byte order mark or, without one, by the zeros of the first two characters, which are ASCII in JSON and CSV."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16-le" if head.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    return {b"x0x0": "utf-16-le", b"0x0x": "utf-16-be"}.get(bytes(ord("x" if byte else "0") for byte in head[:4]))

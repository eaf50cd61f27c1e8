"""The bytes of a source file, presented as UTF-8. The file is never modified.

They are read on demand rather than memory-mapped: if another program truncates a mapped file, the process is killed.
"""

import codecs
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

from mlxtune.core.errors import DataError
from mlxtune.core.files import disk_errors, read_errors

FileNote = Literal[
    "byte_order_mark", "utf16", "cp1252", "semicolons", "tabs", "json_lines"
]  # how a file was read, if it needed conversion

BLOCK = 4 << 20  # bytes per step of a scan


class FileBytes:
    """A file's bytes, starting at ``begin`` (after any byte order mark). ``notes`` says what was converted.

    UTF-16 and Windows-1252 are read through a temporary UTF-8 copy, which is removed on close. Raises ``DataError`` if the file cannot be read or is
    UTF-32, and ``MachineError`` if there is no disk space for the copy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise DataError(f"There is no data at {path}.", hint="Check data.source; it is relative to the recipe.")
        if not path.is_file():  # opening a pipe would wait for a writer
            raise DataError(f"{path} is {'a folder' if path.is_dir() else 'not a file'}.", hint="Specify a file.")
        with read_errors(str(path), DataError, "Check its permissions."):
            self._file: IO[bytes] = path.open("rb")
        self._state = self._stat()
        head = os.pread(self._file.fileno(), 64, 0)
        self.begin = 0
        self.notes: tuple[FileNote, ...] = ()
        if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
            self._file.close()
            raise DataError(f"{path} is encoded in UTF-32, which is not supported.", hint="Save it as UTF-8.")
        if head.startswith(codecs.BOM_UTF8):
            self.begin, self.notes = 3, ("byte_order_mark",)
        elif encoding := _utf16_encoding(head):
            self._convert(encoding)
            self.notes = ("utf16",)
        elif is_cp1252(os.pread(self._file.fileno(), BLOCK, 0)):
            self._convert("cp1252")
            self.notes = ("cp1252",)
        self.size = self._state[0]

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` to ``end``. Raises ``DataError`` if the file has changed since it was opened."""
        end = min(end, self.size)
        with read_errors(str(self.path), DataError, "Check the disk that it is on."):
            data = os.pread(self._file.fileno(), max(0, end - start), start)
        if self._stat() != self._state or len(data) < end - start:
            raise DataError(f"{self.path} changed while it was being read.", hint="Try again.")
        return data

    def blocks(self, begin: int) -> Iterator[tuple[int, bytes]]:
        """Yield ``(offset, bytes)`` from ``begin`` to the end in blocks."""
        for start in range(begin, self.size, BLOCK):
            yield start, self.read(start, start + BLOCK)

    def close(self) -> None:
        self._file.close()

    def _stat(self) -> tuple[int, int]:
        stat = os.fstat(self._file.fileno())
        return stat.st_size, stat.st_mtime_ns

    def _convert(self, encoding: str) -> None:
        """Switch to a UTF-8 copy. Lone surrogates and an odd last byte become invalid UTF-8, so that only their rows fail."""
        decoder = codecs.getincrementaldecoder(encoding)("replace" if encoding == "cp1252" else "surrogatepass")
        with disk_errors(f"a UTF-8 copy of {self.path.name}"):
            copy = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
            self._file.seek(0)
            while block := self._file.read(BLOCK):
                copy.write(decoder.decode(block).removeprefix("\ufeff").encode("utf-8", "surrogatepass"))
            rest, _ = decoder.getstate()
            copy.write(b"\xff" * bool(rest))
            copy.flush()
        self._file.close()
        self._file = copy
        self._state = self._stat()


def _utf16_encoding(head: bytes) -> str | None:
    """Detect UTF-16 by a byte order mark, or by the zero bytes in the first two characters, which are ASCII in JSON and CSV."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16-le" if head.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    return {b"x0x0": "utf-16-le", b"0x0x": "utf-16-be"}.get(bytes(ord("x" if byte else "0") for byte in head[:4]))


_CP1252 = bytes([0x80, 0x85, *range(0x91, 0x98), *range(0xA0, 0xC0), *range(0xC0, 0xFE)])  # characters of Western texts
_EASTERN = re.compile(rb"[A-Za-z\xc0-\xff][\xb1\xb3\xb6\xb9\xbc\xbe\xbf][A-Za-z\xc0-\xff]")  # such as s³owo for ISO-8859-2's słowo
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


def is_cp1252(head: bytes) -> bool:
    """Return whether a record, or a file that begins with ``head``, is Windows-1252: it has letters or quotes of it, and no character of UTF-8."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < BLOCK)  # a whole block may end within a character
        return False
    except UnicodeDecodeError:
        special = head.translate(None, bytes(range(128)))
        return not special.translate(None, _CP1252) and not _UTF8.search(head) and not _EASTERN.search(head)

"""Detect how a file is divided into records, and find them by scanning the file (about 1 GB of JSON Lines per second)."""

import csv
import json
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line, plural
from mlxtune.data.access.file_bytes import FileBytes, FileNote, is_cp1252
from mlxtune.data.access.spans import Spans, array_spans, csv_spans, line_spans
from mlxtune.data.readers.row_format import InvalidRecord
from mlxtune.data.readers.turns import loads

ARCHIVES = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z")
TABLES = (".arrow", ".feather", ".avro", ".xlsx", ".xls", ".ods", ".sqlite", ".db")
_CUT = re.compile(rb"[a-z][\xc2-\xde]|\xe2\x80")  # the beginning of a character in UTF-8, as in a text that was cut
_FOREIGN = re.compile(rb"[\xc0-\xff]{3}")  # hardly in Western languages: letters of another encoding, such as Windows-1251
_HEAD = 1 << 20  # bytes in which the first record must begin


@dataclass(frozen=True)
class FileLayout:
    """How a file is divided into records. ``header`` and ``delimiter`` are for CSV; ``bracket`` is an array's offset."""

    kind: Literal["lines", "array", "csv"]
    notes: tuple[FileNote, ...] = ()
    bracket: int = 0
    header: tuple[str, ...] = ()
    delimiter: str = ""

    def spans(self, data: FileBytes) -> Spans:
        """Return the spans of the records. Raises ``DataError`` if the file as a whole is invalid."""
        if self.kind == "lines":
            return line_spans(data)
        if self.kind == "csv":
            return csv_spans(data, self.delimiter)[:, 1:]
        return array_spans(data, self.bracket)

    def value(self, raw: bytes) -> Any:
        """Parse one record: a JSON value, or a dictionary of CSV fields. Raises ``InvalidRecord``."""
        if b"\0" in raw:
            raise InvalidRecord("the row has NUL bytes, so it is not text.", "Save the file again as UTF-8, or remove the row.")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            reason = f"byte {error.start + 1:,} (0x{raw[error.start]:02x}) is not valid UTF-8."
            kind = "encoding" if is_cp1252(raw) and not (_CUT.search(raw) or _FOREIGN.search(raw)) else "bad-row"
            hint = "Correct that character." if kind == "bad-row" else "Fix the row (data check --fix) to read it as Windows-1252."
            raise InvalidRecord(reason, f"{hint} Or save the file as UTF-8.", kind, error.start) from error
        return self._fields(text) if self.kind == "csv" else self._json(text)

    def _json(self, text: str) -> Any:
        at: int | None = None
        try:
            return loads(text)
        except json.JSONDecodeError as error:
            reason, at = f"{error.msg.removesuffix(' at')} at character {error.pos + 1:,}", len(text[: error.pos].encode())
        except ValueError as error:
            reason = one_line(str(error), 80)
        if self.kind == "lines":
            hint = "Each line must be one JSON object."
        elif text.strip():
            hint = "Correct this element; the others are not affected."
        else:
            reason, hint = "an element is missing", "Remove the extra comma, or close the array with ] if the file was cut off."
        raise InvalidRecord(f"not valid JSON: {reason}.", hint, at=at)

    def _fields(self, text: str) -> dict[str, str]:
        lines = text.rstrip("\r\n").count("\n")
        lost = f" {plural(lines, 'more line')} cannot be read, either." if lines else ""
        try:
            (fields,) = csv.reader([text], delimiter=self.delimiter, strict=True)
        except (csv.Error, ValueError) as error:
            hint = "Quote each field that contains a quote, double that quote, and close the field with one."
            raise InvalidRecord(f"not valid CSV: {error}.{lost}", hint) from error
        if len(fields) != len(self.header):
            hint = f"Quote each field that contains a {self.delimiter if self.delimiter.strip() else 'tab'}."
            reason = f"the row has {plural(len(fields), 'field')}, but the header has {len(self.header)}.{lost}"
            raise InvalidRecord(reason, hint)
        return dict(zip(self.header, fields, strict=True))


def detect_layout(data: FileBytes) -> FileLayout:
    """Return a file's layout, based on its name and first bytes. Raises ``DataError`` if its type is not supported."""
    path = data.path
    suffix = path.suffix.lower()
    if suffix in ARCHIVES:
        raise DataError(f"{path} is compressed, which is not supported.", hint="Decompress it first.")
    if suffix == ".parquet":
        source, out = (shlex.quote(str(one)) for one in (path, path.with_suffix(".jsonl")))
        raise DataError(f"{path} is a Parquet file.", hint=f"Convert it with: mlxtune data import {source} --out {out}")
    if suffix in TABLES:
        raise DataError(f"{path} is a {suffix[1:]} file, which is not supported.", hint="Export it as JSONL or CSV.")
    if suffix in (".csv", ".tsv"):
        return _csv_layout(data)
    return _json_layout(data) if suffix == ".json" else FileLayout("lines")


def _json_layout(data: FileBytes) -> FileLayout:
    head = data.read(data.begin, data.begin + _HEAD)
    text = head.lstrip()
    if text.startswith(b"["):
        return FileLayout("array", bracket=data.begin + len(head) - len(text))
    if not text:
        return FileLayout("lines")
    first_line, _, _ = text.partition(b"\n")
    try:
        is_lines = text.startswith(b"{") and isinstance(loads(first_line.decode()), dict)
    except ValueError:
        is_lines = False
    if not is_lines:
        raise DataError(
            f"{data.path} must contain an array of rows.", hint="Wrap the rows in [ … ], or write one per line in a .jsonl file."
        )
    return FileLayout("lines", ("json_lines",))


def _csv_layout(data: FileBytes) -> FileLayout:
    head = data.read(data.begin, data.begin + _HEAD).lstrip(b"\r\n").decode("latin-1")  # one character per byte
    lines = (line + "\n" for line in head.split("\n"))
    delimiter = max(",;\t", key=head.partition("\n")[0].count)
    try:
        header = tuple(name.encode("latin-1").decode().strip() for name in next(csv.reader(lines, delimiter=delimiter)))
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"The header of {data.path} cannot be read: {one_line(str(error), 80)}.", hint="Save the file as UTF-8."
        ) from error
    if repeated := [name for name, columns in Counter(header).items() if columns > 1]:
        raise DataError(
            f"{data.path} has two columns named {one_line(repeated[0], 30) or '“” (empty)'}.", hint="Rename one of them."
        )
    names: dict[str, FileNote] = {";": "semicolons", "\t": "tabs"}
    notes = (names[delimiter],) if delimiter in names and data.path.suffix.lower() == ".csv" else ()
    return FileLayout("csv", notes, header=header, delimiter=delimiter)

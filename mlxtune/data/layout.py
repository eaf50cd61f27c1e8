"""How a file divides into records, and how the bytes of one become a value: a line, an element of an array, a record of a CSV file."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import Any, Literal

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line, plural
from mlxtune.data import scan
from mlxtune.data.arrays import elements
from mlxtune.data.mapped import Mapped
from mlxtune.data.scan import Spans
from mlxtune.data.turns import Refusal, loads

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z")
TABLES = (".parquet", ".arrow", ".feather", ".avro", ".xlsx", ".xls", ".ods", ".sqlite", ".db")
_HEAD = 1 << 20  # bytes in which the first record must begin


@dataclass(frozen=True)
class Layout:
    """``header`` and ``delimiter`` are a CSV file's; ``bracket`` is where an array opens."""

    kind: Literal["lines", "array", "csv"]
    notes: tuple[str, ...] = ()
    bracket: int = 0
    header: tuple[str, ...] = ()
    delimiter: str = ""

    def spans(self, data: Mapped) -> Spans:
        """Where the records are. Raises ``DataError`` when the file as a whole makes no sense."""
        if self.kind == "lines":
            return scan.lines(data)
        if self.kind == "csv":
            found = scan.records(data, self.delimiter)
            return Spans(found.starts[1:], found.ends[1:], found.lines[1:])
        return elements(data, self.bracket)

    def value(self, raw: bytes) -> Any:
        """The JSON value, or the fields by their names, that ``raw`` holds. Raises ``Refusal``."""
        if b"\0" in raw:
            raise Refusal("it holds NUL bytes, so it is not text.", "Save the file again as UTF-8, or remove the row.")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            what = f"byte {error.start + 1:,} (0x{raw[error.start]:02x}) is not UTF-8."
            raise Refusal(what, "Save the file as UTF-8, or correct that character.") from error
        return self._fields(text) if self.kind == "csv" else self._json(text)

    def _json(self, text: str) -> Any:
        try:
            return loads(text)
        except json.JSONDecodeError as error:
            why = f"{error.msg.removesuffix(' at')} at character {error.pos + 1:,}"
        except ValueError as error:
            why = one_line(str(error), 80)
        if self.kind == "lines":
            mend = "Each line must be one whole JSON object."
        elif text.strip():
            mend = "Correct it; the other elements are not harmed."
        else:
            why, mend = "nothing stands here", "Remove the comma too many, or close the array with ] if the file was cut off."
        raise Refusal(f"not valid JSON: {why}.", mend)

    def _fields(self, text: str) -> dict[str, str]:
        try:
            (fields,) = csv.reader([text], delimiter=self.delimiter, strict=True)
        except (csv.Error, ValueError) as error:
            raise Refusal(
                f"not valid CSV: {error}.", "Put a field with a quote in it into quotes, and double the quote."
            ) from error
        if len(fields) != len(self.header):
            raise Refusal(
                f"it has {plural(len(fields), 'field')} where the header names {len(self.header)}.",
                f"Put a field with a {self.delimiter if self.delimiter.strip() else 'tab'} in it into quotes.",
            )
        return dict(zip(self.header, fields, strict=True))


def layout(data: Mapped) -> Layout:
    """The layout of a file, by its name and its first bytes. Raises ``DataError`` for one that is not read."""
    path = data.path
    suffix = path.suffix.lower()
    if suffix in PACKED:
        raise DataError(f"{path} is packed, which is not read.", mend="Unpack it first.")
    if suffix in TABLES:
        raise DataError(f"{path} is a {suffix[1:]} file, which is not read.", mend="Export it as JSONL or CSV.")
    if suffix in (".csv", ".tsv"):
        return _csv(data)
    return _json(data) if suffix == ".json" else Layout("lines")


def _json(data: Mapped) -> Layout:
    head = data.read(data.begin, data.begin + _HEAD)
    begun = head.lstrip()
    if begun.startswith(b"["):
        return Layout("array", bracket=data.begin + len(head) - len(begun))
    if not begun:
        return Layout("lines")
    first, _, _ = begun.partition(b"\n")
    try:
        lines = begun.startswith(b"{") and isinstance(loads(first.decode()), dict)
    except ValueError:
        lines = False
    if not lines:
        raise DataError(
            f"{data.path} must hold an array of rows.", mend="Wrap the rows in [ … ], or write one per line in a .jsonl file."
        )
    return Layout("lines", ("The .json file was read as one row per line.",))


def _csv(data: Mapped) -> Layout:
    first = data.read(data.begin, data.begin + _HEAD).lstrip(b"\r\n").decode("latin-1")  # a character a byte
    lines = (line + "\n" for line in first.split("\n"))
    delimiter = max(",;\t", key=first.partition("\n")[0].count)
    try:
        header = tuple(name.encode("latin-1").decode().strip() for name in next(csv.reader(lines, delimiter=delimiter)))
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"The header of {data.path} cannot be read: {one_line(str(error), 80)}.", mend="Save the file as UTF-8."
        ) from error
    for name in header:
        if header.count(name) > 1:
            raise DataError(
                f"{data.path} has two columns named {one_line(name, 30) or 'nothing'}.", mend="Give each column a name of its own."
            )
    named = {";": "semicolons", "\t": "tabs"}.get(delimiter)
    notes = (f"The columns were read as divided by {named}.",) if named and data.path.suffix.lower() == ".csv" else ()
    return Layout("csv", notes, header=header, delimiter=delimiter)

"""Which of a source's columns are read, and as what. Every command that reads a file without a recipe reads it so."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mlxtune.core.errors import DataError
from mlxtune.data.readers.columns import apply_mapping, guess_mapping
from mlxtune.data.readers.formats import FORMATS, detect
from mlxtune.data.readers.row_format import InvalidRecord, Record
from mlxtune.data.rows import Location, RowError
from mlxtune.data.source_files import source_files
from mlxtune.recipe import DataSection


@dataclass(frozen=True)
class ColumnUse:
    """The map from our keys to columns, and the columns that no key reads. They stay with the row as metadata."""

    mapping: Mapping[str, str]
    unused: tuple[str, ...]


NO_COLUMNS = ColumnUse({}, ())


@dataclass(frozen=True)
class SampleRecords:
    """The first records of a source's first file that are objects, as the file has them, and the number of all its records."""

    path: Path
    records: tuple[tuple[Location, Record], ...]
    total: int


def first_records(path: Path, most: int = 1) -> SampleRecords:
    """Return the objects among the first ``most`` records of a source. Raises ``DataError`` if there are none."""
    from mlxtune.data.access.records import open_records  # loads numpy

    file = next(iter(source_files(path).values()))
    found: list[tuple[Location, Record]] = []
    error: DataError | None = None
    with open_records(file) as records:
        for index in range(min(most, len(records))):
            try:
                value = records.raw(index)
            except RowError as caught:
                error = error or caught
            else:
                found += [(records.location(index), value)] if isinstance(value, dict) else []
        if not found:
            raise error or DataError(f"{path.name} has no rows.", hint="Write one JSON object per line.")
        return SampleRecords(path, tuple(found), len(records))


def first_record(path: Path) -> Record:
    """Return the first record of a source. Raises ``DataError`` if there is none."""
    return first_records(path).records[0][1]


def needs_mapping(record: Record) -> bool:
    """Return whether a record is in no known format, or would be read without its answer."""
    return detect(record) is None or bool(guessed_mapping(record))


def guessed_mapping(record: Record) -> dict[str, str]:
    """Return a map if the record needs one: its columns are unknown, or its answer is in another column than its text or turns."""
    name = detect(record)
    if name in ("chat", "sharegpt") and FORMATS[name].is_readable(record):
        return {}
    mapping = guess_mapping(record) if name in (None, "text", "chat", "sharegpt") else {}
    return mapping if name is None or "completion" in mapping else {}


def named_columns(source: Path, section: DataSection) -> DataSection:
    """Return ``section`` with the map that the names of the columns of ``source`` suggest, if it needs one."""
    mapping: dict[str, str] = {}
    with suppress(DataError):
        mapping = guessed_mapping(first_record(source))
    return replace(section, map=mapping) if mapping.keys() - {"text"} else section


def column_use(source: Path, mapping: Mapping[str, str], format: str = "auto") -> ColumnUse:
    """Return the use of the columns in the first record of ``source``, read with ``mapping`` and as ``format``."""
    with suppress(DataError, InvalidRecord):
        record = apply_mapping(first_record(source), mapping)
        if name := detect(record) if format == "auto" else format:
            return ColumnUse(mapping, tuple(key for key in record if key not in (*FORMATS[name].keys, "meta")))
    return ColumnUse(mapping, ())

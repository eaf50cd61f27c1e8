"""Which of a source's columns are read, and as what. Every command that reads a file without a recipe reads it so."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line
from mlxtune.data.readers.columns import (
    ANSWERS,
    PROMPTS,
    apply_mapping,
    column_value,
    columns,
    find_column,
    guess_mapping,
    mapping_option,
    system_mapping,
)
from mlxtune.data.readers.formats import FORMATS, as_object, detect
from mlxtune.data.readers.row_format import InvalidRecord, Record, answer_value
from mlxtune.data.rows import Location, RowError
from mlxtune.data.source_files import no_rows, source_files
from mlxtune.recipe import DataSection


@dataclass(frozen=True)
class ColumnUse:
    """The map from our keys to columns, and the columns that no key reads. They stay with the row as metadata.

    ``places`` are where the format itself finds our keys.
    """

    mapping: Mapping[str, str]
    unused: tuple[str, ...]
    places: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleRecords:
    """The first records of a source's first file that are objects, as the file has them, and the number of all its records."""

    path: Path
    records: tuple[tuple[Location, Record], ...]
    total: int

    @property
    def typical(self) -> Record:
        """The first record with the most values, of those with the columns of the first."""
        same = [record for _, record in self.records if record.keys() == self.records[0][1].keys()]
        return max(same, key=lambda record: sum(value not in (None, "") for value in record.values()))


def first_records(path: Path, most: int = 1) -> SampleRecords:
    """Return the objects among the first ``most`` records of a source. Raises ``DataError`` if there are none."""
    from mlxtune.data.access.records import RecordFile  # loads numpy

    file = next(iter(source_files(path).values()))
    found: list[tuple[Location, Record]] = []
    error: DataError | None = None
    with RecordFile(file) as records:
        for index in range(min(most, len(records))):
            try:
                value = records.raw(index)
            except RowError as caught:
                error = error or caught
            else:
                value = as_object(value, records.location(index))
                found += [(records.location(index), value)] if isinstance(value, dict) else []
        if not found:
            raise error or no_rows(path.name)
        return SampleRecords(path, tuple(found), len(records))


def needs_mapping(record: Record) -> bool:
    """Return whether a record is in no known format, or would be read without its answer."""
    return detect(record) is None or bool(guessed_mapping(record))


def guessed_mapping(record: Record) -> dict[str, str]:
    """Return a map if the record needs one: its columns are unknown, or its answer is in another column than its text or turns."""
    name = detect(record)
    if name not in (None, "text") and FORMATS[name].is_readable(record):
        return system_mapping(record)
    mapping = guess_mapping(record) if name in (None, "text", "chat", "sharegpt") else {}
    mapping |= system_mapping(record) if mapping.keys() - {"text"} else {}
    return mapping if name is None or "completion" in mapping else {}


def proposed_mapping(sample: SampleRecords) -> dict[str, str]:
    """Return the map that the names of the columns suggest or, where they tell no prompt or no answer, their contents.

    It is a proposal for a person: without names, the prompt is the first column with mostly different texts, and the answer a column
    of JSON objects, or else the last one with texts.
    """
    first = sample.typical
    mapping = _with_empty_lists(sample, guessed_mapping(first))
    if detect(first) is not None or mapping.keys() - {"text"}:
        return mapping
    texts = {column: values for column, _ in columns(first) if (values := _texts(sample, column))}
    objects = [column for column, values in texts.items() if "".join(values[:1]).startswith("{")]
    is_pair = [*map(type, first.values())] == [str, str] and not any(all(map(_ID.fullmatch, values)) for values in texts.values())
    if not is_pair:  # a pair is a prompt and its answer, whatever the texts are
        texts = {column: values for column, values in texts.items() if column in objects or _is_written(values)}
    different = [column for column, values in texts.items() if 2 * len(set(values)) >= len(values)]
    prompt = find_column(different, PROMPTS, objects, first)
    answer = find_column(texts, ANSWERS, {prompt}, first) or next((column for column in objects if column != prompt), "")
    prompt = prompt or next((column for column in different if not f"{column}.".startswith(f"{answer}.")), "")
    answer = answer or next((column for column in reversed([*texts, *different]) if column != prompt), "")
    return {"prompt": prompt, "completion": answer} if prompt and answer else mapping


def _is_written(texts: Sequence[str]) -> bool:
    return sum(len(text.split()) for text in texts) >= _WORDS * len(texts) > 0 and (len(set(texts)) > 1 or len(texts) == 1)


def _texts(sample: SampleRecords, column: str) -> list[str]:
    """Return the texts of a column, or its objects as JSON, or nothing if most records have none there."""
    values = _values(sample, column) if column not in ("meta", "metadata") else ()
    texts = [text for value in values if (text := str(answer_value(value)).strip()) and isinstance(value, str | dict)]
    return texts if 2 * len(texts) >= len(sample.records) else []


def _values(sample: SampleRecords, column: str) -> list[Any]:
    values = []
    for _, record in sample.records:
        with suppress(LookupError):
            values.append(column_value(record, column))
    return values


def _with_empty_lists(sample: SampleRecords, mapping: dict[str, str]) -> dict[str, str]:
    """Return ``mapping``, with ``[]`` after a completion that is a list of objects wherever it is not missing or empty."""
    column = mapping.get("completion", "")
    values = [value for value in _values(sample, column) if value != []] if column else []
    are_objects = all(isinstance(value, list) and all(isinstance(one, dict) for one in value) for value in values)
    return {**mapping, "completion": f"{column}[]"} if 0 < len(values) < len(sample.records) and are_objects else mapping


def named_mapping(sample: SampleRecords) -> dict[str, str]:
    """Return the map that the names of the columns suggest, if one is needed. Raises ``DataError`` if their contents disagree."""
    mapping = _with_empty_lists(sample, guessed_mapping(sample.typical))
    if mapping.keys() - {"text"}:
        check_contents(sample, mapping)
    return mapping


def named_columns(source: Path, section: DataSection) -> DataSection:
    """Return ``section`` with the :func:`named_mapping` of ``source``, unless it only says which column is the text."""
    try:
        sample = first_records(source, _SAMPLE)
    except DataError:
        return section
    mapping = named_mapping(sample)
    return replace(section, map=mapping) if mapping.keys() - {"text"} else section


_SAMPLE = 100  # records whose contents are compared with the names of their columns
_WORDS = 3  # average number of words in a column of written text
_FEW = 10  # with fewer records, a column may have only one value
_NOT_WRITTEN = re.compile(r"https?://\S+|[0-9a-f]{8}[0-9a-f-]{8,}|\S+\.(?:jpe?g|png|gif|wav|mp3|mp4|pdf|html?)", re.IGNORECASE)
_ID = re.compile(rf"{_NOT_WRITTEN.pattern}|[a-z]+[-_]?\d+", re.IGNORECASE)  # a link, the name of a file, or such as doc-12


def check_contents(sample: SampleRecords, mapping: Mapping[str, str]) -> None:
    """Raise ``DataError`` if a guessed column is mostly empty, has links, IDs or names of files, or has one prompt for all rows."""
    for key, column in mapping.items():
        if key in ("input", "system"):  # often empty
            continue
        values = _values(sample, column)
        texts = [value for value in values if value not in (None, "", [])]
        links = [text for text in texts if isinstance(text, str) and _NOT_WRITTEN.fullmatch(text.strip())]
        are_links = 2 * len(links) > len(texts)
        is_constant = key == "prompt" and len(values) >= _FEW and all(text == texts[0] for text in texts)
        if 2 * len(texts) < len(sample.records) or are_links or is_constant:
            what = "has links or IDs" if are_links else "has the same value in all rows" if is_constant else "is mostly empty"
            reason = f"The column {one_line(column, 40)} of {one_line(sample.path.name)} is named like the {key}, but it {what}."
            raise DataError(reason, hint=f"Name the columns, such as: {mapping_option(mapping)}")


def column_use(source: Path, mapping: Mapping[str, str], format: str = "auto") -> ColumnUse:
    """Return the use of the columns in the first record of ``source``, read with ``mapping`` and as ``format``."""
    with suppress(DataError, InvalidRecord):
        record = apply_mapping(first_records(source).records[0][1], mapping)
        if name := detect(record) if format == "auto" else format:
            places = FORMATS[name].places(record)
            read = {*FORMATS[name].keys, "meta", *(one for place in places.values() for one in place.split(" or "))}
            read |= {re.split("[/.]", place)[0] for place in read} | {place.partition("/")[0] for place in read}
            return ColumnUse(mapping, tuple(key for key in record if key not in read), places)
    return ColumnUse(mapping, ())

"""Read a source: a file, or a folder with train, valid and test files. It is never modified."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlxtune.core.errors import DataError
from mlxtune.core.sequences import grouped
from mlxtune.core.text import plural
from mlxtune.data import review
from mlxtune.data.readers.formats import NO_MAPPING
from mlxtune.data.rows import REVIEW_STATUS, Location, Row, RowError
from mlxtune.data.source_files import no_rows
from mlxtune.recipe import DataSection

_AUTO = DataSection("")  # any format, and columns by their names


@dataclass(frozen=True)
class Source:
    """All rows of a source after its review. ``parts`` maps splits to their rows if the files define splits, else ``all`` to all rows.
    Generated rows form the part ``generated``, which contains only accepted ones. The review left out ``left_out`` rows. ``edited``
    maps the hash of an edited row to the original hash, ``accepted`` has the locations of accepted rows, and ``review_entries`` is
    the number of entries in the review's journal.
    """

    path: Path
    parts: dict[str, tuple[Row, ...]]
    left_out: int = 0
    edited: Mapping[str, str] = field(default_factory=dict)
    accepted: frozenset[Location] = frozenset()
    review_entries: int = 0

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for rows in self.parts.values() for row in rows)


def read_source(
    path: Path, data: DataSection = _AUTO, *, review_entries: int | None = None, skip_invalid: bool = False
) -> Source:  # fmt: skip
    """Read all rows of ``path`` with the format and map in ``data``, and apply its review, or its first ``review_entries``.

    Raises ``DataError`` if there are no rows or, without ``skip_invalid``, a row is invalid.
    """
    from mlxtune.data.access.records import SourceRecords  # loads numpy, which `mlxtune --help` does not need
    from mlxtune.data.reviewed_records import ReviewedRecords

    state = review.load(path, entries=review_entries)
    with SourceRecords(path, data.format, data.map) as records:
        rows: dict[str, list[Row]] = {part: [] for part, _ in records.files}
        left_out, edited, accepted, errors = 0, {}, set(), []
        for item in ReviewedRecords(records, state):
            if item.is_left_out:
                left_out += 1
            elif isinstance(item.record, DataError):
                errors.append(item.record)
            else:
                rows[item.part].append(item.record)
                if item.is_edited:
                    edited[item.record.hash] = item.decision.row.partition("#")[0]
                if (item.record.meta.get(REVIEW_STATUS) if item.decision.is_empty else item.decision.status) == "accepted":
                    accepted.add(item.record.location)
        empty = next((file.path for _, file in records.files if not len(file)), None)
        _refuse([] if skip_invalid else errors, 0 if empty else len(records), empty or path)
    return Source(path, {part: tuple(own) for part, own in rows.items()}, left_out, edited, frozenset(accepted), state.next_seq)


def _refuse(errors: list[DataError], total: int, path: Path) -> None:
    if errors:
        raise DataError(describe_errors(errors, total), hint=errors[0].hint)
    if not total:
        raise no_rows(path)


def read_file(path: Path) -> tuple[Row, ...]:
    """Read the rows of one file. Raises ``DataError`` like :func:`read_source`."""
    rows, errors = read_records(path, "auto", NO_MAPPING)
    _refuse(errors, len(errors) + len(rows), path)
    return tuple(rows)


def read_records(path: Path, format: str, mapping: Mapping[str, str]) -> tuple[list[Row], list[DataError]]:
    """Read one file and return its rows, and the errors for invalid records."""
    from mlxtune.data.access.records import RecordFile  # loads numpy, which `mlxtune --help` does not need

    with RecordFile(path, format, mapping) as file:
        records = list(file)
    rows = [record for record in records if not isinstance(record, DataError)]
    return rows, [record for record in records if isinstance(record, DataError)]


def describe_errors(errors: list[DataError], total: int) -> str:
    """Return a message that counts the invalid rows among ``total``, and gives the first five reasons once for each file, with the first places."""
    known = ((error.reason, error.location) if isinstance(error, RowError) else (error.message, None) for error in errors)
    reasons = [*grouped(((reason, place.file.name if place else ""), place) for reason, place in known).items()]
    shown = []
    for (reason, file), places in reasons[:5]:
        numbers = [f"{place.number}" for place in places[:5] if place]
        numbers += [f"and {len(places) - 5} more"] if len(places) > 5 else []
        unit = "lines" if places[0] and places[0].element is None else "rows"
        where = f"{file}, {unit} {', '.join(numbers)}" if len(places) > 1 else f"{places[0]}"
        shown.append(f"{where}: {reason}" if places[0] else reason)
    more = [f"and {plural(sum(len(places) for _, places in reasons[5:]), 'more row')}"] if len(reasons) > 5 else []
    return "\n  ".join([f"{len(errors):,} of {plural(total, 'row')} cannot be used:", *shown, *more])

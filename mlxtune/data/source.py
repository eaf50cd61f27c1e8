"""Read the user's file, or a folder with train, valid and test files. The source is never modified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlxtune.core.errors import DataError
from mlxtune.core.text import plural
from mlxtune.data import review
from mlxtune.data.decisions import apply
from mlxtune.data.formats import EMPTY
from mlxtune.data.rows import Place, Row

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Source:
    """All rows of a source. ``parts`` maps a split's name to its rows where the files decide; else all are under ``all``.

    Its review left ``left_out`` rows out; ``edited`` maps the hash of each row that it changed to that of the row in the file,
    and ``accepted`` says where the rows stand that it let through.
    """

    path: Path
    parts: dict[str, tuple[Row, ...]]
    left_out: int = 0
    edited: Mapping[str, str] = field(default_factory=dict)
    accepted: frozenset[Place] = frozenset()

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for rows in self.parts.values() for row in rows)

    @property
    def formats(self) -> dict[str, int]:
        """How many rows came in each format, most first: more than one entry means a mixed source."""
        return dict(Counter(row.format for row in self.rows).most_common())


def files(path: Path) -> dict[str, Path]:
    """The files of a source by part: ``all`` for a file, or ``train``, ``valid`` and ``test`` as a folder has them.

    Raises ``DataError`` when a folder has no ``train.jsonl``.
    """
    if not path.is_dir():
        return {"all": path}
    found = {part: path / f"{part}.jsonl" for part in PARTS if (path / f"{part}.jsonl").is_file()}
    if "train" not in found:
        raise DataError(f"{path} has no train.jsonl.", mend="Put train.jsonl in it, or name a file.")
    return found


def read_source(path: Path, format: str = "auto", mapping: Mapping[str, str] = EMPTY) -> Source:
    """All rows of ``path``: a file that :func:`mlxtune.data.store.open_store` takes, or a folder as in :func:`files`,
    with its review applied.

    Raises ``DataError`` when there is nothing to read or any row is bad: all bad rows are counted, the first five are named.
    """
    state = review.load(path)
    read = {part: apply(read_file(file, format, mapping), state) for part, file in files(path).items()}
    edited = {after: before for part in read.values() for after, before in part.edited.items()}
    accepted = frozenset().union(*(part.accepted for part in read.values()))
    return Source(
        path, {name: part.rows for name, part in read.items()}, sum(part.left_out for part in read.values()), edited, accepted
    )


def read_file(path: Path, format: str = "auto", mapping: Mapping[str, str] = EMPTY) -> tuple[Row, ...]:
    """The rows of one file, in order. Raises ``DataError`` as :func:`read_source` does."""
    from mlxtune.data.store import open_store  # it loads numpy, which a verb that reads nothing need not wait for

    rows: list[Row] = []
    bad: list[DataError] = []
    with open_store(path, format, mapping) as store:
        for record in store:
            if isinstance(record, DataError):
                bad.append(record)
            else:
                rows.append(record)
    if bad:
        shown = [error.message for error in bad[:5]]
        more = [f"and {plural(len(bad) - 5, 'more row')} like it"] if len(bad) > 5 else []
        head = f"{plural(len(bad), 'row')} of {len(bad) + len(rows):,} cannot be used:\n  " if len(bad) + len(more) > 1 else ""
        raise DataError(head + "\n  ".join([*shown, *more]), mend=bad[0].mend)
    if not rows:
        raise DataError(f"{path} has no rows.", mend="It needs one JSON object per line.")
    return tuple(rows)

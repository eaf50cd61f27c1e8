"""Read the user's file, or a folder with train, valid and test files. The source is never modified."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.core.text import plural
from mlxtune.data.formats import parse
from mlxtune.data.rows import Place, Row

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Source:
    """All rows of a source. ``parts`` maps a split's name to its rows where the files decide; else all are under ``all``."""

    path: Path
    parts: dict[str, tuple[Row, ...]]

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for rows in self.parts.values() for row in rows)


def read_source(path: Path, format: str = "auto") -> Source:
    """Read ``path``: a ``.jsonl`` or ``.json`` file, or a folder with ``train.jsonl`` and maybe ``valid.jsonl``, ``test.jsonl``.

    Raises ``DataError`` when there is nothing to read or any row is bad: all bad rows are counted, the first five are named.
    """
    if path.is_dir():
        files = {part: path / f"{part}.jsonl" for part in PARTS if (path / f"{part}.jsonl").is_file()}
        if "train" not in files:
            raise DataError(f"{path} has no train.jsonl.", mend="Put train.jsonl in it, or name a file.")
        return Source(path, {part: read_file(file, format) for part, file in files.items()})
    return Source(path, {"all": read_file(path, format)})


def read_file(path: Path, format: str = "auto") -> tuple[Row, ...]:
    """The rows of one file, in order. Raises ``DataError`` as :func:`read_source` does."""
    rows: list[Row] = []
    bad: list[DataError] = []
    for place, record in _records(path):
        try:
            if isinstance(record, DataError):
                raise record
            rows.append(parse(record, place, format))
        except DataError as error:
            bad.append(error)
    if bad:
        shown = [error.message for error in bad[:5]]
        more = [f"and {plural(len(bad) - 5, 'more row')} like it"] if len(bad) > 5 else []
        head = f"{plural(len(bad), 'row')} of {len(bad) + len(rows):,} cannot be used:\n  " if len(bad) + len(more) > 1 else ""
        raise DataError(head + "\n  ".join([*shown, *more]), mend=bad[0].mend)
    if not rows:
        raise DataError(f"{path} has no rows.", mend="It needs one JSON object per line.")
    return tuple(rows)


def _records(path: Path) -> Iterator[tuple[Place, Any]]:
    """Each record with its place, or a ``DataError`` in place of one that is not JSON."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"There is no data at {path}.", mend="Check data.source; it is relative to the recipe.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    if path.suffix == ".json":
        yield from _array(path, data)
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            place = Place(path, number)
            try:
                yield place, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield place, DataError(f"{place}: not valid JSON: {error}.", mend="Each line must be one whole JSON object.")


def _array(path: Path, data: bytes) -> Iterator[tuple[Place, Any]]:
    try:
        records = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}.", mend="A .json file holds one array of rows.") from error
    if not isinstance(records, list):
        raise DataError(
            f"{path} must hold an array of rows.", mend="Wrap the rows in [ … ], or write one per line in a .jsonl file."
        )
    for number, record in enumerate(records, 1):
        yield Place(path, number), record

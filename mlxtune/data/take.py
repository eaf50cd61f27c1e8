"""Rows in any format that can be read, written anew as mlxtune's own: what ``data import`` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import read_json, write_bytes
from mlxtune.core.text import one_line, plural
from mlxtune.data import hub
from mlxtune.data.decisions import FORMAT
from mlxtune.data.export import MANIFEST, lines, own
from mlxtune.data.formats import EMPTY, detect
from mlxtune.data.rows import Row
from mlxtune.data.source import files


class BadRows(DataError):
    """Rows that cannot be used, where all were asked for; ``count`` of them."""

    def __init__(self, message: str, count: int, *, mend: str) -> None:
        super().__init__(message, mend=mend)
        self.count = count


@dataclass(frozen=True)
class Taken:
    """What was written: how many rows, in which formats they came, and what was left out because it cannot be used."""

    out: Path
    rows: int
    formats: dict[str, int]
    bad: tuple[DataError, ...]
    notes: tuple[str, ...]


def find(what: str, file: str = "") -> Path:
    """The file or folder that ``what`` names: a path, or else a data set of the hub, of which ``file`` is fetched.

    Raises ``DataError`` when there is neither.
    """
    path = Path(what).expanduser()
    if path.exists():
        return path
    if not hub.is_id(what):
        raise DataError(
            f"There is no data at {one_line(what, 200)}.", mend="Name a file, a folder, or a data set such as owner/name."
        )
    return hub.fetch(what, file)


def take(path: Path, out: Path, format: str = "auto", mapping: Mapping[str, str] = EMPTY, *, skip_bad: bool = False) -> Taken:
    """Write the rows of ``path`` to ``out``, a new ``.jsonl`` file, in order; no review is applied.

    Raises ``DataError`` when there is nothing to read, ``BadRows`` for bad rows unless ``skip_bad``; ``InputError`` when ``out`` is there.
    """
    from mlxtune.data.store import open_store  # it loads numpy, which a verb that reads nothing need not wait for

    if out.exists():
        raise InputError(f"{out} is there already, so nothing was written.", mend="Choose another name.")
    if out.suffix != ".jsonl":
        raise InputError(f"{out.name} must end with .jsonl.", mend=f"Take {out.with_suffix('.jsonl').name}.")
    rows: list[Row] = []
    bad: list[DataError] = []
    notes: list[str] = []
    for file in files(path).values():
        with open_store(file, _format(file, format), mapping) as store:
            notes += store.notes
            for record in store:
                if isinstance(record, DataError):
                    bad.append(record)
                else:
                    rows.append(record)
    if bad and not skip_bad:
        shown = "\n  ".join(error.message for error in bad[:5])
        raise BadRows(
            f"{plural(len(bad), 'row')} of {len(bad) + len(rows):,} cannot be used:\n  {shown}",
            len(bad),
            mend=f"{bad[0].mend} Or leave them out: --skip-bad",
        )
    if not rows:
        raise DataError(f"{path} has no rows that can be used.")
    records = [own(row) for row in rows]
    if odd := sum(detect(record) != FORMAT[type(row)] for record, row in zip(records, rows, strict=True)):
        notes.append(f'{plural(odd, "text")} would be taken for a transcript: read {out.name} with the format "text".')
    write_bytes(out, lines(records))
    return Taken(out, len(rows), dict(Counter(row.format for row in rows).most_common()), tuple(bad), tuple(notes))


def _format(file: Path, format: str) -> str:
    """``format``, or what the manifest of an export says, since texts that look like transcripts would be taken for such."""
    manifest = file.parent / MANIFEST
    if format == "auto" and manifest.is_file():
        found = read_json(manifest)
        if isinstance(found, dict) and file.name in found.get("files", {}) and found.get("format") == "text":
            return "text"
    return format

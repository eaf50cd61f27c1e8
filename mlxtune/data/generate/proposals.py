"""Store generated rows next to their source, as proposals that are not used for training until they are accepted in the review."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlxtune.core.files import write_bytes
from mlxtune.data.export import jsonl_bytes, native_record
from mlxtune.data.rows import Row
from mlxtune.data.source import read_file
from mlxtune.data.source_files import GENERATED, all_files, generated_path


def propose(source: Path, rows: Sequence[Row]) -> int:
    """Append ``rows``, the most useful first, to the generated rows of ``source``, and return how many of them are new.

    The file is replaced atomically. A row that it already has is not added again, so this can be repeated after a crash. Raises
    ``DataError`` if the file is invalid, and ``MachineError`` if it is not writable.
    """
    before = read_file(all_files(source)[GENERATED]) if GENERATED in all_files(source) else ()
    known = {row.hash for row in before}
    new = [row for row in {row.hash: row for row in rows}.values() if row.hash not in known]
    if new:
        write_bytes(generated_path(source), jsonl_bytes(map(native_record, [*before, *new])))
    return len(new)

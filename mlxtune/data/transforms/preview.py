"""The outcome of a pipeline: how many rows it edits, leaves out and adds, and which texts change."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rapidfuzz.distance import Prefix

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import write_bytes
from mlxtune.core.sequences import common_length
from mlxtune.core.text import plural
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.checks.check_input import text_parts
from mlxtune.data.export import check_new_jsonl, jsonl_bytes, native_record
from mlxtune.data.review import EXCLUDED, is_left_out
from mlxtune.data.rows import Row
from mlxtune.data.transforms.pipeline import RowEdit
from mlxtune.data.transforms.transform import ADDED

_CONTEXT = 16  # characters before the first difference


@dataclass
class Outcome:
    """Counts of a pipeline's edits. ``rows`` is the number of rows it applies to; the first ``limit`` edits are kept in ``shown``."""

    rows: int
    limit: int | None = None
    edited: int = 0
    left_out: int = 0
    added: int = 0
    failed: int = 0
    error: str = ""
    shown: list[RowEdit] = field(default_factory=list)

    def add(self, edit: RowEdit) -> None:
        if edit.error:
            self.failed += 1
            self.error = self.error or edit.error
            return
        self.edited += edit.before is not None and bool(edit.after)
        self.left_out += not edit.after
        self.added += len(edit.after) - (edit.before is not None and bool(edit.after))
        if self.limit is None or len(self.shown) < self.limit:
            self.shown.append(edit)

    @property
    def changed(self) -> int:
        """The number of the source's rows that change."""
        return self.edited + self.left_out


def active_rows(browser: SourceBrowser, rows: Sequence[int]) -> list[int]:
    """Return ``rows`` without those that are unreadable or that the review has left out, which a pipeline does not change."""
    return [index for index in rows if browser.is_row(index) and browser.decision(index).status not in EXCLUDED]


def recorded_edits(edits: Iterable[RowEdit], key: Callable[[int], str], hint: str) -> dict[str, Row | None]:
    """Return the edits for an ``apply`` decision by row key. Raises ``InputError`` with ``hint`` if they add rows."""
    result: dict[str, Row | None] = {}
    for edit in edits:
        if edit.error:
            continue
        if edit.before is None or len(edit.after) > 1:
            raise InputError("A review cannot add rows to its source, so this needs a new file.", hint=hint)
        result[key(edit.index)] = edit.after[0] if edit.after else None
    return result


def write_outcome(browser: SourceBrowser, edits: Iterable[RowEdit], out: Path) -> int:
    """Write all rows of a source after its review and ``edits`` to ``out``, a new ``.jsonl`` file. Return their number.

    Generated rows that have not been accepted are left out.
    """
    check_new_jsonl(out)
    by_index: dict[int, list[Row]] = {}
    for edit in edits:
        by_index.setdefault(edit.index, []).extend(edit.after)
    added = by_index.pop(ADDED, [])

    def rows() -> Iterator[Row]:
        for index in browser.rows:
            row = browser.lazy_row(index)
            if not is_left_out(row.row, row.decision):
                yield from by_index.get(index, (row.current,))
        yield from added

    records = [native_record(row) for row in rows()]
    if not records:
        raise DataError("No row is left, so nothing was written.", hint="Change the pipeline or the filter.")
    write_bytes(out, jsonl_bytes(records))
    return len(records)


@dataclass(frozen=True)
class TextChange:
    """A text of a row before and after an edit, without the beginning that both share."""

    part: str
    before: str
    after: str


def changed_texts(edit: RowEdit) -> list[TextChange]:
    """Return the changes that an edit makes to a row: to its texts, its number of turns, and its metadata."""
    if edit.before is None or len(edit.after) != 1:
        return []
    before, after = edit.before, edit.after[0]
    old, new = list(text_parts(before)), list(text_parts(after))
    changes = []
    if [part.role for part in old] == [part.role for part in new]:
        pairs = [(one.name, one.text, other.text) for one, other in zip(old, new, strict=True)]
    elif new[1:] and [part.role for part in old] == [part.role for part in new[1:]]:
        pairs = [(new[0].role, "", new[0].text)]
    else:
        shared = common_length([part.text for part in old], [part.text for part in new])
        texts = ["\n".join(part.text for part in parts[shared:]) for parts in (old, new)]
        pairs = [(f"{len(old)} → {plural(len(new), 'turn')}", texts[0], texts[1])]
    pairs += [
        (f"meta.{key}", str(before.meta.get(key, "")), str(after.meta.get(key, "")))
        for key in dict.fromkeys((*before.meta, *after.meta))
        if before.meta.get(key) != after.meta.get(key)
    ]
    for name, one, other in pairs:
        if one != other:
            start = max(Prefix.similarity(one, other) - _CONTEXT, 0)
            lead = "…" if start else ""
            changes.append(TextChange(name, lead + one[start:], lead + other[start:]))
    return changes

"""Apply fixes: write a fixed copy of a source, and a record of every change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import write_bytes
from mlxtune.data.access.records import SourceRecords
from mlxtune.data.checks.base import Finding, Span
from mlxtune.data.checks.check_input import CheckInput, rewrite_texts
from mlxtune.data.checks.registry import CHECKS, get_check, is_check
from mlxtune.data.export import check_new_jsonl, jsonl_bytes, native_record
from mlxtune.data.review import ReviewState
from mlxtune.data.reviewed_records import ReviewedRecord, ReviewedRecords
from mlxtune.data.rows import Location, Row
from mlxtune.data.source_files import GENERATED

if TYPE_CHECKING:
    from mlxtune.data.checks.report import CheckReport


@dataclass(frozen=True)
class RowChange:
    """A change to one record: the checks that caused it, and the row's ID before and after (empty if the row was left out)."""

    location: Location
    checks: tuple[str, ...]
    before: str
    after: str

    def to_json(self) -> dict[str, Any]:
        location = self.location
        return {
            "file": location.file.name, "line": location.line, "checks": list(self.checks), "before": self.before,
            "after": self.after or None,
        }  # fmt: skip


@dataclass(frozen=True)
class FixResult:
    """The new file, its number of rows, every change, and the findings that must be fixed by hand."""

    out: Path
    rows: int
    changes: tuple[RowChange, ...]
    by_hand: tuple[tuple[Location, Finding], ...] = ()

    def rows_with_findings(self, report: CheckReport) -> int:
        """Return the number of rows in the new file that have a finding of ``report`` by a check that changed nothing."""
        checks = {check for change in self.changes for check in change.checks}
        gone = {change.location for change in self.changes if not change.after}
        rows = {one.rows[0] for one in report.findings if one.rows and one.severity != "note" and one.check not in checks}
        return sum(report.locations[row][0] not in gone for row in rows)

    def to_json(self) -> dict[str, Any]:
        changes = [change.to_json() for change in self.changes]
        by_hand = [{"file": place.file.name, "line": place.line, "check": finding.check} for place, finding in self.by_hand]
        return {"out": str(self.out), "rows": self.rows, "changes": changes, "by_hand": by_hand}


def fixed_copy_path(source: Path) -> Path:
    """Return the default path of the fixed copy of a source."""
    return source.with_name(f"{source.name}.fixed" if source.is_dir() else f"{source.stem}.fixed.jsonl")


def select_fixes(findings: Sequence[Finding], also: Collection[str] = ()) -> dict[int, list[Finding]]:
    """Return the findings to fix, keyed by record: those with a safe fix and those from the checks in ``also``.

    A near-duplicate that contradicts a row is not dropped. Raises ``InputError`` for an unknown check or one without an automatic fix.
    """
    for id in also:
        if not is_check(id) or get_check(id).fix.kind == "hand":
            fixable = ", ".join(check.id for check in CHECKS.values() if check.fix.kind != "hand" and not check.fix.safe)
            raise InputError(f"There is no automatic fix for {id}.", hint=f"Choose from {fixable}, or contract-METRIC.")
    contradictory = {row for finding in findings if finding.check == "conflict" for row in finding.rows}
    selected: defaultdict[int, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.check == "near-duplicate" and finding.rows[0] in contradictory:
            continue
        if finding.rows and (finding.check in also or (get_check(finding.check).fix.safe and finding.severity != "note")):
            selected[finding.rows[0]].append(finding)
    return dict(selected)


def write_fixed(
    records: SourceRecords, findings: Sequence[Finding], out: Path, also: Collection[str] = (), state: ReviewState | None = None
) -> FixResult:
    """Write the source's own rows in ``records`` in mlxtune's own format, with the fixes from :func:`select_fixes`, and log the changes.

    ``findings`` are about the rows as edited in the review, ``state``, and rows that it left out are not written.

    Rows of a test file are written as they are, except invalid ones, which are left out.

    ``out`` is a new ``.jsonl`` file, or a new folder if the source is a folder. Raises ``InputError`` if it exists, and ``DataError``
    if no row to train on would be left.
    """
    is_folder = records.files[0][0] != "all"
    check_new_jsonl(out, is_folder=is_folder)
    selected = select_fixes(findings, also)
    changes: list[RowChange] = []
    by_hand: list[tuple[Location, Finding]] = []
    rows: dict[str, list[Row]] = {part: [] for part, _ in records.files if part != GENERATED}
    for item in ReviewedRecords(records, state or ReviewState()):
        if item.part == GENERATED or item.is_left_out:
            continue
        own = selected.get(item.index, []) if item.part != "test" or isinstance(item.record, DataError) else []
        row = _fixed_row(records.location(item.index), item, own, changes, by_hand)
        if row is not None:
            rows[item.part].append(row)
    if not any(rows[part] for part in rows if part in ("all", "train")):
        raise DataError("No row would be left, so nothing was written.", hint="Change the recipe, or correct the rows.")
    for part, part_rows in rows.items():
        write_bytes(out / f"{part}.jsonl" if is_folder else out, jsonl_bytes(map(native_record, part_rows)))
    log = out / "fixes.jsonl" if is_folder else out.with_suffix(".fixes.jsonl")
    write_bytes(log, jsonl_bytes(change.to_json() for change in changes))
    return FixResult(out, sum(map(len, rows.values())), tuple(changes), tuple(by_hand))


def _fixed_row(
    location: Location,
    item: ReviewedRecord,
    findings: list[Finding],
    changes: list[RowChange],
    by_hand: list[tuple[Location, Finding]],
) -> Row | None:
    record = item.record
    before, row = "", None
    if not isinstance(record, DataError):
        before, row = record.id, apply_fixes(record, findings)
        by_hand += [(location, finding) for finding in unfixable(record, findings)] if row is not None else []
    if findings and (row is None or row.id != before):
        checks = tuple(dict.fromkeys(finding.check for finding in findings))
        changes.append(RowChange(location, checks, before, row.id if row else ""))
    return row


def apply_fixes(row: Row, findings: Sequence[Finding]) -> Row | None:
    """Return ``row`` with the replacements from ``findings``, or ``None`` if one of them drops the row.

    A finding from :func:`unfixable` changes nothing.
    """
    if any(get_check(finding.check).fix.kind == "drop" for finding in findings):
        return None
    skipped = unfixable(row, findings)
    return _replace(row, [span for finding in findings if finding not in skipped for span in finding.spans])


def unfixable(row: Row, findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings whose value would remain elsewhere in ``row`` after its fix, so that they need an edit by hand.

    The value may be in a number, a tool's description or an escape, or spelled differently: the user writes ``555-010-9999``, and
    the call contains ``5550109999``.
    """
    return [finding for finding in findings if get_check(finding.check).fix.everywhere and _remains(row, finding.spans)]


def _remains(row: Row, spans: Sequence[Span]) -> bool:
    texts = {part.name: part.text for part in CheckInput(0, row).parts}
    values = {_bare(texts[span.part][span.start : span.end]) for span in spans if span.part in texts}
    fixed = _replace(row, spans)
    rest = "\n".join(map(_bare, (*_leaves(fixed.content), *(part.text for part in CheckInput(0, fixed).parts if not part.exact))))
    return any(value and value in rest for value in values)


def _replace(row: Row, spans: Sequence[Span]) -> Row:
    by_part: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if span.replacement is not None:
            by_part[span.part].append(span)
    return rewrite_texts(row, lambda part, text: replace_spans(text, by_part.get(part, []))) if by_part else row


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield str(value)


def _bare(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())


def replace_spans(text: str, spans: Sequence[Span]) -> str:
    """Return ``text`` with each span replaced. If spans overlap, the first one wins."""
    pieces, end = [], 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if span.start >= end:
            pieces += [text[end : span.start], span.replacement or ""]
            end = span.end
    return "".join([*pieces, text[end:]])

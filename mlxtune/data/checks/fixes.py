"""Apply fixes, and record them as decisions of the review."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.sequences import grouped
from mlxtune.data.checks.base import Finding, Span
from mlxtune.data.checks.check_input import CheckInput, rewrite_texts
from mlxtune.data.checks.registry import CHECKS, get_check, is_check
from mlxtune.data.rows import Location, Row, RowError, json_strings
from mlxtune.data.source_files import GENERATED

if TYPE_CHECKING:
    from mlxtune.data.browser import SourceBrowser
    from mlxtune.data.review import ReviewSession


@dataclass(frozen=True)
class RowChange:
    """A change to one record: the checks that caused it, and the row's ID before and after (empty if the row was left out)."""

    location: Location
    checks: tuple[str, ...]
    before: str
    after: str


@dataclass(frozen=True)
class FixResult:
    """The changes that were recorded in the review, and the findings that must be fixed by hand."""

    changes: tuple[RowChange, ...]
    by_hand: tuple[tuple[Location, Finding], ...] = ()

    def to_json(self) -> dict[str, Any]:
        changes = [
            {"file": one.location.file.name, "line": one.location.line, "checks": list(one.checks), "before": one.before,
             "after": one.after or None}
            for one in self.changes
        ]  # fmt: skip
        by_hand = [{"file": place.file.name, "line": place.line, "check": finding.check} for place, finding in self.by_hand]
        return {"changes": changes, "by_hand": by_hand}


def select_fixes(findings: Sequence[Finding], also: Collection[str] = ()) -> dict[int, list[Finding]]:
    """Return the findings to fix, keyed by record: those with a safe fix and those from the checks in ``also``.

    A near-duplicate that contradicts a row is not dropped. Raises ``InputError`` for an unknown check or one without an automatic fix.
    """
    for id in also:
        if not is_check(id) or get_check(id).fix.kind == "hand":
            fixable = ", ".join(check.id for check in CHECKS.values() if check.fix.kind != "hand" and not check.fix.safe)
            raise InputError(f"There is no automatic fix for {id}.", hint=f"Choose from {fixable}, or contract-METRIC.")
    contradictory = {row for finding in findings if finding.check == "conflict" for row in finding.rows}
    return grouped(
        (finding.rows[0], finding)
        for finding in findings
        if finding.rows
        and not (finding.check == "near-duplicate" and finding.rows[0] in contradictory)
        and (finding.check in also or (get_check(finding.check).fix.safe and finding.severity != "note"))
    )


def record_fixes(
    browser: SourceBrowser, session: ReviewSession, findings: Sequence[Finding], also: Collection[str] = ()
) -> FixResult:
    """Record the fixes from :func:`select_fixes` as one decision of the review, which has been applied to the scanned ``browser``.

    Generated rows and valid rows of a test file are not changed. Raises ``DataError`` if no row to train on would be left.
    """
    changes: list[RowChange] = []
    by_hand: list[tuple[Location, Finding]] = []
    edits: dict[int, Row | None] = {}
    for index, own in select_fixes(findings, also).items():
        location, record = browser.records.location(index), browser.lazy_row(index).current_or_error
        part = browser.records.part(index)
        if part == GENERATED or (part == "test" and not isinstance(record, DataError)):
            continue
        row = fixed_row(browser, index, own)
        if not isinstance(record, DataError) and row is not None:
            by_hand += [(location, finding) for finding in unfixable(record, own)]
            if row.hash == record.hash:
                continue
        before = "" if isinstance(record, DataError) else record.id
        changes.append(RowChange(location, tuple(dict.fromkeys(one.check for one in own)), before, row.id if row else ""))
        edits[index] = row
    untested = (index for index in range(len(browser)) if browser.records.part(index) != "test")
    if all(edits.get(index, index) is None or browser.is_left_out(index) for index in untested):
        raise DataError("No row would be left, so nothing was changed.", hint="Change the recipe, or correct the rows.")
    keyed = {browser.key(index): row for index, row in edits.items()}
    session.decide("apply", [browser.keyed_row(index) for index in edits], edits=keyed, reason="data check --fix")
    return FixResult(tuple(changes), tuple(by_hand))


def fixed_row(browser: SourceBrowser, index: int, findings: Sequence[Finding]) -> Row | None:
    """Return a record with the fixes of ``findings``: in its own encoding, or as :func:`apply_fixes` does."""
    record = browser.lazy_row(index).current_or_error
    if isinstance(record, RowError) and record.kind == "encoding":
        return browser.records.row(index, record.text)
    return None if isinstance(record, DataError) else apply_fixes(record, findings)


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
    texts_and_numbers = json_strings(json.loads(json.dumps(fixed.content), parse_int=str, parse_float=str))
    resolved = (part.text for part in CheckInput(0, fixed).parts if not part.exact)
    rest = "\n".join(map(_bare, (*texts_and_numbers, *resolved)))
    return any(value and value in rest for value in values)


def _replace(row: Row, spans: Sequence[Span]) -> Row:
    by_part = grouped((span.part, span) for span in spans if span.replacement is not None)
    return rewrite_texts(row, lambda part, text: replace_spans(text, by_part.get(part, []))) if by_part else row


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

"""Mend what can be mended without asking: a new file, and a record of every row that changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import write_bytes
from mlxtune.data.checks.finding import CHECKS, Finding, Span
from mlxtune.data.checks.look import rewritten
from mlxtune.data.export import lines, own
from mlxtune.data.records import Records
from mlxtune.data.rows import Place, Row


@dataclass(frozen=True)
class Change:
    """What became of one record: the ids of the checks that asked for it. A row that was left out has no ``after``."""

    place: Place
    checks: tuple[str, ...]
    before: str
    after: str


@dataclass(frozen=True)
class Fixed:
    """The new file, how many rows it has, and every change on the way to it."""

    out: Path
    rows: int
    changes: tuple[Change, ...]


def wanted(findings: Sequence[Finding], also: Collection[str] = ()) -> dict[int, list[Finding]]:
    """The findings that fixing mends, by record: those with a safe fix, and those of the checks in ``also``.

    Raises ``InputError`` for a check that is none, or that only a person can mend.
    """
    for name in also:
        if name not in CHECKS or CHECKS[name].fix.how == "hand":
            able = ", ".join(check.id for check in CHECKS.values() if check.fix.how != "hand" and not check.fix.safe)
            raise InputError(f"There is no fix for {name}.", mend=f"There is one for {able}.")
    chosen: defaultdict[int, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.rows and (CHECKS[finding.check].fix.safe or finding.check in also) and finding.severity != "note":
            chosen[finding.rows[0]].append(finding)
    return dict(chosen)


def fix(records: Records, findings: Sequence[Finding], out: Path, also: Collection[str] = ()) -> Fixed:
    """Write all rows of ``records`` to ``out`` in mlxtune's own format, mended as :func:`wanted` says, and beside them what changed.

    ``out`` is a new ``.jsonl`` file, or a new folder where the source is one. Raises ``InputError`` when it is there already.
    """
    folder = records.stores[0][0] != "all"
    if out.exists():
        raise InputError(f"{out} is there already, so nothing was written.", mend="Choose another name: --out")
    if not folder and out.suffix != ".jsonl":
        raise InputError(f"{out.name} must end with .jsonl.", mend=f"Take {out.with_suffix('.jsonl').name}.")
    chosen = wanted(findings, also)
    changes: list[Change] = []
    at = total = 0
    for part, store in records.stores:
        kept = list(_mended(records, range(at, at + len(store)), chosen, changes))
        write_bytes(out / f"{part}.jsonl" if folder else out, lines(map(own, kept)))
        at, total = at + len(store), total + len(kept)
    write_bytes(out / "fixes.jsonl" if folder else out.with_suffix(".fixes.jsonl"), lines(map(told, changes)))
    return Fixed(out, total, tuple(changes))


def told(change: Change) -> dict[str, Any]:
    """``change`` as a JSON value; ``after`` is null for a row that was left out."""
    place = change.place
    return {
        "file": place.file.name, "line": place.line, "checks": list(change.checks), "before": change.before,
        "after": change.after or None,
    }  # fmt: skip


def _mended(records: Records, which: range, chosen: dict[int, list[Finding]], changes: list[Change]) -> Iterator[Row]:
    for at in which:
        record, asked = records.record(at), chosen.get(at, [])
        before = "" if isinstance(record, DataError) else record.id
        row = None if isinstance(record, DataError) else mended(record, asked)
        if asked and (row is None or row.id != before):
            checks = tuple(dict.fromkeys(finding.check for finding in asked))
            changes.append(Change(records.place(at), checks, before, row.id if row else ""))
        if row is not None:
            yield row


def mended(row: Row, findings: Sequence[Finding]) -> Row | None:
    """``row`` with every span replaced that ``findings`` have something for; ``None`` when one says to leave it out."""
    if any(CHECKS[finding.check].fix.how == "drop" for finding in findings):
        return None
    spans: defaultdict[str, list[Span]] = defaultdict(list)
    for finding in findings:
        for one in finding.spans:
            if one.put is not None:
                spans[one.part].append(one)
    return rewritten(row, lambda part, text: replaced(text, spans.get(part, []))) if spans else row


def replaced(text: str, spans: Sequence[Span]) -> str:
    """``text`` with what each span puts; of spans that overlap, the first counts."""
    made, at = [], 0
    for one in sorted(spans, key=lambda span: (span.start, -span.end)):
        if one.start >= at:
            made += [text[at : one.start], one.put or ""]
            at = one.end
    return "".join([*made, text[at:]])

"""A report as one JSON value: ``check.schema.json`` beside the package of checks says what is in it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.data.checks.finding import CHECKS, SEVERITIES, Finding
from mlxtune.data.checks.fixes import Fixed, told
from mlxtune.data.checks.run import Report

SCHEMA = Path(__file__).parent.parent / "check.schema.json"
VERSION = 1


def document(report: Report, fixed: Fixed | None = None) -> dict[str, Any]:
    """Everything that was found, and with ``fixed`` what was done about it."""
    return {
        "v": VERSION,
        "source": str(report.path),
        "word": report.word,
        "sentence": report.sentence,
        "next": report.advice,
        "read": report.read,
        "kept": report.kept,
        "refused": report.refused,
        "formats": report.formats,
        "files": [
            {"name": file.path.name, "part": file.part, "read": file.read, "kept": file.kept, "refused": file.refused,
             "notes": list(file.notes)}
            for file in report.files
        ],
        "counts": {severity: sum(one.severity == severity for one in report.findings) for severity in SEVERITIES},
        "not_checked": report.skipped,
        "findings": [_finding(report, one) for one in report.findings],
        "facts": asdict(report.facts) | {"lengths": lengths(report)},
        "fixed": None if fixed is None else {"out": str(fixed.out), "rows": fixed.rows, "changes": list(map(told, fixed.changes))},
    }  # fmt: skip


def lengths(report: Report) -> dict[str, Any]:
    """How long rows are: quantiles, and the unit that they are in."""
    unit = "tokens" if report.max_tokens else "characters"
    if not report.lengths:
        return {"unit": unit, "limit": report.max_tokens or None, "least": 0, "median": 0, "p95": 0, "most": 0}
    low, middle, high, most = (int(value) for value in np.percentile(report.lengths, (0, 50, 95, 100)))
    return {"unit": unit, "limit": report.max_tokens or None, "least": low, "median": middle, "p95": high, "most": most}


def name(report: Report, finding: Finding) -> str:
    """What a finding is called in one report: its check, and where it is."""
    if not finding.rows:
        return finding.check
    place, _ = report.places[finding.rows[0]]
    where = f"{place.line}" if place.element is None else f"{place.line}.{place.element}"
    return f"{finding.check}@{where}" if len(report.files) == 1 else f"{finding.check}@{place.file.stem}:{where}"


def _finding(report: Report, finding: Finding) -> dict[str, Any]:
    check = CHECKS[finding.check]
    rows = []
    for at in finding.rows:
        place, id = report.places[at]
        rows.append({"file": place.file.name, "line": place.line, "element": place.element, "id": id or None})
    spans = [{"part": one.part, "start": one.start, "end": one.end, "text": one.text} for one in finding.spans]
    fix = {"how": check.fix.how, "does": check.fix.does, "safe": check.fix.safe} if finding.severity != "note" else None
    return {
        "id": name(report, finding), "check": finding.check, "severity": finding.severity, "title": check.title, "why": finding.why,
        "rows": rows, "spans": spans, "fix": fix,
    }  # fmt: skip

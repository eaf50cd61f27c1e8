"""The result of checking a source: a report, its JSON form, and the form that processes exchange.

Everything is a code with numbers; ``present/check.py`` has the words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlxtune.core.json_fields import from_json, to_json
from mlxtune.core.sequences import grouped
from mlxtune.data.access.file_bytes import FileNote
from mlxtune.data.access.spans import IntArray
from mlxtune.data.checks.base import NO_VALUES, SEVERITIES, Finding, Severity, Span
from mlxtune.data.checks.contract import metric_of
from mlxtune.data.checks.registry import get_check
from mlxtune.data.checks.statistics import GOOD_PROMPTS, MIN_PROMPTS, RARE_ROWS, Statistics
from mlxtune.data.column_map import ColumnUse
from mlxtune.data.free_rates import FreeRates
from mlxtune.data.rows import Location
from mlxtune.data.split import SPLIT_NAMES, SplitName

SCHEMA = Path(__file__).parent.parent / "check.schema.json"
VERSION = 1

Outcome = Literal["blocked", "look", "clean"]
SkipCode = Literal["not_yet", "no_recipe", "no_contract", "no_model", "no_splits", "unsplittable", "uninformed"]
ImprovementCode = Literal[
    "remove_leaks", "mask_secrets", "name_columns", "change_recipe", "fix", "add_rows", "add_prompts", "resolve_conflicts", "drop_repeats",
    "fit_window", "add_value", "review", "more_prompts", "none",
]  # fmt: skip


@dataclass(frozen=True)
class FileCount:
    """The number of records in a file, and how many of them are valid rows (``kept``)."""

    path: Path
    part: str
    read: int
    kept: int
    notes: tuple[FileNote, ...]

    @property
    def refused(self) -> int:
        return self.read - self.kept


@dataclass(frozen=True)
class MutedCheck:
    """A check whose findings are not reported for a source, with their number and the user's reason."""

    check: str
    count: int
    reason: str


@dataclass(frozen=True)
class Skip:
    """Why a group of checks (``contract``, ``tokens``, ``split``, or ``mismatch``) did not run. ``error`` is the message of its error, if any."""

    code: SkipCode
    error: str = ""


@dataclass(frozen=True)
class CheckVerdict:
    """The outcome of the checks and the numbers of rows behind it."""

    outcome: Outcome
    rows: int  # that the review did not leave out
    blocked: int  # rows with a blocking finding
    accepted: int  # rows with a warning that the review accepted
    to_review: int  # other rows with a warning
    source_warnings: int  # warnings about all rows

    @property
    def flagged(self) -> int:
        """The number of rows that block training, or otherwise of those that should be reviewed."""
        return self.blocked or self.to_review


def verdict(findings: Collection[Finding], rows: int, accepted: Collection[int] = ()) -> CheckVerdict:
    """Return the verdict on a source with this number of ``rows``. A warning about an ``accepted`` row needs no further review."""
    blocked, warned = _rows(findings, "block"), _rows(findings, "warn")
    to_review = warned.difference(accepted)
    source_warnings = sum(finding.severity == "warn" and not finding.rows for finding in findings)
    outcome: Outcome = "blocked" if blocked else "look" if to_review or source_warnings else "clean"
    return CheckVerdict(outcome, rows, len(blocked), len(warned) - len(to_review), len(to_review), source_warnings)


def _rows(findings: Iterable[Finding], severity: Severity) -> set[int]:
    return {finding.rows[0] for finding in findings if finding.severity == severity and finding.rows}


@dataclass(frozen=True)
class Improvement:
    """What to do with the data next. ``count`` is the number of rows, prompts, or values that the ``code`` is about."""

    code: ImprovementCode
    count: int = 0
    check: str = ""  # to fix
    value: tuple[str, str] = ("", "")  # the key and value that too few rows have


@dataclass(frozen=True)
class CheckResult:
    """The findings and facts of a source, by record number: what a check process sends to the app."""

    statistics: Statistics
    found: tuple[Finding, ...]  # also by muted checks, and in rows that the review left out
    tokens: IntArray  # the length of each record, or -1 if unknown
    splits: Sequence[str]  # of each record, empty if unknown
    max_tokens: int
    skipped: dict[str, Skip]
    edited: Mapping[int, str] = field(default_factory=dict)  # hashes of the rows that were checked as edited
    left_out: tuple[int, ...] = ()  # which were not compared with others
    free: FreeRates | None = None  # unknown without a recipe

    def split_of(self, index: int) -> SplitName | None:
        own = self.splits[index] if index < len(self.splits) else ""
        return next((name for name in SPLIT_NAMES if name == own), None)

    @cached_property
    def split_sizes(self) -> dict[SplitName, int]:
        return {name: self.splits.count(name) for name in SPLIT_NAMES}

    @cached_property
    def by_row(self) -> Mapping[int, Sequence[Finding]]:
        """The findings to fix in each record, most severe first."""
        return grouped((finding.rows[0], finding) for finding in self.found if finding.rows)

    def to_json(self) -> dict[str, Any]:
        names = [item.name for item in fields(CheckResult) if item.name not in ("found", "tokens", "edited")]
        values = {name: to_json(getattr(self, name)) for name in names}
        found = [  # as lists, because there may be a million of them
            [one.check, one.severity, one.rows, [[s.part, s.start, s.end, s.text, s.replacement] for s in one.spans], one.reason,
             dict(one.values)]
            for one in self.found
        ]  # fmt: skip
        edited = list(self.edited.items())  # JSON would turn the numbers to strings
        return {**values, "found": found, "tokens": self.tokens.tolist(), "edited": edited}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CheckResult:
        found = tuple(
            Finding(check, severity, tuple(rows), tuple(Span(*span) for span in spans), reason, values or NO_VALUES)
            for check, severity, rows, spans, reason, values in value["found"]
        )
        tokens, edited = np.array(value["tokens"], np.int64), dict(map(tuple, value["edited"]))
        return from_json(cls, value, found=found, tokens=tokens, edited=edited, splits=value["splits"])


@dataclass(frozen=True, kw_only=True)
class CheckReport(CheckResult):
    """The result of a check, with what is needed to show it by file and line."""

    path: Path
    files: tuple[FileCount, ...]
    formats: dict[str, int]
    findings: tuple[Finding, ...]  # without those by muted checks, and in rows that the review left out
    locations: Mapping[int, tuple[Location, str]]  # and the ID of every record in a finding
    lengths: tuple[int, ...]  # in tokens if ``max_tokens`` is set, else in characters
    muted: tuple[MutedCheck, ...] = ()
    accepted: frozenset[int] = frozenset()
    columns: ColumnUse | None = None  # how the source is read; ``None`` for rows that were read before

    @property
    def read(self) -> int:
        return sum(file.read for file in self.files)

    @property
    def kept(self) -> int:
        return sum(file.kept for file in self.files)

    @property
    def refused(self) -> int:
        return self.read - self.kept

    @property
    def edited_count(self) -> int:
        """The number of edited rows that the review did not leave out."""
        return len(self.edited.keys() - set(self.left_out))

    @cached_property
    def verdict(self) -> CheckVerdict:
        return verdict(self.findings, self.read - len(self.left_out), self.accepted)

    @property
    def improvement(self) -> Improvement:
        return improvement(self.statistics, self.findings, self.verdict.to_review)

    def rows(self, severity: Severity) -> int:
        return len(_rows(self.findings, severity))


def improvement(statistics: Statistics, findings: Sequence[Finding], to_review: int, *, stale: bool = False) -> Improvement:
    """Return the most useful next step for the data. ``to_review`` rows have a warning that the review has not accepted.

    If ``statistics`` are ``stale``, the number of prompts gives no advice.
    """
    blocks = Counter(finding.check for finding in findings if finding.severity == "block")
    if blocks["leak"]:
        return Improvement("remove_leaks", blocks["leak"])
    if blocks["secret"]:
        return Improvement("mask_secrets", blocks["secret"])
    if not statistics.rows and set(blocks) == {"bad-row"}:
        return Improvement("name_columns")
    if blocks:
        check, count = blocks.most_common(1)[0]
        of_recipe = [one for one in findings if one.check in ("template", "prompt-fills-window") or metric_of(one.check)]
        rejected = {one.rows[0] for one in of_recipe if one.severity == "block"}
        return Improvement("change_recipe" if len(rejected) >= statistics.rows > 0 else "fix", count, check)
    if not statistics.rows:
        return Improvement("add_rows")
    if statistics.tier == "too_few" and not stale:
        return Improvement("add_prompts", MIN_PROMPTS - statistics.groups)
    counts = Counter(finding.check for finding in findings if finding.severity != "note")
    if counts["conflict"] > 0.01 * statistics.rows:
        return Improvement("resolve_conflicts", counts["conflict"])
    if (repeats := counts["duplicate"] + counts["near-duplicate"]) > 0.05 * statistics.rows:
        return Improvement("drop_repeats", repeats)
    if (too_long := counts["truncated"] + counts["too-long"]) > 0.02 * statistics.rows:
        return Improvement("fit_window", too_long)
    rarest = min(((count, key, value) for key, values in statistics.tags.items() for value, count in values.items()), default=None)
    if rarest and rarest[0] < RARE_ROWS and not counts["label-spelling"]:
        return Improvement("add_value", rarest[0], value=rarest[1:])
    if to_review:
        return Improvement("review", to_review)
    if statistics.tier == "minimum_viable" and not stale:
        return Improvement("more_prompts", GOOD_PROMPTS - statistics.groups)
    return Improvement("none")


# The JSON document that ``data check --json`` prints, described by check.schema.json


def report_json(report: CheckReport, fixed: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the report as a JSON document. ``fixed`` describes the fixed copy, if one was written."""
    return {
        "v": VERSION,
        "source": str(report.path),
        "outcome": report.verdict.outcome,
        "rows": asdict(report.verdict),
        "next": asdict(report.improvement),
        "read": report.read,
        "kept": report.kept,
        "refused": report.refused,
        "formats": report.formats,
        "columns": asdict(report.columns) if report.columns else None,
        "files": [
            {"name": file.path.name, "part": file.part, "read": file.read, "kept": file.kept, "refused": file.refused,
             "notes": list(file.notes)}
            for file in report.files
        ],
        "counts": {severity: sum(one.severity == severity for one in report.findings) for severity in SEVERITIES},
        "not_checked": {group: asdict(skip) for group, skip in report.skipped.items()},
        "muted": [asdict(muted) for muted in report.muted],
        "review": {"left_out": len(report.left_out), "edited": report.edited_count},
        "findings": [_finding_json(report, finding) for finding in report.findings],
        "free": asdict(report.free) if report.free else None,
        "facts": asdict(report.statistics) | {"lengths": length_summary(report)},
        "fixed": fixed,
    }  # fmt: skip


def length_summary(report: CheckReport) -> dict[str, Any]:
    unit = "tokens" if report.max_tokens else "characters"
    quantiles = [int(value) for value in np.percentile(report.lengths or (0,), (0, 50, 95, 100))]
    return {
        "unit": unit,
        "limit": report.max_tokens or None,
        **dict(zip(("shortest", "median", "p95", "longest"), quantiles, strict=True)),
    }


def _finding_json(report: CheckReport, finding: Finding) -> dict[str, Any]:
    check = get_check(finding.check)
    places = [report.locations[index] for index in finding.rows]
    rows = [{"file": at.file.name, "line": at.line, "element": at.element, "id": id or None} for at, id in places]
    spans = [{"part": span.part, "start": span.start, "end": span.end, "text": span.text} for span in finding.spans]
    fix = {"kind": check.fix.kind, "safe": check.fix.safe} if finding.severity != "note" else None
    return {
        "id": _finding_id(report, finding), "check": finding.check, "severity": finding.severity, "reason": finding.reason,
        "values": dict(finding.values), "rows": rows, "spans": spans, "fix": fix,
    }  # fmt: skip


def _finding_id(report: CheckReport, finding: Finding) -> str:
    """Return the check and its location, such as ``secret@14``. The ID is unique within a report."""
    if not finding.rows:
        return finding.check
    location, _ = report.locations[finding.rows[0]]
    place = f"{location.line}" if location.element is None else f"{location.line}.{location.element}"
    return f"{finding.check}@{place}" if len(report.files) == 1 else f"{finding.check}@{location.file.stem}:{place}"

"""The result of checking a source: a report, its JSON form, and the form that processes exchange."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.core.text import one_line, plural
from mlxtune.data.access.spans import IntArray
from mlxtune.data.checks import contract
from mlxtune.data.checks.base import SEVERITIES, Finding, Severity, Span
from mlxtune.data.checks.registry import get_check, report_order
from mlxtune.data.checks.statistics import GOOD_PROMPTS, MIN_PROMPTS, RARE_ROWS, Statistics
from mlxtune.data.rows import Location
from mlxtune.data.split import SPLIT_NAMES, SplitName

SCHEMA = Path(__file__).parent.parent / "check.schema.json"
VERSION = 1

_LETTERS: dict[str, str] = {"train": "t", "valid": "v", "test": "e"}
_SPLITS: dict[str, SplitName] = {"t": "train", "v": "valid", "e": "test"}


@dataclass(frozen=True)
class FileCount:
    """The number of records in a file, and how many of them are valid rows (``kept``)."""

    path: Path
    part: str
    read: int
    kept: int
    notes: tuple[str, ...]

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
class CheckReport:
    """Everything that a check found. ``lengths`` are in tokens if ``max_tokens`` is set, else in characters.

    ``locations`` has the location and ID of every record in a finding. ``skipped`` maps each group of checks that did not run to
    the reason. ``hidden`` has the findings of muted checks and of rows that the review left out, ``edited`` the hashes of edited
    rows, and ``accepted`` the rows that were accepted. ``tokens`` and ``splits`` have, for each record, its length (-1 if unknown) and its split (empty if unknown).
    """

    path: Path
    files: tuple[FileCount, ...]
    formats: dict[str, int]
    findings: tuple[Finding, ...]
    locations: Mapping[int, tuple[Location, str]]
    statistics: Statistics
    lengths: tuple[int, ...]
    max_tokens: int
    skipped: dict[str, str]
    tokens: tuple[int, ...] = ()
    splits: tuple[str, ...] = ()
    contract_labels: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[Finding, ...] = ()
    muted: tuple[MutedCheck, ...] = ()
    edited: Mapping[int, str] = field(default_factory=dict)
    left_out: tuple[int, ...] = ()
    accepted: frozenset[int] = frozenset()

    @property
    def improvement(self) -> str:
        """What to do with the data before training, or an empty text."""
        return improvement(self.statistics, self.findings)

    @property
    def advice(self) -> str:
        """The most useful next step."""
        return advice(self.statistics, self.findings, self.to_review)

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
    def review_summary(self) -> str:
        """What the review left out and edited; empty if nothing."""
        edited = len(self.edited.keys() - set(self.left_out))
        parts = (
            f"the review left out {plural(len(self.left_out), 'row')}" if self.left_out else "",
            f"{plural(edited, 'row')} checked as edited" if edited else "",
        )
        text = "; ".join(filter(None, parts))
        return f"{text[:1].upper()}{text[1:]}." if text else ""

    def rows(self, severity: Severity) -> int:
        """Return the number of records that have a finding with this severity."""
        return len(_rows(self.findings, severity))

    @property
    def reviewed(self) -> int:
        """The number of records with a warning that the review accepted."""
        return len(_rows(self.findings, "warn") & self.accepted)

    @property
    def to_review(self) -> int:
        """The number of records with a warning that the review has not accepted."""
        return len(_rows(self.findings, "warn") - self.accepted)

    @property
    def flagged(self) -> int:
        """The number of records that block training, or otherwise of those that should be reviewed."""
        return self.rows("block") or self.to_review

    @property
    def label(self) -> str:
        """The verdict: ``blocked``, ``look`` or ``clean``."""
        return verdict(self.findings, self.read - len(self.left_out), self.accepted)[0]

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return verdict(self.findings, self.read - len(self.left_out), self.accepted)[1]


NAME_THE_COLUMNS = "Name the columns with --map (data.map in a recipe), or the format with --format (data.format)."


def _rows(findings: Iterable[Finding], severity: Severity) -> set[int]:
    return {finding.rows[0] for finding in findings if finding.severity == severity and finding.rows}


def verdict(findings: Collection[Finding], read: int, accepted: Collection[int] = ()) -> tuple[str, str]:
    """Return ``blocked``, ``look`` or ``clean`` for a source with ``read`` rows, and the verdict in one sentence.

    A warning about an ``accepted`` row needs no further review.
    """
    if blocked := _rows(findings, "block"):
        return "blocked", f"Not ready: {len(blocked):,} of {plural(read, 'row')} should be fixed or left out before training."
    warned = _rows(findings, "warn")
    to_review = len(warned.difference(accepted))
    if to_review:
        return "look", f"Nothing blocks training, but {to_review:,} of {plural(read, 'row')} should be reviewed."
    if any(finding.severity == "warn" and not finding.rows for finding in findings):
        return "look", f"Nothing blocks training, but there is a warning about the {plural(read, 'row')} as a whole."
    if warned:
        return "clean", f"Nothing blocks training, and the review accepted {plural(len(warned), 'row')} with a warning."
    return "clean", f"Clean: no problems in {plural(read, 'row')}."


def advice(statistics: Statistics, findings: Sequence[Finding], to_review: int, fix: str = "--fix", *, stale: bool = False) -> str:
    """Return the most useful next step for the data. ``to_review`` rows have a warning that the review has not accepted.

    ``fix`` says how the reader can apply a fix. If ``statistics`` are ``stale``, the number of prompts gives no advice.
    """
    if first := improvement(statistics, findings, fix, stale=stale):
        return first
    if to_review:
        return f"Review {plural(to_review, 'row')} with a warning, and fix, accept, or reject {'it' if to_review == 1 else 'them'}."
    if stale:
        return ""
    if statistics.tier == "minimum viable":
        missing = GOOD_PROMPTS - statistics.groups
        return f"This is enough to start. About {missing:,} more distinct prompts would bring it to “good”."
    return "The checks have no further suggestions for the data."


def improvement(statistics: Statistics, findings: Sequence[Finding], fix: str = "--fix", *, stale: bool = False) -> str:
    """Return what to do with the data before training, or an empty text; ``fix`` and ``stale`` are those of :func:`advice`."""
    counts = Counter(finding.check for finding in findings if finding.severity != "note")
    blocks = Counter(finding.check for finding in findings if finding.severity == "block")
    if leaks := blocks["leak"]:
        return f"Remove {plural(leaks, 'held-out row')} from the train split with {fix}: until then, no evaluation is valid."
    if secrets := blocks["secret"]:
        return f"Mask the secrets in {plural(secrets, 'row')} with {fix}, and revoke them: they have been exposed in a file."
    if not statistics.rows and set(blocks) == {"bad-row"}:
        return f"No row can be read. {NAME_THE_COLUMNS}"
    if blocks:
        id, count = blocks.most_common(1)[0]
        check = get_check(id)
        method = fix if check.fix.safe or fix != "--fix" else f"{fix} --also {id}"
        return f"Fix {check.title} ({count:,}), or leave them out: {method}."
    if statistics.rows == 0:
        return "Add rows."
    if statistics.tier == "too few" and not stale:
        missing = MIN_PROMPTS - statistics.groups
        return f"Write about {missing:,} more rows with new prompts: below {MIN_PROMPTS} prompts, results are mostly noise."
    if counts["conflict"] > 0.01 * statistics.rows:
        prompts = plural(counts["conflict"], "prompt")
        return f"Resolve {prompts} with contradictory answers: they teach the model to guess."
    if (repeats := counts["duplicate"] + counts["near-duplicate"]) > 0.05 * statistics.rows:
        return f"Leave out {plural(repeats, 'repeated row')}: repeats count twice in training. {fix} removes exact duplicates."
    if (too_long := counts["truncated"] + counts["too-long"]) > 0.02 * statistics.rows:
        effect = "truncated or skipped" if counts["too-long"] else "truncated"
        return f"Raise data.max_tokens, or shorten the {plural(too_long, 'row')} that would be {effect}."
    rarest = min(((count, key, value) for key, values in statistics.tags.items() for value, count in values.items()), default=None)
    if rarest and rarest[0] < RARE_ROWS:
        count, key, value = rarest
        return f"Add rows with {one_line(key, 30)} = {one_line(value, 30)}: {count} is too few to learn from or to measure."
    return ""


# The JSON document that ``data check --json`` prints, described by check.schema.json


def report_json(report: CheckReport, fixed: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the report as a JSON document. ``fixed`` describes the fixed copy, if one was written."""
    return {
        "v": VERSION,
        "source": str(report.path),
        "word": report.label,
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
        "muted": [asdict(muted) for muted in report.muted],
        "review": {"left_out": len(report.left_out), "edited": len(report.edited.keys() - set(report.left_out))},
        "findings": [_finding_json(report, finding) for finding in report.findings],
        "facts": asdict(report.statistics) | {"lengths": length_summary(report)},
        "fixed": fixed,
    }  # fmt: skip


def length_summary(report: CheckReport) -> dict[str, Any]:
    """Return quantiles of the row lengths and their unit."""
    unit = "tokens" if report.max_tokens else "characters"
    quantiles = [int(value) for value in np.percentile(report.lengths or (0,), (0, 50, 95, 100))]
    return {
        "unit": unit,
        "limit": report.max_tokens or None,
        **dict(zip(("least", "median", "p95", "most"), quantiles, strict=True)),
    }


def _finding_json(report: CheckReport, finding: Finding) -> dict[str, Any]:
    check = get_check(finding.check)
    rows = []
    for index in finding.rows:
        location, id = report.locations[index]
        rows.append({"file": location.file.name, "line": location.line, "element": location.element, "id": id or None})
    spans = [{"part": span.part, "start": span.start, "end": span.end, "text": span.text} for span in finding.spans]
    fix = {"how": check.fix.kind, "does": check.fix.label, "safe": check.fix.safe} if finding.severity != "note" else None
    return {
        "id": _finding_id(report, finding), "check": finding.check, "severity": finding.severity, "title": check.title,
        "why": finding.reason, "rows": rows, "spans": spans, "fix": fix,
    }  # fmt: skip


def _finding_id(report: CheckReport, finding: Finding) -> str:
    """Return the check and its location, such as ``secret@14``. The ID is unique within a report."""
    if not finding.rows:
        return finding.check
    location, _ = report.locations[finding.rows[0]]
    place = f"{location.line}" if location.element is None else f"{location.line}.{location.element}"
    return f"{finding.check}@{place}" if len(report.files) == 1 else f"{finding.check}@{location.file.stem}:{place}"


@dataclass(frozen=True)
class CheckResult:
    """The part of a report that a check process sends to the app, by record number.

    ``tokens`` has the length of each record, or -1 if unknown; ``letters`` has one letter per record that encodes its split.
    ``edited`` has the hashes of the rows that were checked as edited, and ``left_out`` the rows that the review left out, which were
    not compared with others. Findings of muted checks and left-out rows are included.
    """

    statistics: Statistics
    findings: tuple[Finding, ...]
    tokens: IntArray
    letters: str
    max_tokens: int
    skipped: Mapping[str, str]
    contract_labels: Mapping[str, str] = field(default_factory=dict)
    edited: Mapping[int, str] = field(default_factory=dict)
    left_out: tuple[int, ...] = ()

    @classmethod
    def from_report(cls, report: CheckReport) -> CheckResult:
        tokens = np.array(report.tokens, np.int64)
        letters = "".join(_LETTERS.get(split, " ") for split in report.splits)
        findings = tuple(sorted((*report.findings, *report.hidden), key=report_order)) if report.hidden else report.findings
        return cls(
            report.statistics, findings, tokens, letters, report.max_tokens, report.skipped, report.contract_labels, report.edited,
            report.left_out,
        )  # fmt: skip

    def split_of(self, index: int) -> SplitName | None:
        """Return a record's split, or ``None`` if it is unknown."""
        return _SPLITS.get(self.letters[index]) if index < len(self.letters) else None

    @cached_property
    def split_sizes(self) -> dict[SplitName, int]:
        """The number of records in each split."""
        return {name: self.letters.count(_LETTERS[name]) for name in SPLIT_NAMES}

    @cached_property
    def by_row(self) -> Mapping[int, tuple[Finding, ...]]:
        """The findings to fix in each record, most severe first."""
        by_row: dict[int, list[Finding]] = {}
        for finding in self.findings:
            if finding.rows:
                by_row.setdefault(finding.rows[0], []).append(finding)
        return {index: tuple(findings) for index, findings in by_row.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON value."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        findings = [  # as lists, because there may be a million of them
            [one.check, one.severity, one.rows, one.reason, [[s.part, s.start, s.end, s.text, s.replacement] for s in one.spans]]
            for one in self.findings
        ]
        edited = list(self.edited.items())  # JSON would turn the numbers to strings
        return {
            **values, "statistics": asdict(self.statistics), "findings": findings, "tokens": self.tokens.tolist(), "edited": edited
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CheckResult:
        """Load the value that :meth:`to_json` returned."""
        contract.use_labels(value["contract_labels"])
        findings = tuple(
            Finding(check, severity, tuple(rows), reason, tuple(Span(*span) for span in spans))
            for check, severity, rows, reason, spans in value["findings"]
        )
        tokens = np.array(value["tokens"], np.int64)
        statistics, edited = Statistics(**value["statistics"]), dict(map(tuple, value["edited"]))
        changed = {"statistics": statistics, "findings": findings, "tokens": tokens, "edited": edited}
        return cls(**{**value, **changed, "left_out": tuple(value["left_out"])})

"""Run every check on a source: one pass over its records, then the checks over all rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path

from mlxtune.core.errors import DataError
from mlxtune.data import check_cache
from mlxtune.data.access.records import SourceRecords
from mlxtune.data.checks import contract, statistics
from mlxtune.data.checks.base import Check, Finding, Hit, text_finding
from mlxtune.data.checks.check_input import CheckInput, TextPart, TokenCount
from mlxtune.data.checks.contract import ContractScorer, contract_findings
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.checks.registry import CHECKS, CORPUS_CHECKS, ROW_CHECKS, TEXT_CHECKS, report_order
from mlxtune.data.checks.report import CheckReport, FileCount, MutedCheck
from mlxtune.data.checks.unreadable import unreadable
from mlxtune.data.readers.formats import NO_MAPPING
from mlxtune.data.review import ReviewState
from mlxtune.data.reviewed_records import ReviewedRecords
from mlxtune.data.rows import Location, Row
from mlxtune.data.source_files import GENERATED

Progress = Callable[[float], None]
_PROGRESS_ROWS = 500  # rows between two calls of ``progress``


def check(
    path: Path,
    format: str = "auto",
    mapping: Mapping[str, str] = NO_MAPPING,
    *,
    scorer: ContractScorer | None = None,
    split_of: Callable[[Row], str] | None = None,
    tokens: Sequence[TokenCount | None] | None = None,
    max_tokens: int = 0,
    skip_too_long: bool = False,
    skipped: Mapping[str, str] = NO_MAPPING,
    rules: str = "",
    state: ReviewState | None = None,
    progress: Progress = lambda fraction: None,
) -> CheckReport:
    """Check every record of a source as edited in its review, ``state``.

    ``scorer`` scores answers against a contract, except those of held-out rows, which nothing is trained on. ``split_of`` returns a
    row's split, and ``tokens`` has the lengths of all records in order. If one of them is missing, its checks do not run, and ``skipped`` says why. ``max_tokens`` is the window; with
    ``skip_too_long``, training skips rows whose prompt fills it. ``rules`` is stored with the outcome. Raises ``DataError`` if a file as a whole cannot be read, or if
    there are no rows.
    """
    with SourceRecords(path, format, mapping) as records:
        if not len(records):
            raise DataError(f"{path} has no rows.", hint="Write one JSON object per line.")
        if scorer:
            contract.use_labels(scorer.labels)
        state = state or ReviewState()
        reviewed = ReviewedRecords(records, state)
        corpus = Corpus(reviewed.row)
        findings: list[Finding] = []
        formats: Counter[str] = Counter()
        kept: Counter[str] = Counter()
        edited: dict[int, str] = {}
        left_out: set[int] = set()
        accepted: set[int] = set()
        row_checks = _RowChecks()
        for item in reviewed:
            index, part, record = item.index, item.part, item.record
            if isinstance(record, DataError):
                findings.append(unreadable(index, record))
            else:
                formats[record.format] += 1
                kept[part] += 1
                row_input = CheckInput(index, record, tokens[index] if tokens else None, max_tokens, skip_too_long)
                split = "train" if part == GENERATED else part
                if split == "all" and split_of:
                    split = split_of(record)
                findings += row_checks.findings(row_input)
                if scorer and split != "test":
                    findings += contract_findings(row_input, scorer)
                if item.is_edited:
                    edited[index] = record.hash
                if item.decision is not None and item.decision.status == "accepted":
                    accepted.add(index)
                if item.is_left_out:
                    left_out.add(index)
                else:
                    corpus.add(row_input, split)
            if not (index + 1) % _PROGRESS_ROWS:
                progress(0.7 * (index + 1) / len(records))
        files = [FileCount(file.path, part, len(file), kept[part], file.notes) for part, file in records.files]
        for number, function in enumerate(CORPUS_CHECKS, 1):
            findings += function(corpus)
            progress(0.7 + 0.3 * number / len(CORPUS_CHECKS))
        findings.sort(key=report_order)
        is_shown = [
            one.check not in state.muted
            and not (one.rows and one.rows[0] in left_out)
            and not reviewed.is_resolved(one.check, one.rows)
            for one in findings
        ]
        shown = list(compress(findings, is_shown))
        figures = statistics.statistics(corpus)
        counted = ((index, one) for index, one in enumerate(tokens or ()) if one is not None and not one.error)
        known_lengths = tuple(one.total for index, one in counted if index not in left_out)
        report = CheckReport(
            path=path,
            files=tuple(files),
            formats=dict(formats.most_common()),
            findings=tuple(shown),
            hidden=tuple(one for one, visible in zip(findings, is_shown, strict=True) if not visible),
            muted=muted_counts(findings, state.muted),
            edited=edited,
            left_out=tuple(sorted(left_out)),
            accepted=frozenset(accepted),
            locations=_locations(records, findings),
            statistics=figures,
            lengths=known_lengths or tuple(corpus.lengths),
            max_tokens=max_tokens if known_lengths else 0,
            skipped=dict(skipped),
            tokens=tuple(-1 if one is None or one.error else one.total for one in tokens or ()),
            splits=_splits(corpus, len(records)),
            contract_labels=dict(scorer.labels) if scorer else {},
        )
        outcome = check_cache.CheckOutcome(report.label, report.sentence, report.kept, report.flagged, rules)
        check_cache.save(path, outcome, format, mapping)
        return report


def muted_counts(findings: Sequence[Finding], muted: Mapping[str, str]) -> tuple[MutedCheck, ...]:
    """Return the muted checks with their reasons and numbers of findings."""
    counts = Counter(finding.check for finding in findings)
    return tuple(MutedCheck(id, counts[id], reason) for id, reason in muted.items())


def recheck(
    index: int, row: Row, scorer: ContractScorer | None = None, tokens: TokenCount | None = None, max_tokens: int = 0
) -> tuple[Finding, ...]:
    """Run the single-row checks and the contract on an edited or generated row."""
    row_input = CheckInput(index, row, tokens, max_tokens)
    return (*_RowChecks().findings(row_input), *(contract_findings(row_input, scorer) if scorer else ()))


def _splits(corpus: Corpus, count: int) -> tuple[str, ...]:
    """Return the split of each of ``count`` records."""
    splits = [""] * count
    for index, split in zip(corpus.indices, corpus.splits, strict=True):
        splits[index] = split if split != "all" else ""
    return tuple(splits)


def _locations(records: SourceRecords, findings: Sequence[Finding]) -> dict[int, tuple[Location, str]]:
    """Return the location and ID of every record in a finding."""
    locations: dict[int, tuple[Location, str]] = {}
    for index in sorted({index for finding in findings for index in finding.rows}):
        record = records.record(index)
        locations[index] = (records.location(index), "" if isinstance(record, DataError) else record.id)
    return locations


class _RowChecks:
    """Runs the single-row checks. The hits in a system prompt are cached, because many rows begin with the same one."""

    def __init__(self) -> None:
        self._cache: dict[str, list[tuple[Check, list[Hit]]]] = {}

    def findings(self, row_input: CheckInput) -> Iterator[Finding]:
        hits: dict[str, list[tuple[TextPart, Hit]]] = {}
        for part in row_input.parts:
            for check, part_hits in self._hits(part):
                hits.setdefault(check.id, []).extend((part, hit) for hit in part_hits)
        for id, row_hits in hits.items():
            yield from text_finding(CHECKS[id], row_input.index, row_hits)
        for check, function in ROW_CHECKS:
            for reason, spans in function(row_input):
                yield Finding(check.id, check.severity, (row_input.index,), reason, spans)

    def _hits(self, part: TextPart) -> list[tuple[Check, list[Hit]]]:
        if part.role not in ("system", "developer"):
            return _text_hits(part)
        if part.text not in self._cache:
            if len(self._cache) >= 64:
                self._cache.clear()
            self._cache[part.text] = _text_hits(part)
        return self._cache[part.text]


def _text_hits(part: TextPart) -> list[tuple[Check, list[Hit]]]:
    result = []
    for check, function, answers_only in TEXT_CHECKS:
        if (part.is_answer or not answers_only) and (hits := list(function(part.text))):
            result.append((check, hits))
    return result

"""Run every check on a source: one pass over its records, then the checks over all rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from mlxtune.core.errors import DataError
from mlxtune.core.sequences import grouped
from mlxtune.data import check_cache
from mlxtune.data.access.records import SourceRecords
from mlxtune.data.checks import statistics
from mlxtune.data.checks.base import Finding, Hit, text_finding
from mlxtune.data.checks.check_input import CheckInput, TokenCount
from mlxtune.data.checks.contract import ContractScorer, contract_findings
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.checks.registry import CHECKS, CORPUS_CHECKS, ROW_CHECKS, TEXT_CHECKS, report_order
from mlxtune.data.checks.report import CheckReport, FileCount, MutedCheck, Skip
from mlxtune.data.checks.unreadable import unreadable
from mlxtune.data.readers.formats import NO_MAPPING
from mlxtune.data.review import ReviewState, is_resolved
from mlxtune.data.reviewed_records import ReviewedRecord, ReviewedRecords
from mlxtune.data.rows import Location, Row
from mlxtune.data.source_files import GENERATED, no_rows
from mlxtune.recipe.schema import Turns

Progress = Callable[[float], None]
_PROGRESS_ROWS = 500  # rows between two calls of ``progress``
TESTED = frozenset({"template"})  # the checks of rows in a test file, which are evaluated but neither trained on nor fixed
_ROW_SHARE = 0.7  # of the work, for the pass over the rows


@dataclass(frozen=True)
class CheckRules:
    """What the rows are checked against. The checks that need a missing part do not run, and ``skipped`` says why."""

    scorer: ContractScorer | None = None  # scores answers, except those of held-out rows, which nothing is trained on
    split_of: Callable[[Row], str] | None = None
    turns: Turns = "auto"  # the answers of a conversation that are trained
    tokens: Sequence[TokenCount | None] | None = None  # of all records in order
    max_tokens: int = 0  # the window
    skip_too_long: bool = False  # whether training skips rows whose prompt fills the window
    skipped: Mapping[str, Skip] = field(default_factory=dict)
    found: Sequence[Finding] = ()  # by a model
    hash: str = ""  # see :func:`mlxtune.data.check_cache.rules_hash`


NO_RULES = CheckRules()


def check(
    path: Path,
    format: str = "auto",
    mapping: Mapping[str, str] = NO_MAPPING,
    *,
    rules: CheckRules = NO_RULES,
    state: ReviewState | None = None,
    progress: Progress = lambda fraction: None,
) -> CheckReport:
    """Check every record of a source as edited in its review, ``state``.

    Raises ``DataError`` if a file as a whole cannot be read, or if there are no rows.
    """
    with SourceRecords(path, format, mapping) as records:
        if not len(records):
            raise no_rows(path)
        run = _CheckRun(records, rules, state or ReviewState())
        run.check_rows(progress)
        run.check_corpus(progress)
        report = run.report(path)
        outcome = check_cache.CheckOutcome(
            report.verdict.outcome, report.kept, report.verdict.flagged, rules.hash, invalid_left_out=run.invalid_left_out
        )
        check_cache.save(path, outcome, format, mapping)
        return report


class _CheckRun:
    def __init__(self, records: SourceRecords, rules: CheckRules, state: ReviewState) -> None:
        self.records, self.rules, self.state = records, rules, state
        self.reviewed = ReviewedRecords(records, state)
        self.corpus = Corpus(self.reviewed.row, has_contract=rules.scorer is not None)
        self.findings: list[Finding] = []
        self.formats: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()  # valid rows by part
        self.invalid_left_out = 0  # records
        self.edited: dict[int, str] = {}
        self.left_out: set[int] = set()
        self.accepted: set[int] = set()

    def check_rows(self, progress: Progress) -> None:
        for item in self.reviewed:
            if item.is_left_out:
                self.left_out.add(item.index)
            if isinstance(item.record, DataError):
                self.findings.append(unreadable(item.index, item.record))
                self.invalid_left_out += item.index in self.left_out
            else:
                self._check_row(item, item.record)
            if not (item.index + 1) % _PROGRESS_ROWS:
                progress(_ROW_SHARE * (item.index + 1) / len(self.records))

    def _check_row(self, item: ReviewedRecord, row: Row) -> None:
        rules, index = self.rules, item.index
        self.formats[row.format] += 1
        self.kept[item.part] += 1
        row_input = CheckInput(index, row, rules.tokens[index] if rules.tokens else None, rules.max_tokens, rules.skip_too_long)
        split = "train" if item.part == GENERATED else item.part
        if split == "all" and rules.split_of:
            split = rules.split_of(row)
        self.findings += (one for one in _row_findings(row_input) if one.check in TESTED or item.part != "test")
        if rules.scorer and split != "test":
            self.findings += contract_findings(row_input, rules.scorer)
        if item.is_edited:
            self.edited[index] = row.hash
        if item.decision.status == "accepted":
            self.accepted.add(index)
        if index not in self.left_out:
            self.corpus.add(row_input, split, rules.turns, published=item.part == "test")

    def check_corpus(self, progress: Progress) -> None:
        of_corpus = (function(self.corpus) for function in CORPUS_CHECKS)
        for number, found in enumerate(chain(of_corpus, [self.rules.found])):
            self.findings += [one for one in found if not (one.rows and one.rows[0] in self.corpus.published)]
            progress(_ROW_SHARE + (1 - _ROW_SHARE) * number / len(CORPUS_CHECKS))
        self.findings.sort(key=report_order)

    def _is_shown(self, finding: Finding) -> bool:
        left_out = bool(finding.rows) and finding.rows[0] in self.left_out
        resolved = is_resolved(finding.check, finding.rows, self.reviewed.decisions)
        return finding.check not in self.state.muted and not left_out and not resolved

    def report(self, path: Path) -> CheckReport:
        tokens = self.rules.tokens or ()
        known = [(index, one.total) for index, one in enumerate(tokens) if one is not None and not one.error]
        lengths = tuple(total for index, total in known if index not in self.left_out)
        counts = Counter(finding.check for finding in self.findings)
        splits = {index: split for index, split in zip(self.corpus.indices, self.corpus.splits, strict=True) if split != "all"}
        locations: dict[int, tuple[Location, str]] = {}
        for index in sorted({index for finding in self.findings for index in finding.rows}):
            record = self.records.record(index)
            locations[index] = (self.records.location(index), "" if isinstance(record, DataError) else record.id)
        return CheckReport(
            path=path,
            files=tuple(FileCount(file.path, part, len(file), self.kept[part], file.notes) for part, file in self.records.files),
            formats=dict(self.formats.most_common()),
            found=tuple(self.findings),
            findings=tuple(filter(self._is_shown, self.findings)),
            muted=tuple(MutedCheck(id, counts[id], reason) for id, reason in self.state.muted.items()),
            edited=self.edited,
            left_out=tuple(sorted(self.left_out)),
            accepted=frozenset(self.accepted),
            locations=locations,
            statistics=statistics.statistics(self.corpus),
            lengths=lengths or tuple(self.corpus.lengths),
            max_tokens=self.rules.max_tokens if lengths else 0,
            skipped=dict(self.rules.skipped),
            tokens=np.array([-1 if one is None or one.error else one.total for one in tokens], np.int64),
            splits=tuple(splits.get(index, "") for index in range(len(self.records))),
        )


def recheck(
    index: int, row: Row, scorer: ContractScorer | None = None, tokens: TokenCount | None = None, max_tokens: int = 0
) -> tuple[Finding, ...]:
    """Run the single-row checks and the contract on an edited or generated row."""
    row_input = CheckInput(index, row, tokens, max_tokens)
    return (*_row_findings(row_input), *(contract_findings(row_input, scorer) if scorer else ()))


def _row_findings(row_input: CheckInput) -> Iterator[Finding]:
    hits = ((id, (part, hit)) for part in row_input.parts for id, hit in _text_hits(part.text, part.is_answer))
    for id, row_hits in grouped(hits).items():
        yield text_finding(CHECKS[id], row_input, row_hits)
    for check, function in ROW_CHECKS:
        if one := function(row_input):
            yield check.finding(row_input.index, spans=one.spans, reason=one.reason, values=one.values)


@lru_cache(256)  # many rows begin with the same system prompt
def _text_hits(text: str, is_answer: bool) -> list[tuple[str, Hit]]:
    checks = [(check.id, function) for check, function, answers_only in TEXT_CHECKS if is_answer or not answers_only]
    return [(id, hit) for id, function in checks for hit in function(text)]

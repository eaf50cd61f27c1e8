"""Browse a source's rows by number, with their decisions and findings. Only the rows that are displayed are read.

The review numbers copies of a row in file order, so a row's key depends on the rows before it. :meth:`SourceBrowser.scan` reads
all rows once; a row that it has not reached yet can be displayed but not decided on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mlxtune.core.errors import DataError
from mlxtune.core.files import Closeable
from mlxtune.core.sequences import grouped
from mlxtune.data.access.records import SourceRecords
from mlxtune.data.access.spans import IntArray
from mlxtune.data.checks.base import SEVERITIES, Finding
from mlxtune.data.checks.contract import ContractScorer
from mlxtune.data.checks.registry import depends_on_row_only, report_order
from mlxtune.data.checks.report import CheckResult, CheckVerdict, Skip, verdict
from mlxtune.data.checks.run import recheck
from mlxtune.data.filters import Filter
from mlxtune.data.readers.formats import NO_MAPPING
from mlxtune.data.review import (
    EXCLUDED,
    NO_DECISION,
    Decision,
    KeyedRow,
    ReviewState,
    ReviewStep,
    apply_decision,
    is_left_out,
    is_resolved,
    key_of_copy,
)
from mlxtune.data.rows import Row, RowError, last_prompt, row_tags, row_text
from mlxtune.data.split import SplitName

ORDERS = ("row", "findings", "longest", "shortest")
_WORK_SECONDS, _PAUSE_SECONDS = 0.002, 0.0005
_MAX_TAGS = 1000  # distinct tags
_OPENING_ROWS = 10_000  # first rows whose beginnings are counted
_MAX_OPENING = 400  # characters; a longer beginning is not noticed
_FEW_ROWS = 2  # rows that may begin alike by chance

Stop = Callable[[], bool]


class SourceBrowser(Closeable):
    """The rows of a source, by number, with their decisions and findings. Must be closed.

    ``scanned`` is the number of rows that :meth:`scan` has reached. ``scorer`` scores edited answers. Raises ``DataError`` if
    a source file as a whole cannot be read.
    """

    def __init__(self, path: Path, format: str = "auto", mapping: Mapping[str, str] = NO_MAPPING) -> None:
        self.path = path
        self.records = SourceRecords(path, format, mapping)
        self.scanned = 0
        self._bad_count = 0
        self.check_result: CheckResult | None = None
        self.scorer: ContractScorer | None = None
        self.state = ReviewState()
        self.revision = 0  # changes with the decisions, but only once all of them follow the new state
        self.annotator = ""  # whose decisions are shown; empty for the newest ones
        self._keys: list[str] = []  # of the scanned rows in the review
        self._index_of: dict[str, int] = {}  # by key
        self._copies: Counter[str] = Counter()  # of each content, by hash
        self._lengths = np.full(len(self.records), -1, np.int32)  # in characters; -1 if a record is not a row, or not scanned
        self._tags: Counter[str] = Counter()
        self._openings: Counter[str] = Counter()  # number of prompts by first line, and by first word if it ends with a colon
        self._decisions: dict[int, Decision] = {}
        self._verdict: tuple[object, ReviewVerdict] | None = None
        self._rechecked: dict[tuple[int, str], tuple[Finding, ...]] = {}

    def __len__(self) -> int:
        return len(self.records)

    # Rows

    def lazy_row(self, index: int) -> LazyRow:
        return LazyRow(self, index)

    def preview(self, row: Row) -> str:
        """Return the last turn of a row's prompt, without a first line that many rows share, such as ``Topic: delivery``."""
        text = last_prompt(row)
        (line, word), rests = _openings(text)
        if line and self._openings[line] > _FEW_ROWS:
            return f"…{rests[0]}"
        return f"…{rests[1]}" if word and self._openings[word] > max(_FEW_ROWS, min(self.scanned, _OPENING_ROWS) // 2) else text

    @property
    def rows(self) -> list[int]:
        """The record numbers of the scanned rows."""
        return sorted([*np.flatnonzero(self._lengths >= 0).tolist(), *self._repaired])

    @property
    def _repaired(self) -> list[int]:
        """The unreadable records that an edit made rows."""
        return [index for index, one in self.decisions.items() if one.record is not None and self._lengths[index] < 0]

    @property
    def bad_count(self) -> int:
        """The number of scanned records that are not rows."""
        return self._bad_count - len(self._repaired)

    def is_row(self, index: int) -> bool:
        """Return whether a record is known to be a row, or was edited to be one."""
        return bool(self._lengths[index] >= 0) or self.decision(index).record is not None

    def may_decide(self, index: int) -> bool:
        """Return whether a record is a row, or may be one because :meth:`scan` has not reached it."""
        return index >= self.scanned or self.is_row(index)

    def decision(self, index: int) -> Decision:
        """Return the decision about a row, or an empty one. Its status is the :attr:`annotator`'s, if there is one."""
        decision = self._decisions.get(index) or NO_DECISION
        return decision.seen_by(self.annotator) if self.annotator else decision

    def keyed_row(self, index: int) -> KeyedRow:
        """Return a record with its key. Raises ``DataError`` if it has not been scanned yet."""
        row = self.records.record(index)
        if isinstance(row, DataError) and not isinstance(row, RowError):
            raise row
        if index >= self.scanned:
            raise DataError(f"Row {index + 1:,} has not been read yet.", hint="Try again in a moment.")
        return self.key(index), row

    def scan(self, stop: Stop = lambda: False) -> Iterator[int]:
        """Read the remaining rows, yielding :attr:`scanned` every few milliseconds, until ``stop`` returns true.

        Raises ``DataError`` if a file has changed since it was opened.
        """
        throttle = Throttle()
        for index in range(self.scanned, len(self)):
            record = self.records.record(index)
            if isinstance(record, DataError) and not isinstance(record, RowError):
                raise record
            self._copies[record.hash] += 1
            key = key_of_copy(record.hash, self._copies[record.hash])
            self._keys.append(key)
            if isinstance(record, DataError):
                self._bad_count += 1
            else:
                self._lengths[index] = len(row_text(record))
                if len(self._tags) < _MAX_TAGS:
                    self._tags.update(row_tags(record))
                if index < _OPENING_ROWS:
                    self._openings.update(_openings(last_prompt(record))[0])
            self._index_of[key] = index
            self.scanned = index + 1
            if key in self.state.affected_keys:  # a newer state sees this row, because it counts as scanned
                self._update_decision(index)
            if throttle.pause():
                if stop():
                    return
                yield self.scanned
        yield self.scanned

    # Decisions

    def apply_review(self, state: ReviewState, step: ReviewStep | None = None) -> None:
        """Switch to ``state``. ``step`` is the only change, if known."""
        self.state = state
        if step is None:
            self._decisions, keys = {}, state.affected_keys
        else:
            keys = frozenset(key for change in step.changes for one in change if one for key in (one.row, one.after))
        for index in self.rows_with_keys(keys):
            self._update_decision(index)
        self.revision += 1

    @property
    def decisions(self) -> Mapping[int, Decision]:
        """A copy of all decisions by row, because other threads add decisions."""
        return dict(self._decisions)

    @property
    def excluded(self) -> set[int]:
        """The rows that the newest decisions exclude."""
        return {index for index, decision in self.decisions.items() if decision.status in EXCLUDED}

    @property
    def decided_count(self) -> int:
        return sum(not self.decision(index).is_undecided and self.is_row(index) for index in self.decisions)

    def count_orphans(self) -> int:
        return sum(not decision.is_empty for decision in self.state.orphans(map(self.key, self.decisions)))

    @property
    def tags(self) -> Counter[str]:
        return Counter(self._tags)

    def last_step(self, index: int) -> ReviewStep | None:
        decision = self._decisions.get(index)
        if decision is None:
            return None
        steps = reversed(self.state.steps)
        return next((step for step in steps if any(after.row == decision.row for _, after in step.changes)), None)

    def rows_with_keys(self, keys: Iterable[str]) -> list[int]:
        return sorted(self._index_of[key] for key in set(keys) if key in self._index_of)

    def rows_with_hash_prefix(self, digits: str) -> list[int]:
        return [index for index, key in enumerate(self._keys) if key.startswith(digits)]

    def _update_decision(self, index: int) -> None:
        decision = self.state.decision(self.key(index))
        if decision.is_empty:
            self._decisions.pop(index, None)
        else:
            self._decisions[index] = decision

    def key(self, index: int) -> str:
        return self._keys[index]

    # Findings

    def findings(self, index: int) -> tuple[Finding, ...]:
        """Return the findings about a row that are not muted. The single-row checks run again on content that they have not seen."""
        if self.check_result is None:
            return ()
        checked = self.check_result.by_row.get(index, ())
        findings = tuple(one for one in checked if not is_resolved(one.check, one.rows, self._decisions))
        if not self._is_checked(index):
            row = self.lazy_row(index).current_or_error
            key = (index, "" if isinstance(row, DataError) else row.hash)
            if key not in self._rechecked:
                scorer = None if self.is_held_out(index) else self.scorer
                self._rechecked[key] = () if isinstance(row, DataError) else recheck(index, row, scorer)
            findings = (*self._rechecked[key], *(one for one in findings if not depends_on_row_only(one.check)))
        muted = self.state.muted
        return tuple(one for one in findings if one.check not in muted) if muted else findings

    def _is_checked(self, index: int) -> bool:
        decision = self._decisions.get(index)
        edited = None if decision is None or decision.record is None else decision.after
        return self.check_result is not None and self.check_result.edited.get(index) == edited

    def is_left_out(self, index: int) -> bool:
        """Return whether a record is unreadable, rejected, or a proposal that was not accepted."""
        record = self.lazy_row(index).current_or_error
        return isinstance(record, DataError) or is_left_out(record, self.decision(index))

    @property
    def verdict(self) -> ReviewVerdict | None:
        """The verdict of the checks after the review, or ``None`` if they have not run."""
        if self.check_result is None:
            return None
        version = (id(self.check_result), self.revision, len(self._decisions))
        if self._verdict is None or self._verdict[0] != version:
            self._verdict = (version, self._compute_verdict(self.check_result))
        return self._verdict[1]

    def _compute_verdict(self, result: CheckResult) -> ReviewVerdict:
        decisions = self.decisions
        left_out = {index for index, decision in decisions.items() if decision.status in EXCLUDED}
        edited = {index for index, decision in decisions.items() if decision.record is not None} - left_out
        muted = self.state.muted
        changed = decisions.keys() | result.edited.keys()
        unchanged = (one for one in result.found if one.check not in muted and not (one.rows and one.rows[0] in changed))
        findings = [one for one in unchanged if not is_resolved(one.check, one.rows, decisions)]
        findings += [one for index in sorted(changed - left_out) for one in self.findings(index)]
        findings.sort(key=report_order)
        rows = grouped((one.check, one.rows[0]) for one in findings if one.rows and one.severity != "note")
        accepted = {index for index, decision in decisions.items() if decision.status == "accepted"}
        counts = verdict(findings, len(self) - len(left_out), accepted)
        checked_without = set(result.left_out)
        stale = (
            not left_out <= checked_without
            or not all(map(self.is_left_out, checked_without - left_out))
            or not all(map(self._is_checked, changed - left_out))
        )
        return ReviewVerdict(counts, tuple(findings), rows, len(left_out), len(edited), stale)

    def rows_with_finding(self, check: str) -> list[int]:
        """Return the rows with a finding of ``check`` when the checks ran."""
        by_row = self.check_result.by_row if self.check_result else {}
        return [index for index, findings in by_row.items() if any(one.check == check for one in findings)]

    def split(self, index: int) -> SplitName | None:
        return self.check_result.split_of(index) if self.check_result else None

    def is_held_out(self, index: int) -> bool:
        return self.split(index) == "test"

    def tokens(self, index: int) -> int:
        """Return a row's length in tokens, or -1 if it is unknown or the row was edited."""
        if self.check_result is None or index >= len(self.check_result.tokens):
            return -1
        return int(self.check_result.tokens[index]) if self._is_checked(index) else -1

    def length(self, index: int) -> int:
        """Return a row's length in the source, in characters, or 0 if it is unknown."""
        return max(0, int(self._lengths[index]))

    @property
    def lengths(self) -> IntArray:
        """The known lengths of the rows that no decision excludes, ``(rows,)``: in tokens if counted, else in characters."""
        lengths = (counted.tokens if (counted := self._counted) else self._lengths).astype(np.int64)
        lengths[[index for index in self.excluded | self._unmeasured if index < len(lengths)]] = -1
        return lengths[lengths >= 0]

    @property
    def unmeasured_count(self) -> int:
        """The number of edited rows, not excluded, whose lengths are not known before they are checked again."""
        return len(self._unmeasured - self.excluded)

    @property
    def _unmeasured(self) -> set[int]:
        if counted := self._counted:
            return {index for index in self.decisions.keys() | counted.edited.keys() if not self._is_checked(index)}
        return {index for index, decision in self.decisions.items() if decision.record is not None}

    @property
    def uncounted(self) -> Skip | None:
        """Why the lengths in tokens are unknown, or ``None`` if the checks counted them."""
        if self._counted:
            return None
        return (self.check_result.skipped.get("tokens") if self.check_result else None) or Skip("not_yet")

    @property
    def _counted(self) -> CheckResult | None:
        return self.check_result if self.check_result is not None and len(self.check_result.tokens) else None

    # Selections

    def is_match(self, index: int, matches: Filter) -> bool:
        """Return whether a record matches. One that is not a row only matches filters that do not read it."""
        try:
            return matches(self.lazy_row(index))
        except DataError:
            return False

    def matching(self, matches: Filter, stop: Stop = lambda: False) -> Iterator[tuple[int, list[int]]]:
        """Yield ``(rows tested, new matches)`` every few milliseconds. It waits for :meth:`scan` if necessary."""
        throttle, index = Throttle(), 0
        batch: list[int] = []
        while index < len(self) and not stop():
            if index >= self.scanned:
                yield index, batch
                batch = []
                time.sleep(0.02)
                continue
            if self.is_match(index, matches):
                batch.append(index)
            index += 1
            if throttle.pause():
                yield index, batch
                batch = []
        yield index, batch

    def sorted(self, rows: Sequence[int], order: str) -> Sequence[int]:
        """Return ``rows`` in one of :data:`ORDERS`. The sort is stable."""
        if order == "row" or not len(rows):
            return rows
        numbers = np.asarray(rows, np.int64)
        keys: IntArray = np.zeros(len(self), np.int64)
        if order == "findings":
            keys += len(SEVERITIES)
            for index, findings in self.check_result.by_row.items() if self.check_result else ():
                keys[index] = SEVERITIES.index(findings[0].severity)
        else:
            lengths = self.check_result.tokens if self.check_result else self._lengths
            keys += lengths if len(lengths) == len(self) else self._lengths
            keys *= -1 if order == "longest" else 1
        result: list[int] = numbers[np.argsort(keys[numbers], kind="stable")].tolist()
        return result

    def close(self) -> None:
        self.records.close()


@dataclass(frozen=True)
class ReviewVerdict:
    counts: CheckVerdict
    findings: tuple[Finding, ...]
    rows: Mapping[str, Sequence[int]]  # the rows with a finding of each check, most severe first
    left_out: int
    edited: int
    stale: bool  # whether rows were edited, left out, or restored since the checks ran, which changes the counts and the splits

    @property
    def flagged(self) -> int:
        return len({index for rows in self.rows.values() for index in rows})


def _openings(text: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return a text's first line, if it has several, and its first word, if that ends with a colon; then the text after each of them."""
    head, _, after_line = text[:_MAX_OPENING].partition("\n")
    word, _, after_word = head.partition(" ")
    line = head + "\n" if after_line.strip() else ""
    word = word if word.endswith(":") and after_word.strip() else ""
    return (line, word), (text[len(line) :].lstrip(), text[len(word) :].lstrip())


class LazyRow:
    """A row that is read when it is first needed. Its properties raise ``DataError`` if it is not a row."""

    def __init__(self, browser: SourceBrowser, index: int) -> None:
        self._browser, self.index = browser, index

    @cached_property
    def row(self) -> Row:
        record = self._browser.records.record(self.index)
        return apply_decision(record, self.decision) if isinstance(record, DataError) else record

    @cached_property
    def current(self) -> Row:
        """The row after its review."""
        return apply_decision(self.row, self.decision)

    @property
    def current_or_error(self) -> Row | DataError:
        try:
            return self.current
        except DataError as error:
            return error

    @property
    def current_or_none(self) -> Row | None:
        row = self.current_or_error
        return None if isinstance(row, DataError) else row

    @property
    def decision(self) -> Decision:
        return self._browser.decision(self.index)

    @property
    def findings(self) -> Collection[str]:
        return {finding.check for finding in self._browser.findings(self.index)}

    @property
    def split(self) -> SplitName | None:
        return self._browser.split(self.index)

    @property
    def tokens(self) -> int:
        return self._browser.tokens(self.index)


class Throttle:
    """Makes a background thread pause every few milliseconds, so that the UI thread never waits long."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + _WORK_SECONDS

    def pause(self) -> bool:
        if time.perf_counter() < self._until:
            return False
        time.sleep(_PAUSE_SECONDS)
        self._until = time.perf_counter() + _WORK_SECONDS
        return True

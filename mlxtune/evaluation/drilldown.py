"""Find the rows behind any number in a report: prompts, answers, scores, and the failing parts of answers.

rows = Drilldown(folder)
rows.rows_for("schema", "tuned", passed=False)                the rows behind a rate
rows.rows_for("schema", "tuned", kind="/priority enum")       the rows with one class of failure
rows.cell("contract", "base", "tuned", "broken")              the rows in a cell of a 2×2 table
rows.highlight(row, "schema", "tuned")                        the characters of the answer to highlight
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, suggest
from mlxtune.evaluation.answers import Answer
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import EvaluatedRow, FailureLinks, NearestRow, load_evidence, load_links
from mlxtune.evaluation.highlight import Span, failure_span
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.evaluation.scorers import CONTRACT, PREFERENCE, Score

CellName = Literal["both", "broken", "fixed", "neither"]
_CELLS: dict[CellName, tuple[bool, bool]] = {
    "both": (True, True), "broken": (True, False), "fixed": (False, True), "neither": (False, False),
}  # fmt: skip


@dataclass(frozen=True)
class ScoredRow:
    """A held-out row with every arm's answer and its score on one metric."""

    row: EvaluatedRow
    answers: dict[str, Answer]
    scores: dict[str, Score]  # without the arms to whose answer the metric does not apply
    links: FailureLinks | None  # of a row that fails in the report's subject


@dataclass(frozen=True)
class FailedRow:
    """A row that fails in an arm."""

    row: EvaluatedRow
    answer: Answer
    before: Answer | None  # of the arm that it is compared with
    broken: bool  # whether that answer passed
    kind: str
    detail: str
    span: Span | None  # the part of the answer to highlight
    nearest: tuple[NearestRow, ...]


class Drilldown:
    """The rows of a finished evaluation with their stored scores. What is wrong with an answer is found by scoring it again."""

    def __init__(self, folder: Path) -> None:
        """Load the stored answers in ``folder``. Raises ``InputError`` if they are missing or the arms answered different rows."""
        self._evidence = load_evidence(folder)
        self._links = load_links(folder)
        ids = [row.id for row in self._evidence.rows]
        for arm, answers in self._evidence.answers.items():
            if [answer.id for answer in answers] != ids:
                raise InputError(f"{folder}: the answers of {one_line(arm, 40)} do not match the rows of this evaluation.")

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of the arms, starting with the base."""
        return tuple(self._evidence.answers)

    @cached_property
    def contract(self) -> Contract:
        return Contract.from_recipe(self._evidence.recipe)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Every metric of this evaluation, in report order."""
        pairs = (PREFERENCE,) if self._evidence.has_pairs else ()
        whole = (CONTRACT,) if self.contract.has_form else ()
        return (*(metric.name for metric in self.contract.metrics), *whole, *pairs)

    def rows(self, metric: str) -> Iterator[ScoredRow]:
        """Yield every row with its scores on ``metric``. Raises ``InputError`` for an unknown metric."""
        if metric not in self.metrics:
            raise InputError(f"This evaluation has no metric named {one_line(metric, 40)}.", hint=suggest(metric, self.metrics))
        for index, row in enumerate(self._evidence.rows):
            answers = {arm: stored[index] for arm, stored in self._evidence.answers.items()}
            scores = {arm: score for arm in answers if (score := self._score(metric, row, answers[arm])) is not None}
            yield ScoredRow(row, answers, scores, self._links.get(row.id))

    def rows_for(self, metric: str, arm: str, *, passed: bool | None = None, kind: str = "") -> list[ScoredRow]:
        """Return the rows behind an arm's rate: all rows, those that passed or failed, or those with one class of failure."""
        self._require_arms(arm)
        return [
            row
            for row in self.rows(metric)
            if (score := row.scores.get(arm)) is not None
            and (passed is None or score.passed == passed)
            and (not kind or (not score.passed and kind in score.kinds))
        ]

    def cell(self, metric: str, first: str, second: str, cell: CellName) -> list[ScoredRow]:
        """Return the rows in one cell of two arms' 2×2 table."""
        self._require_arms(first, second)
        return [
            row
            for row in self.rows(metric)
            if first in row.scores
            and second in row.scores
            and (row.scores[first].passed, row.scores[second].passed) == _CELLS[cell]
        ]

    def highlight(self, row: ScoredRow, metric: str, arm: str) -> Span | None:
        """Return the span of the arm's answer that fails ``metric``, or ``None`` if it cannot be located."""
        score, answer = row.scores.get(arm), row.answers[arm]
        if metric == PREFERENCE or (score is not None and score.passed):
            return None
        return failure_span(metric, row.row.answer(answer.output, answer.ended), self.contract)

    def _score(self, metric: str, row: EvaluatedRow, answer: Answer) -> Score | None:
        stored = answer.scores.get(metric)
        if stored is None or stored.passed:
            return stored
        if metric == PREFERENCE:
            again = answer.logprobs.score if answer.logprobs else None
        else:
            again = self.contract.score_metric(metric, row.answer(answer.output, answer.ended))
        return replace(stored, detail=again.detail if again else "")

    def _require_arms(self, *arms: str) -> None:
        for arm in arms:
            if arm not in self._evidence.answers:
                raise InputError(f"Unknown arm {one_line(arm, 40)}.", hint=suggest(arm, self.arms))


def failed_rows(folder: Path, report: EvaluationReport) -> list[FailedRow]:
    """Return every row that fails the headline metric in the report's subject, with newly broken rows first.

    Raises ``InputError`` if the stored answers are missing or do not match.
    """
    metric, subject = report.headline_metric, report.subject.name
    first = report.headline.first if report.headline else ""
    drilldown = Drilldown(folder)
    failures = []
    for row in drilldown.rows_for(metric, subject, passed=False):
        score, before = row.scores[subject], row.scores.get(first)
        failures.append(
            FailedRow(
                row.row,
                row.answers[subject],
                row.answers.get(first),
                before is not None and before.passed,
                score.kind,
                score.detail,
                drilldown.highlight(row, metric, subject),
                row.links.nearest if row.links else (),
            )
        )
    return sorted(failures, key=lambda failure: not failure.broken)

"""Find the rows behind any number in a report, and group the failed ones by what is wrong with them and what would help."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mlxtune.core.errors import InputError
from mlxtune.core.sequences import grouped
from mlxtune.core.text import one_line, suggest
from mlxtune.data.rows import messages_text
from mlxtune.evaluation.answers import Answer
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import EvaluatedRow, NearestRow, load_evidence, load_nearest
from mlxtune.evaluation.highlight import Span, failure_span
from mlxtune.evaluation.report import EvaluationReport, ReportFacts
from mlxtune.evaluation.scorers import PREFERENCE, Score
from mlxtune.evaluation.scorers.json_parser import find_json, resolve_pointer
from mlxtune.evaluation.scorers.output_text import strip_thinking

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
    nearest: tuple[NearestRow, ...] = ()  # in the training rows, most similar first, if the row fails in the report's subject

    def has_passed(self, arm: str) -> bool:
        return arm in self.scores and self.scores[arm].passed


class Drilldown:
    """The rows of a finished evaluation with their stored scores. What is wrong with an answer is found by scoring it again."""

    def __init__(self, folder: Path) -> None:
        """Load the stored answers in ``folder``. Raises ``InputError`` if they are missing or the arms answered different rows."""
        self._evidence = load_evidence(folder)
        self._nearest = load_nearest(folder)
        if mismatched := self._evidence.mismatched:
            raise InputError(f"{folder}: the answers of {one_line(mismatched[0], 40)} do not match the rows of this evaluation.")

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of the arms, starting with the base."""
        return tuple(self._evidence.answers)

    @cached_property
    def contract(self) -> Contract:
        return Contract.from_recipe(self._evidence.recipe)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        return self.contract.names(has_pairs=self._evidence.has_pairs)

    def rows(self, metric: str) -> Iterator[ScoredRow]:
        """Yield every row with its scores on ``metric``. Raises ``InputError`` for an unknown metric."""
        if metric not in self.metrics:
            raise InputError(f"This evaluation has no metric named {one_line(metric, 40)}.", hint=suggest(metric, self.metrics))
        for index, row in enumerate(self._evidence.rows):
            answers = {arm: stored[index] for arm, stored in self._evidence.answers.items()}
            scores = {arm: score for arm in answers if (score := self._score(metric, row, answers[arm])) is not None}
            yield ScoredRow(row, answers, scores, self._nearest.get(row.id, ()))

    def rows_for(self, metric: str, arm: str, *, passed: bool | None = None) -> list[ScoredRow]:
        """Return the rows behind an arm's rate: all rows, or those that passed or failed."""
        self._require_arms(arm)
        scored = (row for row in self.rows(metric) if arm in row.scores)
        return [row for row in scored if passed is None or row.has_passed(arm) == passed]

    def cell(self, metric: str, first: str, second: str, cell: CellName) -> list[ScoredRow]:
        """Return the rows in one cell of two arms' 2×2 table."""
        self._require_arms(first, second)
        both = (row for row in self.rows(metric) if first in row.scores and second in row.scores)
        return [row for row in both if (row.has_passed(first), row.has_passed(second)) == _CELLS[cell]]

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
            again = answer.preference
        else:
            again = self.contract.score_metric(metric, row.answer(answer.output, answer.ended))
        return replace(stored, detail=again.detail if again else "")

    def _require_arms(self, *arms: str) -> None:
        for arm in arms:
            if arm not in self._evidence.answers:
                raise InputError(f"Unknown arm {one_line(arm, 40)}.", hint=suggest(arm, self.arms))


def failed_rows(folder: Path, report: EvaluationReport) -> list[tuple[ScoredRow, Span | None]]:
    """Return every row that fails the headline metric in the report's subject, with the part to highlight; newly broken rows first.

    Raises ``InputError`` if the stored answers are missing or do not match.
    """
    metric, subject, drilldown = report.headline_metric, report.subject.name, Drilldown(folder)
    rows = drilldown.rows_for(metric, subject, passed=False)
    if item := report.headline:
        rows.sort(key=lambda row: not row.has_passed(item.first))
    return [(row, drilldown.highlight(row, metric, subject)) for row in rows]


FailureType = Literal["label", "field", "function", "answer", "cut", "format"]
Remedy = Literal["more_rows", "contradiction", "more_updates", "larger_base", "longer_answers", "grammar"]
_LONGEST_LABEL = 40  # characters
_CUT, _CALLS = ("cut_off", "in_a_loop"), ("no_call", "number_of_calls", "/name")


@dataclass(frozen=True)
class FailureClass:
    """Rows that fail alike, in the class ``kind``: with ``given`` instead of ``expected`` if they confuse two labels.

    ``remedy`` is what would help, for ``evidence`` of the rows.
    """

    type: FailureType
    kind: str
    rows: tuple[ScoredRow, ...]
    remedy: Remedy
    evidence: int
    expected: str = ""
    given: str = ""

    @property
    def nearest(self) -> list[NearestRow]:
        """The training rows that are nearest to the rows, those of most rows first."""
        found = [one for row in self.rows for one in row.nearest]
        by_id = {one.id: one for one in found}
        return [by_id[id] for id, _ in Counter(one.id for one in found).most_common()]


def load_failure_classes(folder: Path, report: EvaluationReport) -> list[FailureClass]:
    """Return the classes of the rows that the subject of the report in ``folder`` fails; none if only the base was evaluated.

    Raises ``InputError`` if the stored answers are missing.
    """
    if not report.headline or report.answer_metric == PREFERENCE:
        return []
    subject = report.subject.name
    rows = Drilldown(folder).rows_for(report.answer_metric, subject, passed=False)
    return failure_classes(rows, subject, has_few_updates=has_few_updates(report.facts))


def has_few_updates(facts: ReportFacts) -> bool:
    """Return whether the adapter was trained for fewer steps than the rule recommends for so many rows."""
    return facts.get("adapter_step", 0) < facts.get("least_updates", 0)


def failure_classes(rows: Sequence[ScoredRow], arm: str, *, has_few_updates: bool = False) -> list[FailureClass]:
    """Return the classes of the failed ``rows`` of ``arm``, largest first."""
    by_kind = grouped((row.scores[arm].kind, row) for row in rows)
    found = [one for kind, same in by_kind.items() for one in _classes(kind, same, arm, has_few_updates)]
    return sorted(found, key=lambda one: -len(one.rows))


def _classes(kind: str, rows: Sequence[ScoredRow], arm: str, has_few_updates: bool) -> list[FailureClass]:
    """Return the rows of each pair of labels that are confused more than once, and the others."""
    confused = [_confused(row, arm) for row in rows]
    pairs = Counter(confused)
    by_pair = grouped((pair if pairs[pair] > 1 else ("", ""), row) for pair, row in zip(confused, rows, strict=True))
    types = {pair: _type(kind, is_label=bool(pair[0])) for pair in by_pair}
    return [
        FailureClass(type, kind, tuple(by_pair[pair]), *_remedy(type, kind, by_pair[pair], arm, has_few_updates), *pair)
        for pair, type in types.items()
    ]


def _type(kind: str, *, is_label: bool) -> FailureType:
    if kind in _CUT:
        return "cut"
    if kind in _CALLS:
        return "function"
    if kind.startswith("/") and " " not in kind:
        return "label" if is_label else "field"
    return "label" if is_label else "answer" if kind == "other" else "format"


def _remedy(type: FailureType, kind: str, rows: Sequence[ScoredRow], arm: str, has_few_updates: bool) -> tuple[Remedy, int]:
    """Return what would help most, and for how many of the rows the evidence says so."""
    if type == "cut":
        return "longer_answers", sum(row.scores[arm].kind == "cut_off" for row in rows)
    contradicted = sum(_contradicts(row, kind, arm) for row in rows)
    if 2 * contradicted >= len(rows):
        return "contradiction", contradicted
    shown = sum(_is_shown(row, kind) for row in rows)
    if 2 * shown < len(rows) and type != "format":
        return "more_rows", len(rows) - shown
    if has_few_updates:
        return "more_updates", shown
    return ("grammar", len(rows)) if type == "format" else ("larger_base", shown)


def _is_shown(row: ScoredRow, kind: str) -> bool:
    """Return whether a nearest training row has the expected value where ``row`` is wrong."""
    expected = value_at(row.row.reference or "", kind)
    return any(value_at(one.answer, kind) == expected for one in row.nearest)


def _contradicts(row: ScoredRow, kind: str, arm: str) -> bool:
    """Return whether a near-duplicate training row has the arm's answer where the reference differs from it."""
    from mlxtune.data.duplicates import THRESHOLD, jaccard  # imports numpy, which the command line's help does not need

    given, expected = value_at(row.answers[arm].output, kind), value_at(row.row.reference or "", kind)
    return given != expected and any(
        value_at(one.answer, kind) == given and jaccard(one.question, messages_text(row.row.prompt)) >= THRESHOLD
        for one in row.nearest
    )


def _confused(row: ScoredRow, arm: str) -> tuple[str, str]:
    """Return the label that was expected and the one given where ``row`` is wrong; two empty strings if they are no labels."""
    kind = row.scores[arm].kind
    if row.row.reference is None or (not kind.startswith("/") and kind != "other"):
        return "", ""
    expected, given = (value_at(text, kind) for text in (row.row.reference, row.answers[arm].output))
    is_label = all(isinstance(one, str) and 0 < len(one) <= _LONGEST_LABEL and "\n" not in one for one in (expected, given))
    return (str(expected), str(given)) if is_label else ("", "")


def value_at(text: str, kind: str) -> Any:
    """Return the value in the JSON of ``text`` at the JSON Pointer ``kind``, or the whole text if ``kind`` is none.

    Of a list of calls, it is that of the first one. ``None`` if there is no such value.
    """
    if not kind.startswith("/"):
        return strip_thinking(text).strip()
    match = find_json(strip_thinking(text))
    value: Any = match[0] if match else None
    if isinstance(value, list) and value and not kind[1:2].isdigit():
        value = value[0]
    return resolve_pointer(value, kind.partition(" ")[0])

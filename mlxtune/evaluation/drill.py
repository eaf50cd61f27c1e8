"""From any number of a report to the rows behind it: what was asked, what each arm said, how it scores, and where it fails.

    rows = Drill(folder)
    rows.behind("schema", "tuned", holds=False)                   the rows of a rate
    rows.behind("schema", "tuned", kind="/priority enum")         of a class of failures
    rows.square("contract", "base", "tuned", "broken")            of a cell of a 2×2
    rows.span(row, "schema", "tuned")                             the characters of the answer to mark

No mlx here: faces read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from mlxtune.core.errors import InputError
from mlxtune.core.text import nearest, one_line
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import Asked, Linked, Said, linked, load_evidence
from mlxtune.evaluation.preference import METRIC as PREFERENCE
from mlxtune.evaluation.scorers import HOLDS, Score
from mlxtune.evaluation.where import Span, span

Cell = Literal["both", "broken", "fixed", "neither"]
_CELLS: dict[Cell, tuple[bool, bool]] = {
    "both": (True, True), "broken": (True, False), "fixed": (False, True), "neither": (False, False),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One held-out row: every arm's answer, its score on the metric that was asked for, and the train rows most like it.

    ``scores`` lacks an arm whose answer the metric does not ask about; ``linked`` is there for rows that the last arm fails.
    """

    asked: Asked
    said: dict[str, Said]
    scores: dict[str, Score]
    linked: Linked | None


class Drill:
    """The rows of one finished evaluation. Scores that the contract does not keep are computed when they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises ``InputError`` when the evidence in ``folder`` is missing, or the arms did not answer the same rows."""
        self._evidence = load_evidence(folder)
        self._linked = linked(folder)
        ids = [row.id for row in self._evidence.asked]
        for arm, answers in self._evidence.said.items():
            if [answer.id for answer in answers] != ids:
                raise InputError(f"{folder}: the answers of {one_line(arm, 40)} are not to the rows of this evaluation.")

    @property
    def arms(self) -> tuple[str, ...]:
        """Who answered, the base first."""
        return tuple(self._evidence.said)

    @cached_property
    def contract(self) -> Contract:
        return Contract.of(self._evidence.recipe)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """All that :meth:`behind` can be asked about, in the order of reports."""
        pairs = (PREFERENCE,) if self._evidence.preferred else ()
        return (*(metric.name for metric in self.contract.metrics), "contract", *pairs)

    def rows(self, metric: str) -> Iterator[Row]:
        """Every row, in the order it was asked. Raises ``InputError`` for a metric that the evaluation does not have."""
        if metric not in self.metrics:
            raise InputError(
                f"There is no metric {one_line(metric, 40)}.", mend=f"Is it {nearest(metric, self.metrics) or 'contract'}?"
            )
        for at, asked in enumerate(self._evidence.asked):
            said = {arm: answers[at] for arm, answers in self._evidence.said.items()}
            scores = {arm: score for arm in said if (score := self._score(metric, arm, asked, said[arm])) is not None}
            yield Row(asked, said, scores, self._linked.get(asked.id))

    def behind(self, metric: str, arm: str, *, holds: bool | None = None, kind: str = "") -> list[Row]:
        """The rows behind a rate of ``arm``: all, those that hold or fail, or those that fail in the way called ``kind``."""
        self._known(arm)
        return [
            row
            for row in self.rows(metric)
            if (score := row.scores.get(arm)) is not None
            and (holds is None or score.holds == holds)
            and (not kind or (not score.holds and score.kind == kind))
        ]

    def square(self, metric: str, first: str, second: str, cell: Cell) -> list[Row]:
        """The rows in one cell of the 2×2 of two arms."""
        self._known(first, second)
        return [
            row
            for row in self.rows(metric)
            if first in row.scores and second in row.scores and (row.scores[first].holds, row.scores[second].holds) == _CELLS[cell]
        ]

    def span(self, row: Row, metric: str, arm: str) -> Span | None:
        """The characters of the arm's answer that fail ``metric``, as start and end; ``None`` where nothing is there to mark."""
        said = row.said[arm]
        score = row.scores.get(arm)
        if metric == PREFERENCE or (score is not None and score.holds):
            return None
        return span(metric, row.asked.answer(said.output, said.ended), self.contract)

    def _score(self, metric: str, arm: str, asked: Asked, said: Said) -> Score | None:
        if metric == PREFERENCE:
            pair = self._evidence.preferred.get(arm, {}).get(asked.id)
            return pair.score if pair else None
        if metric in said.failed:
            kind, why = said.failed[metric]
            return Score(False, kind, why)
        if metric in self.contract.asked:
            return HOLDS
        found = next(one for one in self.contract.metrics if one.name == metric)
        if found.of_reference and asked.reference is None:
            return None
        return found.scorer(asked.answer(said.output, said.ended))

    def _known(self, *arms: str) -> None:
        for arm in arms:
            if arm not in self._evidence.said:
                raise InputError(f"There is no arm {one_line(arm, 40)}.", mend=f"It has: {one_line(', '.join(self.arms), 200)}.")

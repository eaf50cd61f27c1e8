"""The rows that failed, with what was asked, what was answered, why it fails, and the train rows most like them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlxtune.evaluation.drill import Drill
from mlxtune.evaluation.evidence import Asked, Near, Said
from mlxtune.evaluation.report import Report
from mlxtune.evaluation.verdict import HEADLINE
from mlxtune.evaluation.where import Span


@dataclass(frozen=True)
class Failure:
    """A row that an arm fails. ``before`` is the answer of the arm that it is held against, if there is one; ``broken``: it held there.

    ``span`` is the part of the answer to mark, as start and end, if there is one; ``near`` are train rows.
    """

    row: Asked
    answer: Said
    before: Said | None
    broken: bool
    kind: str
    why: str
    span: Span | None
    near: tuple[Near, ...]


def failures(folder: Path, report: Report) -> list[Failure]:
    """Every row of the evaluation in ``folder`` on which its last arm fails the metric that the verdict is about, broken ones first.

    It is held against the arm that the verdict is over.

    Raises ``InputError`` when its evidence is missing or the arms' answers are not to these rows.
    """
    metric = str(report.facts.get("headline", HEADLINE))
    rows = Drill(folder)
    last = report.arms[-1].arm
    first = report.headline.first if report.headline else ""
    found = []
    for row in rows.behind(metric, last, holds=False):
        score, before = row.scores[last], row.scores.get(first)
        found.append(
            Failure(
                row.asked, row.said[last], row.said.get(first), before is not None and before.holds, score.kind, score.why,
                rows.span(row, metric, last), row.linked.near if row.linked else (),
            )
        )  # fmt: skip
    return sorted(found, key=lambda failure: not failure.broken)

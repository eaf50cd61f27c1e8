"""The rows that failed, with what was asked, what was answered, why it fails, and the train rows most like them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.journal import read
from mlxtune.evaluation.evidence import NEAREST, Asked, Evidence, Said, load_evidence
from mlxtune.evaluation.preference import METRIC as PREFERENCE
from mlxtune.evaluation.report import Report
from mlxtune.evaluation.verdict import HEADLINE


@dataclass(frozen=True)
class Failure:
    """A row that an arm fails. ``before`` is the answer of the arm that it is held against, if there is one; ``broken``: it held there.

    ``near`` are records of ``nearest.jsonl``: train rows with ``file``, ``line``, ``asks``, ``alike`` and ``reviewed``.
    """

    row: Asked
    answer: Said
    before: Said | None
    broken: bool
    kind: str
    why: str
    near: tuple[dict[str, Any], ...]


def failures(folder: Path, report: Report) -> list[Failure]:
    """Every row of the evaluation in ``folder`` on which its last arm fails the metric that the verdict is about, broken ones first.

    It is held against the arm that the verdict is over.

    Raises ``InputError`` when its evidence is missing or the arms' answers are not to these rows.
    """
    metric = str(report.facts.get("headline", HEADLINE))
    evidence = load_evidence(folder)
    near = {record["id"]: tuple(record["near"]) for record in read(folder / NEAREST)}
    last = report.arms[-1].arm
    first = report.headline.first if report.headline else last
    found = []
    try:
        for row, before, answer in zip(evidence.asked, evidence.said[first], evidence.said[last], strict=True):
            failed = _failed(evidence, metric, last, answer)
            if failed is None:
                continue
            broken = last != first and _failed(evidence, metric, first, before) is None
            kind, why = failed
            found.append(Failure(row, answer, before if last != first else None, broken, kind, why, near.get(row.id, ())))
    except (KeyError, ValueError) as error:
        raise InputError(f"{folder}: the answers of {first} and {last} are not to the same rows.") from error
    return sorted(found, key=lambda failure: not failure.broken)


def _failed(evidence: Evidence, metric: str, arm: str, answer: Said) -> tuple[str, str] | None:
    """The class and the reason of a failure, if it is one. What is preferred is no matter of the answer."""
    if metric in answer.failed:
        kind, why = answer.failed[metric]
        return kind, why
    found = evidence.preferred.get(arm, {}).get(answer.id)
    if metric != PREFERENCE or found is None or found.score.holds:
        return None
    return found.score.kind, found.score.why

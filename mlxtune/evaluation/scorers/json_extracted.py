"""Extractable JSON: a program that searches the output for JSON would find some."""

from __future__ import annotations

from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer
from mlxtune.evaluation.scorers.json_search import find_json


def score_extracted(answer: ModelAnswer) -> Score:
    """Score whether the first balanced value in the output is JSON, whatever surrounds it. No repair could achieve more."""
    return PASS if find_json(answer.output) else Score(False, "no_json_in_it", "no balanced object or array is JSON")


SCORER = Scorer(
    "extracted",
    "contains JSON",
    lambda contract: score_extracted if contract.wants_json else None,
    required=False,
    is_form=True,
)

"""Choose the strongest untrained arm on the validation rows, so that only this one has to answer the held-out rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlxtune.evaluation.answers import Answer, score_answers
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import CANDIDATES, VALIDATION, EvaluatedRow, load_outputs, load_rows
from mlxtune.evaluation.report import StrongestFacts
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.recipe import Recipe


def strongest(
    contract: Contract, recipe: Recipe, rows: Sequence[EvaluatedRow], answers: Mapping[str, Sequence[Answer]]
) -> StrongestFacts:
    """Return which arm's ``answers`` to the validation ``rows`` pass most often: the verdict's metric, then the contract.

    Of equal arms, it is the first.
    """
    metrics = (contract.headline(recipe, has_preferences=False), CONTRACT)
    hits = {}
    for name, own in answers.items():
        scored = [answer.scores for answer in score_answers(contract, rows, own)]
        hits[name] = tuple(sum(metric in scores and scores[metric].passed for scores in scored) for metric in metrics)
    return {"arm": max(hits, key=lambda name: hits[name]), "hits": {name: own[0] for name, own in hits.items()}, "rows": len(rows)}


def stored_strongest(folder: Path, contract: Contract, recipe: Recipe) -> StrongestFacts | None:
    """Choose again from the stored answers; ``None`` if there are none. Raises ``InputError`` if they do not match the rows."""
    if not (folder / CANDIDATES).is_file():
        return None
    rows = load_rows(folder, VALIDATION)
    return strongest(contract, recipe, rows, load_outputs(folder, rows, CANDIDATES))

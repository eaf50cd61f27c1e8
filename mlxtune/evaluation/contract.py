"""The contract of a recipe: which metrics it has, and how an output scores on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxtune.evaluation.scorers import Score
from mlxtune.evaluation.scorers.disclaimer import right_disclaimer
from mlxtune.evaluation.scorers.forbidden import not_forbidden
from mlxtune.evaluation.scorers.json_valid import json_valid
from mlxtune.evaluation.scorers.schema_valid import Schema
from mlxtune.recipe import Disclaimer, Recipe

LABELS = {
    "json": "valid JSON",
    "schema": "fits the schema",
    "disclaimer": "right disclaimer",
    "forbidden": "no forbidden phrase",
    "contract": "whole contract",
}


@dataclass(frozen=True)
class Contract:
    """What an output must satisfy. ``json`` is asked for whenever there is a schema."""

    schema: Schema | None = None
    disclaimers: Sequence[Disclaimer] = ()
    forbid: Sequence[str] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> Contract:
        """The recipe's contract. Raises ``InputError`` when its schema cannot be used."""
        section = recipe.evaluation
        return cls(Schema.read(recipe.schema) if recipe.schema else None, section.disclaimers, section.forbid)

    def score(self, output: str, ended: str = "stop", reference: str | None = None) -> dict[str, Score]:
        """Every metric's score; ``contract`` holds when all others do, and repeats the first failure otherwise."""
        scores = {"json": json_valid(output, ended)}
        if self.schema:
            scores["schema"] = self.schema.score(output)
        if self.disclaimers:
            scores["disclaimer"] = right_disclaimer(output, self.disclaimers, reference)
        if self.forbid:
            scores["forbidden"] = not_forbidden(output, self.forbid)
        if not self.schema and len(scores) > 1:
            del scores["json"]  # a contract of sentences only does not ask for JSON
        scores["contract"] = next((score for score in scores.values() if not score.holds), Score(True))
        return scores

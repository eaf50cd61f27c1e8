"""The contract of a recipe: which metrics it has, and how an output scores on each.

A new scorer is a line in ``Contract.metrics``, its label, and its file beside the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import regex

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import Answer, Score
from mlxtune.evaluation.scorers.disclaimer import right_disclaimer
from mlxtune.evaluation.scorers.forbidden import not_forbidden
from mlxtune.evaluation.scorers.json_extracted import json_extracted
from mlxtune.evaluation.scorers.json_fenced import json_fenced
from mlxtune.evaluation.scorers.json_ijson import ijson_valid
from mlxtune.evaluation.scorers.json_valid import json_valid
from mlxtune.evaluation.scorers.length import within_length
from mlxtune.evaluation.scorers.reference import same_answer, same_fields
from mlxtune.evaluation.scorers.schema_valid import Schema
from mlxtune.recipe import Disclaimer, Length, Recipe

LABELS = {
    "json": "valid JSON",
    "ijson": "valid I-JSON",
    "fenced": "JSON in a fence",
    "extracted": "JSON found in it",
    "schema": "fits the schema",
    "disclaimer": "right disclaimer",
    "disclaimer_fuzzy": "disclaimer, fuzzy",
    "forbidden": "no forbidden phrase",
    "length": "right length",
    "exact": "equals reference",
    "fields": "fields as reference",
    "contract": "whole contract",
    "preference": "right preference",
}
FORMS = ("ijson", "fenced", "extracted")  # how outputs that are not raw JSON come: reported, and no change that could be better

_UNLIMITED = Length()


@dataclass(frozen=True)
class Metric:
    """One question to every output, or to those with a reference. ``asked``: the contract asks it; else it is only reported."""

    name: str
    scorer: Callable[[Answer], Score]
    asked: bool = True
    of_reference: bool = False


@dataclass(frozen=True)
class Contract:
    """What an output must satisfy. Raw JSON is asked for whenever there is a schema, or nothing else."""

    schema: Schema | None = None
    disclaimers: Sequence[Disclaimer] = ()
    forbid: Sequence[str] = ()
    length: Length = _UNLIMITED
    reference: Sequence[str] = ()
    fields: Sequence[str] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> Contract:
        """The recipe's contract. Raises ``InputError`` when its schema or a pattern cannot be used."""
        section = recipe.evaluation
        for phrase in (phrase for rule in section.disclaimers for phrase in rule.phrases if phrase.match == "regex"):
            try:
                regex.compile(phrase.text)
            except regex.error as error:
                raise InputError(f"The pattern {one_line(phrase.text, 60)} cannot be used: {error}.") from error
        schema = Schema.read(recipe.schema) if recipe.schema else None
        return cls(schema, section.disclaimers, section.forbid, section.length, section.reference, section.fields)

    @cached_property
    def metrics(self) -> list[Metric]:
        """Every metric, in the order of reports."""
        fuzzy = any(phrase.match == "fuzzy" for rule in self.disclaimers for phrase in rule.phrases)
        limited = self.length != _UNLIMITED
        found = []
        if self.schema or not (self.disclaimers or self.forbid or limited):  # a contract of sentences only does not ask for JSON
            found += [
                Metric("json", json_valid),
                Metric("ijson", ijson_valid, asked=False),
                Metric("fenced", json_fenced, asked=False),
                Metric("extracted", json_extracted, asked=False),
            ]
        if self.schema:
            found.append(Metric("schema", self.schema.score))
        if self.disclaimers:
            found.append(Metric("disclaimer", partial(right_disclaimer, rules=self.disclaimers), asked=not fuzzy))
        if fuzzy:
            found.append(Metric("disclaimer_fuzzy", partial(right_disclaimer, rules=self.disclaimers, fuzzy=True)))
        if self.forbid:
            found.append(Metric("forbidden", partial(not_forbidden, phrases=self.forbid)))
        if limited:
            found.append(Metric("length", partial(within_length, limit=self.length)))
        if "exact" in self.reference:
            found.append(Metric("exact", same_answer, asked=False, of_reference=True))
        if "fields" in self.reference:
            found.append(Metric("fields", partial(same_fields, fields=self.fields), asked=False, of_reference=True))
        return found

    @property
    def asked(self) -> set[str]:
        """The metrics that make the contract, and the contract."""
        return {metric.name for metric in self.metrics if metric.asked} | {"contract"}

    def score(self, answer: Answer) -> dict[str, Score]:
        """Every metric's score; ``contract`` holds when all that it asks for do, and repeats the first failure otherwise."""
        metrics = [metric for metric in self.metrics if answer.reference is not None or not metric.of_reference]
        scores = {metric.name: metric.scorer(answer) for metric in metrics}
        broken = (scores[metric.name] for metric in metrics if metric.asked and not scores[metric.name].holds)
        return scores | {"contract": next(broken, Score(True))}

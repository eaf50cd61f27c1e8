"""A recipe's contract: its metrics, and how an output scores on each of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import regex

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line
from mlxtune.data.rows import PromptRow
from mlxtune.evaluation import scorers
from mlxtune.evaluation.answers import is_loop
from mlxtune.evaluation.scorers import CONTRACT, CORRECT, PASS, PREFERENCE, ModelAnswer, Score, ScoreFunction
from mlxtune.evaluation.scorers.correct import score_correct
from mlxtune.evaluation.scorers.json_parser import MISSING, field_value, find_json
from mlxtune.evaluation.scorers.registry import SCORERS
from mlxtune.evaluation.scorers.schema_valid import SchemaValidator
from mlxtune.recipe import EvaluationSection, Recipe


def check_patterns(section: EvaluationSection) -> None:
    """Raise ``InputError`` if a regular expression in ``section`` is invalid."""
    phrases = (phrase for rule in section.disclaimers for phrase in rule.phrases)
    for pattern in (section.pattern, *(phrase.text for phrase in phrases if phrase.match == "regex")):
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise InputError(f"Invalid pattern {one_line(pattern, 60)}: {error}.") from error


@dataclass(frozen=True)
class ContractMetric:
    """A metric that a contract configures. A ``required`` metric is part of the contract; any other is only reported."""

    name: str
    scorer: ScoreFunction
    required: bool = True
    needs_reference: bool = False

    def score(self, answer: ModelAnswer) -> Score | None:
        """Score ``answer``, or return ``None`` if this metric needs a reference, and there is none.

        If the reasoning was cut off, there is no answer, so that every metric fails. An answer that repeats itself until its limit
        counts as one that was ended for that.
        """
        if self.needs_reference and answer.reference is None:
            return None
        if answer.ended == "length" and is_loop(answer.output):
            answer = replace(answer, ended=scorers.LOOP)
        return _NO_ANSWER.get(answer.ended) or self.scorer(answer)


_NO_ANSWER = {
    scorers.THINKING_LIMIT: Score(False, "reasoning_cut_off", "the reasoning reached its token limit, so there is no answer"),
    scorers.THINKING_LOOP: Score(False, "reasoning_cut_off", "the reasoning repeated itself, so there is no answer"),
}


@dataclass(frozen=True)
class Contract:
    """The requirements on an output: a recipe's evaluation section with its compiled schema."""

    section: EvaluationSection = field(default_factory=EvaluationSection)
    schema: SchemaValidator | None = None

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Contract:
        """Build the recipe's contract. Raises ``InputError`` for an unusable schema or pattern.

        Without a contract, answers must equal their references.
        """
        section = recipe.evaluation if recipe.has_contract else replace(recipe.evaluation, correct=["answer"])
        check_patterns(section)
        return cls(section, SchemaValidator.read(recipe.schema_file) if recipe.schema_file else None)

    @property
    def schema_document(self) -> Any:
        return self.schema.document if self.schema else None

    @cached_property
    def wants_json(self) -> bool:
        """Whether raw JSON is required, which it is if there is a schema, if fields are compared, or without a text rule."""
        if self.schema is not None or any(part == "fields" or part.startswith("/") for part in self.section.correct):
            return True
        return not any(scorer.replaces_json and scorer.build(self) for scorer in SCORERS)

    @cached_property
    def metrics(self) -> list[ContractMetric]:
        built = ((scorer, score) for scorer in SCORERS if (score := scorer.build(self)))
        required = {one.name: one.required(self) if callable(one.required) else one.required for one in SCORERS}
        return [ContractMetric(one.name, score, required[one.name], one.needs_reference) for one, score in built]

    @property
    def has_form(self) -> bool:
        """Whether more than correctness is required. Otherwise, there is no ``contract`` metric."""
        return self.required_metrics != [CORRECT]

    def names(self, *, has_pairs: bool) -> tuple[str, ...]:
        """Return the names of all metrics in report order; with pairs, which answer is more likely is one, too."""
        whole = (CONTRACT,) if self.has_form else ()
        return (*(metric.name for metric in self.metrics), *whole, *((PREFERENCE,) if has_pairs else ()))

    @cached_property
    def required_metrics(self) -> list[str]:
        return [metric.name for metric in self.metrics if metric.required]

    def headline(self, recipe: Recipe, *, has_preferences: bool) -> str:
        """Return the metric that the verdict of an evaluation of ``recipe`` is about.

        It is the preferred answer for preference training, else correctness or, if answers are not compared with references, the
        contract.
        """
        if recipe.method.kind == "dpo" and has_preferences:
            return PREFERENCE
        return CORRECT if self.section.correct else CONTRACT

    def require_references(self, rows: Iterable[PromptRow]) -> None:
        """Raise ``InputError`` if the reference of one of ``rows`` lacks what must equal it, or if there is nothing to compare."""
        known = [(row, reference) for row in rows if (reference := row.reference) is not None] if self.section.correct else []
        for row, reference in known:
            score = score_correct(ModelAnswer(reference, reference=reference), self.section.correct)
            if not score.passed:
                raise InputError(f"{row.location}: {score.detail}.", hint="Change evaluation.correct, or the row's answer.")
        empty = (score_correct(ModelAnswer("", reference=reference), self.section.correct) for _, reference in known)
        if known and all(score.passed for score in empty):  # no reference has calls
            raise InputError("An empty answer equals every reference.", hint="Change evaluation.correct.")

    def unknown_conditions(self, rows: Iterable[PromptRow]) -> list[str]:
        """Return the fields on which disclaimers depend and which no reference of ``rows`` has."""
        values = [match[0] for row in rows if (match := find_json(row.reference or ""))]
        names = {name for rule in self.section.disclaimers for name in (*rule.when, *rule.unless)}
        return sorted(name for name in names if all(field_value(value, name) is MISSING for value in values))

    def score(self, answer: ModelAnswer) -> dict[str, Score]:
        """Score ``answer`` on every metric. ``contract`` passes if all required metrics pass, or repeats the first failure, which is
        final if any of them is. Correctness comes last.
        """
        scores = {metric.name: score for metric in self.metrics if (score := metric.score(answer)) is not None}
        if not self.has_form:
            return scores
        failed = [scores[name] for name in self.required_metrics if name in scores and not scores[name].passed]
        first = replace(failed[0], value=None, is_final=any(score.is_final for score in failed)) if failed else PASS
        correct = {CORRECT: scores.pop(CORRECT)} if CORRECT in scores else {}
        return scores | {CONTRACT: first} | correct

    def passes(self, metric: str, answer: ModelAnswer) -> bool:
        """Return whether ``answer`` passes a metric, or the whole contract; no more is scored than that takes."""
        wanted = self.required_metrics if metric == CONTRACT else [metric]
        scores = (item.score(answer) for item in self.metrics if item.name in wanted)
        return all(score is None or score.passed for score in scores)

    def score_metric(self, metric: str, answer: ModelAnswer) -> Score | None:
        """Score ``answer`` on one metric, or on the whole contract; ``None`` if it does not apply."""
        if metric == CONTRACT:
            return self.score(answer)[CONTRACT]
        return next((item.score(answer) for item in self.metrics if item.name == metric), None)

"""Decide whether two evaluations were made under the same conditions, so that their results can be compared."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mlxtune.core.errors import InputError
from mlxtune.core.hashing import sha256_json
from mlxtune.evaluation.history import evaluations
from mlxtune.evaluation.report import ReportFacts
from mlxtune.recipe import Recipe
from mlxtune.runs.registry import Run

_NOT_CONTRACT = {
    "schema", "arms", "endpoints", "optimizer", "optimizer_calls", "prompt", "shots", "rows", "regression", "regression_rows",
    "regression_margin", "regression_system", "max_tokens", "thinking_tokens", "stop_loops", "batch_size",
}  # fmt: skip
Term = Literal["held_out_rows", "schema", "contract", "template", "thinking", "thinking_tokens", "token_limit", "decoding"]
_CRITERIA: tuple[Term, ...] = ("schema", "contract", "template")  # what answers must satisfy, and how prompts are rendered
_NAMES: dict[Term, str] = {
    "schema": "the schema",
    "contract": "the other requirements of the contract",
    "template": "the chat template",
    "thinking": "thinking",
    "thinking_tokens": "the limit for reasoning",
    "decoding": "how answers are generated",
}


@dataclass(frozen=True)
class ChangedTerm:
    """A condition that differs between two evaluations."""

    term: Term
    before: int = 0  # the token limit, or the number of removed rows
    now: int = 0  # the token limit, or the number of new rows

    @property
    def name(self) -> str:
        """The condition's name in an error or a report."""
        if self.term == "held_out_rows":
            return f"the held-out rows ({self.now} new, {self.before} removed)"
        if self.term == "token_limit":
            return f"the token limit of an answer ({self.before:,}, now {self.now:,})"
        return _NAMES[self.term]


@dataclass(frozen=True)
class ChangedTerms:
    """The conditions that changed since the evaluation ``since``."""

    since: str
    terms: tuple[ChangedTerm, ...]


def contract_hash(recipe: Recipe) -> str:
    """Return the hex SHA-256 of the contract apart from its schema."""
    return sha256_json({key: value for key, value in asdict(recipe.evaluation).items() if key not in _NOT_CONTRACT})


def differences(before: ReportFacts, now: ReportFacts) -> list[ChangedTerm]:
    """Return the differences between the conditions of two reports; empty if their results can be compared.

    Templates are compared only if the base is the same.
    """
    new, missing = set(now["row_ids"]) - set(before["row_ids"]), set(before["row_ids"]) - set(now["row_ids"])
    rows = [ChangedTerm("held_out_rows", len(missing), len(new))] if new or missing else []
    return [*rows, *_changes(before, now, (*_CRITERIA, "thinking", "thinking_tokens", "decoding"))]


def _changes(before: ReportFacts, now: ReportFacts, terms: Sequence[Term]) -> Iterator[ChangedTerm]:
    limits = [facts["decoding"]["max_tokens"] for facts in (before, now)]
    same_base = before.get("base_fingerprint") == now.get("base_fingerprint")
    for term in terms:
        if before.get(term) != now.get(term) and (same_base or term != "template"):
            is_limit = term == "decoding" and limits[0] != limits[1]
            yield ChangedTerm("token_limit", *limits) if is_limit else ChangedTerm(term)


def require_baseline_terms(evaluation: Path, facts: ReportFacts, recipe: Recipe) -> None:
    """Raise ``InputError`` if the base was last evaluated in this workspace with another contract or template than in ``facts``.

    A change in the held-out rows, or in how answers are generated, does not matter: every evaluation includes the base, which
    then gives the answers that are missing, and the report notes the change.
    """
    run, before = next(_earlier(evaluation, facts, recipe), (None, facts))
    if run and (changes := list(_changes(before, facts, _CRITERIA))):
        file = Path("recipes", f"{recipe.name}.toml")  # unless its name is not that of the recipe
        written = shlex.quote(str(file)) if (evaluation.parent.parent / file).is_file() else "RECIPE"
        raise InputError(
            f"{listed(changes)} changed since the base was evaluated ({run.id}), so the results cannot be compared.",
            hint=f"Undo the change, or evaluate the base again: mlxtune eval {written}",
        )


def changed_terms(evaluation: Path, facts: ReportFacts, recipe: Recipe) -> ChangedTerms | None:
    """Return how the conditions changed since an earlier evaluation of this base, or ``None`` if they did not."""
    for run, before in _earlier(evaluation, facts, recipe):
        if changes := differences(before, facts):
            return ChangedTerms(run.id, tuple(changes))
    return None


def require_comparable(first: str, before: ReportFacts, second: str, now: ReportFacts) -> None:
    """Raise ``InputError`` if the evaluations named ``first`` and ``second`` were made under different conditions."""
    if changes := differences(before, now):
        raise InputError(
            f"{first} and {second} cannot be compared: {', '.join(change.name for change in changes)} changed between them.",
            hint=_same_limit(before, now) or "Evaluate both with the same held-out rows, contract, chat template, and token limit.",
        )


def _same_limit(before: ReportFacts, now: ReportFacts) -> str:
    """Return how to evaluate again with the higher limit of two reports, or ``""`` if they differ in more than the limit."""
    if before["decoding"] == now["decoding"]:
        return ""
    one, two = sorted((before, now), key=lambda facts: facts["decoding"]["max_tokens"])
    limit = two["decoding"]["max_tokens"]
    if differences({**one, "decoding": two["decoding"]}, two):
        return ""
    return f"Evaluate the one with the lower limit again: mlxtune eval {one.get('run') or 'RECIPE'} --set evaluation.max_tokens={limit}"


def _earlier(evaluation: Path, facts: ReportFacts, recipe: Recipe) -> Iterator[tuple[Run, ReportFacts]]:
    """Yield the run and facts of each finished evaluation with this recipe's name and base, newest first."""
    for one in evaluations(evaluation.parent.parent):
        before = one.report.facts
        same_rows = (
            before.get("last_look") == facts.get("last_look") and before.get("base_fingerprint") == facts["base_fingerprint"]
        )
        if one.run.folder != evaluation and one.name == recipe.name and same_rows:
            yield one.run, before


def listed(changes: Sequence[ChangedTerm]) -> str:
    """Return the names of the changed conditions as the beginning of a sentence."""
    *items, last = [change.name for change in changes]
    text = f"{', '.join(items)} and {last}" if items else last
    return text[0].upper() + text[1:]

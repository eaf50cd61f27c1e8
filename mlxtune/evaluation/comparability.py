"""Decide whether two evaluations were made under the same conditions, so that their results can be compared."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.core.hashing import sha256_json
from mlxtune.evaluation.history import evaluations
from mlxtune.evaluation.report import ReportFacts
from mlxtune.recipe import EvaluationSection, Recipe
from mlxtune.runs.registry import Run

_FIRST_KEYS = {"disclaimers", "forbid", "length", "reference", "fields"}
_OTHER_KEYS = {
    "schema",
    "arms",
    "endpoints",
    "prompt",
    "shots",
    "rows",
    "regression",
    "regression_margin",
    "regression_system",
    "max_tokens",
    "thinking_tokens",
    "batch_size",
}  # not part of the contract


def contract_hash(recipe: Recipe) -> str:
    """Return the hex SHA-256 of the contract apart from its schema.

    Keys that were added later are included only if they are set, so that the hashes of older evaluations stay valid.
    """
    section, defaults = asdict(recipe.evaluation), asdict(EvaluationSection())
    for item in (item for rule in section["disclaimers"] for item in (rule, *rule["any_of"]) if item["match"] == "normalized"):
        item["match"] = "normalised"  # its earlier name
    keys = [key for key in section if key in _FIRST_KEYS or (key not in _OTHER_KEYS and section[key] != defaults[key])]
    return sha256_json({key: section[key] for key in keys})


def differences(before: ReportFacts, now: ReportFacts) -> list[str]:
    """Describe the differences between the conditions of two reports; empty if their results can be compared.

    Templates are compared only if the base is the same. A fact that an older version did not store does not count as a difference.
    """
    new, missing = set(now["row_ids"]) - set(before["row_ids"]), set(before["row_ids"]) - set(now["row_ids"])
    rows = [f"the held-out rows ({len(new)} new, {len(missing)} removed)"] if new or missing else []
    return [*rows, *_criteria_changes(before, now), *_generation_changes(before, now)]


def _criteria_changes(before: ReportFacts, now: ReportFacts) -> list[str]:
    """Describe the differences between what answers must satisfy, and between how prompts are rendered."""
    changes = []
    for key, name in (("schema", "the schema"), ("contract", "the other requirements of the contract")):
        if _differs(before, now, key):
            changes.append(name)
    if _differs(before, now, "template") and not _differs(before, now, "base_fingerprint"):
        changes.append("the chat template")
    return changes


def _generation_changes(before: ReportFacts, now: ReportFacts) -> list[str]:
    """Describe the differences between how answers were generated."""
    changes = []
    for key, name in (("thinking", "thinking"), ("thinking_tokens", "the limit for reasoning")):
        if _differs(before, now, key):
            changes.append(name)
    if _differs(before, now, "decoding"):
        one, two = (facts["decoding"]["max_tokens"] for facts in (before, now))
        changes.append(f"the token limit of an answer ({one:,}, now {two:,})" if one != two else "how answers are generated")
    return changes


def require_baseline_terms(evaluation: Path, facts: ReportFacts, recipe: Recipe) -> None:
    """Raise ``InputError`` if the base was last evaluated in this workspace with another contract or template than in ``facts``.

    A change in the held-out rows, or in how answers are generated, does not matter: every evaluation includes the base, which
    then gives the answers that are missing, and the report notes the change.
    """
    for run, before in _earlier(evaluation, facts, recipe):
        if changes := _criteria_changes(before, facts):
            raise InputError(
                f"{_listed(changes)} changed since the base was evaluated ({run.id}), so the results cannot be compared.",
                hint=f"Undo the change, or evaluate the base again: mlxtune eval {_recipe_file(evaluation.parent.parent, recipe)}",
            )
        return


def _recipe_file(workspace: Path, recipe: Recipe) -> str:
    """Return the recipe's file as written in a command, or ``RECIPE`` if its name is not that of the recipe."""
    file = Path("recipes", f"{recipe.name}.toml")
    return shlex.quote(str(file)) if (workspace / file).is_file() else "RECIPE"


def describe_changes(evaluation: Path, facts: ReportFacts, recipe: Recipe) -> str:
    """Return a sentence about how the conditions changed since an earlier evaluation of this base, or ``""``."""
    for run, before in _earlier(evaluation, facts, recipe):
        if changes := differences(before, facts):
            return f"{_listed(changes)} changed since {run.id}."
    return ""


def require_comparable(first: str, before: ReportFacts, second: str, now: ReportFacts) -> None:
    """Raise ``InputError`` if the evaluations named ``first`` and ``second`` were made under different conditions."""
    if changes := differences(before, now):
        raise InputError(
            f"{first} and {second} cannot be compared: {', '.join(changes)} changed between them.",
            hint=_same_limit(before, now) or "Evaluate both with the same held-out rows, contract, chat template, and token limit.",
        )


def _same_limit(before: ReportFacts, now: ReportFacts) -> str:
    """Return how to evaluate again with the higher limit of two reports, or ``""`` if they differ in more than the limit."""
    if not _differs(before, now, "decoding"):
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
        if (
            one.run.folder != evaluation
            and one.name == recipe.name
            and before.get("base_fingerprint") == facts["base_fingerprint"]
            and "row_ids" in before
        ):
            yield one.run, before


def _differs(before: ReportFacts, now: ReportFacts, key: str) -> bool:
    return key in before and key in now and before.get(key) != now.get(key)


def _listed(items: list[str]) -> str:
    text = items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
    return text[0].upper() + text[1:]

"""The terms of an evaluation: what must be the same before two results may be held against each other. No mlx here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.files import read_json
from mlxtune.core.hashing import sha256_json
from mlxtune.core.text import one_line
from mlxtune.evaluation.report import FILE
from mlxtune.recipe import Recipe
from mlxtune.runs import registry

_CONTRACT = ("disclaimers", "forbid", "length", "reference", "fields")


def contract_hash(recipe: Recipe) -> str:
    """Identifies what the contract asks beside its schema: hex sha256."""
    section = asdict(recipe.evaluation)
    return sha256_json({name: section[name] for name in _CONTRACT})


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the facts of two reports, in words; empty when their results can be compared.

    Templates are held against each other where the base is the same. A fact that an older version did not keep is no difference.
    """
    found = []
    new, gone = (set(one) - set(two) for one, two in ((now["row_ids"], before["row_ids"]), (before["row_ids"], now["row_ids"])))
    if new or gone:
        found.append(f"the held-out rows ({len(new)} new, {len(gone)} gone)")
    for key, what in (("schema", "the schema"), ("contract", "what the contract asks beside its schema")):
        if _differs(before, now, key):
            found.append(what)
    if _differs(before, now, "template") and not _differs(before, now, "base_fingerprint"):
        found.append("the chat template")
    if _differs(before, now, "decoding"):
        found.append(f"the decoding ({_decoding(before)}, now {_decoding(now)})")
    return found


def hold(evaluation: Path, facts: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse to compare with a base that was last measured, in ``evaluation``'s workspace, on other terms than those in ``facts``.

    Raises ``InputError``: whoever moves the goal after the base has shot measures it anew, and says so.
    """
    for id, before in _earlier(evaluation, facts, recipe):
        if found := changed(before, facts):
            raise InputError(
                f"Since the base was measured ({id}) {_listed(found)} changed, so nothing can be said against it.",
                mend="Set it back, or measure the base on the new terms: mlxtune eval RECIPE",
            )
        return


def moved(evaluation: Path, facts: Mapping[str, Any], recipe: Recipe) -> str:
    """Since when ``evaluation``'s workspace measures this base on other terms than before, and which, in a sentence; empty if it never did."""
    for id, before in _earlier(evaluation, facts, recipe):
        if found := changed(before, facts):
            return f"The terms are not those of {id}: {_listed(found)} changed."
    return ""


def _earlier(evaluation: Path, facts: Mapping[str, Any], recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ids and facts of the finished evaluations of this recipe's name and base, newest first."""
    for run in registry.all_runs(evaluation.parent.parent, "eval"):
        before = _facts(run.folder) if run.folder != evaluation else None
        if before and before["name"] == recipe.name and before.get("base_fingerprint") == facts["base_fingerprint"]:
            yield run.id, before


def require_same(first: str, before: Mapping[str, Any], second: str, now: Mapping[str, Any]) -> None:
    """Raises ``InputError`` when the facts of two evaluations, ``first`` and ``second`` by name, forbid to compare them."""
    if found := changed(before, now):
        raise InputError(
            f"{first} and {second} cannot be compared: {_listed(found)} changed between them.",
            mend="Evaluate both on the same rows, schema, template and decoding.",
        )


def _facts(folder: Path) -> dict[str, Any] | None:
    """The facts of a finished evaluation; ``None`` for one that did not come so far."""
    try:
        facts = read_json(folder / FILE)["facts"]
        return facts if isinstance(facts["row_ids"], list) and isinstance(facts["name"], str) else None
    except (MlxtuneError, KeyError, TypeError):
        return None


def _differs(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> bool:
    return key in before and key in now and before[key] != now[key]


def _decoding(facts: Mapping[str, Any]) -> str:
    return one_line(", ".join(f"{key} {value}" for key, value in facts["decoding"].items()), 80)


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"

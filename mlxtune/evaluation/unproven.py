"""Find what a report's folder alone does not prove: recorded facts, and stored files that nothing on this machine confirms.

The source data confirm the rows, and the base's folder its fingerprint and template. A trusted signature covers everything.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import read_json
from mlxtune.core.hashing import sha256_json
from mlxtune.data.source import Source, read_source
from mlxtune.data.split import Splits, sample_rows, split
from mlxtune.evaluation.arms import STRONGEST, TUNED, default_arms, is_tuned
from mlxtune.evaluation.evidence import (
    FILES,
    HOLDOUT,
    QUESTIONS,
    VALIDATION,
    EvaluatedRow,
    EvaluationEvidence,
    grouped_rows,
    load_evidence,
    load_rows,
)
from mlxtune.evaluation.report import FILE
from mlxtune.models.resolve import resolve
from mlxtune.recipe import Recipe, read_template

RECOMPUTED = {
    "name", "base", "rows", "row_ids", "groups", "effective_groups", "headline", "schema", "contract", "required", "decoding", "off_task",
    "holdout", "look", "last_look", "level", "strongest",
}  # fmt: skip
_UNMEASURED = ("cached", "seconds", "prompt_tokens")  # of an arm
_CONTENT = ("id", "group", "reference", "prompt", "tools")


def read_splits(recipe: Recipe) -> tuple[Source, Splits] | None:
    """Read the source again and split it; ``None`` if that is not possible."""
    with suppress(MlxtuneError, OSError):
        source = read_source(recipe.source, recipe.data.format, recipe.data.map)
        return source, split(source, recipe.data)
    return None


def row_problems(rows: Mapping[str, tuple[EvaluatedRow, ...]], recipe: Recipe, source: Source) -> Iterator[str]:
    """Yield each stored row whose ID, a hash of its content, is that of a row of the source with another prompt or reference."""
    known = {row.id: row for row in grouped_rows(recipe, source.rows, source.rows)}
    for file, stored in rows.items():
        for row in stored:
            if (own := known.get(row.id)) and not _same(replace(row, group=own.group), own):
                yield f"{file}, {row.id}: the source has another prompt or reference."


def unproven(folder: Path) -> list[str]:
    """Return the facts, the keys of arms, and the files that cannot be confirmed, for a report without differences."""
    stored, evidence = read_json(folder / FILE), load_evidence(folder)
    facts, recipe = stored["facts"], evidence.recipe
    confirmed = {*_confirmed_rows(folder, evidence, last=facts.get("last_look", False)), *_confirmed_base(recipe, facts)}
    names = {*facts} - RECOMPUTED | {key for arm in stored["arms"] for key in _UNMEASURED if key in arm}
    missing = {HOLDOUT} - {*stored["files"]}
    if TUNED in evidence.answers:
        missing |= {"contamination", *(["off_task"] if recipe.evaluation.regression else [])} - {*facts}
    arms = {name for name in recipe.evaluation.arms or default_arms(recipe) if TUNED in evidence.answers or not is_tuned(name)}
    missing |= arms - {*evidence.answers, *facts.get("left_out", {}), STRONGEST}
    return sorted(({*FILES} & {*stored["files"]} | names | missing) - confirmed)


def _confirmed_rows(folder: Path, evidence: EvaluationEvidence, *, last: bool) -> Iterator[str]:
    """Yield the files whose rows are exactly those that the source and its splits give."""
    recipe, found = evidence.recipe, read_splits(evidence.recipe)
    if found is None:
        return
    source, splits = found
    expected = {
        QUESTIONS: splits.reserved if last else sample_rows(splits.prompts, recipe.evaluation.rows), VALIDATION: splits.valid
    }  # fmt: skip
    for name, rows in expected.items():
        own = grouped_rows(recipe, rows, source.rows)
        stored = load_rows(folder, name) if (folder / name).is_file() else ()
        if len(own) == len(stored) and all(map(_same, own, stored)):
            yield name


def _same(one: EvaluatedRow, two: EvaluatedRow) -> bool:
    return all(getattr(one, key) == getattr(two, key) for key in _CONTENT)


def _confirmed_base(recipe: Recipe, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the facts that the base's folder on this machine confirms."""
    with suppress(MlxtuneError, OSError, ValueError, AttributeError):
        base = resolve(recipe.model.base, relative_to=recipe.folder, fetch=False)
        if facts.get("base_fingerprint") == base.fingerprint:
            yield "base_fingerprint"
        file, config = base.folder / "chat_template.jinja", base.folder / "tokenizer_config.json"
        own = file.read_text("utf-8") if file.is_file() else json.loads(config.read_text("utf-8")).get("chat_template")
        if facts.get("template") == sha256_json(read_template(recipe) or str(own)):
            yield "template"

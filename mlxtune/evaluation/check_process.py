"""Check a source against its recipe: the contract, token lengths and splits.

``start_check`` runs the check in a child process, so the app stays responsive and keeps running if memory runs out.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from mlxtune.core.child_process import Progress, Request, StoppableCall, serve
from mlxtune.core.errors import InputError, MachineError, MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.data import review
from mlxtune.data.check_cache import rules_hash
from mlxtune.data.checks.base import Finding
from mlxtune.data.checks.check_input import TokenCount
from mlxtune.data.checks.contract import ContractScorer
from mlxtune.data.checks.mismatch import mismatches
from mlxtune.data.checks.report import CheckReport, CheckResult, Skip
from mlxtune.data.checks.run import CheckRules, check
from mlxtune.data.column_map import column_use
from mlxtune.data.source import read_source
from mlxtune.data.split import SPLIT_NAMES, Splits, load_membership, split, with_recorded_settings
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.free_arms import free_rates
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.models.resolve import resolve
from mlxtune.planning import measurements
from mlxtune.recipe import DataSection, Recipe, load


class CheckRequest(TypedDict, total=False):
    """A recipe file, or a source with its format and column map. ``base`` also asks the recipe's base; ``fetch`` may download it."""

    recipe: str
    source: str
    format: str
    map: dict[str, str]
    fetch: bool
    base: bool


def check_source(
    path: Path, data: DataSection, recipe: Recipe | None, progress: Progress = lambda what, share: None, *, fetch: bool = True,
    found: Sequence[Finding] | None = (),
) -> CheckReport:  # fmt: skip
    """Check the source at ``path``, read with the settings in ``data``, against ``recipe``. Raises ``InputError``.

    The recipe's model is downloaded for its tokenizer unless ``fetch`` is false. The report includes what :func:`find_mismatches` ``found``.
    """
    skipped: dict[str, Skip] = {"mismatch": Skip("uninformed")} if found is None else {}
    scorer, tokens = contract_scorer(recipe, skipped), _tokens(recipe, skipped, progress, fetch)
    splits = _splits(recipe, path, data, skipped)
    names = {row.hash: split for split in SPLIT_NAMES for row in getattr(splits, split)} if splits else {}
    split_of = None if splits is None or path.is_dir() else lambda row: names.get(row.hash, "")
    own_rules, step = rules_hash(recipe) if recipe else "", f"checking {one_line(path.name, 40)}"
    rules = CheckRules(
        scorer, split_of, data.turns, tokens, data.max_tokens, data.too_long == "skip", skipped, found or (), own_rules
    )
    report = check(path, data.format, data.map, rules=rules, state=review.load(path), progress=partial(progress, step))
    free = free_rates(recipe, splits) if recipe and splits else None
    return replace(report, free=free, columns=column_use(path, data.map, data.format))


def find_mismatches(recipe_file: Path, data: DataSection, progress: Progress) -> Sequence[Finding] | None:
    """Return the answers that do not fit their prompts according to the recipe's base, or ``None`` if it cannot tell.

    A child process loads it. Raises as :meth:`StoppableCall.result` does.
    """
    recipe = load(recipe_file)
    resolve(recipe.model.base, relative_to=recipe.folder, progress=progress)
    params = {"recipe": str(recipe_file), "format": data.format, "map": dict(data.map)}
    call = StoppableCall("mlxtune.models.row_likelihoods", "likelihoods", params, mismatches, name="The base's process")
    return call.result(progress)


def contract_scorer(recipe: Recipe | None, skipped: dict[str, Skip]) -> ContractScorer | None:
    """Return the contract's scorer, or ``None`` and a reason in ``skipped`` if there is no contract.

    Raises ``InputError`` for an invalid contract.
    """
    if recipe is None or not recipe.has_contract:
        skipped["contract"] = Skip("no_recipe" if recipe is None else "no_contract")
        return None
    contract = Contract.from_recipe(recipe)

    def failures(answer: str) -> dict[str, str]:
        scores = contract.score(ModelAnswer(answer, reference=answer))
        failed = {metric: scores[metric].detail for metric in contract.required_metrics if not scores[metric].passed}
        if "json" in failed:  # an answer that is not JSON does not conform to the schema either
            failed.pop("schema", None)
        return failed

    return failures


def _tokens(recipe: Recipe | None, skipped: dict[str, Skip], progress: Progress, fetch: bool) -> list[TokenCount | None] | None:
    """Return the token count of every record, or ``None`` and a reason in ``skipped`` if there is no tokenizer."""
    if recipe is None:
        skipped["tokens"] = Skip("no_recipe")
        return None
    try:
        resolve(recipe.model.base, relative_to=recipe.folder, progress=progress, fetch=fetch)
        progress("counting tokens", 0.0)
        return measurements.record_tokens(recipe)
    except (InputError, MachineError) as error:
        skipped["tokens"] = Skip("no_model", error.message)
        return None


def _splits(recipe: Recipe | None, path: Path, data: DataSection, skipped: dict[str, Skip]) -> Splits | None:
    """Return the splits, or ``None`` if neither a recipe nor an earlier split defines them."""
    reason = Skip("no_splits")
    if recipe or (path.is_file() and load_membership(path).splits):
        try:
            return split(read_source(path, data), data)
        except MlxtuneError as error:
            reason = Skip("unsplittable", error.message)
    skipped |= {} if path.is_dir() else {"split": reason}
    return None


def start_check(request: CheckRequest) -> StoppableCall[CheckResult]:
    return StoppableCall("mlxtune.evaluation.check_process", "check", request, CheckResult.from_json, name="The check process")


def _check(request: Request) -> dict[str, Any]:
    params: CheckRequest = request.params  # type: ignore[assignment]
    if "recipe" in params:
        recipe = load(Path(params["recipe"]))
        path, data = recipe.source, recipe.data
    else:
        recipe, path = None, Path(params["source"])
        section = DataSection(params["source"], params.get("format", "auto"), params.get("map", {}))  # type: ignore[arg-type]
        data = with_recorded_settings(path, section)
    found = find_mismatches(Path(params["recipe"]), data, lambda *one: request.progress(one)) if params.get("base") else ()
    fetch = params.get("fetch", True)
    return check_source(path, data, recipe, lambda *update: request.progress(update), fetch=fetch, found=found).to_json()


if __name__ == "__main__":
    sys.exit(serve({"check": _check}))

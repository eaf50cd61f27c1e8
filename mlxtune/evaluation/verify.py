"""Recompute every number in a report from the stored outputs, without a model, source data or network.

Agreement shows that the report was computed from these files. If someone changes the outputs, the report and the hashes together,
that cannot be detected from the folder alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json
from mlxtune.core.text import one_line
from mlxtune.evaluation import report
from mlxtune.evaluation.answer_budget import auto_limit
from mlxtune.evaluation.answer_statistics import answer_statistics
from mlxtune.evaluation.arms import BASE, ENDPOINT, TUNED
from mlxtune.evaluation.comparability import contract_hash
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import FILES, EvaluationEvidence, hashes, load_evidence, load_off_task, schema_hash
from mlxtune.evaluation.json_differences import differences
from mlxtune.evaluation.json_fields import to_json
from mlxtune.evaluation.judge.verify_judge import verify_judges
from mlxtune.evaluation.off_task.result import compare_off_task
from mlxtune.evaluation.render.publish import render_pages, renderer_hash
from mlxtune.evaluation.report import PAGES, ArmScores, ReportFacts, ScoredRows
from mlxtune.evaluation.scorers.reference import EXACT, FIELDS
from mlxtune.evaluation.seed_evidence import load_seed_scores
from mlxtune.evaluation.seed_report import SeedScores
from mlxtune.recipe import AUTO

# Facts recorded by the evaluation that cannot be recomputed from the files in its folder.
_RECORDED = {
    "base_fingerprint", "run", "adapter", "adapter_step", "source", "template", "endpoints", "longest_reference", "room", "thinking",
    "thinking_tokens", "date", "compute", "untouched", "moved", "looks", "ledger", "made",
}  # fmt: skip
_OFF_TASK = ("off_task", "regression")  # facts that exist only if there are off-task answers
# What is recorded, too, if another version worded the report.
_WORDED = ("adjusted p-values", "outcomes", "verdict", "classes of differences from references", "final failures")

Record = dict[str, Any]  # the content of report.json, which may be damaged


def verify(folder: Path) -> list[str]:
    """Return every difference between the reports in ``folder``, its own and its judges', and the stored answers, with its location.

    Raises ``InputError`` if there is no report, or if its files are missing.
    """
    try:
        stored = read_json(folder / report.FILE, unique_keys=True)
    except InputError as error:
        read_json(folder / report.FILE)  # raises the same error, unless a key occurs twice
        return [error.message]
    if not isinstance(stored, dict) or "files" not in stored:
        raise InputError(
            f"{folder / report.FILE} lists no files to verify it against.",
            hint="An older version of mlxtune wrote it. Evaluate again: mlxtune eval",
        )
    if malformed := list(_schema_errors(stored)):
        return malformed
    problems = list(_changed_files(folder, stored["files"]))
    try:
        evidence = load_evidence(folder)
        contract = Contract.from_recipe(evidence.recipe)
    except InputError as error:
        return [*problems, error.message]
    if mismatches := list(_mismatches(evidence, stored)):
        return [*problems, *mismatches]
    scored = {arm: evidence.scores(arm, contract) for arm in evidence.answers}
    parts = 2 if _has_current_wording(stored) else 1  # compare the class and the reason, or only the class
    problems += _failures(evidence, contract, scored, parts)
    problems += [*_numbers(folder, stored, evidence, contract, scored), *verify_judges(folder)]
    return problems or list(_pages(folder, stored))  # pages of a report with differences differ as well


def unverified(folder: Path) -> list[str]:
    """Return the values that cannot be recomputed from the files in ``folder``: facts, the arms' ``seconds``, and of other versions
    the adjusted p-values, outcomes, verdict, classes of differences from references, final failures among cut-off answers, and pages.

    Their values are those that the evaluation recorded.
    """
    stored = read_json(folder / report.FILE)
    texts = () if _has_current_wording(stored) else _WORDED
    pages = () if _has_current_pages(stored) else PAGES
    return [*sorted(stored["facts"].keys() & _RECORDED), "seconds", *texts, *(name for name in pages if name in stored["files"])]


def _has_current_wording(stored: Record) -> bool:
    return stored["facts"].get("wording") == report.WORDING


def _has_current_pages(stored: Record) -> bool:
    return stored["facts"].get("renderer") == renderer_hash() and _has_current_wording(stored)  # pages contain reasons, too


def _pages(folder: Path, stored: Record) -> Iterator[str]:
    """Render the pages again, if this version wrote them, and yield the name of each that differs."""
    if not _has_current_pages(stored):
        return
    try:
        pages = render_pages(report.load(folder), folder)
    except InputError as error:
        yield error.message
        return
    for name, text in pages.items():
        try:
            same = (folder / name).read_bytes() == text.encode("utf-8", "surrogatepass")
        except OSError:
            same = False
        if not same:
            yield f"{name} is not what report.json and the outputs render to."


@cache
def schema() -> Record:
    """Return the JSON Schema of ``report.json``."""
    value: Record = json.loads(files("mlxtune.evaluation").joinpath("report.schema.json").read_text("utf-8"))
    return value


def _schema_errors(stored: Record) -> Iterator[str]:
    for error in jsonschema.Draft202012Validator(schema()).iter_errors(stored):
        yield f"report.json {error.json_path.removeprefix('$.')}: {one_line(error.message, 160)}"


def _changed_files(folder: Path, stored: dict[str, str]) -> Iterator[str]:
    """Yield a sentence for each file that changed since the report was made."""
    current = hashes(folder, (*FILES, *PAGES))
    for name in sorted({*stored, *current}):
        if name not in current:
            yield f"{name} is missing."
        elif name not in stored:
            yield f"{name} did not exist when the report was made."
        elif stored[name] != current[name]:
            yield f"{name} was changed: its sha256 is {current[name][:12]}…, not {stored[name][:12]}…."


def _mismatches(evidence: EvaluationEvidence, stored: Record) -> Iterator[str]:
    """Yield a sentence for each mismatch between the answers and the report's arms and rows."""
    arms = [arm["arm"] for arm in stored["arms"]]
    if arms != list(evidence.answers):
        yield f"outputs.jsonl has the arms {', '.join(evidence.answers)}, but report.json has {', '.join(arms)}."
    ids = [row.id for row in evidence.rows]
    for arm, answers in evidence.answers.items():
        if [answer.id for answer in answers] != ids:
            yield f"outputs.jsonl: the answers of {arm} do not match the rows of questions.jsonl one to one."
    for arm, pairs in evidence.logprobs.items():
        if arm not in evidence.answers or not set(pairs) <= set(ids):
            yield f"preferences.jsonl: the pairs of {arm} do not match questions.jsonl."


def _seed_differences(tuned: ScoredRows, chosen: SeedScores | None) -> Iterator[str]:
    """Yield a sentence if the recommended seed's answers to the held-out rows are not scored like those of the tuned arm."""
    if chosen and _passes(chosen.held_out) != _passes(tuned):
        yield f"seeds.jsonl: the held-out answers of {one_line(chosen.run, 80)} are not scored like those of {TUNED} in outputs.jsonl."


def _passes(rows: ScoredRows) -> list[dict[str, bool]]:
    return [{name: score.passed for name, score in row.items()} for row in rows]


def _failures(evidence: EvaluationEvidence, contract: Contract, scored: Mapping[str, ScoredRows], parts: int) -> Iterator[str]:
    """Yield each difference from the failures in ``outputs.jsonl``, comparing the first ``parts`` of class and reason."""
    for arm, answers in evidence.answers.items():
        for answer, scores in zip(answers, scored[arm], strict=True):
            stored = {metric: failure[:parts] for metric, failure in answer.failed.items()}
            current = {metric: failure[:parts] for metric, failure in contract.failures(scores).items()}
            yield from differences(f"outputs.jsonl, {arm}, {answer.id}, failed", stored, current)


def _numbers(
    folder: Path, stored: Record, evidence: EvaluationEvidence, contract: Contract, scored: Mapping[str, ScoredRows]
) -> Iterator[str]:
    """Yield each difference between the stored report and one rebuilt from the stored answers."""
    arms = []
    for arm in stored["arms"]:
        pairs, answers = evidence.logprobs.get(arm["arm"], {}), evidence.answers[arm["arm"]]
        margins = [pairs[row.id].margin if row.id in pairs else None for row in evidence.rows] if pairs else []
        nats, tokens = sum(answer.nats for answer in answers), sum(answer.tokens for answer in answers)
        thought_tokens = sum(answer.thought_tokens for answer in answers)
        statistics = answer_statistics(answers, scored[arm["arm"]])
        arms.append(
            ArmScores(
                arm["arm"], arm["cached"], arm["seconds"], scored[arm["arm"]], margins, nats, tokens, thought_tokens, statistics
            )
        )  # fmt: skip
    limit = _answer_limit(evidence, stored)
    yield from _too_long(evidence, limit)
    facts: ReportFacts = {
        "name": evidence.recipe.name,
        "base": evidence.recipe.model.base,
        "rows": len(evidence.rows),
        "row_ids": [row.id for row in evidence.rows],
        "headline": contract.headline(evidence.recipe, has_preferences=bool(evidence.logprobs)),
        "schema": schema_hash(folder),
        "contract": contract_hash(evidence.recipe),
        "asks": contract.required_metrics,
        "decoding": {"kind": "greedy", "max_tokens": limit},
    }
    try:
        prompts, off_task = load_off_task(folder)
        if prompts:
            result = compare_off_task(prompts, off_task[BASE], off_task[TUNED], evidence.recipe.evaluation.regression_margin)
            if "regression" in stored["facts"]:
                facts["regression"] = result.legacy_record()
            else:
                facts["off_task"] = to_json(result)
    except (InputError, KeyError, ValueError):
        yield "regression.jsonl lacks the base's or the adapter's answer to at least one prompt."
    try:
        seeds = load_seed_scores(folder, contract, evidence.rows)
    except InputError as error:
        yield error.message
        return
    recorded: Any = {key: value for key, value in stored["facts"].items() if key not in _OFF_TASK}
    current = to_json(report.build({**recorded, **facts}, arms, [row.group for row in evidence.rows], seeds))
    if (chosen := current.get("seeds", {}).get("recommended", run := stored["facts"].get("run"))) != run:
        yield f"report.json is about {one_line(str(run), 80)}, but validation recommends {one_line(chosen, 80)}."
    yield from _seed_differences(scored.get(TUNED, ()), next((seed for seed in seeds if seed.run == chosen), None))
    current["facts"]["made"] = stored["facts"].get("made")
    if not _has_current_wording(stored):
        current["verdict"] = stored["verdict"]
        for new, old in zip(current["arms"], stored["arms"], strict=True):
            if "failed" in new.get("answers", {}).keys() & old.get("answers", {}).keys():
                new["answers"]["failed"] = old["answers"]["failed"]
            for rate, old_rate in zip(new["rates"], old["rates"], strict=False):
                if rate["metric"] in (EXACT.name, FIELDS.name):
                    rate["failures"] = old_rate["failures"]
        for new, old in zip(current["comparisons"], stored["comparisons"], strict=False):
            new.update({key: old[key] for key in ("adjusted", "word") if key in old})
    yield from differences("report.json", {key: value for key, value in stored.items() if key not in ("v", "files")}, current)


def _answer_limit(evidence: EvaluationEvidence, stored: Record) -> int:
    """Return the limit of answers in tokens, derived from the length of the longest reference answer if the recipe sets none."""
    limit = evidence.recipe.evaluation.max_tokens
    return auto_limit(stored["facts"].get("longest_reference", 0), stored["facts"].get("room")) if limit == AUTO else limit


def _too_long(evidence: EvaluationEvidence, limit: int) -> Iterator[str]:
    """Yield a sentence for each answer with more than ``limit`` tokens."""
    for arm, answers in evidence.answers.items():
        for answer in () if arm.startswith(ENDPOINT) else answers:  # an endpoint counts tokens in its own way
            if (answer.answer_tokens or 0) > limit:
                yield f"outputs.jsonl, {arm}, {answer.id}: the answer has {answer.answer_tokens} tokens, more than the limit of {limit}."

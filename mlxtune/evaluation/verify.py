"""Recompute every number in a report from the stored outputs, without a model, source data or network.

Agreement shows that the report was computed from these files. If someone changes the outputs, the report and the hashes together,
that cannot be detected from the folder alone: ``unproven`` names the files.
"""

import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jsonschema

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, require_version
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import one_line
from mlxtune.evaluation import report
from mlxtune.evaluation.answer_budget import auto_limit, grammar_limit
from mlxtune.evaluation.answers import Answer, ArmAnswers, SeedAnswers, score_answers, score_seed
from mlxtune.evaluation.arms import BASE, ENDPOINT, TUNED, has_grammar
from mlxtune.evaluation.blind.blind_session import revealed_choices
from mlxtune.evaluation.comparability import contract_hash
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import (
    FILES,
    OUTPUTS,
    QUESTIONS,
    REGRESSION,
    SEEDS,
    VALIDATION,
    EvaluationEvidence,
    hashes,
    load_evidence,
    load_off_task,
    load_pairs,
    load_rows,
    load_seed_answers,
    schema_hash,
)
from mlxtune.evaluation.free_arms import free_arm_problems
from mlxtune.evaluation.holdout import ledger
from mlxtune.evaluation.holdout.contamination import load_trained
from mlxtune.evaluation.judge import judge_report, judge_session
from mlxtune.evaluation.off_task.result import compare_off_task
from mlxtune.evaluation.report import PAGES, ReportFacts, decoding
from mlxtune.evaluation.report_builder import build
from mlxtune.evaluation.strongest import stored_strongest
from mlxtune.evaluation.unproven import RECOMPUTED, read_splits, row_problems
from mlxtune.present.report import render_pages
from mlxtune.recipe import AUTO

Record = dict[str, Any]  # the content of report.json, which may be damaged

TOLERANCE = 1e-12  # for floats, whose last digit may differ between machines
_STYLE = re.compile(r"<style>.*?</style>", re.DOTALL)
_ACTIVE = re.compile(r"<script|\bcontent\s*:|\bon\w+\s*=", re.IGNORECASE)
_CHART = re.compile(r"<(?:svg|rect|line)\b[^>]*>")
_TAG = re.compile(r"<[^>]+>")
_MADE_WITH = re.compile(r"mlxtune \d[\w.]*")  # the version
_FIGURE = re.compile(r"[+−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?%?|\b(?:better|worse|cannot tell|held|dropped)\b|[✓✗·]", re.IGNORECASE)


def verify(folder: Path) -> list[str]:
    """Return every difference between the reports in ``folder``, its own and its judges', and the stored answers, with its location.

    Raises ``InputError`` if there is no report, or if it is of another version.
    """
    try:
        stored = read_json(folder / report.FILE, unique_keys=True)
    except InputError as error:
        read_json(folder / report.FILE)  # raises the same error, unless a key occurs twice
        return [error.message]
    require_version(stored.get("v") if isinstance(stored, dict) else None, report.VERSION, folder / report.FILE)
    if errors := list(jsonschema.Draft202012Validator(schema()).iter_errors(stored)):
        return [f"report.json {error.json_path.removeprefix('$.')}: {one_line(error.message, 160)}" for error in errors]
    problems = list(_changed_files(folder, stored["files"]))
    try:
        evidence = load_evidence(folder)
        contract = Contract.from_recipe(evidence.recipe)
    except InputError as error:
        return [*problems, error.message]
    if mismatches := list(_mismatches(evidence, stored)):
        return [*problems, *mismatches]
    scored = {arm: score_answers(contract, evidence.rows, answers) for arm, answers in evidence.answers.items()}
    for arm, answers in evidence.answers.items():
        problems += _scores(f"{OUTPUTS}, {arm}", answers, scored[arm])
    found = read_splits(evidence.recipe)
    if found:
        validation = load_rows(folder, VALIDATION) if (folder / VALIDATION).is_file() else ()
        problems += row_problems({QUESTIONS: evidence.rows, VALIDATION: validation}, evidence.recipe, found[0])
    problems += free_arm_problems(evidence, contract, stored["facts"], found[1] if found else None)
    problems += [*_numbers(folder, stored, evidence, contract, scored), *verify_judges(folder)]
    return problems or list(_pages(folder))  # pages of a report with differences differ as well


def _pages(folder: Path) -> Iterator[str]:
    """Draw the pages again, and yield the first figure of each that differs."""
    try:
        pages = render_pages(report.load(folder), folder)
    except InputError as error:
        yield error.message
        return
    for name, text in pages.items():
        page = folder / name
        written = page.read_bytes().decode("utf-8", "replace") if page.is_file() else ""
        drawn, stored = (page_figures(one, is_html=name.endswith(".html")) for one in (text, written))
        for one, two in zip_longest(stored, drawn, fillvalue="nothing"):
            if one != two:
                yield f"{name} shows {one} where report.json and the outputs give {two}."
                break


def page_figures(text: str, *, is_html: bool) -> list[str]:
    """Return the figures on a page in order: its numbers, its outcomes, and the geometry of its charts.

    The words around them may change between versions.
    """
    if is_html:
        active = _ACTIVE.findall(text)  # what could show other figures
        text = _STYLE.sub("", text)
        text = html.unescape(f"{' ✗' * len(active)}{_TAG.sub(' ', text)}\n{' '.join(_CHART.findall(text))}")
    return [figure.lower() for figure in _FIGURE.findall(_MADE_WITH.sub("", text))]


@cache
def schema() -> Record:
    """Return the JSON Schema of ``report.json``."""
    value: Record = json.loads(files("mlxtune.evaluation").joinpath("report.schema.json").read_text("utf-8"))
    return value


def _changed_files(folder: Path, stored: dict[str, str]) -> Iterator[str]:
    current = hashes(folder, (*FILES, *PAGES))
    for name in sorted({*stored, *current}):
        if name not in current:
            yield f"{name} is missing."
        elif name not in stored:
            yield f"{name} did not exist when the report was made."
        elif stored[name] != current[name]:
            yield f"{name} was changed: its sha256 is {current[name][:12]}…, not {stored[name][:12]}…."


def _mismatches(evidence: EvaluationEvidence, stored: Record) -> Iterator[str]:
    arms = [arm["arm"] for arm in stored["arms"]]
    if arms != list(evidence.answers):
        yield f"outputs.jsonl has the arms {', '.join(evidence.answers)}, but report.json has {', '.join(arms)}."
    ids = [row.id for row in evidence.rows]
    for arm, answers in evidence.answers.items():
        if [answer.id for answer in answers] != ids:
            yield f"outputs.jsonl: the answers of {arm} do not match the rows of questions.jsonl one to one."


def _scores(location: str, stored: Sequence[Answer], scored: Sequence[Answer]) -> Iterator[str]:
    for one, two in zip(stored, scored, strict=True):
        yield from differences(f"{location}, {one.id}, scores", to_json(one.scores), to_json(two.scores))


def _numbers(
    folder: Path, stored: Record, evidence: EvaluationEvidence, contract: Contract, scored: Mapping[str, Sequence[Answer]]
) -> Iterator[str]:
    """Yield each difference between the stored report and one rebuilt from the stored answers."""
    limit, wide = _answer_limits(evidence, stored, contract)
    yield from _too_long(evidence, limit, wide)
    facts: ReportFacts = {
        "name": evidence.recipe.name,
        "base": evidence.recipe.model.base,
        "rows": len(evidence.rows),
        "row_ids": [row.id for row in evidence.rows],
        "headline": contract.headline(evidence.recipe, has_preferences=evidence.has_pairs),
        "schema": schema_hash(folder),
        "contract": contract_hash(evidence.recipe),
        "required": contract.required_metrics,
        "decoding": decoding(limit, wide),
    }
    try:
        prompts, answers = load_off_task(folder)
        if prompts:
            margin = evidence.recipe.evaluation.regression_margin
            facts["off_task"] = to_json(compare_off_task(prompts, answers[BASE], answers[TUNED], margin))
    except (InputError, KeyError, ValueError):
        yield f"{REGRESSION} lacks the base's or the adapter's answer to at least one prompt."
    try:
        if (lines := ledger.load(folder)).lines:
            result = ledger.result_hash(facts["contract"], evidence.answers)
            facts |= report.ledger_facts(ledger.history(lines, facts["row_ids"], result))
        if found := stored_strongest(folder, contract, evidence.recipe):
            facts["strongest"] = found
        validation = load_rows(folder, VALIDATION) if (folder / SEEDS).is_file() else ()
        stored_seeds = load_seed_answers(folder, validation, evidence.rows)
    except InputError as error:
        yield error.message
        return
    seeds = [score_seed(contract, seed, validation, evidence.rows) for seed in stored_seeds]
    for one, two in zip(stored_seeds, seeds, strict=True):
        location = f"{SEEDS}, {one_line(one.run, 80)}"
        yield from _scores(location, (*one.validation, *one.held_out), (*two.validation, *two.held_out))
    arms = [
        ArmAnswers(arm["arm"], tuple(scored[arm["arm"]]), arm["cached"], arm["seconds"], "", arm.get("prompt_tokens"))
        for arm in stored["arms"]
    ]
    recorded: Any = {key: value for key, value in stored["facts"].items() if key not in RECOMPUTED}
    current = to_json(build({**recorded, **facts}, arms, [row.group for row in evidence.rows], seeds))
    current["facts"]["made"] = stored["facts"].get("made")
    yield from _contamination(folder, stored["facts"].get("contamination"), evidence)
    yield from _seed_choice(stored, current, seeds, scored.get(TUNED, ()))
    yield from differences("report.json", {key: value for key, value in stored.items() if key not in ("v", "files")}, current)


def _contamination(folder: Path, stored: Record | None, evidence: EvaluationEvidence) -> Iterator[str]:
    """Yield each difference between the recorded contamination and the prompts that the adapter's runs were trained on."""
    try:
        trained = load_trained(folder)
    except InputError as error:
        yield error.message
        return
    for one in trained:
        for row in one.overlap(evidence.rows):
            yield f"{QUESTIONS}, {row.id}: {one_line(one.run, 80)} was trained on this row or its prompt."
    rows = sum(one.rows for one in trained)
    if stored and stored["code"] == "unseen" and (stored["rows"] != rows or not trained):
        yield f"report.json, facts, contamination, rows is stored as {stored['rows']} but recomputed as {rows}."


def _seed_choice(stored: Record, current: Record, seeds: Sequence[SeedAnswers], tuned: Sequence[Answer]) -> Iterator[str]:
    """Yield a sentence if the report is not about the recommended seed, or if that seed's answers are not those of the tuned arm."""
    chosen = current.get("seeds", {}).get("recommended", run := stored["facts"].get("run"))
    if chosen != run:
        yield f"report.json is about {one_line(str(run), 80)}, but validation recommends {one_line(chosen, 80)}."
    for seed in seeds:
        if seed.run == chosen and _passes(seed.held_out) != _passes(tuned):
            yield f"seeds.jsonl: the held-out answers of {one_line(chosen, 80)} are not scored like those of {TUNED} in outputs.jsonl."


def _passes(answers: Sequence[Answer]) -> list[dict[str, bool]]:
    return [{name: score.passed for name, score in answer.scores.items()} for answer in answers]


def _answer_limits(evidence: EvaluationEvidence, stored: Record, contract: Contract) -> tuple[int, int]:
    """Return the limit of an answer, and that under a grammar."""
    limit, room = evidence.recipe.evaluation.max_tokens, stored["facts"].get("room")
    if limit != AUTO:
        return limit, limit
    limit = auto_limit(stored["facts"].get("longest_reference", 0), room)
    return limit, grammar_limit(limit, contract.schema_document, room)


def _too_long(evidence: EvaluationEvidence, max_tokens: int, grammar_tokens: int) -> Iterator[str]:
    for arm, answers in evidence.answers.items():
        limit = grammar_tokens if has_grammar(arm) else max_tokens
        for answer in () if arm.startswith(ENDPOINT) else answers:  # an endpoint counts tokens in its own way
            if answer.answer_tokens > limit:
                yield f"outputs.jsonl, {arm}, {answer.id}: the answer has {answer.answer_tokens} tokens, more than the limit of {limit}."


def verify_judges(evaluation: Path) -> Iterator[str]:
    """Yield each difference between a judge's report and one rebuilt from its session, with its location."""
    for file in sorted(evaluation.glob(f"judge/*/{judge_report.FILE}")):
        try:
            session = judge_session.load_session(evaluation, file.parent)
            location, stored = f"judge/{file.parent.name}/{file.name}", read_json(file)
            require_version(stored.get("v"), judge_report.VERSION, file)
            grades = judge_session.load_grades(session)
            if missing := {call.key for call in session.calls} - set(grades):
                yield f"{location}: calls.jsonl lacks {len(missing)} of its questions."
                continue
            arms = session.first, session.second
            rater = revealed_choices(evaluation, *arms, load_pairs(evaluation, *arms)) if stored.get("calibrated") else {}
            report = judge_report.build_judge_report(session, grades, rater, judge_session.dollars_spent(session))
            yield from differences(location, stored, {"v": judge_report.VERSION, **to_json(report)})
        except InputError as error:
            yield f"judge/{file.parent.name}: {error.message}"


def differences(location: str, stored: Any, current: Any) -> Iterator[str]:
    """Yield each difference between two JSON values, ignoring float differences up to :data:`TOLERANCE`."""
    match stored, current:
        case dict(), dict():
            for key in dict.fromkeys([*stored, *current]):
                if key in stored and key in current:
                    yield from differences(f"{location}, {key}", stored[key], current[key])
                else:
                    yield f"{location}, {one_line(str(key), 40)} is only {'recomputed' if key in current else 'stored'}."
        case list(), list() if len(stored) == len(current):
            for index, (one, two) in enumerate(zip(stored, current, strict=True)):
                yield from differences(f"{location} {_name(two, index)}", one, two)
        case (bool(), _) | (_, bool()) if stored is current:
            pass
        case int() | float(), int() | float() if not (isinstance(stored, bool) or isinstance(current, bool)):
            if not _is_close(stored, current):
                yield f"{location} is stored as {stored} but recomputed as {current}."
        case _:
            if stored != current:
                yield f"{location} is stored as {_short(stored)} but recomputed as {_short(current)}."


def _is_close(one: float, two: float) -> bool:
    try:
        return math.isclose(one, two, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:  # an integer that no float can hold
        return one == two


def _name(value: Any, index: int) -> str:
    """Return the values that identify a list item, or its number."""
    names = [str(value[key]) for key in ("first", "second", "arm", "metric") if isinstance(value, dict) and key in value]
    return " ".join(names) or f"{index + 1}"


def _short(value: Any) -> str:
    return one_line(json.dumps(value, ensure_ascii=False), 80)

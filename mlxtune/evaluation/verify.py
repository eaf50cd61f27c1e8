"""Recompute every number in a report from the stored outputs, without a model, source data or network.

Agreement shows that the report was computed from these files. If someone changes the outputs, the report and the hashes together,
that cannot be detected from the folder alone: ``unproven`` names the facts and files that nothing on this machine confirms. The source
data confirm the rows, and the base's folder its fingerprint and template. A trusted signature covers everything.
"""

import html
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jsonschema

from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.files import read_json, require_version
from mlxtune.core.hashing import sha256_json
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import one_line, safe_text
from mlxtune.data.source import Source, read_source
from mlxtune.data.split import Splits, sample_rows, split
from mlxtune.evaluation import evidence as saved
from mlxtune.evaluation import report
from mlxtune.evaluation.answer_budget import LONGER, answer_limits
from mlxtune.evaluation.answers import Answer, ArmAnswers, SeedAnswers, score_answers, score_seed
from mlxtune.evaluation.arms import BASE, ENDPOINT, STRONGEST, TUNED, default_arms, has_grammar, is_tuned
from mlxtune.evaluation.blind.blind_session import revealed_choices
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import FILES, OUTPUTS, QUESTIONS, SEEDS, VALIDATION, EvaluatedRow, EvaluationEvidence, load_rows
from mlxtune.evaluation.free_arms import free_arm_problems, stored_strongest
from mlxtune.evaluation.history import contract_hash, schema_hash
from mlxtune.evaluation.holdout import ledger
from mlxtune.evaluation.holdout.contamination import load_trained
from mlxtune.evaluation.judge import judge_report, judge_session
from mlxtune.evaluation.off_task.prompts import compare_off_task
from mlxtune.evaluation.report import FILE, PAGES, ReportFacts, continued_arms, decoding
from mlxtune.evaluation.report_builder import build
from mlxtune.models.resolve import resolve
from mlxtune.present.report import render_pages
from mlxtune.recipe import Recipe, read_template

Record = dict[str, Any]  # the content of report.json, which may be damaged

TOLERANCE = 1e-12  # for floats, whose last digit may differ between machines
_STYLE = re.compile(r"<style>.*?</style>", re.DOTALL)
_ACTIVE = re.compile(r"<script|\bcontent\s*:|\bon\w+\s*=", re.IGNORECASE)
_CHART = re.compile(r"<(?:svg|rect|line)\b[^>]*>")
_TAG = re.compile(r"<[^>]+>")
_SIGN = re.compile(r"\\.|[<>&!|`#*_~\[\]]")  # of Markdown, behind a backslash or not
_MADE_WITH = re.compile(r"mlxtune \d[\w.]*")  # the version
_FIGURE = re.compile(
    r"[+−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?%?|\b(?:better|worse|cannot tell|held|dropped)\b|[✓✗·]"
    r"|\b(?:(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|percent)\b",
    re.IGNORECASE,
)


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
        evidence = saved.load_evidence(folder)
        contract = Contract.from_recipe(evidence.recipe)
    except InputError as error:
        return [*problems, error.message]
    mismatches = [
        f"outputs.jsonl: the answers of {arm} do not match the rows of questions.jsonl one to one." for arm in evidence.mismatched
    ]
    if (arms := [arm["arm"] for arm in stored["arms"]]) != list(evidence.answers):
        mismatches.append(f"outputs.jsonl has the arms {', '.join(evidence.answers)}, but report.json has {', '.join(arms)}.")
    if mismatches:
        return problems + mismatches
    scored = {arm: score_answers(contract, evidence.rows, answers) for arm, answers in evidence.answers.items()}
    for arm, answers in evidence.answers.items():
        problems += _scores(f"{OUTPUTS}, {arm}", answers, scored[arm])
    found = _read_splits(evidence.recipe)
    if found:
        problems += _row_problems(folder, evidence.recipe, found[0])
    problems += free_arm_problems(evidence, contract, stored["facts"], found[1] if found else None)
    problems += [*_numbers(folder, stored, evidence, contract, scored), *verify_judges(folder)]
    try:  # pages of a report with differences differ as well
        pages = _differing_pages(folder, _page_figures)
        return problems or [f"{name} shows {shown} where report.json and the outputs give {drawn}." for name, shown, drawn in pages]
    except InputError as error:
        return [error.message]


def _differing_pages(folder: Path, read: Callable[[str, bool], list[str]]) -> Iterator[tuple[str, str, str]]:
    """Draw the pages again; yield the name of each in which ``read`` finds something else than in the stored one, and the first difference."""
    for name, text in render_pages(report.load(folder), folder).items():
        page = folder / name
        stored = page.read_bytes().decode("utf-8", "replace") if page.is_file() else ""
        pairs = zip_longest(*(read(one, name.endswith(".html")) for one in (stored, text)), fillvalue="nothing")
        if found := next(((one, two) for one, two in pairs if one != two), None):
            yield name, *found


def _page_figures(text: str, is_html: bool) -> list[str]:
    """Return the figures on a page in order: its numbers, its outcomes, and the geometry of its charts.

    The words around them may change between versions. Scripts and invisible characters could show other figures, so they count, too.
    """
    active = len(_ACTIVE.findall(text)) if is_html else 0
    if is_html:
        text = html.unescape(f"{_TAG.sub(' ', _STYLE.sub('', text))}\n{' '.join(_CHART.findall(text))}")
    figures = _FIGURE.findall(_MADE_WITH.sub("", unicodedata.normalize("NFKC", text)))
    return ["✗"] * (active + (safe_text(text) != text)) + [figure.lower() for figure in figures]


def _markup(text: str, is_html: bool) -> list[str]:
    """Return what could hide or add figures: the style and the tags of a page in HTML, the signs of one in Markdown that are not escaped."""
    return [*_STYLE.findall(text), *_TAG.findall(text)] if is_html else [sign for sign in _SIGN.findall(text) if len(sign) == 1]


@cache
def schema() -> Record:
    value: Record = json.loads(files("mlxtune.evaluation").joinpath("report.schema.json").read_text("utf-8"))
    return value


def _changed_files(folder: Path, stored: dict[str, str]) -> Iterator[str]:
    current = saved.hashes(folder, (*FILES, *PAGES))
    for name in sorted(name for name in {*stored, *current} if stored.get(name) != current.get(name)):
        if name not in current:
            yield f"{name} is missing."
        elif name not in stored:
            yield f"{name} did not exist when the report was made."
        else:
            yield f"{name} was changed: its sha256 is {current[name][:12]}…, not {stored[name][:12]}…."


def _scores(location: str, stored: Sequence[Answer], scored: Sequence[Answer]) -> Iterator[str]:
    for one, two in zip(stored, scored, strict=True):
        yield from differences(f"{location}, {one.id}, scores", to_json(one.scores), to_json(two.scores))


def _numbers(
    folder: Path, stored: Record, evidence: EvaluationEvidence, contract: Contract, scored: Mapping[str, Sequence[Answer]]
) -> Iterator[str]:
    """Yield each difference between the stored report and one rebuilt from the stored answers."""
    section, longest, room = evidence.recipe.evaluation, stored["facts"].get("longest_reference", 0), stored["facts"].get("room")
    limit, wide = answer_limits(section, longest, contract.schema_document, room)
    for arm, own in evidence.answers.items():
        most = (wide if has_grammar(arm) else limit) * (LONGER if arm in stored["facts"].get("continued", {}) else 1)
        for answer in () if arm.startswith(ENDPOINT) else own:  # an endpoint counts tokens in its own way
            if answer.answer_tokens > most:
                yield f"outputs.jsonl, {arm}, {answer.id}: the answer has {answer.answer_tokens} tokens, more than the limit of {most}."
    facts: ReportFacts = {
        "name": evidence.recipe.name, "base": evidence.recipe.model.base, "rows": len(evidence.rows),
        "row_ids": [row.id for row in evidence.rows], "schema": schema_hash(evidence.recipe), "contract": contract_hash(evidence.recipe),
        "headline": contract.headline(evidence.recipe, has_preferences=evidence.has_pairs), "required": contract.required_metrics,
        "decoding": decoding(limit, wide),
    }  # fmt: skip
    if continued := continued_arms(facts, evidence.answers):
        facts["continued"] = continued
    try:
        prompts, answers = saved.load_off_task(folder)
        if prompts:
            margin = evidence.recipe.evaluation.regression_margin
            facts["off_task"] = to_json(compare_off_task(prompts, answers[BASE], answers[TUNED], margin))
    except (InputError, KeyError, ValueError):
        yield f"{saved.REGRESSION} lacks the base's or the adapter's answer to at least one prompt."
    try:
        if (lines := ledger.load(folder)).lines:
            result = ledger.result_hash(facts["contract"], evidence.answers)
            facts["holdout"] = to_json(history := ledger.history(lines, facts["row_ids"], result))
            facts |= {"last_look": True} if history.last_look else {}
        if found := stored_strongest(folder, contract, evidence.recipe):
            facts["strongest"] = found
        validation = load_rows(folder, VALIDATION) if (folder / SEEDS).is_file() else ()
        stored_seeds = saved.load_seed_answers(folder, validation, evidence.rows)
    except InputError as error:
        yield error.message
        return
    seeds = [score_seed(contract, seed, validation, evidence.rows) for seed in stored_seeds]
    for one, two in zip(stored_seeds, seeds, strict=True):
        yield from _scores(f"{SEEDS}, {one_line(one.run, 80)}", (*one.validation, *one.held_out), (*two.validation, *two.held_out))
    arms = [
        ArmAnswers(arm["arm"], tuple(scored[arm["arm"]]), arm["cached"], arm["seconds"], "", arm.get("prompt_tokens"))
        for arm in stored["arms"]
    ]
    recorded: Any = {key: value for key, value in stored["facts"].items() if key not in _RECOMPUTED}
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
    for run, row in ((one.run, row) for one in trained for row in one.overlap(evidence.rows)):
        yield f"{QUESTIONS}, {row.id}: {one_line(run, 80)} was trained on this row or its prompt."
    rows = sum(one.rows for one in trained)
    if stored and stored["code"] == "unseen" and (stored["rows"] != rows or not trained):
        yield f"report.json, facts, contamination, rows is stored as {stored['rows']} but recomputed as {rows}."


def _seed_choice(stored: Record, current: Record, seeds: Sequence[SeedAnswers], tuned: Sequence[Answer]) -> Iterator[str]:
    """Yield a sentence if the report is not about the recommended seed, or if that seed's answers are not those of the tuned arm."""
    chosen = current.get("seeds", {}).get("recommended", run := stored["facts"].get("run"))
    if chosen != run:
        yield f"report.json is about {one_line(str(run), 80)}, but validation recommends {one_line(chosen, 80)}."
    for seed in seeds:
        own, other = ([{name: score.passed for name, score in one.scores.items()} for one in arm] for arm in (seed.held_out, tuned))
        if seed.run == chosen and own != other:
            yield f"seeds.jsonl: the held-out answers of {one_line(chosen, 80)} are not scored like those of {TUNED} in outputs.jsonl."


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
            pairs = saved.load_pairs(evaluation, *session.arms)
            rater = revealed_choices(evaluation, *session.arms, pairs) if stored.get("calibrated") else {}
            report = judge_report.build_judge_report(session, grades, rater, judge_session.dollars_spent(session))
            yield from differences(location, stored, to_json(report))
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
        case _ if not _is_close(stored, current):
            texts = (one_line(json.dumps(value, ensure_ascii=False), 80) for value in (stored, current))
            yield f"{location} is stored as {' but recomputed as '.join(texts)}."


def _is_close(one: Any, two: Any) -> bool:
    if isinstance(one, bool) or isinstance(two, bool) or not (isinstance(one, int | float) and isinstance(two, int | float)):
        return type(one) is type(two) and bool(one == two)
    with suppress(OverflowError):  # an integer that no float can hold
        return math.isclose(one, two, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return one == two


def _name(value: Any, index: int) -> str:
    """Return the values that identify a list item, or its number."""
    names = [str(value[key]) for key in ("first", "second", "arm", "metric") if isinstance(value, dict) and key in value]
    return " ".join(names) or f"{index + 1}"


_RECOMPUTED = {
    "name", "base", "rows", "row_ids", "groups", "effective_groups", "headline", "schema", "contract", "required", "decoding", "continued",
    "off_task", "holdout", "last_look", "level", "strongest",
}  # fmt: skip
_UNMEASURED = ("cached", "seconds", "prompt_tokens")  # of an arm
_CONTENT = ("id", "group", "reference", "prompt", "tools")


def _read_splits(recipe: Recipe) -> tuple[Source, Splits] | None:
    """Read the source again and split it; ``None`` if that is not possible."""
    with suppress(MlxtuneError, OSError):
        source = read_source(recipe.source, recipe.data)
        return source, split(source, recipe.data)
    return None


def _row_problems(folder: Path, recipe: Recipe, source: Source) -> Iterator[str]:
    """Yield each stored row whose ID, a hash of its content, is that of a row of the source with another prompt or reference."""
    known = {row.id: row for row in saved.grouped_rows(recipe, source.rows, source.rows)}
    for file in (QUESTIONS, VALIDATION):
        for row in _stored_rows(folder, file):
            if (own := known.get(row.id)) and not _same(replace(row, group=own.group), own):
                yield f"{file}, {row.id}: the source has another prompt or reference."


def _stored_rows(folder: Path, name: str) -> tuple[EvaluatedRow, ...]:
    return load_rows(folder, name) if (folder / name).is_file() else ()


def unproven(folder: Path) -> list[str]:
    """Return the facts, the keys of arms, the pages, and the files that cannot be confirmed, for a report without differences."""
    stored, evidence = read_json(folder / FILE), saved.load_evidence(folder)
    facts, recipe = stored["facts"], evidence.recipe
    confirmed = {*_confirmed_rows(folder, evidence, last=facts.get("last_look", False)), *_confirmed_base(recipe, facts)}
    names = {*facts} - _RECOMPUTED | {key for arm in stored["arms"] for key in _UNMEASURED if key in arm}
    missing = {saved.HOLDOUT} - {*stored["files"]}
    if TUNED in evidence.answers:
        missing |= {"contamination", *(["off_task"] if recipe.evaluation.regression else [])} - {*facts}
    names |= {name for name, *_ in _differing_pages(folder, _markup)}
    arms = {name for name in recipe.evaluation.arms or default_arms(recipe) if TUNED in evidence.answers or not is_tuned(name)}
    missing |= arms - {*evidence.answers, *facts.get("left_out", {}), STRONGEST}
    return sorted(({*FILES} & {*stored["files"]} | names | missing) - confirmed)


def _confirmed_rows(folder: Path, evidence: EvaluationEvidence, *, last: bool) -> Iterator[str]:
    """Yield the files whose rows are exactly those that the source and its splits give."""
    recipe = evidence.recipe
    if (found := _read_splits(recipe)) is None:
        return
    source, splits = found
    evaluated = splits.reserved if last else sample_rows(splits.prompts, recipe.evaluation.rows)
    for name, rows in ((QUESTIONS, evaluated), (VALIDATION, splits.valid)):
        own, stored = saved.grouped_rows(recipe, rows, source.rows), _stored_rows(folder, name)
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

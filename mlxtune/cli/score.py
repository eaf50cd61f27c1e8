"""``score`` and ``selftest``: score outputs from any source, and check the scorers."""

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from mlxtune.cli.options import Json, argument, option
from mlxtune.cli.output import draw, show_json
from mlxtune.core.errors import GateError, InputError
from mlxtune.core.files import read_errors, read_text
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation.contract import Contract, check_patterns
from mlxtune.evaluation.report_builder import metric_rates
from mlxtune.evaluation.scorers import CONTRACT, ModelAnswer
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.evaluation.scorers.schema_valid import SchemaValidator
from mlxtune.evaluation.selftest.checks import run_checks
from mlxtune.models.thoughts import split_thought
from mlxtune.present.blocks import ActionBlock, Cell, Column, Fact, Facts, Heading, Table, text
from mlxtune.present.report import rate_cells
from mlxtune.recipe import Disclaimer, EvaluationSection, load
from mlxtune.recipe.schema import CORRECT_PARTS


def score(
    outputs: Annotated[Path, argument('JSON Lines with "output" (and "id", "reference", "prompt", "ended"), or a folder.')],
    schema: Annotated[Path | None, option("--schema", "JSON Schema file.")] = None,
    disclaimer: Annotated[list[str] | None, option("--disclaimer", "Required sentence; repeatable.")] = None,
    forbid: Annotated[list[str] | None, option("--forbid", "Forbidden phrase; repeatable.")] = None,
    pattern: Annotated[str, option("--pattern", "Required regular expression.")] = "",
    correct: Annotated[list[str] | None, option("--correct", "Correct parts: answer, fields, number, calls, /pointer.")] = None,
    recipe: Annotated[Path | None, option("--recipe", "A recipe's contract.")] = None,
    json: Json = False,
) -> None:
    """Score outputs from any source for valid JSON, schema, disclaimers, phrases, length, a pattern, and equality with references.

    Reasoning at the start of an output, such as <think>…</think>, is not scored.
    """
    own = (schema, disclaimer or [], forbid or [], pattern, correct or [])
    if recipe and any(own):
        raise InputError("--recipe already includes a contract.")
    contract = Contract.from_recipe(load(recipe)) if recipe else _contract(*own)
    rows = _folder(outputs) if outputs.is_dir() else _lines(outputs)
    if not rows:
        raise InputError(f"{outputs} contains no outputs.")
    scored = [contract.score(answer) for _, answer in rows]
    if not any(scored):
        hint = "Use --schema, --disclaimer, --forbid, or --pattern instead of --recipe."
        raise InputError(f"{recipe} has no contract, and no output has a reference, so there is nothing to score.", hint=hint)
    rates = metric_rates(scored)
    if json:
        required, scores = {*contract.required_metrics, CONTRACT}, []
        for (id, _), row in zip(rows, scored, strict=True):
            failed = {name: [one.kind, one.detail] for name, one in row.items() if name in required and not one.passed}
            others = {name: one for name, one in row.items() if name not in required}
            observed = {name: one.passed if one.value is None else one.value for name, one in others.items()}
            scores.append({"id": id, "failed": failed, "observed": observed})
        show_json({"rows": len(rows), "rates": [asdict(rate) | {"share": rate.share} for rate in rates], "scores": scores})
        return
    body = tuple((Cell(metric_label(rate.metric)), *rate_cells(rate)) for rate in rates)
    columns = (Column(), Column(right=True), Column(right=True), Column())
    draw((Table("Score", plural(len(rows), "output"), columns, body),))


def _contract(schema: Path | None, disclaimer: list[str], forbid: list[str], pattern: str, correct: list[str]) -> Contract:
    for name, phrases in (("--disclaimer", disclaimer), ("--forbid", forbid)):
        if not all(phrase.strip() for phrase in phrases):
            raise InputError(f"{name} must not be empty.")
    if not CORRECT_PARTS.is_valid(correct):
        raise InputError(f"--correct must be {CORRECT_PARTS.expected}.")
    rules = [Disclaimer(text) for text in disclaimer]
    section = EvaluationSection(disclaimers=rules, forbid=forbid, pattern=pattern, correct=correct)
    check_patterns(section)
    return Contract(section, SchemaValidator.read(schema) if schema else None)


def _folder(path: Path) -> list[tuple[Any, ModelAnswer]]:
    """Read each file in a folder as an output. Invalid UTF-8 is kept as lone surrogates, which the scorers report."""
    with read_errors(str(path)):
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return [(file.name, ModelAnswer(split_thought(file.read_bytes().decode("utf-8", "surrogateescape"))[1])) for file in files]


def _lines(path: Path) -> list[tuple[Any, ModelAnswer]]:
    """Read each line's output with its ``id``, or with its line number if no line has an ID."""
    with read_errors(str(path)):
        lines = read_text(path, "utf-8-sig").split("\n")  # not splitlines: JSON strings may contain U+2028
    rows: list[tuple[Any, ModelAnswer]] = []
    named: bool | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = jsonlib.loads(line)
            optional = {name: row[name] for name in ("ended", "reference", "prompt") if name in row}
            answer = ModelAnswer(split_thought(row["output"])[1], **optional)
            good = all(isinstance(value, str) for value in (answer.output, *optional.values()))
        except (ValueError, KeyError, TypeError, RecursionError):
            good = False
        if not good:
            raise InputError(f'{path}, line {number}: the line must have the form {{"output": "…"}}.')
        if named not in (None, "id" in row):
            raise InputError(f"{path}, line {number}: only some lines have an ID.", hint="Add an ID to every line, or to none.")
        named = "id" in row
        rows.append((row.get("id", number), answer))
    return rows


_SHOWN = 10


def selftest(
    suites: Annotated[Path | None, option("--suites", "A folder with the jsontestsuite and jsonschema2020-12 suites.")] = None,
    json: Json = False,
) -> None:
    """Check the scorers against known cases and the public conformance suites. Exits 1 if any case fails."""
    results = list(run_checks(suites))
    wrong = sum(len(check.wrong) for check in results)
    if json:
        show_json({"holds": not wrong, "checks": [asdict(check) | {"holds": check.passed} for check in results]})
    else:
        found = [
            Fact(check.name, f"{check.right:,} of {check.total:,}", check.note, "success" if check.passed else "error")
            for check in results
        ]
        wrong_cases = [
            text(f"{check.name}: {one_line(case, 160)}", mark="error") for check in results for case in check.wrong[:_SHOWN]
        ]
        suite = () if suites else (ActionBlock("", "adds the public conformance suites", "--suites DIR"),)
        cases = plural(sum(check.total for check in results), "case")
        draw((Heading("Self-test", cases), Facts(tuple(found)), *wrong_cases, *suite))
    if wrong:
        raise GateError(f"The scorers fail {plural(wrong, 'case')}.")

"""Is a report what its evidence says? Every number is computed again, from the stored outputs, without a model, source or network.

What agrees was computed from these files. Who changes the outputs, the report and its hashes alike has made another evaluation: that
cannot be told from the folder alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json
from mlxtune.core.text import one_line
from mlxtune.evaluation import regression, report
from mlxtune.evaluation.arms import BASE, TUNED
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import FILES, Evidence, hashes, load_evidence, off_task, schema_hash
from mlxtune.evaluation.preference import METRIC as PREFERENCE
from mlxtune.evaluation.report import PAGES, Measured, Scored
from mlxtune.evaluation.terms import contract_hash
from mlxtune.evaluation.verdict import HEADLINE

TOLERANCE = 1e-12  # of floats, which another machine may round otherwise in the last place
_TOLD = ("made",)  # when it was made is told, and so is how long the arms took


def verify(folder: Path) -> list[str]:
    """Every difference between ``report.json`` in ``folder`` and what its evidence says, each with its place; empty when there is none.

    Raises ``InputError`` when there is no report, or one that keeps no evidence.
    """
    told = read_json(folder / report.FILE)
    if not isinstance(told, dict) or "files" not in told:
        raise InputError(
            f"{folder / report.FILE} names no files to verify it by.",
            mend="It is of an older mlxtune. Evaluate again: mlxtune eval",
        )
    if wrong := list(_malformed(told)):
        return wrong
    found = list(_files(folder, told["files"]))
    try:
        evidence = load_evidence(folder)
        contract = Contract.of(evidence.recipe)
    except InputError as error:
        return [*found, error.message]
    scored = {arm: _scored(evidence, contract, arm) for arm in evidence.said}
    if astray := list(_astray(evidence, told)):
        return [*found, *astray]
    found += _outputs(evidence, contract, scored)
    return [*found, *_numbers(folder, told, evidence, scored)]


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of ``report.json``."""
    found: dict[str, Any] = json.loads(files("mlxtune.evaluation").joinpath("report.schema.json").read_text("utf-8"))
    return found


def _malformed(told: Any) -> Iterator[str]:
    for error in jsonschema.Draft202012Validator(schema()).iter_errors(told):
        yield f"report.json {error.json_path.removeprefix('$.')}: {one_line(error.message, 160)}"


def _files(folder: Path, told: dict[str, str]) -> Iterator[str]:
    """Files that are not as they were when the report was made."""
    found = hashes(folder, (*FILES, *PAGES))
    for name in sorted({*told, *found}):
        if name not in found:
            yield f"{name} is gone."
        elif name not in told:
            yield f"{name} was not there when the report was made."
        elif told[name] != found[name]:
            yield f"{name} was changed: its sha256 is {found[name][:12]}…, not {told[name][:12]}…."


def _astray(evidence: Evidence, told: dict[str, Any]) -> Iterator[str]:
    """Answers that are not those of the report's arms to the rows that were asked."""
    arms = [arm["arm"] for arm in told["arms"]]
    if arms != list(evidence.said):
        yield f"outputs.jsonl has the arms {', '.join(evidence.said)}, report.json has {', '.join(arms)}."
    ids = [row.id for row in evidence.asked]
    for arm, answers in evidence.said.items():
        if [answer.id for answer in answers] != ids:
            yield f"outputs.jsonl: the answers of {arm} are not to the rows of questions.jsonl, one each, in their order."
    for arm, pairs in evidence.preferred.items():
        if arm not in evidence.said or not set(pairs) <= set(ids):
            yield f"preferences.jsonl: the pairs of {arm} are not those of questions.jsonl."


def _scored(evidence: Evidence, contract: Contract, arm: str) -> Scored:
    """The scores of an arm's answers, and of what it prefers."""
    scored = []
    for row, answer in zip(evidence.asked, evidence.said[arm], strict=False):
        scores = contract.score(row.answer(answer.output, answer.ended))
        if pair := evidence.preferred.get(arm, {}).get(row.id):
            scores[PREFERENCE] = pair.score
        scored.append(scores)
    return scored


def _outputs(evidence: Evidence, contract: Contract, scored: dict[str, Scored]) -> Iterator[str]:
    """Answers that fail otherwise than ``outputs.jsonl`` says."""
    for arm, answers in evidence.said.items():
        for answer, scores in zip(answers, scored[arm], strict=True):
            failed = {
                metric: [score.kind, score.why] for metric, score in scores.items() if metric in contract.asked and not score.holds
            }
            yield from _differences(f"outputs.jsonl, {arm}, {answer.id}, failed", answer.failed, failed)


def _numbers(folder: Path, told: dict[str, Any], evidence: Evidence, scored: dict[str, Scored]) -> Iterator[str]:
    """What a report on the evidence says otherwise than ``told``."""
    arms, groups = [], [row.group for row in evidence.asked]
    for arm in told["arms"]:
        pairs = evidence.preferred.get(arm["arm"], {})
        margins = [pairs[row.id].margin if row.id in pairs else None for row in evidence.asked] if pairs else []
        said = evidence.said[arm["arm"]]
        nats, tokens = sum(answer.nats for answer in said), sum(answer.tokens for answer in said)
        arms.append(Measured(arm["arm"], arm["cached"], arm["seconds"], scored[arm["arm"]], margins, nats, tokens))
    facts = {
        "name": evidence.recipe.name,
        "rows": len(evidence.asked),
        "row_ids": [row.id for row in evidence.asked],
        "headline": PREFERENCE if evidence.recipe.method.kind == "dpo" and evidence.preferred else HEADLINE,
        "schema": schema_hash(folder),
        "contract": contract_hash(evidence.recipe),
        "asks": [metric.name for metric in Contract.of(evidence.recipe).metrics if metric.asked],
        "decoding": {"kind": "greedy", "max_tokens": evidence.recipe.evaluation.max_tokens},
    }
    try:
        if regressed := _regression(folder):
            facts["regression"] = asdict(regressed)
    except (InputError, KeyError, ValueError):
        yield "regression.jsonl has not one answer of the base and of the adapter to each prompt."
    made = json.loads(json.dumps(asdict(report.build({**told["facts"], **facts}, arms, groups))))
    for name in _TOLD:
        made["facts"][name] = told["facts"].get(name)
    yield from _differences("report.json", {key: value for key, value in told.items() if key not in ("v", "files")}, made)


def _regression(folder: Path) -> regression.Regression | None:
    """What the off-task answers come to, if any were asked for. Raises ``KeyError`` and ``ValueError`` where some are missing."""
    probes, said = off_task(folder)
    return regression.compare(probes, said[BASE], said[TUNED]) if probes else None


def _differences(place: str, told: Any, found: Any) -> Iterator[str]:
    """Where two JSON values differ, floats by more than :data:`TOLERANCE`."""
    match told, found:
        case dict(), dict():
            for key in dict.fromkeys([*told, *found]):
                if key in told and key in found:
                    yield from _differences(f"{place}, {key}", told[key], found[key])
                else:
                    yield f"{place}, {one_line(str(key), 40)} is {'recomputed only' if key in found else 'told only'}."
        case list(), list() if len(told) == len(found):
            for at, (one, two) in enumerate(zip(told, found, strict=True)):
                yield from _differences(f"{place} {_name(two, at)}", one, two)
        case (bool(), _) | (_, bool()) if told is found:
            pass
        case int() | float(), int() | float() if not (isinstance(told, bool) or isinstance(found, bool)):
            if not math.isclose(told, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                yield f"{place} is told as {told}, and recomputed as {found}."
        case _:
            if told != found:
                yield f"{place} is told as {_short(told)}, and recomputed as {_short(found)}."


def _name(value: Any, at: int) -> str:
    """What an item of a list goes by."""
    names = [str(value[key]) for key in ("first", "second", "arm", "metric") if isinstance(value, dict) and key in value]
    return " ".join(names) or f"{at + 1}"


def _short(value: Any) -> str:
    return one_line(json.dumps(value, ensure_ascii=False), 80)

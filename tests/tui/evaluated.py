"""A workspace whose runs were evaluated: the sample shop's rows, answers with planted faults, and the core's own evidence and report."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlxtune.core.json_fields import to_json
from mlxtune.data.rows import Location
from mlxtune.data.source import read_source
from mlxtune.evaluation import evidence, nearest_rows, report_builder
from mlxtune.evaluation.answers import Answer, ArmAnswers, score_answers
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.history import contract_hash, schema_hash
from mlxtune.evaluation.holdout import ledger
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt, compare_off_task
from mlxtune.present.report import publish
from mlxtune.recipe import dump, load

from .stage import Event, Shop, started

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
RECIPE = """name = "{name}"
[model]
base = "smollm2-135m"
[data]
source = "../data/{source}.jsonl"
[method]
kind = "{kind}"
[evaluation]
schema = "../data/support.schema.json"
forbid = ["Northpeak"]
max_tokens = 112
[[evaluation.disclaimers]]
text = "Safety note: this is general guidance, not training."
when = {{ category = "safety" }}
"""
Answers = Callable[[int, str], str]


def base(at: int, reference: str) -> str:
    """Prose but for every fourth row, and a fence around some."""
    if at % 4 == 0:
        return reference
    return f"```json\n{reference}\n```" if at % 4 == 1 else "Dear customer, thank you for writing to us. We will look into it."


def kshot(at: int, reference: str) -> str:
    """The format in three of five rows."""
    return reference if at % 5 < 3 else f"Sure. {reference}"


def tuned(at: int, reference: str) -> str:
    """Right but for a few planted faults, each of another kind; some of them where the base was right."""
    faults: dict[int, Answers] = {
        4: lambda _, text: _changed(text, priority="hgih"),
        7: lambda _, text: text[: len(text) * 2 // 3],
        8: lambda _, text: _changed(text, reply=f"Unlike Northpeak, we like to help. {json.loads(text)['reply']}"),
        11: lambda _, text: f"{text}\nIs there anything else?",
        15: lambda _, text: text.replace(', "needs_human"', ',, "needs_human"'),
        20: lambda _, text: _changed(text, needs_human="maybe"),
        21: lambda _, text: _changed(text, category="weather"),
    }  # fmt: skip
    return faults.get(at, lambda _, text: text)(at, reference)


def _changed(text: str, **values: str) -> str:
    return json.dumps({**json.loads(text), **values}, ensure_ascii=False)


ARMS: dict[str, Answers] = {"base": base, "base+kshot": kshot, "tuned": tuned}
_scratch = tempfile.TemporaryDirectory()
_built: dict[object, Path] = {}  # by the arguments of the evaluation


def copy_rows(shop: Shop, *files: str) -> None:
    """Copy ``files`` of the samples, by default some rows of the shop, to where the recipes expect them."""
    for file in files:
        shutil.copyfile(SAMPLES / file, shop.folder / "data" / file)
    if not files:
        lines = (SAMPLES / "support.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (shop.folder / "data" / "support.jsonl").write_text("".join(lines[:120]), encoding="utf-8")


def evaluation(
    shop: Shop, id: str = "20261124-1500-support-json", *, name: str = "support-json", rows: int = 40, age: float = 600.0,
    arms: Mapping[str, Answers] = ARMS, pairs: bool = False, run: str = "", off_task: int = 0, looks: int = 1,
) -> Path:  # fmt: skip
    """A finished evaluation in ``evals/``; ``off_task`` prompts are unlearnt by what was tuned. ``pairs``: it is of preference training.

    The first one in a workspace is copied from an equal one that was built before.
    """
    kind, source = ("dpo", "support-pairs") if pairs else ("sft", "support")
    path = shop.recipe(name, RECIPE.format(name=name, kind=kind, source=source))
    copy_rows(shop, f"{source}.jsonl", "support.schema.json")
    recipe, evals = load(path), shop.folder / "evals"
    key = (id, name, rows, age, tuple(arms.items()), pairs, run, off_task, looks)
    first = not evals.exists()
    if first and key in _built:
        shutil.copytree(_built[key], evals)
        (evals / id / "recipe.toml").write_text(dump(recipe))  # has the paths of the workspace
        return evals / id
    folder = shop.run(id, kind="eval", name=name)
    (folder / "recipe.toml").write_text(dump(recipe))
    read = read_source(recipe.source)
    held_out, train = read.rows[:rows], read.rows[rows : rows + 60]
    evidence.save_evidence(folder, recipe, held_out, read.rows)
    contract, prompts = Contract.from_recipe(recipe), evidence.load_rows(folder)
    measured = []
    for number, (arm, answer) in enumerate(arms.items()):
        answers = []
        for at, row in enumerate(prompts):
            text = answer(at, row.reference or "")
            likelihood: dict[str, Any] = {"nats": 20.0 + 1.25 * number, "tokens": 30}
            if pairs:
                likelihood = {"nats": 1.0 + at / 50, "tokens": 1, "rejected": (1.5 - (at % 4) / (1 + 2 * number), 1)}
            answers.append(Answer(row.id, text, "stop", len(text) // 4, **likelihood))
        measured.append(ArmAnswers(arm, score_answers(contract, prompts, answers), number == 0, 95.0 + number))
    evidence.save_outputs(folder, ((arm.name, arm.answers) for arm in measured))
    last, metric = list(arms)[-1], "preference" if pairs else "contract"
    failed = [row for row, scores in zip(held_out, measured[-1].scores, strict=True) if not scores[metric].passed]
    nearest_rows.save_nearest(folder, failed, train, read)
    ids = [row.id for row in held_out]
    adapter = "runs/x/adapter" if last == "tuned" else ""
    for number in range(1, looks):
        ledger.record(ledger.ledger_path(folder), "eval", f"{id}-{number}", ids, adapter=adapter)
    result = ledger.result_hash(contract_hash(recipe), {arm.name: arm.answers for arm in measured})
    history = ledger.enter(folder, ids, result, adapter)
    facts: dict[str, Any] = {
        "name": name, "base": "smollm2-135m", "base_fingerprint": "0" * 64, "run": run, "adapter": adapter,
        "rows": rows, "headline": metric, "row_ids": ids, "required": contract.required_metrics, "holdout": to_json(history),
        "source": "data/support.jsonl", "schema": schema_hash(recipe), "contract": contract_hash(recipe),
        "decoding": {"kind": "greedy", "max_tokens": 112}, "compute": "4-bit weights, computed in float32 on the CPU",
    }  # fmt: skip
    if off_task:
        probes = [OffTaskPrompt(f"q{at}", f"What comes after {at}?", (str(at + 1),), Location(folder, at + 1)) for at in range(10)]
        right = [f"It is {at + 1}." for at in range(10)]
        wrong = [text if at >= off_task else "I do not know." for at, text in enumerate(right)]
        evidence.save_off_task(folder, probes, {"base": right, "tuned": wrong})
        facts["off_task"] = to_json(compare_off_task(probes, right, wrong))
    built = report_builder.build(facts, measured, [row.group for row in prompts])
    publish(built, folder)
    _fix_time(folder)
    done: list[Event] = [("arm.started", {"arm": arm, "rows": rows}) for arm in arms]
    summary = {"outcome": built.outcome, "change": built.headline.change if built.headline else None, "rows": rows}
    shop.tell(folder, [started("eval", name), *done, ("run.finished", {"summary": summary})], age)
    if first:
        _built[key] = shutil.copytree(evals, Path(_scratch.name) / str(len(_built)))
    return folder


def evaluating(shop: Shop, id: str = "20261124-1600-support-json", name: str = "support-json") -> Path:
    folder = shop.run(id, kind="eval", name=name, alive=True)
    story: list[Event] = [
        started("eval", name),
        ("arm.started", {"arm": "base", "rows": 40}),
        ("arm.finished", {"arm": "base", "rows": 40, "cached": True, "seconds": 1.0}),
        ("arm.started", {"arm": "tuned", "rows": 40}),
        ("arm.progress", {"arm": "tuned", "done": 14, "total": 40}),
    ]
    shop.tell(folder, story)
    return folder


def _fix_time(folder: Path) -> None:
    """The report's own date: pictures must not change from day to day."""
    file = folder / "report.json"
    data = json.loads(file.read_text())
    data["facts"]["made"] = "2026-11-24T15:00:00+0000"
    file.write_text(json.dumps(data))

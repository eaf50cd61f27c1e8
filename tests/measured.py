"""A finished evaluation on disk, whole with its evidence and report, as the worker leaves it: of a shop that answers in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mlxtune.data.source import read_source
from mlxtune.evaluation import evidence, nearest, report
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.preference import Preferred
from mlxtune.evaluation.publish import publish
from mlxtune.evaluation.terms import contract_hash
from mlxtune.recipe import dump, load

GOOD = '{"reply": "Thank you, it is near."}'
BAD = "It is near"


def measured(place: Path, *, pairs: bool = False, **arms: Sequence[str]) -> Path:
    """The folder ``evals/20261124-1412-shop`` below ``place``; ``arms`` map an arm to its answers. ``pairs``: rows are pairs.

    Of the source's rows, one for each answer and ten more, the first are held out and the others trained.
    """
    arms = arms or {"base": [BAD, GOOD, BAD, BAD], "tuned": [GOOD, GOOD, "", GOOD]}
    count = len(next(iter(arms.values())))
    source = place / "shop.jsonl"
    source.write_text("".join(json.dumps(_row(at, pairs)) + "\n" for at in range(count + 10)))
    (place / "schema.json").write_text('{"type": "object", "required": ["reply"]}\n')
    (place / "shop.toml").write_text(
        'name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "shop.jsonl"\n'
        f'[method]\nkind = "{"dpo" if pairs else "sft"}"\n[evaluation]\nschema = "schema.json"\nforbid = ["Northpeak"]\n'
    )
    folder = place / "evals" / "20261124-1412-shop"
    folder.mkdir(parents=True)
    recipe = load(place / "shop.toml")
    (folder / "recipe.toml").write_text(dump(recipe))
    read = read_source(recipe.source)
    rows, train = read.rows[:count], read.rows[count:]
    told = {
        arm: {row.id: Preferred(-1.0 - at / 10, -1.5 + (at % 3) / (1 + number)) for at, row in enumerate(rows)}
        for number, arm in enumerate(arms)
        if pairs
    }
    evidence.keep(folder, recipe, rows, told, read.rows)
    contract = Contract.of(recipe)
    asked = evidence.questions(folder)
    scored = {
        arm: [contract.score(row.answer(text, "stop")) for row, text in zip(asked, answers, strict=True)]
        for arm, answers in arms.items()
    }
    records = [
        {
            "id": row.id, "line": row.place.line, "arm": arm, "output": text, "ended": "stop",
            "failed": {name: [score.kind, score.why] for name, score in scores.items() if name in contract.asked and not score.holds},
        }
        for arm, answers in arms.items()
        for row, text, scores in zip(rows, answers, scored[arm], strict=True)
    ]  # fmt: skip
    (folder / "outputs.jsonl").write_text(evidence.lines(records))
    failed = [row for row, scores in zip(rows, scored[list(arms)[-1]], strict=True) if not scores["contract"].holds]
    nearest.keep(folder, failed, train, read)
    for arm, by_id in told.items():
        for row, scores in zip(rows, scored[arm], strict=True):
            scores["preference"] = by_id[row.id].score
    found = [
        report.Measured(arm, at == 0, 1.5, scores, [told[arm][row.id].margin for row in rows] if pairs else [])
        for at, (arm, scores) in enumerate(scored.items())
    ]
    facts = {
        "name": "shop", "base": "m", "base_fingerprint": "0" * 64, "run": "r", "adapter": "a", "rows": count,
        "headline": "preference" if pairs else "contract", "row_ids": [row.id for row in rows], "looks": 1,
        "asks": [metric.name for metric in contract.metrics if metric.asked], "ledger": "First look at these rows.", "source": str(source), "schema": evidence.schema_hash(folder), "contract": contract_hash(recipe),
        "decoding": {"kind": "greedy", "max_tokens": 256}, "compute": "float32 on the CPU",
    }  # fmt: skip
    publish(report.build(facts, found, [row.group for row in asked]), folder)
    return folder


_THINGS = ("blue tent", "climbing rope", "order", "gift card of last week", "stove")
_DID = ("paid for", "gave back on Monday", "wanted to exchange", "never got", "saw in your window")  # no two rows are near twins


def _row(at: int, pairs: bool) -> dict[str, object]:
    prompt = [
        {"role": "system", "content": "Answer in JSON."},
        {"role": "user", "content": f"Where is my {_THINGS[at % 5]}, number {at}, that I {_DID[at // 5 % 5]}?"},
    ]
    if pairs:
        return {"prompt": prompt, "chosen": f"{GOOD} {at}", "rejected": BAD}
    return {"messages": [*prompt, {"role": "assistant", "content": GOOD}]}

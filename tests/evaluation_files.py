"""Write a finished evaluation to disk with evidence and report, as the worker does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mlxtune.data.source import read_source
from mlxtune.evaluation import evidence, nearest_rows, report
from mlxtune.evaluation.comparability import contract_hash
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.render.publish import publish
from mlxtune.evaluation.scorers.preference import PairLogprobs
from mlxtune.recipe import dump, load

GOOD = '{"reply": "Thank you, it is near."}'
BAD = "It is near"


def write_evaluation(workspace: Path, *, pairs: bool = False, contract: bool = True, **arms: Sequence[str]) -> Path:
    """Create ``evals/20261124-1412-shop`` in ``workspace`` and return it.

    ``arms`` maps an arm to its answers; with ``pairs`` the rows are pairs, and without ``contract`` the recipe has none. The source
    has one held-out row per answer, followed by ten training rows.
    """
    arms = arms or {"base": [BAD, GOOD, BAD, BAD], "tuned": [GOOD, GOOD, "", GOOD]}
    count = len(next(iter(arms.values())))
    source = workspace / "shop.jsonl"
    source.write_text("".join(json.dumps(_row(index, pairs)) + "\n" for index in range(count + 10)))
    (workspace / "schema.json").write_text('{"type": "object", "required": ["reply"]}\n')
    (workspace / "shop.toml").write_text(
        'name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "shop.jsonl"\n'
        f'[method]\nkind = "{"dpo" if pairs else "sft"}"\n'
        + ('[evaluation]\nschema = "schema.json"\nforbid = ["Northpeak"]\n' if contract else "")
    )
    folder = workspace / "evals" / "20261124-1412-shop"
    folder.mkdir(parents=True)
    recipe = load(workspace / "shop.toml")
    (folder / "recipe.toml").write_text(dump(recipe))
    source_rows = read_source(recipe.source)
    rows, train = source_rows.rows[:count], source_rows.rows[count:]
    logprobs = {
        arm: {row.id: PairLogprobs(-1.0 - index / 10, -1.5 + (index % 3) / (1 + number)) for index, row in enumerate(rows)}
        for number, arm in enumerate(arms)
        if pairs
    }
    evidence.save_evidence(folder, recipe, rows, logprobs, source_rows.rows)
    rules = Contract.from_recipe(recipe)
    headline = rules.headline(recipe, has_preferences=pairs)
    evaluated_rows = evidence.load_rows(folder)
    scores_by_arm = {
        arm: [rules.score(row.answer(text, "stop")) for row, text in zip(evaluated_rows, answers, strict=True)]
        for arm, answers in arms.items()
    }
    records = [
        {
            "id": row.id, "line": row.location.line, "arm": arm, "output": text, "ended": "stop",
            "failed": {name: [score.kind, score.why] for name, score in scores.items() if name in rules.required and not score.passed},
        }
        for arm, answers in arms.items()
        for row, text, scores in zip(rows, answers, scores_by_arm[arm], strict=True)
    ]  # fmt: skip
    (folder / "outputs.jsonl").write_text(evidence.to_jsonl(records))
    failed = [
        row
        for row, scores in zip(rows, scores_by_arm[list(arms)[-1]], strict=True)
        if not scores["contract" if contract else "exact"].passed
    ]
    nearest_rows.save_nearest(folder, failed, train, source_rows)
    for arm, logprobs_by_id in logprobs.items():
        for row, scores in zip(rows, scores_by_arm[arm], strict=True):
            scores["preference"] = logprobs_by_id[row.id].score
    arm_scores = [
        report.ArmScores(arm, index == 0, 1.5, scores, [logprobs[arm][row.id].margin for row in rows] if pairs else [])
        for index, (arm, scores) in enumerate(scores_by_arm.items())
    ]
    facts = {
        "name": "shop", "base": "m", "base_fingerprint": "0" * 64, "run": "r", "adapter": "a", "rows": count,
        "headline": headline, "row_ids": [row.id for row in rows], "looks": 1,
        "asks": [metric.name for metric in rules.metrics if metric.required], "ledger": "Evaluated for the first time.", "source": str(source), "schema": evidence.schema_hash(folder), "contract": contract_hash(recipe),
        "decoding": {"kind": "greedy", "max_tokens": 256}, "compute": "float32 on the CPU", "wording": report.WORDING,
    }  # fmt: skip
    publish(report.build(facts, arm_scores, [row.group for row in evaluated_rows]), folder)
    return folder


_ITEMS = ("blue tent", "climbing rope", "order", "gift card of last week", "stove")
_ACTIONS = (
    "paid for",
    "gave back on Monday",
    "wanted to exchange",
    "never got",
    "saw in your window",
)  # no two rows are near-duplicates


def _row(index: int, pairs: bool) -> dict[str, object]:
    prompt = [
        {"role": "system", "content": "Answer in JSON."},
        {"role": "user", "content": f"Where is my {_ITEMS[index % 5]}, number {index}, that I {_ACTIONS[index // 5 % 5]}?"},
    ]
    if pairs:
        return {"prompt": prompt, "chosen": f"{GOOD} {index}", "rejected": BAD}
    return {"messages": [*prompt, {"role": "assistant", "content": GOOD}]}

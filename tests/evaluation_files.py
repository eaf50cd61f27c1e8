"""Write a finished evaluation to disk with evidence and report, as the worker does."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlxtune.core.json_fields import to_json
from mlxtune.data.rows import Location
from mlxtune.data.source import read_source
from mlxtune.evaluation import evidence, nearest_rows, report, report_builder
from mlxtune.evaluation.answers import Answer, ArmAnswers, score_answers
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.history import contract_hash, schema_hash
from mlxtune.evaluation.holdout import ledger
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt, compare_off_task
from mlxtune.evaluation.scorers import Score
from mlxtune.present.report import publish
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
    evidence.save_evidence(folder, recipe, rows, source_rows.rows)
    rules, evaluated_rows = Contract.from_recipe(recipe), evidence.load_rows(folder)
    headline = rules.headline(recipe, has_preferences=pairs)
    measured = [
        ArmAnswers(
            arm,
            score_answers(rules, evaluated_rows, [_answer(row.id, text, index if pairs else None, number) for index, (row, text) in enumerate(zip(rows, texts, strict=True))]),
            number == 0,
            1.5,
        )
        for number, (arm, texts) in enumerate(arms.items())
    ]  # fmt: skip
    evidence.save_outputs(folder, ((arm.name, arm.answers) for arm in measured))
    metric = "contract" if contract else "correct"
    failed = [row for row, scores in zip(rows, measured[-1].scores, strict=True) if not scores[metric].passed]
    nearest_rows.save_nearest(folder, failed, train, source_rows)
    facts = {
        "name": "shop", "base": "m", "base_fingerprint": "0" * 64, "run": "r", "adapter": "a", "rows": count,
        "headline": headline, "row_ids": [row.id for row in rows], "required": rules.required_metrics,
        "source": str(source), "schema": schema_hash(recipe),
        "contract": contract_hash(recipe), "decoding": {"kind": "greedy", "max_tokens": 256}, "compute": "float32 on the CPU",
        "left_out": {name: "no_answers" for name in ("constant", "copier") if name not in arms},
    }  # fmt: skip
    result = ledger.result_hash(facts["contract"], {arm.name: arm.answers for arm in measured})
    facts["holdout"] = to_json(ledger.enter(folder, facts["row_ids"], result, facts["run"]))
    publish(report_builder.build(facts, measured, [row.group for row in evaluated_rows]), folder)
    return folder


def add_off_task(folder: Path, **answers: Sequence[str]) -> None:
    """Add the arms' ``answers`` to off-task prompts, whose right answer is yes, to the report in ``folder``."""
    count = len(answers["base"])
    prompts = [OffTaskPrompt(f"q{at}", "Which?", ("yes",), Location(folder, at + 1), "words") for at in range(count)]
    evidence.save_off_task(folder, prompts, answers)
    loaded = report.load(folder)
    publish(replace(loaded, facts={**loaded.facts, "off_task": to_json(compare_off_task(prompts, *answers.values()))}), folder)


def _answer(id: str, text: str, index: int | None, number: int) -> Answer:
    """Return an answer; ``index`` is that of its row, whose likelihoods differ between arms by their ``number``, if it is a pair."""
    if index is None:
        return Answer(id, text, "stop", len(text) // 4)
    rejected = 1.5 - (index % 3) / (1 + number)
    return Answer(id, text, "stop", len(text) // 4, nats=1.0 + index / 10, tokens=1, rejected=(rejected, 1))


def scored_arm(
    name: str, scores: Sequence[dict[str, Score]], *, cut: int = 0, failed: int = 0, nats: float = 0.0, tokens: int = 0
) -> ArmAnswers:
    """Return an arm whose answers have ``scores``. The last ``cut`` were cut off; ``failed`` of these had failed for good by then.

    The references have ``nats`` and ``tokens`` in total.
    """
    answers = []
    for index, by_metric in enumerate(scores):
        left = len(scores) - index
        if left <= failed and not by_metric["contract"].passed:
            by_metric = {**by_metric, "contract": replace(by_metric["contract"], is_final=True)}
        likelihood = (nats, tokens) if index == 0 else (0.0, 0)
        answers.append(Answer(str(index), "", "length" if left <= cut else "stop", 0, "", 0, None, *likelihood, scores=by_metric))
    return ArmAnswers(name, tuple(answers), False, 1.0)


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

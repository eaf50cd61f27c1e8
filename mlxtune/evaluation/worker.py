"""The evaluation worker: ``python -m mlxtune.evaluation.worker EVAL_DIR``.

An evaluation is a run: same folder, same events. The launch request names the training run (``run``, ``adapter``) to measure
against its base; without one, only the base is measured.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import Interrupted, MachineError
from mlxtune.core.files import write_text
from mlxtune.core.hashing import sha256_json
from mlxtune.data.groups import question
from mlxtune.data.rows import Preference
from mlxtune.data.source import read_source
from mlxtune.data.split import record, split
from mlxtune.evaluation import evidence, ledger, report
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.preference import Preferred
from mlxtune.evaluation.publish import publish
from mlxtune.evaluation.scorers import Answer, Score
from mlxtune.evaluation.verdict import HEADLINE
from mlxtune.models import blas
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import machine
from mlxtune.recipe import Recipe
from mlxtune.runs.worker import Worker, live

if TYPE_CHECKING:
    from mlxtune.evaluation.outputs import Answers, Question

TELL_EVERY = 0.5  # seconds between progress events


def evaluate(worker: Worker) -> dict[str, Any]:
    """Measure the base, then the adapter, on the same held-out rows; write outputs and report; return the summary."""
    from mlxtune.evaluation import nearest, outputs  # these import mlx, which must come after the BLAS
    from mlxtune.evaluation.preferred import preferred
    from mlxtune.models import load, lora

    recipe = worker.recipe
    worker.begin("eval")
    contract = Contract.of(recipe)
    read = read_source(recipe.source, recipe.data.format, recipe.data.map)
    shares = split(read, recipe.data)
    try:
        record(read, recipe.data, shares, seal=True)
    except MachineError as error:
        worker.emit("warning", text=f"{error.message} So nothing keeps the held-out rows from training later.")
    rows = outputs.questions(shares.test)
    adapter = Path(worker.request["adapter"]) if worker.request.get("adapter") else None
    source = resolve(recipe.model.base, near=recipe.folder)
    loaded = load.load(source)
    worker.emit(
        "model.loaded", base=source.name, path=loaded.path, parameters=loaded.parameters, seconds=loaded.seconds,
        limit=load.memory_limit(machine().limit),
    )  # fmt: skip
    arms: list[tuple[Answers, list[dict[str, Score]]]] = []
    margins: list[list[float]] = []
    preferred_by: dict[str, dict[str, Preferred]] = {}
    preferences = [row for row in rows if isinstance(row, Preference)]
    for arm, folder in _arms(recipe, adapter):
        if folder:
            (lora.put if any(kept.arm != "base" for kept, _ in arms) else lora.load)(loaded.model, folder)
        worker.emit("arm.started", arm=arm, rows=len(rows))
        answers = outputs.answer(
            arm, loaded, rows, adapter=folder, max_tokens=recipe.evaluation.max_tokens, batch_size=recipe.evaluation.batch_size,
            cache=worker.folder.parent / "cache", progress=_teller(worker, arm),
        )  # fmt: skip
        worker.emit("arm.finished", arm=arm, rows=len(rows), cached=answers.cached, seconds=answers.seconds)
        scored = [
            contract.score(Answer(out.output, out.ended, row.reference, "\n\n".join(message.content for message in row.prompt)))
            for out, row in zip(answers.outputs, rows, strict=True)
        ]
        found = preferred(loaded, recipe, preferences, _teller(worker, arm)) if preferences else {}
        for row, scores in zip(rows, scored, strict=True):
            if row.id in found:
                scores["preference"] = found[row.id].score
        arms.append((answers, scored))
        preferred_by[arm] = found
        margins.append([found[row.id].margin for row in preferences if row.id in found])
    _write_outputs(worker.folder, rows, arms, contract.asked)
    evidence.keep(worker.folder, recipe, rows, preferred_by)
    row_ids = [row.id for row in rows]
    ledger.record(ledger.ledger(worker.folder), "eval", worker.folder.name, row_ids)
    seen = ledger.seen(ledger.ledger(worker.folder), row_ids)
    facts = {
        "name": recipe.name,
        "base": source.name,
        "base_fingerprint": source.fingerprint,
        "run": worker.request.get("run", ""),
        "headline": "preference" if recipe.method.kind == "dpo" and preferences else HEADLINE,
        "adapter": str(adapter or ""),
        "rows": len(rows),
        "row_ids": row_ids,
        "looks": seen.looks,
        "ledger": ledger.sentence(seen),
        "source": str(recipe.source),
        "schema": sha256_json(json.loads(recipe.schema.read_text())) if recipe.schema else "",
        "decoding": {"kind": "greedy", "max_tokens": recipe.evaluation.max_tokens},
        "compute": loaded.path,
    }
    measured = [
        report.Measured(answers.arm, answers.cached, answers.seconds, scored, gaps)
        for (answers, scored), gaps in zip(arms, margins, strict=True)
    ]
    headline = str(facts["headline"])
    failed = [row for row, scores in zip(rows, arms[-1][1], strict=True) if headline in scores and not scores[headline].holds]
    nearest.keep(worker.folder, failed, shares.train, read)
    made = report.build(facts, measured, [question(row) for row in preferences if row.id in found])
    publish(made, worker.folder)
    return {"verdict": made.verdict, "rows": len(rows)}


def _arms(recipe: Recipe, adapter: Path | None) -> list[tuple[str, Path | None]]:
    """Each arm with its adapter, the base first; what training started from comes between it and what came of it."""
    arms: list[tuple[str, Path | None]] = [("base", None)]
    if adapter and "tuned" in recipe.evaluation.arms:
        arms += [("parent", recipe.path(recipe.adapter.parent))] if recipe.adapter.parent else []
        arms.append(("tuned", adapter))
    return arms


def _teller(worker: Worker, arm: str) -> Callable[[int, int], None]:
    """Progress as events, not too many; also the place where a request to stop is heard."""
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if worker.stopping:
            raise Interrupted(0)
        if done == total or time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            worker.emit("arm.progress", arm=arm, done=done, total=total)

    return tell


def _write_outputs(
    folder: Path, rows: Sequence[Question], arms: list[tuple[Answers, list[dict[str, Score]]]], asked: set[str]
) -> None:
    """``outputs.jsonl``: each arm's answer to each row, with the line of the source, and why it fails what the contract asks."""
    lines = []
    for answers, scored in arms:
        for row, out, scores in zip(rows, answers.outputs, scored, strict=True):
            failed = {metric: [score.kind, score.why] for metric, score in scores.items() if metric in asked and not score.holds}
            record = {
                "id": row.id,
                "line": row.place.line,
                "arm": answers.arm,
                "output": out.output,
                "ended": out.ended,
                "failed": failed,
            }
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(folder / "outputs.jsonl", "".join(lines))


def main() -> int:
    """Entry point; the exit code follows the command line's."""
    blas.preload()
    return live(Path(sys.argv[1]), evaluate)


if __name__ == "__main__":
    sys.exit(main())

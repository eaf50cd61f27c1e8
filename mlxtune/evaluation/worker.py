"""The evaluation worker: ``python -m mlxtune.evaluation.worker EVAL_DIR``.

An evaluation is a run: same folder, same events. The launch request names the training run (``run``, ``adapter``) to measure
against its base; without one, only the base is measured.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import Interrupted, MachineError
from mlxtune.core.files import write_text
from mlxtune.core.hashing import sha256_json
from mlxtune.data.rows import Question
from mlxtune.data.source import read_source
from mlxtune.data.split import record, split
from mlxtune.evaluation import evidence, ledger, regression, report, terms, untouched
from mlxtune.evaluation.arms import BASE, TUNED
from mlxtune.evaluation.arms import arms as contestants
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.preference import METRIC as PREFERENCE
from mlxtune.evaluation.preference import Preferred
from mlxtune.evaluation.publish import publish
from mlxtune.evaluation.scorers import Answer, Score
from mlxtune.evaluation.verdict import HEADLINE
from mlxtune.models import blas
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import machine
from mlxtune.runs.worker import Worker, live

if TYPE_CHECKING:
    from mlxtune.evaluation.outputs import Answers

TELL_EVERY = 0.5  # seconds between progress events
OFF_TASK = "off-task prompt"


def evaluate(worker: Worker) -> dict[str, Any]:
    """Measure every arm on the same held-out rows, the base first; write outputs and report; return the summary."""
    from mlxtune.evaluation import nearest, outputs  # these import mlx, which must come after the BLAS
    from mlxtune.models import load, lora
    from mlxtune.models.prefix import Shared

    recipe = worker.recipe
    worker.begin("eval")
    contract = Contract.of(recipe)
    read = read_source(recipe.source, recipe.data.format, recipe.data.map)
    shares = split(read, recipe.data)
    rows = drawn(outputs.questions(shares.test), recipe.evaluation.rows)
    adapter = Path(worker.request["adapter"]) if worker.request.get("adapter") else None
    seen_before = untouched.check(worker.folder.parent.parent, adapter, rows)
    source = resolve(recipe.model.base, near=recipe.folder)
    loaded = load.load(source, quantize=recipe.model.quantize)
    worker.emit(
        "model.loaded", base=source.name, path=loaded.path, parameters=loaded.parameters, seconds=loaded.seconds,
        limit=load.memory_limit(machine().limit),
    )  # fmt: skip
    row_ids = [row.id for row in rows]
    facts: dict[str, Any] = {
        "name": recipe.name,
        "base": source.name,
        "base_fingerprint": source.fingerprint,
        "run": worker.request.get("run", ""),
        "adapter": str(adapter or ""),
        "rows": len(rows),
        "row_ids": row_ids,
        "source": str(recipe.source),
        "schema": sha256_json(json.loads(recipe.schema.read_text())) if recipe.schema else "",
        "contract": terms.contract_hash(recipe),
        "asks": [metric.name for metric in contract.metrics if metric.asked],
        "template": sha256_json(str(loaded.tokenizer.chat_template)),
        "decoding": {"kind": "greedy", "max_tokens": recipe.evaluation.max_tokens},
        "compute": loaded.path,
        "untouched": seen_before,
    }
    facts["moved"] = terms.moved(worker.folder, facts, recipe)
    if adapter:
        terms.hold(worker.folder, facts, recipe)
    try:
        record(read, recipe.data, shares, seal=True)
    except MachineError as error:
        worker.emit("warning", text=f"{error.message} So nothing keeps the held-out rows from training later.")
    probes = regression.read(recipe) if adapter else ()
    off_task: dict[str, list[str]] = {}
    arms: list[tuple[Answers, list[dict[str, Score]]]] = []
    margins: list[list[float | None]] = []
    preferred_by: dict[str, dict[str, Preferred]] = {}
    compared = outputs.comparable(loaded, recipe, rows)
    adapted = False
    how: Any = {"batch_size": recipe.evaluation.batch_size, "cache": worker.folder.parent / "cache", "shared": Shared(loaded.model)}
    for arm in contestants(recipe, adapter, shares.train):
        if arm.adapter:
            (lora.put if adapted else lora.load)(loaded.model, arm.adapter)
            adapted = True
            how["shared"] = Shared(loaded.model)
        worker.emit("arm.started", arm=arm.name, rows=len(rows))
        tell = partial(teller, worker, arm.name)
        answers = outputs.answer(arm, loaded, rows, max_tokens=recipe.evaluation.max_tokens, tell=tell, compared=compared, **how)
        worker.emit("arm.finished", arm=arm.name, rows=len(rows), cached=answers.cached, seconds=answers.seconds)
        if answers.unproved:
            worker.warn(f"{arm.name} has no perplexity: {answers.unproved}")
        scored = [
            contract.score(Answer(out.output, out.ended, row.reference, "\n\n".join(message.content for message in row.prompt)))
            for out, row in zip(answers.outputs, rows, strict=True)
        ]
        found = {out.id: out.preferred for out in answers.outputs if out.preferred}
        for row, scores in zip(rows, scored, strict=True):
            if row.id in found:
                scores[PREFERENCE] = found[row.id].score
        arms.append((answers, scored))
        preferred_by[arm.name] = found
        margins.append([found[row.id].margin if row.id in found else None for row in rows] if found else [])
        if probes and arm.name in (BASE, TUNED):
            asked = [probe.row for probe in probes]
            worker.emit("arm.started", arm=arm.name, rows=len(asked), of=OFF_TASK)
            said = outputs.answer(arm, loaded, asked, max_tokens=regression.MAX_TOKENS, tell=tell, of=OFF_TASK, **how)
            worker.emit("arm.finished", arm=arm.name, rows=len(asked), cached=said.cached, seconds=said.seconds, of=OFF_TASK)
            off_task[arm.name] = [out.output for out in said.outputs]
    if compared and (silent := [arm for arm, found in preferred_by.items() if not found]):
        worker.warn(f"Preferences are not compared: there is no likelihood of both answers of a pair under {', '.join(silent)}.")
        compared, margins, preferred_by = frozenset(), [[] for _ in arms], {arm: {} for arm in preferred_by}
        unmarked([scored for _, scored in arms])
    _write_outputs(worker.folder, rows, arms, contract.asked)
    evidence.keep(worker.folder, recipe, rows, preferred_by, read.rows)
    ledger.record(ledger.ledger(worker.folder), "eval", worker.folder.name, row_ids)
    seen = ledger.seen(ledger.ledger(worker.folder), row_ids)
    facts |= {
        "headline": PREFERENCE if recipe.method.kind == "dpo" and compared else HEADLINE,
        "looks": seen.looks,
        "ledger": ledger.sentence(seen),
    }
    if TUNED in off_task:
        evidence.keep_off_task(worker.folder, probes, off_task)
        facts["regression"] = asdict(regression.compare(probes, off_task[BASE], off_task[TUNED]))
    measured = [
        report.Measured(
            answers.arm,
            answers.cached,
            answers.seconds,
            scored,
            gaps,
            sum(out.nats for out in answers.outputs),
            sum(out.tokens for out in answers.outputs),
        )
        for (answers, scored), gaps in zip(arms, margins, strict=True)
    ]
    headline = str(facts["headline"])
    failed = [row for row, scores in zip(rows, arms[-1][1], strict=True) if headline in scores and not scores[headline].holds]
    nearest.keep(worker.folder, failed, shares.train, read)
    made = report.build(facts, measured, [row.group for row in evidence.questions(worker.folder)])
    publish(made, worker.folder)
    return {"verdict": made.verdict, "rows": len(rows)}


def drawn(rows: Sequence[Question], count: int) -> list[Question]:
    """``count`` of ``rows`` in their order, all for 0; which ones depends on their content alone."""
    kept = {row.hash for row in sorted(rows, key=lambda row: row.hash)[: count or None]}
    return [row for row in rows if row.hash in kept]


def unmarked(scored: Sequence[list[dict[str, Score]]]) -> None:
    """Take preferences out of the scores of all arms: a report compares only what every arm was asked."""
    for rows in scored:
        for scores in rows:
            scores.pop(PREFERENCE, None)


def teller(worker: Worker, arm: str, of: str) -> Callable[[int, int], None]:
    """Progress as events, not too many; also the place where a request to stop is heard. ``of`` is what is worked on."""
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if worker.stopping:
            raise Interrupted(0)
        if done == total or time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            worker.emit("arm.progress", arm=arm, done=done, total=total, of=of)

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
                "nats": out.nats,
                "tokens": out.tokens,
            }
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(folder / "outputs.jsonl", "".join(lines))


def main() -> int:
    """Entry point; the exit code follows the command line's."""
    blas.preload()
    return live(Path(sys.argv[1]), evaluate)


if __name__ == "__main__":
    sys.exit(main())

"""The evaluation worker: ``python -m mlxtune.evaluation.worker EVAL_DIR``.

An evaluation is a run: same folder, same events. The launch request names the training run (``run``, ``adapter``) to measure
against its base; without one, only the base is measured.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import Interrupted, MachineError
from mlxtune.core.files import write_text
from mlxtune.core.hashing import sha256_json
from mlxtune.data.rows import Conversation
from mlxtune.data.source import read_source
from mlxtune.data.split import record, split
from mlxtune.evaluation import report
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import Score
from mlxtune.models import blas
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import machine
from mlxtune.runs.worker import Worker, live

if TYPE_CHECKING:
    from mlxtune.evaluation.outputs import Answers

TELL_EVERY = 0.5  # seconds between progress events


def evaluate(worker: Worker) -> dict[str, Any]:
    """Measure the base, then the adapter, on the same held-out rows; write outputs and report; return the summary."""
    from mlxtune.evaluation import outputs  # these import mlx, which must come after the BLAS
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
    arms = []
    for arm in sorted(arm for arm in set(recipe.evaluation.arms) if adapter or arm == "base"):  # "base" sorts first
        if arm == "tuned":
            assert adapter is not None
            lora.load(loaded.model, adapter)
        worker.emit("arm.started", arm=arm, rows=len(rows))
        answers = outputs.answer(
            arm, loaded, rows, adapter=adapter if arm == "tuned" else None, max_tokens=recipe.evaluation.max_tokens,
            batch_size=recipe.evaluation.batch_size, cache=worker.folder.parent / "cache", progress=_teller(worker, arm),
        )  # fmt: skip
        worker.emit("arm.finished", arm=arm, rows=len(rows), cached=answers.cached, seconds=answers.seconds)
        scored = [contract.score(out.output, out.ended, row.reference) for out, row in zip(answers.outputs, rows, strict=True)]
        arms.append((answers, scored))
    _write_outputs(worker.folder, rows, arms)
    facts = {
        "name": recipe.name,
        "base": source.name,
        "base_fingerprint": source.fingerprint,
        "run": worker.request.get("run", ""),
        "adapter": str(adapter or ""),
        "rows": len(rows),
        "row_ids": [row.id for row in rows],
        "source": str(recipe.source),
        "schema": sha256_json(json.loads(recipe.schema.read_text())) if recipe.schema else "",
        "decoding": {"kind": "greedy", "max_tokens": recipe.evaluation.max_tokens},
        "compute": loaded.path,
    }
    found = report.build(facts, [(answers.arm, answers.cached, answers.seconds, scored) for answers, scored in arms])
    report.save(found, worker.folder)
    return {"verdict": found.verdict, "rows": len(rows)}


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


def _write_outputs(folder: Path, rows: list[Conversation], arms: list[tuple[Answers, list[dict[str, Score]]]]) -> None:
    """``outputs.jsonl``: each arm's answer to each row, with the line of the source and every failed metric's reason."""
    lines = []
    for answers, scored in arms:
        for row, out, scores in zip(rows, answers.outputs, scored, strict=True):
            failed = {metric: [score.kind, score.why] for metric, score in scores.items() if not score.holds}
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

"""The training worker: ``python -m mlxtune.training.worker RUN_DIR``.

Started detached by ``runs.launch``; it reads the resolved recipe in the run's folder and leaves the adapter there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune import __version__
from mlxtune.core.errors import DataError
from mlxtune.core.files import write_json
from mlxtune.core.text import plural
from mlxtune.data.rows import Row
from mlxtune.data.source import read_source
from mlxtune.data.split import Split, split
from mlxtune.models import blas
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.planning.machine import machine
from mlxtune.runs.worker import Worker, live

if TYPE_CHECKING:
    from mlxtune.models.template import ChatTemplate, Encoded
    from mlxtune.training.loop import Loop


def train(worker: Worker) -> dict[str, Any]:
    """A whole run: read, load, encode, train, write the adapter. Returns the summary of ``run.finished``."""
    from mlxtune.models import load, lora  # these import mlx, which must come after the BLAS
    from mlxtune.models.head import split as split_model
    from mlxtune.models.template import ChatTemplate
    from mlxtune.training import batches, checkpoint
    from mlxtune.training.loop import Loop
    from mlxtune.training.prefix import can_share
    from mlxtune.training.samples import sampler

    recipe = worker.recipe
    found = checkpoint.newest(worker.folder)
    worker.begin("train", **({"step": found.step} if found else {}))
    shares = split(read_source(recipe.source, recipe.data.format), recipe.data)
    source = resolve(recipe.model.base, near=recipe.folder)
    loaded = load.load(source)
    worker.emit(
        "model.loaded", base=source.name, path=loaded.path, parameters=loaded.parameters, seconds=loaded.seconds,
        limit=load.memory_limit(machine().limit),
    )  # fmt: skip
    template = ChatTemplate(loaded.tokenizer)
    shares.refuse_sealed((*shares.train, *shares.valid))
    train_rows = encode(template, shares.train, recipe.data.max_tokens)
    valid_rows = encode(template, shares.valid, recipe.data.max_tokens)
    config = lora.add(loaded.model, recipe.adapter, recipe.training.seed)
    parts = split_model(loaded.model)
    if parts.warning:
        worker.warn(parts.warning)
    shared = batches.shared_prefix([*train_rows, *valid_rows])
    prefix = shared if shared and can_share(loaded.model, parts) else 0
    loop = Loop(worker.folder, loaded.model, parts, recipe.training, config, train_rows, valid_rows, prefix)
    count, length = recipe.training.samples, recipe.evaluation.max_tokens
    loop.sample = sampler(loaded, template, shares.valid, count, length, worker.emit)
    report_data(worker, shares, train_rows, valid_rows, loop)
    summary = loop.run(worker, found)
    lora.save(worker.folder / "adapter", lora.weights(loaded.model), config | {"model": str(source.folder)})
    write_json(worker.folder / "adapter" / "mlxtune.json", lineage(worker, source, summary))
    return summary


def encode(template: ChatTemplate, rows: Sequence[Row], max_tokens: int) -> list[Encoded]:
    """Every row as tokens. Raises ``DataError`` or ``TemplateError`` for the first that cannot be trained."""
    return [template.encode(row, max_tokens) for row in rows]


def report_data(worker: Worker, shares: Split, train_rows: Sequence[Encoded], valid_rows: Sequence[Encoded], loop: Loop) -> None:
    """Write ``data.json``, the record of what trains and what must not, and say it in an event; cut rows are named."""
    cut = [row for row in (*train_rows, *valid_rows) if row.truncated]
    if cut:
        named = ", ".join(str(row.place) for row in cut[:5])
        worker.warn(
            f"{plural(len(cut), 'row')} cut at {worker.recipe.data.max_tokens:,} tokens: {named}{' …' if len(cut) > 5 else ''}"
        )
    rows = [
        {"id": row.id, "line": row.place.line, "tokens": len(row.tokens), "trained": int(row.trained.sum()), "full": row.full}
        for row in train_rows
    ]
    write_json(
        worker.folder / "data.json",
        {
            "source": str(worker.recipe.source),
            "train": rows,
            "valid": [row.id for row in valid_rows],
            "test": [row.id for row in shares.test],
        },
    )
    worker.emit(
        "data.ready", train=len(train_rows), valid=len(valid_rows), test=len(shares.test), tokens=sum(row["tokens"] for row in rows),
        trained=sum(row["trained"] for row in rows), truncated=len(cut), steps=loop.total, epochs=loop.epochs,
    )  # fmt: skip


def lineage(worker: Worker, source: ModelFolder, summary: dict[str, Any]) -> dict[str, Any]:
    """Where an adapter comes from: base, recipe, data and run, for whoever finds the folder alone."""
    return {
        "v": 1,
        "mlxtune": __version__,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "run": worker.folder.name,
        "base": source.name,
        "base_fingerprint": source.fingerprint,
        "steps": summary["steps"],
        "validation": summary["validation"],
    }


def main() -> int:
    """Entry point; the exit code follows the command line's."""
    if len(sys.argv) != 2:
        raise DataError("usage: python -m mlxtune.training.worker RUN_DIR")
    blas.preload()
    return live(Path(sys.argv[1]), train)


if __name__ == "__main__":
    sys.exit(main())

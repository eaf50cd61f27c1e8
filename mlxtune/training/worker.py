"""The training worker: ``python -m mlxtune.training.worker RUN_DIR``, and with ``--peer`` another host of its run.

Started detached by ``runs.launch``; it reads the resolved recipe in the run's folder and leaves the adapter there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune import __version__
from mlxtune.adapters.entry import data_hash
from mlxtune.adapters.layout import LINEAGE
from mlxtune.core.errors import DataError
from mlxtune.core.files import read_json, write_json
from mlxtune.core.hashing import sha256_file
from mlxtune.data.rows import shared_system
from mlxtune.evaluation.contract import Contract
from mlxtune.models import blas
from mlxtune.models.resolve import ModelFolder
from mlxtune.recipe import Recipe, dump
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs import launch
from mlxtune.runs.worker import Worker, live
from mlxtune.training.peers import Crew, Follower, follow, share_cores

if TYPE_CHECKING:
    from mlxtune.training.assemble import Assembled


def lead(worker: Worker) -> dict[str, Any]:
    """A whole run, with the other hosts it asks for. Returns the summary of ``run.finished``."""
    with Crew(worker.folder, worker.request, lambda: worker.stopping) as crew:
        return train(worker, crew)


def train(worker: Worker | Follower, crew: Crew | Follower) -> dict[str, Any]:
    """Read, load, encode, train, and where this process leads write the adapter. Returns the summary."""
    from mlxtune.models import lora  # these import mlx, which must come after the BLAS
    from mlxtune.training import checkpoint, hosts
    from mlxtune.training.assemble import assemble
    from mlxtune.training.samples import Sampler

    recipe = worker.recipe
    found = checkpoint.newest(worker.folder)
    worker.begin("train", **({"step": found.step} if found else {}))
    for folder in checkpoint.damaged(worker.folder):
        worker.warn(f"The checkpoint in {folder.name} is damaged; it is passed over.")
    made = assemble(recipe, worker.folder, worker)
    loop, source = made.loop, made.loaded.source
    if crew.leads:
        count, length = recipe.training.samples, recipe.evaluation.max_tokens
        contract = Contract.of(recipe) if recipe.contract else None
        loop.sample = Sampler(made.loaded, made.template, made.shares.valid, count, length, worker.emit, loop.held, contract)
        report_data(worker, made)
    loop.hosts = hosts.join(crew, found.step if found else 0)
    rows = [row.id for row in (*loop.train, *loop.valid)]
    loop.hosts.agree("run", repr((__version__, dump(recipe), source.fingerprint, rows, found.step if found else 0)))
    summary = loop.run(worker, found)
    if not crew.leads:
        return summary
    lora.save(worker.folder / "adapter", lora.weights(made.loaded.model), loop.config | {"model": str(source.folder)})
    write_json(worker.folder / "adapter" / LINEAGE, lineage(worker, source, summary, shared_system(made.shares.train)))
    return summary


def report_data(worker: Worker | Follower, made: Assembled) -> None:
    """Write ``data.json``, the record of what trains, what could not, and what must not, and say it in an event."""
    loop, shares = made.loop, made.shares
    rows = [
        {"id": row.id, "line": row.place.line, "tokens": len(row.tokens), "trained": int(row.trained.sum()), "full": row.full}
        for row in loop.train
    ]
    write_json(
        worker.folder / "data.json",
        {
            "source": str(worker.recipe.source),
            "train": rows,
            "valid": [row.id for row in loop.valid],
            "test": [row.id for row in shares.test],
            "skipped": made.skipped,
        },
    )
    worker.emit(
        "data.ready", train=len(loop.train), valid=len(loop.valid), test=len(shares.test), tokens=sum(row["tokens"] for row in rows),
        trained=sum(row["trained"] for row in rows), truncated=sum(row.truncated for row in (*loop.train, *loop.valid)),
        skipped=len(made.skipped), steps=loop.total, epochs=loop.epochs, checkpointed=loop.stack.checkpointed,
    )  # fmt: skip


def lineage(worker: Worker | Follower, source: ModelFolder, summary: dict[str, Any], system: str) -> dict[str, Any]:
    """Where an adapter comes from: base, recipe, data and run, and how it is asked, for whoever finds the folder alone."""
    return {
        "v": 1,
        "mlxtune": __version__,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "run": worker.folder.name,
        "base": source.name,
        "base_fingerprint": source.fingerprint,
        "method": worker.recipe.method.kind,
        "recipe_hash": sha256_file(worker.folder / "recipe.toml"),
        "data_hash": data_hash(read_json(worker.folder / "data.json")),
        "weights": sha256_file(worker.folder / "adapter" / WEIGHTS),
        "parent": parent(worker.recipe),
        "system": system,
        "steps": summary["adapter_step"],
        "validation": summary["validation"],
    }


def parent(recipe: Recipe) -> dict[str, Any] | None:
    """The lineage of the adapter that training started from, with the hash of its weights; ``None`` where there was none."""
    if not recipe.adapter.parent:
        return None
    folder = recipe.path(recipe.adapter.parent)
    told = folder / LINEAGE
    own = read_json(told) if told.is_file() else {}
    return {"folder": str(folder), "sha256": sha256_file(folder / WEIGHTS), "lineage": own}


def main() -> int:
    """Entry point; the exit code follows the command line's."""
    if len(sys.argv) < 2 or sys.argv[2:] not in ([], ["--peer"]):
        raise DataError("usage: python -m mlxtune.training.worker RUN_DIR [--peer]")
    folder = Path(sys.argv[1])
    share_cores(launch.request(folder))
    blas.preload()
    return follow(folder, lambda peer: train(peer, peer)) if sys.argv[2:] else live(folder, lead)


if __name__ == "__main__":
    sys.exit(main())

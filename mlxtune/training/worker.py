"""The training worker: ``python -m mlxtune.training.worker RUN_DIR``. With ``--peer``, it joins the run as an additional host.

``runs.launch`` starts it as a detached process. It reads the resolved recipe from the run's folder and writes the adapter there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune import __version__
from mlxtune.adapters.entry import data_hash
from mlxtune.adapters.layout import LINEAGE
from mlxtune.core.errors import Interrupted
from mlxtune.core.files import read_json, write_json
from mlxtune.core.hashing import sha256_file, sha256_json
from mlxtune.data.generate.lineage import lineage_of
from mlxtune.data.replay import replay_prompts
from mlxtune.data.rows import PromptRow, prompt_hashes, shared_system_prompt
from mlxtune.evaluation.answer_budget import answer_budget, loop_rule
from mlxtune.evaluation.contract import Contract
from mlxtune.models.cpu import blas
from mlxtune.recipe import Recipe, dump, read_template
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs import launch
from mlxtune.runs.worker import Worker, run_worker
from mlxtune.training.distributed.launcher import Launcher, PeerWorker, limit_blas_threads, run_peer
from mlxtune.training.power_wait import PowerWait

if TYPE_CHECKING:
    from mlxtune.training.loop import TrainingSummary
    from mlxtune.training.objective import TrainingRow
    from mlxtune.training.setup import Foundation, TrainingSetup


def lead(worker: Worker) -> TrainingSummary:
    """Train together with the other hosts named in the launch request."""
    with Launcher(worker.folder, worker.request, lambda: worker.stopping) as launcher:
        return train(worker, launcher)


def train(worker: Worker | PeerWorker, launcher: Launcher | PeerWorker) -> TrainingSummary:
    from mlxtune.models import lora  # these modules import mlx, which must come after the BLAS is loaded
    from mlxtune.training import checkpoint
    from mlxtune.training.distributed import hosts
    from mlxtune.training.sampler import Sampler
    from mlxtune.training.setup import prepare

    recipe = worker.recipe
    resume = checkpoint.newest(worker.folder)
    start = resume.step if resume else 0
    worker.report_start("train", **({"step": start} if resume else {}))
    for folder in checkpoint.damaged_folders(worker.folder):
        worker.warn("checkpoint_damaged", folder=folder.name)
    pause = PowerWait(recipe.training.wait_for, worker)
    if launcher.is_leader:
        pause()
        if worker.stopping:
            raise Interrupted(start)
    setup = prepare(recipe, worker.folder, worker)
    loop, base = setup.loop, setup.base
    loaded, valid = base.loaded, base.splits.valid
    if launcher.is_leader:
        loop.pause = pause
        contract = Contract.from_recipe(recipe)
        budget = answer_budget(recipe.evaluation, [*base.splits.train, *valid], base.template.count_tokens)
        references = (row.reference for row in valid if isinstance(row, PromptRow))
        loops = loop_rule(references, loaded.tokenizer, contract.schema_document) if recipe.evaluation.stop_loops else None
        sampler = Sampler(
            loaded, base.template, valid, recipe.training.samples, budget.max_tokens, recipe.evaluation.thinking_tokens,
            worker.emit, loop.baseline_passes, contract, recipe.has_contract, loops,
        )  # fmt: skip
        loop.sample, loop.count_correct = sampler, partial(sampler.count_correct, contract.headline(recipe, has_preferences=False))
        report_data(worker, setup)
        loop.adapter_config["model"] = str(loaded.source.folder)
        loop.lineage = make_lineage(worker.folder, recipe, base)
    parent = _parent_lineage(recipe)
    loop.origin = checkpoint.make_origin(recipe, loaded.source.fingerprint, parent["sha256"] if parent else "")
    loop.hosts = hosts.init_group(launcher, start)
    rows = [row.id for row in (*loop.train, *loop.valid)]
    loop.hosts.require_equal("run", repr((__version__, dump(recipe), loaded.source.fingerprint, rows, start)))
    summary = loop.run(worker, resume)
    if launcher.is_leader:
        adapter = worker.folder / "adapter"
        lora.save(adapter, lora.adapter_arrays(loaded.model), loop.adapter_config)
        checkpoint.write_lineage(adapter, loop.lineage or {}, summary["adapter_step"], validation=summary["validation"])
    return summary


def report_data(worker: Worker | PeerWorker, setup: TrainingSetup) -> None:
    """Write ``data.json`` and emit an event with its counts."""
    loop = setup.loop
    rows = write_data(worker.folder, worker.recipe, setup, loop.valid)
    replayed = sum(bool(row.get("replay")) for row in rows)
    worker.emit(
        "data.ready", train=len(loop.train) - replayed, valid=len(loop.valid), test=len(setup.base.splits.test),
        tokens=sum(row["tokens"] for row in rows), trained=sum(row["trained"] for row in rows),
        truncated=sum(row.truncated for row in (*loop.train, *loop.valid)), skipped=len(setup.skipped),
        conversations=len({(row["id"], row["line"]) for row in rows if not row.get("replay")}), **({"replayed": replayed} if replayed else {}), steps=loop.total_steps, epochs=loop.epochs, checkpointed=loop.stack.checkpointed,
        validate_every=loop.section.validate_every if loop.valid else 0,
    )  # fmt: skip


def write_data(folder: Path, recipe: Recipe, setup: TrainingSetup, valid: Sequence[TrainingRow]) -> list[dict[str, Any]]:
    """Write ``data.json``: rows by their use, and the hashes of all prompts that training sees. Return the train rows."""
    from mlxtune.training.coverage import row_labels

    splits = setup.base.splits
    generated = {row.id for row in splits.train if lineage_of(row)}
    rows = [
        {
            "id": row.id, "line": row.location.line, "tokens": len(row.tokens), "trained": int(row.trained.sum()),
            "full": row.full_length, **row_labels(row), **({"generated": True} if row.id in generated else {}),
        }
        for row in setup.loop.train
    ]  # fmt: skip
    replayed = (prompt.row("") for prompt in replay_prompts(recipe, splits.train))
    used = chain(splits.train, splits.valid, replayed)
    record = {
        "source": str(recipe.source), "train": rows, "valid": [row.id for row in valid],
        "test": [row.id for row in splits.test], "skipped": {row.id: row.reason for row in setup.skipped},
        "prompts": sorted({hash for row in used for hash in prompt_hashes(row, recipe.data.turns)}),
    }  # fmt: skip
    write_json(folder / "data.json", record)
    return rows


def make_lineage(folder: Path, recipe: Recipe, base: Foundation) -> dict[str, Any]:
    """Return the lineage that the adapters of the run in ``folder`` share, with which an adapter's folder is self-contained."""
    from mlxtune.models.thinking import prints_date

    source, settings, dated = base.loaded.source, base.template.settings, prints_date(base.template.source)
    data = read_json(folder / "data.json")
    replayed = sum(bool(row.get("replay")) for row in data["train"])
    generated = {row["id"] for row in data["train"] if row.get("generated")}
    rows = {row["id"] for row in data["train"] if not row.get("replay")}
    return {
        "v": 1, "mlxtune": __version__, "run": folder.name, "base": source.name, "base_fingerprint": source.fingerprint,
        "method": recipe.method.kind, "recipe_hash": recipe_hash(recipe, dated), "data_hash": data_hash(data),
        "parent": _parent_lineage(recipe), "system": shared_system_prompt(base.splits.train),
        **({"replay_rows": replayed} if replayed else {}),
        **({"generated_rows": len(generated), "training_rows": len(rows)} if generated else {}),  # of the source
        "thinking": settings.thinking, "date": settings.date if dated else "", "template": settings.source,
    }  # fmt: skip


def recipe_hash(recipe: Recipe, dated: bool) -> str:
    """Return a hash of ``recipe`` that is the same for every run of it, except for the date if prompts contain it."""
    same = replace(recipe, model=replace(recipe.model, template=""))
    same = same if dated else replace(same, data=replace(same.data, date=""))
    return sha256_json([dump(same), read_template(recipe)])


def _parent_lineage(recipe: Recipe) -> dict[str, Any] | None:
    """Return the lineage of the parent adapter, with the hash of its weights; ``None`` if there is no parent."""
    if not recipe.adapter.parent:
        return None
    folder = recipe.path(recipe.adapter.parent)
    lineage = read_json(folder / LINEAGE) if (folder / LINEAGE).is_file() else {}
    return {"folder": str(folder), "sha256": sha256_file(folder / WEIGHTS), "lineage": lineage}


def main() -> int:
    folder = Path(sys.argv[1])
    limit_blas_threads(launch.read_request(folder))
    blas.preload()
    return run_peer(folder, lambda peer: train(peer, peer)) if sys.argv[2:] else run_worker(folder, lead)


if __name__ == "__main__":
    sys.exit(main())

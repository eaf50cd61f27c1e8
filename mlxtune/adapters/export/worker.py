"""The export worker: ``python -m mlxtune.adapters.export.worker EXPORT_DIR``.

An export is a run with the same kind of folder and events. The launch request names the adapter and the format. The model is
written to a scratch folder, reloaded from there, and compared with the adapter on held-out rows. Only a faithful export is moved
into place.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from mlxtune import __version__
from mlxtune.adapters.entry import read_lineage
from mlxtune.adapters.export import fidelity, lmstudio
from mlxtune.adapters.export.compared_rows import EXPORTED, ComparedRows
from mlxtune.adapters.export.fidelity import Fidelity
from mlxtune.adapters.export.start import (
    AGAIN,
    GGUF_FILE,
    GGUF_FORMS,
    K_QUANTS,
    remove_unfinished,
    require_exportable,
    target_folder,
)
from mlxtune.adapters.layout import LINEAGE, read_layout
from mlxtune.core.errors import MachineError, ModelError
from mlxtune.core.files import new_folder, write_json, write_text
from mlxtune.core.hashing import sha256_file
from mlxtune.core.text import one_line, size
from mlxtune.evaluation.arms import BASE, TUNED
from mlxtune.evaluation.progress import progress_reporter
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import ModelFolder, resolve, same_base
from mlxtune.planning.machine import disk_free, this_machine
from mlxtune.recipe import read_template
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs import launch, registry
from mlxtune.runs.registry import Run
from mlxtune.runs.worker import Worker, run_worker

if TYPE_CHECKING:
    from mlxtune.models.template import ChatTemplate

_LOGITS = "reference"  # progress label while logits are computed, as in an evaluation


class ExportSummary(TypedDict):
    """The summary of ``run.finished``."""

    folder: str
    form: str
    bytes: int
    faithful: bool
    lost: float
    verdict: str


def export(worker: Worker) -> ExportSummary:
    """Write the model, compare it with the adapter, and move it into place. Raise ``GateError`` if it is not faithful."""
    from mlxtune.adapters import fuse  # these modules import mlx, which must come after the BLAS is loaded
    from mlxtune.adapters.export import logits
    from mlxtune.models import load, lora
    from mlxtune.training.preference.reference import adapters_disabled

    recipe, request = worker.recipe, worker.request
    if request["form"] in GGUF_FORMS:  # these modules need the package gguf
        from mlxtune.adapters.export import gguf
        from mlxtune.adapters.export.gguf_tokenizer import space_note
    worker.report_start("export")
    adapter, form = Path(request["adapter"]), request["form"]
    source = resolve(recipe.model.base, relative_to=recipe.folder)
    if not same_base(str(read_lineage(adapter).get("base_fingerprint") or ""), source.fingerprint):
        raise ModelError(
            f"The adapter in {adapter} was trained from a different base than {one_line(source.name, 80)}.",
            hint="Export it with the base that it was trained from.",
        )
    require_exportable(form, source, recipe.model.quantize)
    if form in GGUF_FORMS:
        gguf.check(source, adapter if form == "gguf-lora" else None)
    if form == "gguf" and (note := space_note(source)):
        worker.warn("export_note", note=note)
    target, again = target_folder(Run(worker.folder), request), worker.folder / AGAIN
    for run in registry.list_runs(worker.folder.parent.parent, "export"):  # none is running: this worker has the accelerator
        remove_unfinished(run)
    loaded = load.load(source, quantize=recipe.model.quantize)
    worker.emit(
        "model.loaded", base=source.name, path=loaded.description, parameters=loaded.parameters, seconds=loaded.seconds,
        limit=load.memory_limit(this_machine().limit),
    )  # fmt: skip
    _check_disk(target, loaded.parameters, form, request.get("precision", ""))
    rows = ComparedRows(worker)

    def row_logits(model: Any, name: str, tokens: Any) -> Any:
        progress = progress_reporter(worker, name, _LOGITS)
        return logits.logits(model, tokens, batch_size=recipe.evaluation.batch_size, progress=progress)

    model = loaded.model
    lora.load(model, adapter)
    tuned_outputs, tokens = rows.answers(loaded, TUNED, adapter)
    tuned = row_logits(model, TUNED, tokens)
    with adapters_disabled(model):
        change = logits.distance(tuned, row_logits(model, BASE, tokens))
    chat = rows.template(loaded)
    del loaded, model

    start = time.perf_counter()
    shutil.rmtree(again, ignore_errors=True)
    try:
        with new_folder(target) as scratch:
            if form == "gguf-lora":
                gguf.write_lora_gguf(source, adapter, scratch / gguf.LORA_FILE)
            else:
                fused, config = fuse.fuse(source, adapter, requantize=form == "quantized", quantize=recipe.model.quantize)
                if form == "gguf":
                    gguf.write_gguf(fused, config, source, scratch / GGUF_FILE, request["precision"], chat.frozen_source)
                else:
                    _write_safetensors(fused, config, source, scratch, target.name)
                del fused
            if template := read_template(recipe):
                write_text(scratch / launch.TEMPLATE_FILE, template)
            size_on_disk = sum(file.stat().st_size for file in scratch.iterdir())
            worker.emit("export.written", form=form, bytes=size_on_disk, seconds=time.perf_counter() - start)
            if form in GGUF_FORMS:
                exported = load.load(source, quantize=recipe.model.quantize)
                if form == "gguf":
                    gguf.read_back(scratch / GGUF_FILE, exported, source.config)
                else:
                    gguf.read_lora_back(scratch / gguf.LORA_FILE, source, adapter, again)
                    lora.load(exported.model, again)
            else:
                exported = load.load(resolve(str(scratch)))
            outputs, _ = rows.answers(exported, EXPORTED, None)
            loss = logits.distance(tuned, row_logits(exported.model, EXPORTED, tokens))
            del exported
            same = sum(one.output == two.output for one, two in zip(tuned_outputs, outputs, strict=True))
            proof = Fidelity(form, change, loss, len(rows.rows), same, rows.rates(tuned_outputs, outputs))
            fidelity.save(proof, worker.folder)
            worker.emit("fidelity", faithful=not proof.failure, lost=proof.lost_share, same=proof.same, rows=proof.rows)
            if not request["force"]:
                fidelity.require_faithful(proof, quantized=request.get("precision") in ("q8_0", *K_QUANTS))
            fidelity.save(proof, scratch)
            write_json(scratch / LINEAGE, _lineage(adapter, source, form, request.get("evaluation")))
            _add_program_files(worker, scratch, chat, rows)
    finally:
        shutil.rmtree(again, ignore_errors=True)
    return {
        "folder": str(target), "form": form, "bytes": size_on_disk, "faithful": not proof.failure, "lost": proof.lost_share,
        "verdict": proof.sentence,
    }  # fmt: skip


def _write_safetensors(model: Any, config: dict[str, Any], source: ModelFolder, scratch: Path, name: str) -> None:
    from mlxtune.adapters.export import safetensors

    try:
        safetensors.write(model, config, source, scratch)
    except RuntimeError as error:  # mlx's error for a full disk
        if "write" not in str(error):
            raise
        raise MachineError(
            f"{name} could not be written: {one_line(str(error), 120)}.", hint="Check that the disk is not full."
        ) from error


def _add_program_files(worker: Worker, folder: Path, chat: ChatTemplate, rows: ComparedRows) -> None:
    """Add the files of the program for which the GGUF file in ``folder`` is written, if it is written for one."""
    request = worker.request
    if not request["program"]:
        return
    from mlxtune.adapters.export import gguf, ollama  # these modules import mlx

    file = gguf.LORA_FILE if request["form"] == "gguf-lora" else GGUF_FILE
    if request["program"] == "ollama":
        longest = max(len(chat.prompt(row.prompt, row.tools)) for row in rows.rows) + rows.max_tokens(chat)
        result = ollama.modelfile(
            chat, rows.rows, source=request["ollama_base"] or f"./{file}", adapter=f"./{file}" if request["ollama_base"] else "",
            system=request["system"], context=max(ollama.MIN_CONTEXT, 2 ** (2 * longest).bit_length()),
        )  # fmt: skip
        write_text(folder / ollama.MODELFILE, result.text)
        for note in result.notes:
            worker.warn("export_note", note=note)
    elif request["program"] == "lmstudio":
        os.rename(folder / file, folder / f"{request['name']}-{request['precision'].upper()}.gguf")
        lmstudio.write_preset(request["name"], request["system"])  # before the model, which must not exist without it


def _check_disk(target: Path, parameters: int, form: str, precision: str) -> None:
    """Raise ``MachineError`` if the export's folder cannot be created, or there is not enough disk space for it."""
    existing = next(folder for folder in target.parents if folder.exists())
    if not os.access(existing, os.W_OK):
        raise MachineError(f"{target} cannot be created: {existing} is read-only.", hint="Choose another folder with --to.")
    per_parameter = {"quantized": 1.0, "gguf-lora": 0.0}.get(form, 4.0 if precision == "f32" else 2.0)  # bytes
    if precision in K_QUANTS:  # a file in 16 bits is quantized to another one, with at most 6.6 bits
        per_parameter += 0.825
    needed = int(parameters * per_parameter)
    free = disk_free(target.parent)
    if free < needed:
        raise MachineError(
            f"The export needs about {size(needed)}, but only {size(free)} is free in {target.parent}.",
            hint="Free up some disk space.",
        )


def _lineage(adapter: Path, source: ModelFolder, form: str, evaluation: dict[str, Any] | None) -> dict[str, Any]:
    layout = read_layout(adapter)
    own = {"kind": layout.kind, "rank": layout.rank, "scale": layout.scale, "weights": sha256_file(adapter / WEIGHTS)}
    return {
        "v": 1,
        "mlxtune": __version__,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "export": form,
        **({"evaluation": evaluation} if evaluation else {}),
        "base": source.name,
        "base_fingerprint": source.fingerprint,
        "adapter": own | read_lineage(adapter),
    }


def main() -> int:
    """Run the worker, which exports an adapter or verifies an export, and return the command line's exit code."""
    blas.preload()
    from mlxtune.adapters.export.verify_worker import verify  # imports mlx

    folder = Path(sys.argv[1])
    return run_worker(folder, verify if "endpoint" in launch.read_request(folder) else export)


if __name__ == "__main__":
    sys.exit(main())

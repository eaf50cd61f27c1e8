"""Write an adapter's model to a scratch folder, reload it from there, and compare it with the adapter on held-out rows.

Only a faithful export is moved into place. An export is a run; its launch request names the adapter and the format.
"""

import itertools
import os
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import mlx.core as mx
import mlx.nn as nn

from mlxtune import __version__
from mlxtune.adapters import fuse
from mlxtune.adapters.entry import read_lineage
from mlxtune.adapters.export import fidelity, finish, lmstudio, logits, ollama, program_prompts, start
from mlxtune.adapters.export.compared_rows import EXPORTED, ComparedRows
from mlxtune.adapters.export.endpoint_prompts import llama_speed
from mlxtune.adapters.export.fidelity import Fidelity, FidelityOutcome, PromptDifference, TriedSize
from mlxtune.adapters.layout import LINEAGE, read_layout
from mlxtune.core.errors import InputError, MachineError, ModelError
from mlxtune.core.files import new_folder, write_json, write_text
from mlxtune.core.hashing import sha256_file
from mlxtune.core.text import one_line, size
from mlxtune.evaluation.answers import answer_speed
from mlxtune.evaluation.arms import BASE, TUNED
from mlxtune.models import load, lora
from mlxtune.models.load import LoadedModel
from mlxtune.models.resolve import resolve, same_base
from mlxtune.models.template import ChatTemplate
from mlxtune.planning.machine import disk_free
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs import launch, registry
from mlxtune.runs.worker import Worker
from mlxtune.training.preference.reference import adapters_disabled

if not start.missing_package("gguf"):  # an extra, which exports to other formats do not need
    from mlxtune.adapters.export import gguf
    from mlxtune.adapters.export.gguf_tokenizer import read_tokenizer

_LOGITS = "reference"  # progress label while logits are computed, as in an evaluation


class ExportSummary(TypedDict):
    """The summary of ``run.finished``."""

    folder: str
    form: str
    bytes: int
    outcome: FidelityOutcome
    lost: float


def export(worker: Worker) -> ExportSummary:
    """Write the model, compare it with the adapter, and move it into place. Raise ``GateError`` if it is not faithful."""
    worker.report_start("export")
    job = _ExportJob(worker)
    for run in registry.list_runs(worker.folder.parent.parent, "export"):  # none is running: this worker has the accelerator
        start.remove_unfinished(run)
    job.measure_adapter()
    shutil.rmtree(job.again, ignore_errors=True)
    try:
        sizes, proof = job.try_sizes() if worker.request["smallest"] else ((), None)
        with new_folder(job.target) as scratch:
            if proof is None:
                nbytes, proof = job.write(scratch), job.compare(scratch)
            else:
                nbytes = job.take_tried(scratch)
            proof = replace(proof, precision=job.precision if sizes else "", sizes=sizes, needed_rows=job.needed_rows)
            fidelity.save(proof, worker.folder)
            answers = proof.answers
            worker.emit("fidelity", faithful=not proof.failure, lost=proof.lost_share, same=answers.same, rows=answers.rows)
            if not worker.request["force"]:
                fidelity.require_faithful(proof, quantized=job.precision in start.QUANTIZED)
            fidelity.save(proof, scratch)
            write_json(scratch / LINEAGE, _lineage(job, worker.request.get("evaluation")))
            job.add_program_files(scratch)
    finally:
        shutil.rmtree(job.again, ignore_errors=True)
    return {"folder": str(job.target), "form": job.form, "bytes": nbytes, "outcome": proof.outcome, "lost": proof.lost_share}


class _ExportJob:
    """One export: what it needs, and what was measured so far. Models are in memory only as long as they are used."""

    chat: ChatTemplate
    rows: ComparedRows

    def __init__(self, worker: Worker) -> None:
        """Raise ``ModelError`` if the adapter has another base, or its base cannot be exported in this format."""
        self.worker, self.recipe, self.form = worker, worker.recipe, worker.request["form"]
        self.precision: start.Precision = worker.request["precision"]
        self.adapter, self.quantize = Path(worker.request["adapter"]), worker.recipe.model.quantize
        self.fused_adapter, self.finishing_steps = self.adapter, 0  # which is trained further for a precision that does not hold
        self.needed_rows = 0
        self.source = resolve(self.recipe.model.base, relative_to=self.recipe.folder)
        self.target, self.again = start.target_folder(registry.Run(worker.folder), worker.request), worker.folder / start.AGAIN
        if not same_base(str(read_lineage(self.adapter).get("base_fingerprint") or ""), self.source.fingerprint):
            message = f"The adapter in {self.adapter} was trained from a different base than {one_line(self.source.name, 80)}."
            raise ModelError(message, hint="Export it with the base that it was trained from.")
        start.require_exportable(self.form, self.source, self.quantize)
        if self.form in start.GGUF_FORMS:
            gguf.check(self.source, self.adapter if self.form == "gguf-lora" else None)
            if self.form == "gguf" and (tokens := read_tokenizer(self.source).stripped_differently):
                worker.warn("export_note", note="space_near_token", token=tokens[0])

    def measure_adapter(self) -> None:
        """Compute the adapter's answers, its logits, and their distance from the base's."""
        loaded = load.load(self.source, quantize=self.quantize)
        self.worker.emit("model.loaded", **loaded.event)
        _check_disk(self.target, loaded.parameters, self.form, self.precision)
        if self.worker.request["smallest"]:  # the sizes are tried in the workspace, which may be on another disk
            _check_disk(self.again, loaded.parameters, self.form, self.precision)
        self.rows = ComparedRows(self.worker)
        self.chat = self.rows.template(loaded)
        if self.worker.request["program"] == "ollama" and not self.worker.request["force"]:
            fidelity.require_prompts(self._prompt_difference(self.target))
        lora.load(loaded.model, self.adapter)
        self.outputs, self.tokens = self.rows.answers(loaded, TUNED, self.adapter)
        self.tuned = self._logits(loaded.model, TUNED)
        with adapters_disabled(loaded.model):
            self.change = logits.distance(self.tuned, self._logits(loaded.model, BASE))

    def try_sizes(self) -> tuple[tuple[TriedSize, ...], Fidelity | None]:
        """Try each smaller precision and, if none holds, each with a finish. Keep the smallest that holds, and return its proof."""
        unquantized, chosen, tried = self.precision, None, list[TriedSize]()
        for finished, precision in itertools.product((False, True), start.SMALLER[self.form]):
            if finished and (chosen or not self._can_finish(tried)):
                break
            self.precision = precision
            if finished and not self._finish():
                break
            folder = self.again / self._tried
            folder.mkdir(parents=True)
            nbytes, proof = self.write(folder), self.compare(folder)
            if proof.prompt:  # which no other size would change
                break
            holds = proof.holds(self.recipe.evaluation.regression_margin)
            speed = llama_speed(folder / start.GGUF_FILE) if self.form == "gguf" else answer_speed(self.exported)
            tried.append(TriedSize(precision, nbytes, holds, proof.answers, speed, self.finishing_steps))
            if holds and chosen is None:
                chosen = precision, proof
            else:
                shutil.rmtree(folder)
        self.precision, kept = chosen or (unquantized, None)
        if kept is None:
            self.fused_adapter, self.finishing_steps = self.adapter, 0
        return tuple(tried), kept

    @property
    def _tried(self) -> str:
        return f"{self.precision}-finished" if self.finishing_steps else self.precision

    def _can_finish(self, tried: Sequence[TriedSize]) -> bool:
        """Whether a finish could help: there are training rows, and so many held-out ones that a size without a loss would hold."""
        self.needed_rows = fidelity.needed_rows(tried, self.recipe.evaluation.regression_margin)
        has_rows = self.worker.request["rows"] == "held-out" and read_layout(self.adapter).kind == "lora"
        return has_rows and self.needed_rows <= len(self.rows.rows)

    def _finish(self) -> bool:
        """Train the adapter a little further with its fused weights rounded to the precision. Return whether it can be trained."""
        self.fused_adapter = self.again / "adapter"
        shutil.rmtree(self.fused_adapter, ignore_errors=True)
        self.fused_adapter.mkdir(parents=True)
        try:
            self.finishing_steps = finish.finish(self.worker, self.recipe, self.adapter, self.fused_adapter, self._rounded)
        except InputError:  # such as pairs that the adapter already ranks correctly
            return False
        return True

    def _rounded(self, adapter: Path, names: Collection[str]) -> Mapping[str, mx.array]:
        """Return the weights of the model with ``adapter`` in the export's precision; only those with the ``names``, if there are any."""
        fused, config = self._fuse(adapter)
        if self.form != "gguf":
            return fuse.dequantized(fused)
        return gguf.rounded(fused, config, self.precision, names)

    def _fuse(self, adapter: Path) -> tuple[nn.Module, dict[str, Any]]:
        bits = int(self.precision[0]) if self.precision in start.SMALLER["fused"] else 0
        return fuse.fuse(self.source, adapter, requantize=self.form == "quantized", quantize=self.quantize, bits=bits)

    def take_tried(self, scratch: Path) -> int:
        """Move the files of the chosen precision into ``scratch``, and return their size in bytes."""
        for file in (self.again / self._tried).iterdir():
            shutil.move(file, scratch / file.name)  # which may be on another disk
        return sum(file.stat().st_size for file in scratch.iterdir())

    def write(self, scratch: Path) -> int:
        """Write the export into ``scratch``, and return its size in bytes."""
        began = time.perf_counter()
        if self.form == "gguf-lora":
            gguf.write_lora_gguf(self.source, self.adapter, scratch / gguf.LORA_FILE)
        else:
            fused, config = self._fuse(self.fused_adapter)
            if self.form == "gguf":
                gguf.write_gguf(fused, config, self.source, scratch / start.GGUF_FILE, self.precision, self.chat.frozen_source)
            else:
                fuse.write_folder(fused, config, self.source, scratch, self.target.name, self.chat.frozen_source)
        if self.chat.frozen_source:
            write_text(scratch / launch.TEMPLATE_FILE, self.chat.frozen_source)
        nbytes = sum(file.stat().st_size for file in scratch.iterdir())
        self.worker.emit("export.written", form=self.form, bytes=nbytes, seconds=time.perf_counter() - began)
        return nbytes

    def compare(self, scratch: Path) -> Fidelity:
        """Load the export in ``scratch``, and compare its answers and logits with the adapter's."""
        difference = self._prompt_difference(scratch)
        exported = self._read_back(scratch)
        self.exported, _ = self.rows.answers(exported, EXPORTED, None, self.chat.source, next(scratch.glob("*.gguf"), None))
        loss = logits.distance(self.tuned, self._logits(exported.model, EXPORTED))
        answers = self.rows.compare(self.outputs, self.exported, self._tried)
        typed = tuple(row.id for row in self.rows.rows if program_prompts.has_typed_tokens(self.chat, row))
        return Fidelity(self.form, self.change, loss, answers, difference, typed=typed, off_task=self.rows.contract is None)

    def _prompt_difference(self, scratch: Path) -> PromptDifference | None:
        """Return where the programs for which the export is made render a prompt differently than in training."""
        if not self.chat.frozen_source:
            return None
        if self.worker.request["program"] == "ollama":
            return ollama.expressed_template(self.chat, self.rows.rows)[1]
        if self.form == "gguf":
            return program_prompts.gguf_difference(self.chat, scratch / start.GGUF_FILE, self.rows.rows)
        folder = self.source.folder if self.form == "gguf-lora" else scratch
        template = self.chat.frozen_source if folder != scratch else ""
        return program_prompts.folder_difference(self.chat, folder, self.rows.rows, template)

    def _read_back(self, scratch: Path) -> LoadedModel:
        if self.form not in start.GGUF_FORMS:
            return load.load(resolve(str(scratch)))
        exported = load.load(self.source, quantize=self.quantize)
        if self.form == "gguf":
            gguf.read_back(scratch / start.GGUF_FILE, exported, self.source.config)
        else:
            gguf.read_lora_back(scratch / gguf.LORA_FILE, self.source, self.adapter, self.again)
            lora.load(exported.model, self.again)
        return exported

    def add_program_files(self, folder: Path) -> None:
        """Write what the program needs beside the model, and name the file as it does."""
        request = self.worker.request
        file = gguf.LORA_FILE if self.form == "gguf-lora" else start.GGUF_FILE
        if request["program"] == "ollama":
            rows, longest = self.rows.rows, max(len(self.chat.prompt(row.prompt, row.tools)) for row in self.rows.rows)
            context = 2 * (longest + self.rows.max_tokens(self.chat))
            text = ollama.modelfile(
                self.chat, rows, source=request["ollama_base"] or f"./{file}", adapter=f"./{file}" if request["ollama_base"] else "",
                system=request["system"], context=max(ollama.MIN_CONTEXT, 2 ** context.bit_length()),
            )  # fmt: skip
            write_text(folder / ollama.MODELFILE, text)
            if not ollama.is_writable(request["system"]):
                self.worker.warn("export_note", note="system_not_writable")
        elif request["program"] == "lmstudio":
            os.rename(folder / file, folder / f"{request['name']}-{self.precision.upper()}.gguf")
            lmstudio.write_preset(request["name"], request["system"])  # before the model, which must not exist without it

    def _logits(self, model: nn.Module, name: str) -> list[mx.array]:
        progress = self.worker.progress_reporter(name, _LOGITS)
        return logits.logits(model, self.tokens, batch_size=self.recipe.evaluation.batch_size, progress=progress)


def _check_disk(target: Path, parameters: int, form: str, precision: str) -> None:
    existing = next(folder for folder in target.parents if folder.exists())
    if not os.access(existing, os.W_OK):
        raise MachineError(f"{target} cannot be created: {existing} is read-only.", hint="Choose another folder with --to.")
    per_parameter = {"quantized": 1.0, "gguf-lora": 0.0}.get(form, 4.0 if precision == "f32" else 2.0)  # bytes
    needed = int(parameters * per_parameter)
    free = disk_free(target.parent)
    if free < needed:
        raise MachineError(f"The export needs about {size(needed)}, but only {size(free)} is free in {target.parent}.")


def _lineage(job: _ExportJob, evaluation: dict[str, Any] | None) -> dict[str, Any]:
    layout = read_layout(job.adapter)
    own = {"kind": layout.kind, "rank": layout.rank, "scale": layout.scale, "weights": sha256_file(job.adapter / WEIGHTS)}
    return {
        "v": 1, "mlxtune": __version__, "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "export": job.form,
        **({"evaluation": evaluation} if evaluation else {}), "base": job.source.name, "base_fingerprint": job.source.fingerprint,
        "adapter": own | read_lineage(job.adapter), **({"finishing_steps": job.finishing_steps} if job.finishing_steps else {}),
    }  # fmt: skip

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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from mlxtune import __version__
from mlxtune.adapters.entry import read_lineage
from mlxtune.adapters.export import fidelity
from mlxtune.adapters.export.fidelity import Fidelity
from mlxtune.adapters.export.start import GGUF_FORMS, MODEL, require_exportable
from mlxtune.adapters.layout import LINEAGE, read_layout
from mlxtune.core.errors import MachineError, ModelError
from mlxtune.core.files import disk_errors, sync_folder, write_json, write_text
from mlxtune.core.hashing import sha256_file
from mlxtune.core.text import one_line, size
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation.answer_budget import AnswerBudget, answer_budget
from mlxtune.evaluation.arms import BASE, TUNED, Arm
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.off_task import prompts
from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.verdict import Comparison, compare
from mlxtune.evaluation.worker import OFF_TASK, progress_reporter, sample_rows
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import ModelFolder, resolve, same_base
from mlxtune.planning.machine import disk_free, this_machine
from mlxtune.recipe import read_template
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs import launch
from mlxtune.runs.state import HELD_OUT_ROW
from mlxtune.runs.worker import Worker, run_worker

if TYPE_CHECKING:
    from mlxtune.evaluation.outputs import Output
    from mlxtune.models.load import LoadedModel

EXPORTED = "exported"
OFF_TASK_STEP = 8  # use every eighth off-task prompt: fidelity compares the logits at every token of an answer
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
    from mlxtune.adapters.export import gguf, logits
    from mlxtune.models import load, lora
    from mlxtune.training.preference.reference import adapters_disabled

    recipe, request = worker.recipe, worker.request
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
    target = Path(request["target"]) if request["target"] else worker.folder / MODEL
    scratch, again = target.with_name(f".{target.name}.partial"), worker.folder / "again"
    loaded = load.load(source, quantize=recipe.model.quantize)
    worker.emit(
        "model.loaded", base=source.name, path=loaded.description, parameters=loaded.parameters, seconds=loaded.seconds,
        limit=load.memory_limit(this_machine().limit),
    )  # fmt: skip
    _check_disk(target, loaded.parameters, form)
    rows = _Rows(worker)

    def row_logits(model: Any, name: str, tokens: Any) -> Any:
        progress = progress_reporter(worker, name, _LOGITS)
        return logits.logits(model, tokens, batch_size=recipe.evaluation.batch_size, progress=progress)

    model = loaded.model
    lora.load(model, adapter)
    tuned_outputs, tokens = rows.answers(loaded, TUNED, adapter)
    tuned = row_logits(model, TUNED, tokens)
    with adapters_disabled(model):
        change = logits.distance(tuned, row_logits(model, BASE, tokens))
    del loaded, model

    start = time.perf_counter()
    _remove(scratch, again)
    try:
        with disk_errors(str(scratch)):
            scratch.mkdir(parents=True)
            if form == "gguf-lora":
                gguf.write_lora_gguf(source, adapter, scratch / gguf.LORA_FILE)
            else:
                fused, config = fuse.fuse(source, adapter, requantize=form == "quantized", quantize=recipe.model.quantize)
                if form == "gguf":
                    gguf.write_gguf(fused, config, source, scratch / gguf.FILE, request["precision"], rows.template)
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
                gguf.read_back(scratch / gguf.FILE, exported, source.config)
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
        worker.emit("fidelity", faithful=not proof.failure, lost=proof.lost_share, text=proof.sentence)
        if not request["force"]:
            fidelity.require_faithful(proof)
        fidelity.save(proof, scratch)
        write_json(scratch / LINEAGE, _lineage(adapter, source, form, request.get("evaluation")))
        with disk_errors(str(target)):
            os.rename(scratch, target)
            sync_folder(target.parent)
    finally:
        _remove(scratch, again)
    return {
        "folder": str(target), "form": form, "bytes": size_on_disk, "faithful": not proof.failure, "lost": proof.lost_share,
        "verdict": proof.sentence,
    }  # fmt: skip


class _Rows:
    """The rows on which models are compared: held-out rows with their contract, or mlxtune's off-task prompts."""

    def __init__(self, worker: Worker) -> None:
        from mlxtune.evaluation.outputs import prompt_rows

        recipe = worker.recipe
        self.worker, self.section, self.template = worker, recipe.evaluation, ""
        if worker.request["rows"] == "held-out":
            splits = split(read_source(recipe.source, recipe.data.format, recipe.data.map), recipe.data)
            self.rows = sample_rows(prompt_rows(splits.test), recipe.evaluation.rows)
            self.training_rows = [*splits.train, *splits.valid]
            self.contract: Contract | None = Contract.from_recipe(recipe)
        else:
            self.rows = prompt_rows([prompt.row() for prompt in prompts.read_prompts(recipe.source)[::OFF_TASK_STEP]])
            self.contract = None

    def answers(
        self, loaded: LoadedModel, name: str, adapter: Path | None
    ) -> tuple[tuple[Output, ...], list[tuple[list[int], list[int]]]]:
        """Return greedy answers, and the tokens of each prompt and answer (including the stop token, if there is one)."""
        from mlxtune.evaluation.outputs import generate_answers
        from mlxtune.models.template import TemplateSettings, load_template

        settings = TemplateSettings.from_recipe(self.worker.recipe)
        template, tokenizer = load_template(loaded.source, settings, loaded.tokenizer), loaded.tokenizer
        self.template = template.source
        arm, kind, budget = Arm(name, adapter), OFF_TASK, AnswerBudget(prompts.MAX_TOKENS)
        if self.contract:
            kind, budget = HELD_OUT_ROW, answer_budget(self.section, self.training_rows, template.count_tokens)
        self.worker.emit("arm.started", arm=name, rows=len(self.rows), of=kind)
        answers = generate_answers(
            arm, loaded, self.rows, settings=settings, max_tokens=budget.max_tokens,
            thinking_tokens=self.section.thinking_tokens, batch_size=self.section.batch_size, tell=partial(progress_reporter, self.worker, name), of=kind,
            cache=self.worker.folder.parent.parent / "evals" / "cache",
        )  # fmt: skip
        self.worker.emit("arm.finished", arm=name, rows=len(self.rows), cached=answers.cached, seconds=answers.seconds, of=kind)
        tokens = []
        for row, output in zip(self.rows, answers.outputs, strict=True):
            answer: list[int] = tokenizer.encode(output.output, add_special_tokens=False)
            if output.ended == "stop" or not answer:
                answer = [*answer, tokenizer.eos_token_id]
            tokens.append((template.prompt(arm.prompt_for(row), row.tools), answer))
        return answers.outputs, tokens

    def rates(self, first: Sequence[Output], second: Sequence[Output]) -> tuple[Comparison, ...]:
        """Compare two models' outputs on each of the contract's required metrics."""
        if self.contract is None:
            return ()
        scores: list[list[dict[str, Score]]] = []
        for outputs in (first, second):
            scores.append([])
            for output, row in zip(outputs, self.rows, strict=True):
                prompt = "\n\n".join(message.content for message in row.prompt)
                scores[-1].append(self.contract.score(ModelAnswer(output.output, output.ended, row.reference, prompt)))
        names = [name for name in max(scores[0], key=len) if name in self.contract.required]
        return tuple(
            compare(name, TUNED, EXPORTED, [(one[name].passed, two[name].passed) for one, two in zip(*scores, strict=True)])
            for name in names
        )


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


def _check_disk(target: Path, parameters: int, form: str) -> None:
    """Raise ``MachineError`` if there is not enough disk space for the export."""
    needed = parameters * {"quantized": 1, "gguf-lora": 0}.get(form, 2)  # at most 16 bits per parameter
    free = disk_free(target.parent)
    if free < needed:
        raise MachineError(
            f"The export needs about {size(needed)}, but only {size(free)} is free in {target.parent}.",
            hint="Free up some disk space.",
        )


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


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
    """Run the worker and return the command line's exit code."""
    blas.preload()
    return run_worker(Path(sys.argv[1]), export)


if __name__ == "__main__":
    sys.exit(main())

"""The export worker: ``python -m mlxtune.adapters.worker EXPORT_DIR``.

An export is a run: same folder, same events. The launch request names the adapter and the form. The model is written beside its
target, loaded again from there, and held against the adapter on held-out rows; only a faithful one moves into place.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune import __version__
from mlxtune.adapters import fidelity
from mlxtune.adapters.entry import lineage
from mlxtune.adapters.export import MODEL, check_form
from mlxtune.adapters.fidelity import Fidelity
from mlxtune.adapters.layout import LINEAGE, read_layout
from mlxtune.core.errors import MachineError, ModelError
from mlxtune.core.files import disk_errors, sync_folder, write_json
from mlxtune.core.hashing import sha256_file
from mlxtune.core.text import one_line, size
from mlxtune.data.rows import Question
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation import regression
from mlxtune.evaluation.arms import BASE, TUNED, Arm
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import Answer
from mlxtune.evaluation.verdict import compare
from mlxtune.evaluation.worker import OFF_TASK, drawn, teller
from mlxtune.models import blas
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.planning.machine import disk_free, machine
from mlxtune.recipe import Recipe
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs.state import HELD_OUT
from mlxtune.runs.worker import Worker, live

if TYPE_CHECKING:
    from mlxtune.evaluation.outputs import Output
    from mlxtune.models.load import LoadedModel, Quantize

EXPORTED = "exported"
_LIKELY = "reference"  # what progress is of while logits are computed, as in an evaluation


def export(worker: Worker) -> dict[str, Any]:
    """Write the model, hold it against the adapter, and put it in place; returns the summary. Raises ``GateError`` when it is not faithful."""
    from mlxtune.adapters import gguf, measure  # these import mlx, which must come after the BLAS
    from mlxtune.models import load, lora
    from mlxtune.training.reference import bare

    recipe, request = worker.recipe, worker.request
    worker.begin("export")
    adapter, form = Path(request["adapter"]), request["form"]
    source = resolve(recipe.model.base, near=recipe.folder)
    _check_base(adapter, source)
    check_form(form, source, recipe.model.quantize)
    if form == "gguf":
        gguf.check(source)
    target = Path(request["target"]) if request["target"] else worker.folder / MODEL
    scratch = target.with_name(f".{target.name}.partial")
    rows = _rows(recipe, request["rows"])

    loaded = load.load(source, quantize=recipe.model.quantize)
    worker.emit(
        "model.loaded", base=source.name, path=loaded.path, parameters=loaded.parameters, seconds=loaded.seconds,
        limit=load.memory_limit(machine().limit),
    )  # fmt: skip
    _check_disk(target, loaded.parameters, form)
    asker = _Asker(worker, rows)
    plain = loaded.model
    lora.load(plain, adapter)
    told, asked = asker.answers(loaded, TUNED, adapter)
    tuned = measure.logits(plain, asked, batch_size=asker.batch, progress=teller(worker, TUNED, _LIKELY))
    with bare(plain):
        base = measure.logits(plain, asked, batch_size=asker.batch, progress=teller(worker, BASE, _LIKELY))
    change = measure.distance(tuned, base)
    del loaded, plain, base

    start = time.perf_counter()
    again_at = worker.folder / "again"
    _clear(scratch, again_at)
    try:
        _write(source, recipe.model.quantize, adapter, form, scratch)
        count = sum(file.stat().st_size for file in scratch.iterdir())
        worker.emit("export.written", form=form, bytes=count, seconds=time.perf_counter() - start)
        again = load.load(_readable(scratch, source, form, again_at))
        said, _ = asker.answers(again, EXPORTED, None)
        tell = teller(worker, EXPORTED, _LIKELY)
        loss = measure.distance(tuned, measure.logits(again.model, asked, batch_size=asker.batch, progress=tell))
        del again
        rates = asker.rates(told, said)
        same = sum(one.output == two.output for one, two in zip(told, said, strict=True))
        found = Fidelity(form, change, loss, len(rows), same, rates)
        fidelity.save(found, worker.folder)
        worker.emit("fidelity", faithful=not found.why, lost=found.lost, text=found.sentence)
        if not request["force"]:
            fidelity.require(found)
        fidelity.save(found, scratch)
        write_json(scratch / LINEAGE, _lineage(adapter, source, form, request.get("evaluation")))
        with disk_errors(str(target)):
            os.rename(scratch, target)
            sync_folder(target.parent)
    finally:
        _clear(scratch, again_at)
    return {
        "folder": str(target),
        "form": form,
        "bytes": count,
        "faithful": not found.why,
        "lost": found.lost,
        "verdict": found.sentence,
    }


class _Asker:
    """Asks a model the held-out rows, and holds its answers to the contract."""

    def __init__(self, worker: Worker, rows: Sequence[Question]) -> None:
        self.worker, self.rows = worker, rows
        self.recipe = worker.recipe
        self.batch = self.recipe.evaluation.batch_size
        self.contract = Contract.of(self.recipe) if worker.request["rows"] == "held-out" else None
        self.of = HELD_OUT if self.contract else OFF_TASK

    def answers(
        self, loaded: LoadedModel, name: str, adapter: Path | None
    ) -> tuple[tuple[Output, ...], list[tuple[list[int], list[int]]]]:
        """Its greedy answers, and each prompt with its answer as tokens, the stop among them where it stopped."""
        from mlxtune.evaluation import outputs
        from mlxtune.models.template import ChatTemplate

        arm = Arm(name, adapter)
        self.worker.emit("arm.started", arm=name, rows=len(self.rows), of=self.of)
        found = outputs.answer(
            arm, loaded, self.rows, max_tokens=self._longest, batch_size=self.batch, tell=partial(teller, self.worker, name), of=self.of,
            cache=self.worker.folder.parent.parent / "evals" / "cache",
        )  # fmt: skip
        self.worker.emit("arm.finished", arm=name, rows=len(self.rows), cached=found.cached, seconds=found.seconds, of=self.of)
        template = ChatTemplate(loaded.tokenizer)
        asked = []
        for row, out in zip(self.rows, found.outputs, strict=True):
            said: list[int] = loaded.tokenizer.encode(out.output, add_special_tokens=False)
            end = [loaded.tokenizer.eos_token_id] if out.ended == "stop" or not said else []
            asked.append((template.prompt(arm.ask(row), row.tools), [*said, *end]))
        return found.outputs, asked

    @property
    def _longest(self) -> int:
        return self.recipe.evaluation.max_tokens if self.contract else regression.MAX_TOKENS

    def rates(self, first: Sequence[Output], second: Sequence[Output]) -> tuple[Any, ...]:
        """Each metric of the contract, the adapter's answers first and the export's second."""
        if self.contract is None:
            return ()
        scored = [
            [
                self.contract.score(Answer(out.output, out.ended, row.reference, _context(row)))
                for out, row in zip(said, self.rows, strict=True)
            ]
            for said in (first, second)
        ]
        names = [name for name in max(scored[0], key=len) if name in self.contract.asked]
        pairs = list(zip(*scored, strict=True))
        return tuple(compare(name, TUNED, EXPORTED, [(one[name].holds, two[name].holds) for one, two in pairs]) for name in names)


def _context(row: Question) -> str:
    return "\n\n".join(message.content for message in row.prompt)


def _rows(recipe: Recipe, which: str) -> list[Question]:
    """The held-out rows of ``recipe``, or the off-task prompts that come with mlxtune. Raises ``DataError``."""
    from mlxtune.evaluation.outputs import questions

    if which == "probes":
        return questions([probe.row for probe in regression.probes(recipe.source)])
    shares = split(read_source(recipe.source, recipe.data.format, recipe.data.map), recipe.data)
    return drawn(questions(shares.test), recipe.evaluation.rows)


def _check_base(adapter: Path, source: ModelFolder) -> None:
    """Raises ``ModelError`` unless the adapter in ``adapter`` was made on the weights of ``source``, as far as that is known."""
    base = lineage(adapter).get("base_fingerprint")
    if base and base != source.fingerprint:
        raise ModelError(f"The adapter in {adapter} was made on other weights than those of {one_line(source.name, 80)}.")


def _check_disk(target: Path, parameters: int, form: str) -> None:
    """Raises ``MachineError`` before anything is computed that cannot be kept."""
    needed = parameters * {"quantized": 1, "gguf": 4}.get(form, 2)  # 16 bits a number; GGUF is read back into a second copy
    free = disk_free(target.parent)
    if free < needed:
        raise MachineError(
            f"The export takes about {size(needed)}, and {size(free)} are free at {target.parent}.", mend="Free some space."
        )


def _write(source: ModelFolder, quantize: Quantize, adapter: Path, form: str, folder: Path) -> None:
    from mlxtune.adapters import fuse, gguf

    model, config = fuse.fuse(source, adapter, requantize=form == "quantized", quantize=quantize)
    try:
        with disk_errors(str(folder)):
            folder.mkdir(parents=True)
            (gguf if form == "gguf" else fuse).write(model, config, source, folder)
    except RuntimeError as error:  # how mlx tells that a file takes no more
        if "write" not in str(error):
            raise
        raise MachineError(f"{folder.name} could not be written: {one_line(str(error), 120)}.", mend="Is the disk full?") from error


def _clear(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _readable(folder: Path, source: ModelFolder, form: str, scratch: Path) -> ModelFolder:
    """What was written, as a model folder; what only other programs open is read back into one, in ``scratch``."""
    if form == "gguf":
        from mlxtune.adapters import gguf

        return gguf.read_back(folder, source, scratch)
    return resolve(str(folder))


def _lineage(adapter: Path, source: ModelFolder, form: str, evaluation: dict[str, Any] | None) -> dict[str, Any]:
    found = read_layout(adapter)
    return {
        "v": 1,
        "mlxtune": __version__,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "export": form,
        **({"evaluation": evaluation} if evaluation else {}),
        "base": source.name,
        "base_fingerprint": source.fingerprint,
        "adapter": {
            "kind": found.kind,
            "rank": found.rank,
            "scale": found.scale,
            "weights": sha256_file(adapter / WEIGHTS),
            **lineage(adapter),
        },
    }


def main() -> int:
    """Entry point; the exit code follows the command line's."""
    blas.preload()
    return live(Path(sys.argv[1]), export)


if __name__ == "__main__":
    sys.exit(main())

"""The formats in which an adapter was exported, with the cost of each, its copies, and why its last export failed. Imports no mlx."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlxtune.adapters.entry import AdapterEntry, read_lineage
from mlxtune.adapters.export import fidelity, ollama, verification
from mlxtune.adapters.export.fidelity import Fidelity
from mlxtune.adapters.export.start import GGUF_FILE
from mlxtune.adapters.export.verification import Verification
from mlxtune.adapters.layout import LINEAGE
from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.text import one_line, size
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.evaluation.verdict import Comparison, change_text
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs import launch, registry

HEAD = ("format", "size", "KL per token", "identical answers", "whole contract", "change in points", "measured in")


@dataclass(frozen=True)
class TriedExport:
    """An export of an adapter: its run's ID, its format, its ``folder`` and size in bytes, and its measured loss.

    ``verified`` is the latest verification with an installed program, if any. ``target`` is where the run wrote it, and ``commands``
    are those that use it with the program that it was written for.
    """

    id: str
    form: str
    target: Path
    nbytes: int
    proof: Fidelity
    commands: tuple[str, ...] = ()
    verified: Verification | None = None

    @property
    def contract(self) -> Comparison | None:
        """The whole contract, or the last metric, with the adapter as trained and as exported."""
        rates = self.verified.rates if self.verified else self.proof.rates
        return next((item for item in rates if item.metric == CONTRACT), rates[-1] if rates else None)

    @property
    def label(self) -> str:
        """The format, marked if the export is not faithful or failed its verification."""
        return f"{self.form} ✗" if self.proof.failure or (self.verified and self.verified.failure) else self.form

    @property
    def rows(self) -> int:
        """The number of rows on which it was compared with the adapter as trained."""
        return (self.verified or self.proof).rows

    @property
    def identical(self) -> str:
        """How many greedy answers are identical."""
        return f"{(self.verified or self.proof).same} of {self.rows}"

    @property
    def rate(self) -> str:
        """The rate of :attr:`contract` as exported, or ``""``."""
        return f"{(item.paired.both + item.paired.fixed) / item.paired.total:.1%}" if (item := self.contract) else ""

    @property
    def points(self) -> str:
        """The change of :attr:`contract` in points with its 95% interval, or ``""``."""
        return change_text(item.low, item.change, item.high) if (item := self.contract) else ""

    @property
    def program(self) -> str:
        """The program whose answers were measured."""
        return one_line(self.verified.url, 40) if self.verified else "MLX"

    @property
    def cells(self) -> list[str]:
        """A row of the table below :data:`HEAD`."""
        kl = f"{self.proof.loss.kl:.5f}"
        return [self.label, size(self.nbytes), kl, self.identical, self.rate, self.points, self.program]


@dataclass(frozen=True)
class ExportedCopy:
    """A ``folder`` in exports/ with an adapter alone, for the ``program`` that can load it."""

    program: str
    folder: Path


@dataclass(frozen=True)
class FailedExport:
    """An export that failed: its run's ID, its format, and the reason."""

    id: str
    form: str
    reason: str


def tried_exports(entry: AdapterEntry) -> list[TriedExport]:
    """Return the finished exports of ``entry``, newest first."""
    exports: list[TriedExport] = []
    verified: dict[str, Verification] = {}
    for run, request in _runs(entry):
        try:
            if "endpoint" in request:
                result = verification.load(run.folder)
                verified.setdefault(result.export, result)
                continue
            summary = dict(run.state().summary)
            if folder := summary.get("folder"):
                target, nbytes = Path(str(folder)), int(summary["bytes"])
                commands = tuple(map(shlex.join, use_commands(request, str(folder))))
                exports.append(TriedExport(run.id, _requested_form(request), target, nbytes, fidelity.load(run.folder), commands))
        except (MlxtuneError, KeyError, TypeError, ValueError):
            continue
    return [replace(export, verified=verified.get(export.id)) for export in exports]


def exported_copies(entry: AdapterEntry) -> list[ExportedCopy]:
    """Return the copies of ``entry`` alone in the workspace's exports/, sorted by name."""
    exports = _workspace_of(entry) / registry.RUN_KINDS["export"].folder
    folders = sorted(file.parent for file in exports.glob(f"*/{LINEAGE}"))
    if entry.problem or not folders:
        return []
    weights = read_lineage(entry.folder).get("weights") or entry.sha256()
    copies = (folder for folder in folders if read_lineage(folder).get("weights") == weights)
    return [ExportedCopy("mlx-lm" if (folder / WEIGHTS).is_file() else "PEFT", folder) for folder in copies]


def failed_export(entry: AdapterEntry) -> FailedExport | None:
    """Return the newest export of ``entry`` if it failed or its process crashed."""
    run, request = next(((run, request) for run, request in _runs(entry) if "form" in request), (None, {}))
    if run is None:
        return None
    state = run.state()
    status = run.status(state)
    if status not in ("failed", "crashed"):
        return None
    return FailedExport(run.id, _requested_form(request), state.error or "Its process crashed.")


def find_export(exports: Sequence[TriedExport], files: Sequence[Path], which: str = "") -> TriedExport | None:
    """Return the export whose ID is ``which`` or whose file a program loaded, or the only one; ``None`` if there are none.

    Raise ``InputError`` if several are possible.
    """
    if which:
        named = [export for export in exports if export.id == which]
        if not named:
            raise InputError(
                f"This adapter has no export {one_line(which, 60)}.", hint="List its exports with: mlxtune adapters show"
            )
        return named[0]
    folders = {os.path.dirname(os.path.realpath(file)) for file in files}
    named = [export for export in exports if os.path.realpath(export.target) in folders] or list(exports)
    if len(named) > 1:
        names = ", ".join(f"{export.id} ({export.form})" for export in named[:5])
        raise InputError(f"The adapter has {len(named)} exports: {names}.", hint="Name the one at the endpoint with --export.")
    return named[0] if named else None


def use_commands(request: Mapping[str, Any], folder: str) -> list[list[str]]:
    """Return the commands that use the model in an export's ``folder`` with the program that ``request`` names, if there are any."""
    program, name = request.get("program"), str(request.get("name", ""))
    if program == "ollama":
        return [
            ollama.create_command(name, folder, request.get("ollama_quantize", "")),
            ["ollama", "run", ollama.model_name(name)],
        ]
    return [["llama-server", "--model", f"{folder}/{GGUF_FILE}"]] if request["form"] == "gguf" and not program else []


def form_label(form: str, precision: str, program: str) -> str:
    """Briefly describe an export's format."""
    names = {"fused": "MLX", "quantized": "MLX, requantized", "hf": "safetensors", "gguf": "GGUF", "gguf-lora": "GGUF LoRA"}
    label = names.get(form, form)
    if form == "gguf" and precision:
        label += f" {precision.upper()}"
    return f"{label} for {program}" if program else label


def _requested_form(request: Mapping[str, Any]) -> str:
    return form_label(str(request["form"]), str(request.get("precision", "")), str(request.get("program", "")))


def _workspace_of(entry: AdapterEntry) -> Path:
    """Return the workspace whose library has ``entry``."""
    return entry.folder.parents[len(Path(entry.key).parts) - 1]


def _runs(entry: AdapterEntry) -> Iterator[tuple[registry.Run, dict[str, Any]]]:
    """Yield the exports of ``entry`` and their verifications with their requests, newest first."""
    folder = os.path.realpath(entry.folder)
    for run in registry.list_runs(_workspace_of(entry), "export"):
        try:
            request = launch.read_request(run.folder)
        except (MlxtuneError, KeyError):
            continue
        if os.path.realpath(str(request.get("adapter"))) == folder:
            yield run, request

"""The formats in which an adapter was exported, with the cost of each, its copies, and why its last export failed. Imports no mlx."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlxtune.adapters.entry import AdapterEntry, read_lineage
from mlxtune.adapters.export import fidelity, ollama
from mlxtune.adapters.export.fidelity import ComparedAnswers, Fidelity, Verification
from mlxtune.adapters.export.start import GGUF_FILE
from mlxtune.adapters.layout import LINEAGE
from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs import launch, registry


@dataclass(frozen=True)
class TriedExport:
    id: str  # of its run
    form: str
    precision: str
    program: str  # that it was written for, if any
    target: Path  # the folder that the run wrote
    nbytes: int
    proof: Fidelity
    commands: tuple[str, ...] = ()  # that use it with the program
    verified: Verification | None = None  # the latest verification with an installed program

    @property
    def answers(self) -> ComparedAnswers:
        """Its answers, compared with those of the adapter as trained."""
        return self.verified.answers if self.verified else self.proof.answers

    @property
    def failed(self) -> bool:
        return bool(self.proof.failure or (self.verified and self.verified.failure))


@dataclass(frozen=True)
class ExportedCopy:
    """A ``folder`` in exports/ with an adapter alone, for the ``program`` that can load it."""

    program: str
    folder: Path


@dataclass(frozen=True)
class FailedExport:
    """An export that failed. The ``error`` is empty if its process crashed."""

    id: str
    form: str
    precision: str
    program: str
    error: str


def tried_exports(entry: AdapterEntry) -> list[TriedExport]:
    """Return the finished exports of ``entry``, newest first."""
    exports: list[TriedExport] = []
    verified: dict[str, Verification] = {}
    for run, request in _runs(entry):
        try:
            if "endpoint" in request:
                result = fidelity.load_verification(run.folder)
                verified.setdefault(result.export, result)
                continue
            summary = dict(run.state().summary)
            if folder := summary.get("folder"):
                target, nbytes = Path(str(folder)), int(summary["bytes"])
                commands = tuple(map(shlex.join, use_commands(request, str(folder))))
                proof, (form, precision, program) = fidelity.load(run.folder), _requested_form(request)
                exports.append(TriedExport(run.id, form, proof.precision or precision, program, target, nbytes, proof, commands))
        except (MlxtuneError, KeyError, TypeError, ValueError):
            continue
    return [replace(export, verified=verified.get(export.id)) for export in exports]


def exported_copies(entry: AdapterEntry) -> list[ExportedCopy]:
    """Return the copies of ``entry`` alone in the workspace's exports/, sorted by name."""
    exports = entry.workspace / registry.RUN_KINDS["export"].folder
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
    failed = run.status(state) in ("failed", "crashed")
    return FailedExport(run.id, *_requested_form(request), state.error) if failed else None


def find_export(exports: Sequence[TriedExport], files: Sequence[Path], which: str = "") -> TriedExport | None:
    """Return the export ``which``, the one whose file a program loaded, or the only one. Raise ``InputError`` if several fit."""
    if which:
        named = [export for export in exports if export.id == which]
        if not named:
            raise InputError(f"This adapter has no export {one_line(which, 60)}.", hint="List them: mlxtune adapters show")
        return named[0]
    folders = {os.path.dirname(os.path.realpath(file)) for file in files}
    named = [export for export in exports if os.path.realpath(export.target) in folders] or list(exports)
    if len(named) > 1:
        names = ", ".join(f"{export.id} ({export.form})" for export in named[:5])
        raise InputError(f"The adapter has {len(named)} exports: {names}.", hint="Name the one at the endpoint with --export.")
    return named[0] if named else None


def use_commands(request: Mapping[str, Any], folder: str) -> list[list[str]]:
    """Return the commands that use the model in an export's ``folder`` with the program that ``request`` names, if there are any."""
    program = request.get("program")
    if program == "ollama":
        name = ollama.model_name(str(request.get("name", "")))
        return [["ollama", "create", name, "-f", f"{folder}/{ollama.MODELFILE}"], ["ollama", "run", name]]
    return [["llama-server", "--model", f"{folder}/{GGUF_FILE}"]] if request["form"] == "gguf" and not program else []


def _requested_form(request: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(request["form"]), str(request.get("precision", "")), str(request.get("program", ""))


def _runs(entry: AdapterEntry) -> Iterator[tuple[registry.Run, dict[str, Any]]]:
    """Yield the exports of ``entry`` and their verifications with their requests, newest first."""
    folder = os.path.realpath(entry.folder)
    for run in registry.list_runs(entry.workspace, "export"):
        try:
            request = launch.read_request(run.folder)
        except (MlxtuneError, KeyError):
            continue
        if os.path.realpath(str(request.get("adapter"))) == folder:
            yield run, request

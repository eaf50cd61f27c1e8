"""An export is whole or absent after a kill at any file operation, on a full disk, and on a read-only one."""

import builtins
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from faults.operations import FILLING, How, Operations

from mlxtune.adapters import library
from mlxtune.adapters.export import export_worker as exporting
from mlxtune.adapters.export import lmstudio, logits
from mlxtune.adapters.export.compared_rows import ComparedRows
from mlxtune.adapters.export.fidelity import ComparedAnswers
from mlxtune.adapters.export.formats import FORMATS, ExportFormat, copy_adapter
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import scratch_folder
from mlxtune.present.card import adapter_card
from mlxtune.runs.locks import file_lock
from mlxtune.runs.registry import Run
from mlxtune.runs.worker import Worker

from .conftest import Exports

pytestmark = pytest.mark.slow

PATCHED = (
    "write", "pwrite", "fsync", "replace", "rename", "mkdir", "unlink", "remove", "rmdir", "chmod", "truncate", "ftruncate", "open",
)  # fmt: skip
FIRST = "ollama"
EACH = [pytest.param(one, id=one.label, marks=() if one.label == FIRST else pytest.mark.exhaustive) for one in FORMATS]
Files = dict[str, bytes]


@pytest.fixture
def place(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that exports are written to. Nothing is computed: answers are not compared."""
    monkeypatch.setattr(ComparedRows, "answers", lambda rows, *_: ((), []))
    monkeypatch.setattr(ComparedRows, "compare", lambda rows, *_: ComparedAnswers(0, 0, ()))
    monkeypatch.setattr(logits, "logits", lambda *_, **__: [mx.zeros((1, 8))])
    folder = exports.workspace / "my exports"
    folder.mkdir()
    monkeypatch.setattr(Path, "home", lambda: folder / "home")
    return folder


def prepared(exports: Exports, place: Path, one: ExportFormat) -> Callable[[], object]:
    """Return a function that exports the adapter as ``one`` to a folder whose name has spaces."""
    target = place / "an export"
    if one.copy:
        return lambda: copy_adapter(place, library.find(exports.workspace, "last"), one, adapter_card, target)
    base = "llama3.2:3b" if one.option == "--lora" and one.program else ""
    worker = exports.start(str(one.form), target=target, program=one.program, ollama_base=base)
    return lambda: exporting.export(worker)


@contextmanager
def installed(operations: Operations) -> Iterator[None]:
    """Patch this process's file operations, and MLX's, which writes files itself."""
    with pytest.MonkeyPatch.context() as patch:
        for name in PATCHED:
            patch.setattr(os, name, getattr(os, name))
        for module in (builtins, io):
            patch.setattr(module, "open", module.open)
        save = mx.save_safetensors

        def counted(*args: Any, **kwargs: Any) -> None:
            try:
                operations.meet("write")
            except OSError as error:
                raise RuntimeError(f"[write] Unable to write 4096 bytes to file: {error}") from error
            save(*args, **kwargs)

        patch.setattr(mx, "save_safetensors", counted)
        operations.install()
        yield


def files(place: Path) -> Files:
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def whole_or_absent(found: Files, whole: Files) -> bool:
    """Return whether each published file is whole, and there are either all of an export's or none."""
    published = {
        name: content for name, content in found.items() if not any(part.startswith(".") for part in Path(name).parts[-2:])
    }
    published = {name: content for name, content in published.items() if ".partial" not in name}
    models = [{name for name in files if lmstudio.PRESETS not in name} for files in (published, whole)]
    presets = [{name for name in files if lmstudio.PRESETS in name} for files in (published, whole)]
    same = all(whole.get(name) == content for name, content in published.items())
    return same and (not models[0] or (models[0] == models[1] and presets[0] == presets[1]))


@pytest.mark.parametrize("one", EACH)
def test_a_kill_at_any_operation_leaves_all_or_nothing(exports: Exports, place: Path, one: ExportFormat) -> None:
    crashed: list[Files] = []
    operations = Operations(before=lambda: crashed.append(files(place)))
    export = prepared(exports, place, one)
    with installed(operations):
        export()
    whole = files(place)
    assert len(crashed) > 10
    assert {"mkdir", "rename"} <= {*operations.names}
    wrong = [(at, operations.names[at], sorted(found)) for at, found in enumerate(crashed) if not whole_or_absent(found, whole)]
    assert not wrong
    assert any(".partial" in name for found in crashed for name in found), "files are written to a hidden folder first"
    assert not any(".partial" in name for name in whole)


@pytest.mark.parametrize("one", EACH)
def test_an_export_replaces_what_a_killed_one_left(exports: Exports, place: Path, one: ExportFormat) -> None:
    left = place / ".an export.partial"
    left.mkdir()
    (left / "model.gguf").write_bytes(b"half")
    prepared(exports, place, one)()
    assert not left.exists()
    assert len(list((place / "an export").iterdir())) > 1


def killed(exports: Exports, target: Path) -> tuple[Worker, Path]:
    """Return a worker of an export to ``target`` that no process runs anymore, and the hidden folder that it left."""
    worker = exports.start("fused", target=target)
    worker.report_start("export")
    left = scratch_folder(target)
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    return worker, left


def test_the_next_export_removes_what_a_killed_one_left_elsewhere(exports: Exports, place: Path) -> None:
    (_, gone), (second, kept) = (killed(exports, place / name) for name in ("first", "second"))
    with file_lock(Run(second.folder).lock, busy=""):  # its worker is running
        exporting.export(exports.start("gguf-lora", target=place / "an export"))
    assert [gone.exists(), kept.exists()] == [False, True]


@pytest.mark.parametrize("how", ["full", "read-only"])
@pytest.mark.parametrize("one", EACH)
def test_a_full_or_read_only_disk_is_reported_and_leaves_nothing(
    exports: Exports, place: Path, one: ExportFormat, how: How
) -> None:
    count = Operations()
    with installed(count):
        prepared(exports, place, one)()
    whole = clear(place)
    points = [at for at, name in enumerate(count.names, 1) if name in FILLING and name != "fsync"]
    chosen = points if how == "full" else points[:1]
    wrong = []
    for at in chosen[:: max(1, len(chosen) // 4)]:
        message = ""
        export = prepared(exports, place, one)
        with installed(Operations(at, how)):
            try:
                export()
            except MlxtuneError as error:
                message = error.message
        found = clear(place)
        models, complete = ({name for name in names if lmstudio.PRESETS not in name} for names in (found, whole))
        if models != complete and (models or not message):  # complete in spite of an error: only the folder could not be flushed
            wrong.append((at, count.names[at - 1], message, sorted(found)))
    assert not wrong


def clear(place: Path) -> Files:
    """Remove all files below ``place`` and return them."""
    found = files(place)
    for path in place.iterdir():
        shutil.rmtree(path)
    return found

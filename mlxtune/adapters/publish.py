"""The files beside an adapter or export: a model card, a lineage without local paths, and a tokenizer. Imports no mlx."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlxtune.adapters.entry import AdapterEntry, read_lineage, score_from_lineage
from mlxtune.adapters.layout import LINEAGE, read_layout
from mlxtune.core.child_process import StoppableCall
from mlxtune.core.files import read_json, write_json, write_text
from mlxtune.core.hashing import sha256_file
from mlxtune.core.json_fields import to_json
from mlxtune.models import bundled
from mlxtune.models.resolve import ModelFolder
from mlxtune.recipe.parent import CONFIG
from mlxtune.runs import registry
from mlxtune.runs.launch import TEMPLATE_FILE

README = "README.md"
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")
Library = Literal["mlx", "peft"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PUBLIC_KEYS = (
    "v", "mlxtune", "made", "run", "base_fingerprint", "method", "steps", "validation", "recipe_hash", "data_hash", "thinking", "date",
    "template", "replay_rows", "generated_rows", "training_rows",
)  # fmt: skip


@dataclass(frozen=True)
class PublishedBase:
    """A base's name in a lineage (never a path), its Hub ID, and its license. Unknown values are empty."""

    name: str
    hub_id: str
    license: str


def published_base(name: str, license: str = "") -> PublishedBase:
    """Return the base that a recipe calls ``name``. Only the last component of a local path is published."""
    if model := bundled.find(name):
        return PublishedBase(name, model.hub_id, model.license)
    is_hub_id = HUB_ID.fullmatch(name) and not Path(name).exists()
    license = license or read_license(Path(name))
    return PublishedBase(name, name, license) if is_hub_id else PublishedBase(Path(name).name, "", license)


def read_license(folder: Path) -> str:
    """Return the license stated in the model card in ``folder``, or ``""``."""
    try:
        text = (folder / README).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    match = re.search(r"^license:\s*([\w.-]+)\s*$", head[1], re.MULTILINE) if head else None
    return match[1] if match else ""


# Returns the model card of an adapter in the format of a library, as Markdown.
Card = Callable[[AdapterEntry, PublishedBase, Library], str]


def write_template(entry: AdapterEntry, folder: Path, library: Library) -> list[str]:
    """Write the chat template that ``entry`` was trained with, frozen, into ``folder``; for PEFT with the base's tokenizer.

    The files, whose names are returned, are read back, and their prompts compared with those of training, also on its held-out rows.
    Raise ``ModelError`` if its base is not on this machine, and ``GateError`` if programs would render prompts from it differently.
    """
    params = {"base": entry.base, "thinking": entry.thinking, "date": entry.date, "template": entry.template}
    params |= {"run": str(registry.run_of(entry.folder).folder), "folder": str(folder), "library": library}
    module = "mlxtune.adapters.export.program_prompts"
    return StoppableCall(module, "write", params, list[str], name="The tokenizer process").result() or []


def write_publishable(entry: AdapterEntry, base: PublishedBase, folder: Path, card: Card, library: Library = "mlx") -> list[str]:
    """Write the published files of ``entry``, except the weights, into ``folder``. Return their names.

    They include the files of :func:`write_template`. The configuration (mlx-lm's) and lineage contain no local paths. ``library``
    loads the adapter. Raise ``ModelError`` if the adapter cannot be read.
    """
    layout = read_layout(entry.folder)
    write_json(folder / CONFIG, layout.config | {"model": base.hub_id or base.name})
    lineage = _public(read_lineage(entry.folder)) | {"base": base.name, "weights": sha256_file(entry.weights)}
    if entry.score:
        lineage["evaluation"] = to_json(entry.score)
    if entry.parent:
        lineage["parent"] = {"sha256": entry.parent.sha256, "run": entry.parent.run}
    write_json(folder / LINEAGE, lineage)
    write_text(folder / README, card(entry, base, library))
    return [CONFIG, LINEAGE, README, *write_template(entry, folder, library)]


def public_lineage(folder: Path, base: PublishedBase) -> dict[str, Any]:
    """Return the lineage of the export in ``folder`` without local paths."""
    lineage = read_lineage(folder)
    adapter = adapter_lineage(lineage)
    own = {key: adapter[key] for key in ("kind", "rank", "scale", "weights") if key in adapter}
    evaluation = {"evaluation": lineage["evaluation"]} if score_from_lineage(lineage) else {}
    return _public(lineage) | {"export": lineage.get("export"), "base": base.name, "adapter": own | _public(adapter)} | evaluation


def adapter_lineage(lineage: Mapping[str, Any]) -> dict[str, Any]:
    adapter = lineage.get("adapter")
    return adapter if isinstance(adapter, dict) else {}


def _public(lineage: Mapping[str, Any]) -> dict[str, Any]:
    return {key: lineage[key] for key in _PUBLIC_KEYS if isinstance(lineage.get(key), str | int | float)}


def copy_tokenizer(
    source: ModelFolder, folder: Path, template: str, patterns: Sequence[str] = TOKENIZER, *, without: Sequence[str] = ()
) -> list[str]:
    """Copy the files of ``source`` that match ``patterns`` into ``folder``, with ``template`` as chat template if it is not empty.

    Transformers and mlx-lm read ``chat_template.jinja``, and older programs ``tokenizer_config.json``. Return the names of the files.
    """
    names = {file.name for pattern in patterns for file in source.folder.glob(pattern) if file.is_file()} - {*without}
    if template:
        names -= {"chat_template.json", TEMPLATE_FILE}
    for name in names:
        shutil.copyfile(source.folder / name, folder / name)
    if not template:
        return sorted(names)
    write_text(folder / TEMPLATE_FILE, template)
    config = folder / "tokenizer_config.json"
    if config.is_file():  # without the name of a renderer in Python, which mlx-lm would prefer
        settings = {key: value for key, value in read_json(config).items() if key != "chat_template_type"}
        write_json(config, settings | {"chat_template": template})
    return sorted({*names, TEMPLATE_FILE})

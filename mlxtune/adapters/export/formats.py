"""The formats in which an adapter can be exported, as the command line and the Adapters room offer them. Imports no mlx."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlxtune.adapters.entry import AdapterEntry
from mlxtune.adapters.export import peft_writer
from mlxtune.adapters.export.start import ExportForm, Program
from mlxtune.adapters.importers.importer import find_base
from mlxtune.adapters.publish import Card, published_base, write_publishable
from mlxtune.core.files import new_folder
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs.registry import RUN_KINDS

FormatOption = Literal["", "--lora", "--requantize"]
CopyForm = Literal["peft", "adapter"]  # the adapter alone, with its weights unchanged


@dataclass(frozen=True)
class ExportFormat:
    """A format of ``mlxtune export NAME OPTION``: a worker writes ``form`` with the files of ``program``; ``copy`` needs no worker."""

    name: str
    option: FormatOption
    about: str
    form: ExportForm | None = None
    copy: CopyForm | None = None
    program: Program = ""

    @property
    def label(self) -> str:
        """The arguments of ``mlxtune export``."""
        return f"{self.name} {self.option}".rstrip()


FORMATS = (
    ExportFormat("ollama", "", "a GGUF file with a Modelfile", "gguf", program="ollama"),
    ExportFormat("ollama", "--lora", "the adapter alone, for its base in Ollama", "gguf-lora", program="ollama"),
    ExportFormat("lmstudio", "", "a GGUF file where LM Studio looks for it, with a preset", "gguf", program="lmstudio"),
    ExportFormat("llamacpp", "", "a GGUF file for llama.cpp", "gguf"),
    ExportFormat("llamacpp", "--lora", "the adapter alone, for a GGUF file of its base", "gguf-lora"),
    ExportFormat("mlx", "", "a model folder for MLX, not quantized", "fused"),
    ExportFormat("mlx", "--requantize", "a model folder as small as the base, slightly lossy", "quantized"),
    ExportFormat("mlx", "--lora", "the adapter alone, for mlx-lm", copy="adapter"),
    ExportFormat("hf", "", "a folder of safetensors for Transformers", "hf"),
    ExportFormat("peft", "", "the adapter alone, for PEFT, vLLM, and TRL", copy="peft"),
)


NAMES = tuple(dict.fromkeys(one.name for one in FORMATS))


def find_format(name: str, option: FormatOption = "") -> ExportFormat | None:
    return next((one for one in FORMATS if (one.name, one.option) == (name, option)), None)


def copy_folder(workspace: Path, entry: AdapterEntry, written: ExportFormat) -> Path:
    """Return the folder that :func:`copy_adapter` writes by default."""
    return workspace / RUN_KINDS["export"].folder / f"{entry.stem}-{written.name}"


def copy_adapter(
    workspace: Path, entry: AdapterEntry, written: ExportFormat, card: Card, folder: Path | None = None
) -> tuple[Path, list[str]]:
    """Write the adapter alone, bit for bit, with its ``card`` into a new ``folder``, by default in exports/. Return it and its files.

    Raise ``InputError`` if ``folder`` exists, and ``ModelError`` if the format cannot represent the adapter.
    """
    folder = folder or copy_folder(workspace, entry, written)
    if written.copy == "peft":
        return folder, peft_writer.write(entry, find_base(entry.folder, ""), folder, card)
    with new_folder(folder) as scratch:
        names = write_publishable(entry, published_base(entry.base), scratch, card)
        shutil.copyfile(entry.weights, scratch / WEIGHTS)
    return folder, [WEIGHTS, *names]

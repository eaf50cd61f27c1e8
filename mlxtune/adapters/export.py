"""Start an export: an adapter worked into its base, in one of several forms, by a worker that proves it before it calls it good.

fused        a model folder for MLX, nothing quantised any more
quantized    the same, with the adapted weights quantised again as they were: smaller, and lossy
hf           a folder of safetensors that transformers and its like load
gguf         one file for llama.cpp and its like
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from mlxtune.adapters.entry import AdapterEntry, tell
from mlxtune.core.errors import InputError, ModelError
from mlxtune.data import samples
from mlxtune.evaluation import regression
from mlxtune.models.resolve import ModelFolder
from mlxtune.recipe import DataSection, ModelSection, Recipe, load
from mlxtune.runs import launch
from mlxtune.runs.registry import Run

Form = Literal["fused", "quantized", "hf", "gguf"]
FORMS: tuple[Form, ...] = get_args(Form)
MODEL = "model"  # the folder that an export makes, where nobody names another
# Architectures whose weights mlx-lm holds under the names, and in the arrangement, that transformers gives them.
HF = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "smollm3")
CONVERT = "Export it with --as hf, and convert that with llama.cpp's convert_hf_to_gguf.py."
GGUF = ("llama", "mistral")  # those that mlx-lm writes and that are no mixture of experts


def start(
    workspace: Path,
    entry: AdapterEntry,
    form: Form,
    *,
    target: Path | None = None,
    recipe: Recipe | None = None,
    force: bool = False,
    prepare: Callable[[Recipe], None] = lambda recipe: None,
) -> Run:
    """Start the worker that exports ``entry`` to ``target``, or to ``model`` in its own folder; returns its run, of kind ``export``.

    The held-out rows of ``recipe`` decide whether it is faithful: that of the adapter's run where it is left out. An adapter that has
    none is held against the off-task prompts that come with mlxtune. ``force`` keeps an export that is not faithful. ``prepare`` is called
    with the recipe before the worker starts, to have its base on disk. Raises ``InputError`` when the adapter cannot be used or
    ``target`` is taken.
    """
    if entry.problem:
        raise InputError(f"{entry.name} cannot be exported: {entry.problem}")
    if target is not None and target.exists():
        raise InputError(f"{target} is there already, so nothing is written over it.", mend="Choose another place with --to.")
    own = entry.folder.parent / "recipe.toml"
    found = recipe or (load(own) if entry.key.startswith("runs/") and own.is_file() else None)
    request: dict[str, Any] = {
        "adapter": str(entry.folder), "form": form, "force": force, "target": str(target.resolve()) if target else "",
        "rows": "held-out" if found else "probes", "evaluation": tell(entry.score) if entry.score else None,
    }  # fmt: skip
    if found is None:
        probes = samples.root() / regression.SHIPPED
        found = Recipe(entry.name, ModelSection(entry.base), DataSection(str(probes)))
    named = replace(found, name=entry.name if entry.key.startswith("adapters/") else found.name)
    prepare(named)
    return launch.start(workspace, "export", named, request)


def check_form(form: Form, source: ModelFolder, quantize: int = 0) -> None:
    """Raises ``ModelError`` with the reason when the base ``source``, given ``quantize`` bits on load, cannot be written as ``form``."""
    kind = str(source.config.get("model_type", ""))
    if form == "quantized" and not (quantize or source.config.get("quantization")):
        raise ModelError(f"{source.name} is not quantised, so nothing can be quantised again.", mend="Leave --requantize out.")
    if form == "hf" and kind not in HF:
        raise ModelError(
            f"mlx-lm holds the weights of {kind or 'this architecture'} in another arrangement than transformers, and has no way back.",
            mend=f"Fuse it for MLX instead: mlxtune adapters fuse. A folder for transformers can be had of {', '.join(HF)}.",
        )
    if form == "gguf" and kind not in GGUF:
        raise ModelError(
            f"mlx-lm writes GGUF of {', '.join(GGUF)}, and this base is {kind or 'of an unknown architecture'}.",
            mend=CONVERT,
        )

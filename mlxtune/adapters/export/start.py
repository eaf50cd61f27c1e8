"""Start an export. A worker fuses an adapter into its base, and keeps the result only if it passes a check.

fused        a dequantized model folder for MLX
quantized    the same, with adapted weights requantized as before: smaller, but lossy
hf           a folder of safetensors for transformers and similar libraries
gguf         one file for llama.cpp and similar programs
gguf-lora    the adapter alone, for a GGUF file of the base that the user has
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from mlxtune.adapters.entry import AdapterEntry, with_template_settings
from mlxtune.adapters.export import lmstudio, ollama
from mlxtune.core.child_process import Progress, quiet
from mlxtune.core.errors import InputError, MlxtuneError, ModelError
from mlxtune.core.files import scratch_folder
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import one_line
from mlxtune.data import samples
from mlxtune.evaluation.off_task import prompts
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.recipe import DataSection, ModelSection, Recipe
from mlxtune.runs import launch, registry
from mlxtune.runs.registry import Run

ExportForm = Literal["fused", "quantized", "hf", "gguf", "gguf-lora"]
GGUF_FORMS = ("gguf", "gguf-lora")
Precision = Literal[
    "f16", "bf16", "q8_0", "f32", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m",  # of the matrices in a GGUF file
    "8-bit", "6-bit", "4-bit", "smallest",  # of MLX; the smallest of several that holds
]  # fmt: skip
PRECISIONS: dict[Precision, str] = {  # bits per weight of K-quants: for Llama 3.1 8B (tools/quantize/README.md of llama.cpp)
    "f16": "16 bits per weight", "bf16": "16 bits, for weights that are too large for f16", "q8_0": "8.5 bits", "f32": "32 bits",
    "q6_k": "6.6 bits", "q5_k_m": "5.7 bits", "q4_k_m": "4.9 bits", "q3_k_m": "4.0 bits",
}  # fmt: skip
SMALLEST: Precision = "smallest"  # chosen instead of a precision
QUANTIZED: tuple[Precision, ...] = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m")
_MLX: tuple[Precision, ...] = ("4-bit", "6-bit", "8-bit")
SMALLER: dict[ExportForm, tuple[Precision, ...]] = {"gguf": QUANTIZED[3::-1], "fused": _MLX}  # tried by --smallest
Program = Literal["", "ollama", "lmstudio"]
GGUF_FILE = "model.gguf"  # in the export folder
MODEL = "model"  # the default export folder, inside the run folder
AGAIN = "again"  # a GGUF adapter that is read back, inside the run folder
# Architectures whose weights have the same names and layout in mlx-lm and in transformers.
HF = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "smollm3")


def start(
    workspace: Path, entry: AdapterEntry, form: ExportForm, *, target: Path | None = None, recipe: Recipe | None = None,
    force: bool = False, precision: Precision = "f16", program: Program = "", ollama_base: str = "", progress: Progress = quiet,
) -> Run:  # fmt: skip
    """Start the worker that exports ``entry`` to ``target`` or, by default, into its run folder. Return the run.

    Fidelity is measured on the held-out rows of ``recipe``, by default that of the adapter's run, or else on mlxtune's off-task prompts.
    ``force`` keeps an export that is not faithful. ``precision`` is that of the matrices in a GGUF file, or :data:`SMALLEST` for the
    smallest of :data:`SMALLER` that holds. ``program`` selects which other files (Modelfile, preset) are written next to it, and
    ``ollama_base`` is the name in Ollama of the base that an adapter is added to. For LM Studio, the default target is its folder of
    models, and ``force`` replaces its preset of the same name. The base is downloaded if it is missing. Raise ``InputError`` if the
    ``target`` or the preset exists or a package is missing.
    """
    if program == "lmstudio":
        target = target or lmstudio.model_folder(entry.stem)
        if not force and lmstudio.has_other_preset(entry.stem, entry.system):
            hint = f"Replace it: mlxtune export lmstudio {entry.name} --force"
            raise InputError(f"LM Studio already has a different preset named {entry.name}.", hint=hint)
    if ollama_base and not ollama.is_model_name(ollama_base):
        raise InputError(f"{one_line(ollama_base, 80)} is not a model name in Ollama.", hint="For example: --from llama3.2:3b")
    if target is not None and os.path.lexists(target):  # also a link that leads nowhere, which would be followed
        raise InputError(f"{target} already exists.", hint="Remove or rename it, or choose another folder with --to.")
    require_packages(form)
    request: dict[str, Any] = {
        "form": form, "program": program, "ollama_base": ollama_base,
        "precision": "f16" if precision == SMALLEST else precision, "smallest": precision == SMALLEST,
        "name": entry.stem, "system": entry.system,
        "force": force, "target": str(target.resolve()) if target else "",
        "evaluation": to_json(entry.score),
    }  # fmt: skip
    return _launch(workspace, entry, request, recipe, progress)


def precision_of(name: str) -> Precision:
    """Return the precision called ``name``, or the default if it is empty."""
    return next((precision for precision in (*PRECISIONS, SMALLEST) if precision == name), "f16")


def target_folder(run: Run, request: Mapping[str, Any]) -> Path:
    """Return the folder that the export ``run`` writes, which was started with ``request``."""
    return Path(request["target"]) if request["target"] else run.folder / MODEL


def remove_unfinished(run: Run) -> None:
    """Remove the hidden folders, as large as a model, that the worker of the export ``run`` left if it was killed."""
    try:
        request = launch.read_request(run.folder)
        left = [scratch_folder(target_folder(run, request)), run.folder / AGAIN]
    except (MlxtuneError, KeyError, TypeError):  # a verification, which has no target
        return
    if any(folder.exists() for folder in left) and run.status() == "crashed" and not registry.other_host(run):
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)


def missing_package(form: ExportForm | None) -> str:
    """Return a package that the export needs and that is not installed, or an empty string."""
    needed = ("gguf", "xllamacpp") if form in GGUF_FORMS else ()
    return next((package for package in needed if find_spec(package) is None), "")


def require_packages(form: ExportForm | None) -> None:
    """Raise ``InputError`` if a package that the export needs is not installed."""
    if package := missing_package(form):
        raise InputError(f"Writing GGUF requires the package {package}.", hint="Run: pip install 'mlxtune[gguf]'")


def start_verification(
    workspace: Path, entry: AdapterEntry, endpoint: str, model: str, export: str = "", *, recipe: Recipe | None = None,
    progress: Progress = quiet,
) -> Run:  # fmt: skip
    """Start the worker that compares ``model`` at ``endpoint``, which runs ``export`` if that is known, with ``entry``."""
    return _launch(workspace, entry, {"endpoint": endpoint, "model": model, "export": export}, recipe, progress)


def run_recipe(entry: AdapterEntry, overrides: Sequence[str] = ()) -> tuple[Recipe | None, Path | None]:
    """Return what :func:`~mlxtune.runs.registry.evaluation_recipe` does for the run that trained ``entry``; nothing if it was imported."""
    run = registry.run_of(entry.folder)
    has_recipe = entry.is_from_run and (run.folder / "recipe.toml").is_file()
    return registry.evaluation_recipe(run, overrides) if has_recipe else (None, None)


def _launch(workspace: Path, entry: AdapterEntry, request: dict[str, Any], recipe: Recipe | None, progress: Progress) -> Run:
    recipe = recipe or run_recipe(entry)[0]
    request |= {"adapter": str(entry.folder), "rows": "held-out" if recipe else "probes"}
    if recipe is None:
        recipe = Recipe(entry.stem, ModelSection(entry.base), DataSection(str(samples.samples_root() / prompts.SHIPPED)))
    if not entry.is_from_run or entry.name != entry.run:  # not just the ID of its training run
        recipe = replace(recipe, name=entry.stem)
    resolve(recipe.model.base, relative_to=recipe.folder, progress=progress)
    template = "" if recipe.model.template else entry.template
    return launch.start(workspace, "export", with_template_settings(recipe, entry), request, template=template)


def require_exportable(form: ExportForm, source: ModelFolder, quantize: int = 0) -> None:
    """Raise ``ModelError`` if the base ``source``, quantized to ``quantize`` bits on load, cannot be exported as ``form``."""
    kind = str(source.config.get("model_type", ""))
    if form == "quantized" and not (quantize or source.config.get("quantization")):
        raise ModelError(f"--requantize needs a quantized base, but {source.name} is not quantized.", hint="Remove --requantize.")
    if form == "hf" and kind not in HF:
        message = f"mlx-lm stores the weights of {kind or 'this architecture'} in a different layout than transformers."
        hint = f"Fuse it for MLX (mlxtune export mlx), or use a base that mlxtune export hf supports: {', '.join(HF)}."
        raise ModelError(message, hint=hint)

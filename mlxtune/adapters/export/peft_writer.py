"""Write an adapter in PEFT's format, which Transformers, vLLM, and TRL load. Imports no mlx.

The tensors have the same values and dtypes, and importing the folder again (:mod:`mlxtune.adapters.importers.peft`) restores the
adapter bit for bit.
"""

import math
from pathlib import Path
from typing import Any

from mlxtune.adapters.entry import AdapterEntry
from mlxtune.adapters.export.start import HF
from mlxtune.adapters.importers.checks import find_weight
from mlxtune.adapters.importers.peft import FILE, write_transposed
from mlxtune.adapters.layout import AdapterLayout, read_layout
from mlxtune.adapters.publish import Card, published_base, write_publishable
from mlxtune.core.errors import ModelError
from mlxtune.core.files import new_folder, write_json
from mlxtune.core.safetensors import TensorInfo
from mlxtune.core.text import one_line
from mlxtune.models import catalog
from mlxtune.models.resolve import ModelFolder
from mlxtune.planning import shapes
from mlxtune.recipe.parent import CONFIG

# Architectures whose modules have the same names in mlx-lm and in Transformers, even if some weights have another layout.
NAMED_ALIKE = (*HF, "gemma3_text", "gemma4_text", "granite", "lfm2", "ministral3", "olmo2")
_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
_EMBEDDING_PARTS = {"lora_a": "lora_embedding_A", "lora_b": "lora_embedding_B"}


def write(entry: AdapterEntry, source: ModelFolder, folder: Path, card: Card) -> list[str]:
    """Write ``entry``, an adapter for ``source``, into a new ``folder`` with a model card and the base's tokenizer, which vLLM
    and Transformers load from there. Return the names of its files.

    Raise ``ModelError`` if PEFT cannot represent the adapter, and ``InputError`` if ``folder`` exists.
    """
    layout = read_layout(entry.folder)
    tensors = _renamed(layout, source)
    base = published_base(entry.base)
    with new_folder(folder) as scratch:
        names = write_publishable(entry, base, scratch, card, "peft")
        write_transposed(entry.weights, tensors, scratch / FILE, "pt")
        write_json(scratch / CONFIG, _config(layout, catalog.original(entry.base) or base.hub_id or base.name))
    return [FILE, *names]


def _renamed(layout: AdapterLayout, source: ModelFolder) -> dict[str, TensorInfo]:
    kind = str(source.config.get("model_type", ""))
    if kind not in NAMED_ALIKE:
        hint = f"Supported by PEFT exports: {', '.join(NAMED_ALIKE)}."
        raise ModelError(f"mlx-lm and Transformers use different module names for {kind or 'this architecture'}.", hint=hint)
    base = shapes.read_shapes(source.folder, source.config)
    tensors = {}
    for module in layout.modules.values():
        shown, weight = one_line(module.name, 80), find_weight(base, module.name)
        if module.expert:
            raise ModelError(f"PEFT stores adapters of experts differently than mlx-lm: {shown}.")
        parts = _PARTS
        if weight and weight.is_embedding and not module.name.endswith("lm_head"):
            if base.tied:
                hint = "Export the fused model instead: mlxtune export hf"
                raise ModelError(f"{shown} is tied to the head. mlx-lm adapts both, but PEFT adapts only the embedding.", hint=hint)
            parts = _EMBEDDING_PARTS
        for own, tensor in (("lora_a", module.a), ("lora_b", module.b), ("m", module.m)):
            if tensor:
                tensors[f"base_model.model.{module.name}.{parts[own]}"] = tensor
    return tensors


def _config(layout: AdapterLayout, base: str) -> dict[str, Any]:
    """Return PEFT's configuration (https://huggingface.co/docs/peft/package_reference/lora)."""
    alpha, rslora = _alpha(layout.scale, layout.rank)
    modules = sorted(layout.modules)  # full names: only these modules, not the same ones of other layers
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True, "r": layout.rank,
        "lora_alpha": alpha, "lora_dropout": layout.dropout, "target_modules": modules, "bias": "none", "fan_in_fan_out": False,
        "use_dora": layout.kind == "dora", "use_rslora": rslora, "init_lora_weights": True, "modules_to_save": None,
    }  # fmt: skip


def _alpha(scale: float, rank: int) -> tuple[float, bool]:
    """Return the ``lora_alpha``, an integer if possible, and the ``use_rslora`` from which the importer gets exactly ``scale``.

    PEFT itself computes ``lora_alpha / rank`` (by its square root for rsLoRA), which may differ in the last bit of 64.
    """
    for divisor in (rank, math.sqrt(rank)):
        near = scale * divisor
        candidates = (float(round(near)), near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf))
        if exact := next((alpha for alpha in candidates if alpha / divisor == scale), None):
            return (int(exact) if exact.is_integer() else exact), divisor != rank
    return scale * rank, False

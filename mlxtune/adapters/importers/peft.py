"""Convert PEFT's adapters to mlx-lm's layout.

PEFT (https://huggingface.co/docs/peft) stores ``lora_A`` as ``(rank, inputs)`` and ``lora_B`` as ``(outputs, rank)``, and scales by
``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` for rsLoRA. mlx-lm stores both transposed, and the scale as a number. Adapters that
mlx-lm cannot represent are rejected; nothing is dropped.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.adapters.importers.checks import find_weight, other_base, read_bits
from mlxtune.adapters.layout import FLOATS, Kind
from mlxtune.core.errors import ModelError
from mlxtune.core.files import write_bytes
from mlxtune.core.safetensors import TensorInfo, read_header
from mlxtune.core.text import one_line
from mlxtune.models.resolve import ModelFolder
from mlxtune.planning import shapes
from mlxtune.recipe.parent import WEIGHTS

FILE = "adapter_model.safetensors"
_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)
_PARTS = {
    "lora_A": "lora_a", "lora_B": "lora_b", "lora_embedding_A": "lora_a", "lora_embedding_B": "lora_b", "lora_magnitude_vector": "m",
}  # fmt: skip
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initializations that change the base
_UNSUPPORTED = (
    "bias", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "lora_bias", "trainable_token_indices",
    "target_parameters", "use_qalora", "alora_invocation_tokens", "arrow_config", "use_bdlora",
)  # fmt: skip
_MERGE = "Merge it with PEFT, and use the full model."


def convert(folder: Path, config: Mapping[str, Any], source: ModelFolder) -> dict[str, Any]:
    """Convert the weights of the PEFT adapter in ``folder`` to mlx-lm's layout, and return mlx-lm's configuration.

    Values and dtypes do not change. Raise ``ModelError`` if mlx-lm cannot represent the adapter or it does not match ``source``.
    """
    kind, rank, scale = _parameters(config, folder)
    base = shapes.read_shapes(source.folder, source.config)
    renamed: dict[str, TensorInfo] = {}
    for name, tensor in read_header(folder / FILE).tensors.items():
        match = _NAME.fullmatch(name)
        shown = one_line(name, 100)
        if not match:
            raise ModelError(f"{FILE} contains {shown}, which mlx-lm's LoRA does not support.")
        if tensor.dtype not in FLOATS or len(tensor.shape) > 2:
            raise ModelError(f"{FILE}: {shown} is not an F32, F16 or BF16 matrix.")
        weight = find_weight(base, match["module"])
        if weight is None:
            raise other_base(source, f"that base has no {one_line(match['module'], 80)}")
        if weight.is_embedding and base.tied:
            raise ModelError(f"{shown} adapts an embedding that is tied to the head, which mlx-lm adapts, too.", hint=_MERGE)
        own = f"{weight.path}.{_PARTS[match['part']]}"
        if own in renamed:
            raise ModelError(f"{FILE}: two tensors map to {one_line(own, 100)}.")
        renamed[own] = tensor
    lowest = min((int(match[1]) for own in renamed if (match := shapes.LAYER.search(own))), default=0)
    write_transposed(folder / FILE, renamed, folder / WEIGHTS, "mlx")
    return {
        "fine_tune_type": kind,
        "num_layers": base.depth - lowest,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": config.get("lora_dropout", 0.0)},
    }


def _parameters(config: Mapping[str, Any], folder: Path) -> tuple[Kind, int, float]:
    if config["peft_type"] != "LORA":
        raise ModelError(f"{folder} has PEFT type {one_line(str(config['peft_type']), 40)}, not LoRA or DoRA.")
    for key in _UNSUPPORTED:
        if (config.get(key) or "none") != "none":
            raise ModelError(f"{folder}: mlx-lm does not support {key}.", hint=_MERGE)
    initialization = config.get("init_lora_weights", True)
    if isinstance(initialization, str) and initialization.lower().startswith(_BASE_CHANGING):
        message = f"{folder} uses the initialization {one_line(initialization, 40)}, which changes the base's weights."
        raise ModelError(message, hint="Save it with PEFT's path_initial_model_for_weight_conversion.")
    match config.get("r"), config.get("lora_alpha"):
        case int(rank), (int() | float()) as alpha if 1 <= rank <= 2**20 and abs(alpha) <= 2**20:
            scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            decimal = float(f"{scale:.12g}")  # the scale 0.1 at rank 6 is an alpha of 0.1 * 6, and 0.1 * 6 / 6 is not 0.1
            scale = decimal if decimal * rank == alpha else scale
            return "dora" if config.get("use_dora") else "lora", rank, scale
    raise ModelError(f"The configuration in {folder} lacks a numeric r or lora_alpha.")


def write_transposed(file: Path, tensors: Mapping[str, TensorInfo], target: Path, framework: str) -> None:
    """Write ``tensors`` of ``file`` to ``target`` under their new names, transposed. ``framework`` is ``mlx`` or ``pt``."""
    header: dict[str, Any] = {"__metadata__": {"format": framework}}
    offset = 0
    for name, tensor in sorted(tensors.items()):
        place = [offset, offset + tensor.size]
        header[name] = {"dtype": tensor.dtype, "shape": list(reversed(tensor.shape)), "data_offsets": place}
        offset += tensor.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    arrays = (read_bits(file, tensor).T.tobytes() for _, tensor in sorted(tensors.items()))
    write_bytes(target, b"".join([len(text).to_bytes(8, "little"), text, *arrays]))

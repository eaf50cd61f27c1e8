"""PEFT's adapters in mlx-lm's layout: the same function, said in other names.

PEFT (https://huggingface.co/docs/peft) keeps ``lora_A`` as ``(rank, inputs)`` and ``lora_B`` as ``(outputs, rank)``, and scales by
``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` for rsLoRA. mlx-lm keeps both transposed and the scale as a number. What mlx-lm has no
place for is refused, never dropped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlxtune.adapters.check import find_weight, read_bits
from mlxtune.adapters.layout import FLOATS, Kind
from mlxtune.core.errors import ModelError
from mlxtune.core.files import write_bytes
from mlxtune.core.safetensors import Tensor, read_header
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
_CHANGED = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ways to begin that change the base, which is then another
_UNKNOWN = (
    "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "lora_bias", "trainable_token_indices",
    "target_parameters", "use_qalora", "alora_invocation_tokens", "arrow_config", "use_bdlora",
)  # fmt: skip


def is_peft(config: Mapping[str, Any]) -> bool:
    """Whether an ``adapter_config.json`` is PEFT's."""
    return "peft_type" in config


def convert(folder: Path, config: Mapping[str, Any], source: ModelFolder) -> dict[str, Any]:
    """Write the weights of PEFT's adapter in ``folder`` beside it as mlx-lm has them, and return mlx-lm's configuration of it.

    Numbers keep their type and value. Raises ``ModelError`` with the reason for what mlx-lm cannot express, or what does not fit the
    base ``source``.
    """
    kind, rank, scale = _parameters(config, folder)
    base = shapes.read(source.folder, source.config)
    found: dict[str, Tensor] = {}
    for name, tensor in read_header(folder / FILE).tensors.items():
        match = _NAME.fullmatch(name)
        shown = one_line(name, 100)
        if not match:
            raise ModelError(f"{FILE}: {shown} is nothing that mlx-lm's LoRA has a place for.")
        if tensor.dtype not in FLOATS or len(tensor.shape) > 2:
            raise ModelError(f"{FILE}: {shown} is no matrix of F32, F16 or BF16.")
        weight = find_weight(base, match["module"])
        if weight is None:
            raise ModelError(
                f"The adapter is of another base than {one_line(source.name, 80)}: it has no {one_line(match['module'], 80)}.",
                mend="Name its own: --base MODEL",
            )
        if weight.embeds and base.tied:
            raise ModelError(
                f"{shown} adapts an embedding that is also the head of this model. PEFT adapts only the one, mlx-lm both.",
                mend="Merge it with PEFT, and use the whole model.",
            )
        own = f"{weight.path}.{_PARTS[match['part']]}"
        if own in found:
            raise ModelError(f"{FILE}: two tensors mean {one_line(own, 100)}.")
        found[own] = tensor
    lowest = min((int(place[1]) for own in found if (place := shapes.LAYER.search(own))), default=0)
    _write(folder / FILE, found, folder / WEIGHTS)
    return {
        "fine_tune_type": kind,
        "num_layers": base.depth - lowest,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0},
    }


def _parameters(config: Mapping[str, Any], folder: Path) -> tuple[Kind, int, float]:
    """Kind, rank and mlx-lm's scale. Raises ``ModelError`` for what is not LoRA as mlx-lm knows it."""
    if config["peft_type"] != "LORA":
        raise ModelError(
            f"{folder} is an adapter of PEFT's kind {one_line(str(config['peft_type']), 40)}; mlx-lm has LoRA and DoRA."
        )
    if config.get("bias", "none") != "none":
        raise ModelError(
            f"{folder}: its biases were trained (bias = {one_line(str(config['bias']), 40)}), which mlx-lm has no place for."
        )
    for key in _UNKNOWN:
        if config.get(key):
            raise ModelError(
                f"{folder}: {key} says what mlx-lm's layout cannot.", mend="Merge it with PEFT, and use the whole model."
            )
    begun = config.get("init_lora_weights", True)
    if isinstance(begun, str) and begun.lower().startswith(_CHANGED):
        raise ModelError(
            f"{folder}: it began as {one_line(begun, 40)}, which changed the weights of the base.",
            mend="Save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it.",
        )
    match config.get("r"), config.get("lora_alpha"):
        case int(rank), (int() | float()) as alpha if 1 <= rank <= 2**20 and abs(alpha) <= 2**20:
            scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            return "dora" if config.get("use_dora") else "lora", rank, scale
    raise ModelError(f"{folder}: its configuration has no rank r and lora_alpha that are numbers.")


def _write(file: Path, tensors: Mapping[str, Tensor], target: Path) -> None:
    """``tensors`` of ``file`` as safetensors under their new names, matrices transposed."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for name, tensor in sorted(tensors.items()):
        header[name] = {"dtype": tensor.dtype, "shape": list(reversed(tensor.shape)), "data_offsets": [at, at + tensor.size]}
        at += tensor.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def pieces() -> Iterator[bytes]:
        yield len(text).to_bytes(8, "little") + text
        for _, tensor in sorted(tensors.items()):
            yield read_bits(file, tensor).T.tobytes()

    write_bytes(target, b"".join(pieces()))

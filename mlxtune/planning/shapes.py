"""Read a model's shapes from the headers of its safetensors files, without loading any weights."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mode
from typing import Any

from mlxtune.core import safetensors
from mlxtune.core.errors import ModelError, RecipeError
from mlxtune.recipe import AdapterSection
from mlxtune.recipe.schema import layer_count

LAYER = re.compile(r"(?:^|\.)(?:layers|kv_reuse_layers|h|blocks)\.(\d+)\.(.+)$")
_LATER_LAYERS = "kv_reuse_layers."  # a second list of layers, after the first one
_OWN_ADAPTERS = {"afm7": "self_attn.qkv_proj"}  # linear modules whose adapters mlx-lm stores in another format
_OTHER = re.compile(r"(?:^|\.)(?:vision|visual|audio|multi_modal|mtp)\w*\.|inv_freq$")  # parts that mlx-lm drops from a text model
_OUT = re.compile(r"(?:^|\.)(?:o_proj|out_proj|wo|dense|down_proj|w2|c_proj|fc2|fc_out|dense_4h_to_h)$")
# Linear modules that "all-linear" excludes: routers, which a few rows could unbalance, and AltUp, whose weights Gemma 3n clips in place
NOT_ADAPTED = re.compile(r"(?:^|\.)(?:\w*router|gate|shared_expert_gate|altup)(?:\.|$)")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed|embed_tokens|embed_in|embedding|(?:tok_|token_|word_)?embeddings|wte)$")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|output|embed_out)$")
# Arrays that only a recurrent or convolutional module has
_RECURRENCE = re.compile(r"(?:^|\.)(?:A_log|g_norm|(?:[qkv]_)?conv1?d?)$")
_QUERY = re.compile(r"(?:^|[._])(?:q|qkv|query\w*|q_a|q_b|wq|Wqkv|c_attn|att)(?:_proj)?$")
_NOT_CHECKPOINTED = ("iquestloopcoder",)  # these call the parts of their layers, so no layer can be recomputed as a whole
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1}
_HALF = 2  # bytes of a 16-bit number
_GROUPS = (64, 32)  # quantization group sizes that models.load tries


@dataclass(frozen=True)
class WeightShape:
    name: str  # relative to the layer
    layer: int  # -1 outside the layers
    shape: tuple[int, ...]  # before quantization
    nbytes: int  # as saved, including scales and biases
    size: int  # bytes of one unpacked number
    bits: int = 0
    path: str = ""  # relative to the model
    standalone: bool = False  # not the weight of a module

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it is the matrix of a linear module that all tokens use: not a norm, bias or expert."""
        return len(self.shape) == 2 and not self.standalone and "norm" not in self.name.rsplit(".", 1)[-1]

    @property
    def is_attention(self) -> bool:
        return "attn" in self.name or "attention" in self.name

    @property
    def is_embedding(self) -> bool:
        return bool(_EMBEDDING.search(self.name))

    @property
    def is_output_projection(self) -> bool:
        """Whether its output is added to the residual stream."""
        return bool(_OUT.search(self.name))

    def loaded_nbytes(self, *, float32: bool, quantize: int) -> int:
        """Bytes in memory: in float32, as saved, or quantized on load."""
        if float32:
            return 4 * self.numbers
        group = next((size for size in _GROUPS if self.shape[-1] % size == 0), 0)
        if quantize and not self.bits and len(self.shape) > 1 and group:
            return self.numbers * quantize // 8 + 2 * self.size * self.numbers // group
        return self.nbytes


@dataclass(frozen=True)
class ModelShapes:
    weights: tuple[WeightShape, ...]
    heads: int
    kv_heads: int
    head_dim: int
    active_experts: int  # per token
    tied: bool
    gelu: bool = False  # the MLP's gate is a GELU, as in Gemma
    residual_streams: int = 1  # hidden states per position that a layer passes to the next one
    can_checkpoint: bool = True  # whether the layers can be recomputed for the backward pass

    @cached_property
    def depth(self) -> int:
        return max((weight.layer for weight in self.weights), default=-1) + 1

    @cached_property
    def layers(self) -> tuple[tuple[WeightShape, ...], ...]:
        return tuple(tuple(weight for weight in self.weights if weight.layer == i) for i in range(self.depth))

    @cached_property
    def embedding(self) -> WeightShape:
        return next(weight for weight in self.weights if weight.layer < 0 and weight.is_embedding)

    @property
    def bits(self) -> int:
        """The number of bits of most quantized weights as saved, or 0 if there are none."""
        return mode([weight.bits for weight in self.weights if weight.bits] or [0])

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return self.embedding.shape[1]

    @property
    def vocabulary(self) -> int:
        return self.embedding.shape[0]

    @property
    def parameters(self) -> int:
        return sum(weight.numbers for weight in self.weights)

    def adapter_targets(self, section: AdapterSection) -> list[WeightShape]:
        """Return the weights that get an adapter, following the rules in ``models.lora``. Raises ``RecipeError`` if a target matches none."""
        count = layer_count(section.layers, self.depth)
        linear = [one for one in self.weights if one.layer >= 0 and one.is_matrix and not NOT_ADAPTED.search(one.name)]
        if section.targets == "attention":
            chosen = [weight for weight in linear if weight.is_attention]
        elif section.targets == "all-linear":
            chosen = linear
        else:
            chosen = []
            for target in section.targets:
                matches = [weight for weight in self.weights if len(weight.shape) > 1 and f".{weight.name}".endswith(f".{target}")]
                if not matches:
                    raise RecipeError(f"adapter.targets: this model has no layer named {target}.")
                chosen += matches
        return [weight for weight in dict.fromkeys(chosen) if not 0 <= weight.layer < self.depth - count]

    def first_trained_layer(self, targets: Sequence[WeightShape]) -> int:
        """Return the lowest layer that computes a gradient, or 0 if something below the layers is trained."""
        if any(weight.layer < 0 and not _HEAD.search(weight.name) for weight in targets):
            return 0
        return min((weight.layer for weight in targets if weight.layer >= 0), default=self.depth)


def computes_scores(weights: Sequence[WeightShape]) -> bool:
    """Return whether a layer with these weights computes attention scores: all layers do, except recurrent and convolutional ones."""
    modules = {weight.name.rpartition(".")[0] for weight in weights if _RECURRENCE.search(weight.name)}
    return not modules or any(_QUERY.search(weight.name) and weight.name.rpartition(".")[0] not in modules for weight in weights)


def read_shapes(folder: Path, config: dict[str, Any]) -> ModelShapes:
    """Read the shapes of the model in ``folder``. Raises ``ModelError`` for an invalid header or a model without an embedding."""
    text: dict[str, Any] = config.get("text_config") or config
    tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
    entries = {
        name: tensor
        for file in sorted(folder.glob("model*.safetensors"))
        for name, tensor in safetensors.read_header(file, follow=True).tensors.items()
    }
    read = list(_weights(entries, config.get("quantization") or {}, tied))
    own = _OWN_ADAPTERS.get(config.get("model_type", ""))
    read = [replace(weight, standalone=True) if weight.name == own else weight for weight in read]
    # the layers of a second list are numbered after those of the first one
    first = 1 + max((weight.layer for weight in read if _LATER_LAYERS not in weight.path), default=-1)
    later = [weight.layer >= 0 and _LATER_LAYERS in weight.path for weight in read]
    weights = tuple(replace(one, layer=one.layer + first) if is_later else one for one, is_later in zip(read, later, strict=True))
    if not any(weight.layer < 0 and weight.is_embedding for weight in weights):
        raise ModelError(f"{folder} has no token embedding, so its memory cannot be estimated.")
    width = next(weight.shape[-1] for weight in weights if weight.layer < 0 and weight.is_embedding)
    heads = int(text.get("num_attention_heads") or text.get("n_heads") or text.get("n_head") or 1)
    return ModelShapes(
        weights, heads, kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or width // heads),
        active_experts=int(text.get("num_experts_per_tok") or text.get("top_k_experts") or 1),
        tied=tied or not any(_HEAD.search(weight.name) for weight in weights if weight.layer < 0), gelu=has_gelu(config | text),
        residual_streams=int(text.get("altup_num_inputs") or 1), can_checkpoint=config.get("model_type") not in _NOT_CHECKPOINTED,
    )  # fmt: skip


def has_gelu(config: Mapping[str, Any]) -> bool:
    """Return whether the gate of a text model's MLP is a GELU. mlx-lm ignores the activation in the configuration."""
    return str(config.get("model_type", "")).startswith("gemma")


def _weights(entries: dict[str, safetensors.TensorInfo], quantization: dict[str, Any], tied: bool) -> Iterator[WeightShape]:
    for name, entry in entries.items():
        stem, _, kind = name.rpartition(".")
        quantized = f"{stem}.scales" in entries
        if _OTHER.search(name) or (quantized and kind in ("scales", "biases")) or (tied and _HEAD.search(stem)):
            continue
        path = stem if kind == "weight" else name
        match = LAYER.search(path)
        layer, layer_name = (int(match[1]), match[2]) if match else (-1, path)
        if not quantized or kind != "weight":
            size = _BYTES.get(entry.dtype, 4)
            yield WeightShape(layer_name, layer, entry.shape, entry.size, size, path=path, standalone=kind != "weight")
            continue
        scales = entries[f"{stem}.scales"]
        parts = [entry, scales, *([entries[f"{stem}.biases"]] if f"{stem}.biases" in entries else [])]
        own_settings = quantization.get(stem)
        settings = quantization | (own_settings if isinstance(own_settings, dict) else {})
        shape = (*entry.shape[:-1], scales.shape[-1] * int(settings.get("group_size", 64)))
        nbytes, bits = sum(part.size for part in parts), int(settings.get("bits", 4))
        size = max(_HALF, _BYTES.get(scales.dtype, 4))  # MXFP4's scales have one byte
        yield WeightShape(layer_name, layer, shape, nbytes, size, bits, stem)

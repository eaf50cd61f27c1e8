"""A model's real shapes, read from the headers of its safetensors files: no weight is loaded, and no name is trusted for its size."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlxtune.core import safetensors
from mlxtune.core.errors import ModelError, RecipeError
from mlxtune.core.safetensors import Tensor
from mlxtune.recipe import AdapterSection

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")
_OTHER = re.compile(r"(?:^|\.)(?:vision|visual|audio|multi_modal|mtp)\w*\.|inv_freq$")  # what mlx-lm leaves out of a text model
_OUT = re.compile(r"(?:^|\.)(?:o_proj|out_proj|wo|dense|down_proj|w2|c_proj|fc2|fc_out|dense_4h_to_h)$")
_ROUTER = re.compile(r"(?:^|\.)(?:\w*router|gate|shared_expert_gate)(?:\.|$)")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|tok_embeddings|wte|embeddings)$")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|output|embed_out)$")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1}
_GROUPS = (64, 32)  # sizes of quantisation groups that loading tries, as models.load does


@dataclass(frozen=True)
class Weight:
    """An array of the model as it computes: ``shape`` with quantisation undone, ``saved`` bytes with scales and biases in them.

    ``layer`` is -1 outside the layers; ``name`` is seen from the layer, ``path`` from the model. ``size`` is the bytes of one number
    of what is not packed.
    """

    name: str
    layer: int
    shape: tuple[int, ...]
    saved: int
    size: int
    bits: int = 0
    path: str = ""

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def matrix(self) -> bool:
        """Whether it multiplies, for all tokens alike: no norm, no bias, no experts."""
        return len(self.shape) == 2

    @property
    def attends(self) -> bool:
        return "attn" in self.name or "attention" in self.name

    @property
    def embeds(self) -> bool:
        """Whether it has a row for each token, which it looks up."""
        return bool(_EMBEDDING.search(self.name))

    @property
    def leaves(self) -> bool:
        """Whether it leads back to the residual stream."""
        return bool(_OUT.search(self.name))

    def held(self, *, float32: bool, quantize: int) -> int:
        """Bytes in memory: in float32 where that computes, else as saved or quantised on load."""
        if float32:
            return 4 * self.numbers
        group = next((size for size in _GROUPS if self.shape[-1] % size == 0), 0)
        if quantize and not self.bits and len(self.shape) > 1 and group:
            return self.numbers * quantize // 8 + 2 * self.size * self.numbers // group
        return self.saved


@dataclass(frozen=True)
class Shapes:
    """All weights of a model, and what only its configuration says: heads, and experts active for a token."""

    weights: tuple[Weight, ...]
    heads: int
    kv_heads: int
    head_width: int
    active: int
    tied: bool

    @cached_property
    def depth(self) -> int:
        """How many layers."""
        return max((weight.layer for weight in self.weights), default=-1) + 1

    @cached_property
    def layers(self) -> tuple[tuple[Weight, ...], ...]:
        """The weights of each layer."""
        found: list[list[Weight]] = [[] for _ in range(self.depth)]
        for weight in self.weights:
            if weight.layer >= 0:
                found[weight.layer].append(weight)
        return tuple(map(tuple, found))

    @cached_property
    def embedding(self) -> Weight:
        return next(weight for weight in self.weights if weight.layer < 0 and weight.embeds)

    @property
    def width(self) -> int:
        """Numbers of a token's hidden state."""
        return self.embedding.shape[1]

    @property
    def vocabulary(self) -> int:
        return self.embedding.shape[0]

    @property
    def parameters(self) -> int:
        return sum(weight.numbers for weight in self.weights)

    def adapted(self, section: AdapterSection) -> list[Weight]:
        """The weights that get an adapter, by the rules of ``models.lora``. Raises ``RecipeError`` when a target names nothing."""
        count = self.depth if section.layers == "all" else min(section.layers, self.depth)
        usual = [weight for weight in self.weights if weight.layer >= 0 and weight.matrix and not _ROUTER.search(weight.name)]
        if section.targets == "attention":
            chosen = [weight for weight in usual if weight.attends]
        elif section.targets == "all-linear":
            chosen = usual
        else:
            chosen = []
            for target in section.targets:
                named = [weight for weight in self.weights if len(weight.shape) > 1 and f".{weight.name}".endswith(f".{target}")]
                if not named:
                    raise RecipeError(f"adapter.targets: no layer of this model is called {target}.")
                chosen += named
        return [weight for weight in dict.fromkeys(chosen) if not 0 <= weight.layer < self.depth - count]

    def first(self, adapted: Sequence[Weight]) -> int:
        """The lowest layer that computes a gradient: 0 where something below the layers learns."""
        if any(weight.layer < 0 and not _HEAD.search(weight.name) for weight in adapted):
            return 0
        return min((weight.layer for weight in adapted if weight.layer >= 0), default=self.depth)


def read(folder: Path, config: dict[str, Any]) -> Shapes:
    """The shapes of the model in ``folder``. Raises ``ModelError`` when a header is broken or is not that of a language model."""
    text: dict[str, Any] = config.get("text_config") or config
    tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
    entries = {
        name: tensor
        for file in sorted(folder.glob("model*.safetensors"))
        for name, tensor in safetensors.read_header(file, follow=True).tensors.items()
    }
    weights = tuple(_weights(entries, config.get("quantization") or {}, tied))
    if not any(weight.layer < 0 and weight.embeds for weight in weights):
        raise ModelError(f"{folder} has no token embedding that a plan could start from.")
    width = next(weight.shape[-1] for weight in weights if weight.layer < 0 and weight.embeds)
    heads = int(text.get("num_attention_heads") or text.get("n_heads") or text.get("n_head") or 1)
    return Shapes(
        weights,
        heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_width=int(text.get("head_dim") or width // heads),
        active=int(text.get("num_experts_per_tok") or text.get("top_k_experts") or 1),
        tied=tied or not any(_HEAD.search(weight.name) for weight in weights if weight.layer < 0),
    )


def _weights(entries: dict[str, Tensor], quantization: dict[str, Any], tied: bool) -> Iterator[Weight]:
    for name, entry in entries.items():
        stem, _, kind = name.rpartition(".")
        quantised = f"{stem}.scales" in entries
        if _OTHER.search(name) or (quantised and kind in ("scales", "biases")) or (tied and _HEAD.search(stem)):
            continue
        place = LAYER.search(stem if kind == "weight" else name)
        layer, own = (int(place[1]), place[2]) if place else (-1, stem if kind == "weight" else name)
        shape, saved = entry.shape, entry.size
        if not quantised or kind != "weight":
            yield Weight(own, layer, shape, saved, _BYTES.get(entry.dtype, 4), path=stem if kind == "weight" else name)
            continue
        scales = entries[f"{stem}.scales"]
        parts = [scales, *([entries[f"{stem}.biases"]] if f"{stem}.biases" in entries else [])]
        special = quantization.get(stem)
        how = quantization | (special if isinstance(special, dict) else {})
        columns = scales.shape[-1] * int(how.get("group_size", 64))
        held = saved + sum(part.size for part in parts)
        yield Weight(own, layer, (*shape[:-1], columns), held, _BYTES.get(scales.dtype, 4), int(how.get("bits", 4)), stem)

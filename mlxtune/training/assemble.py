"""From a recipe to everything a run needs: rows, model, adapter, and the loop over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxtune.core.errors import MachineError, RecipeError
from mlxtune.core.text import plural, size
from mlxtune.data.rows import Row
from mlxtune.data.source import read_source
from mlxtune.data.split import Split, record, split
from mlxtune.models import head, load, lora
from mlxtune.models.load import LoadedModel
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.models.template import ChatTemplate, Encoded
from mlxtune.planning import shapes
from mlxtune.planning.machine import disk_free, machine
from mlxtune.planning.plan import Planner
from mlxtune.planning.workload import Length, Lengths
from mlxtune.recipe import Recipe
from mlxtune.training import batches, lanes
from mlxtune.training.frozen import FrozenCache
from mlxtune.training.guard import MemoryGuard
from mlxtune.training.lanes import Lanes
from mlxtune.training.loop import Loop
from mlxtune.training.stack import Stack

CACHED = 8  # the frozen layers' outputs may take one part in so many of the memory; beyond that they go to disk


@dataclass
class Assembled:
    """A loop and what it was made of."""

    loop: Loop
    loaded: LoadedModel
    template: ChatTemplate
    shares: Split


def assemble(recipe: Recipe, folder: Path, *, warn: Callable[[str], None], emit: Callable[..., None]) -> Assembled:
    """Read, load, encode and put together what ``recipe`` asks for; ``folder`` is the run's.

    Raises ``InputError`` and its kin for whatever of the recipe, the data or the model cannot be used.
    """
    source = read_source(recipe.source, recipe.data.format, recipe.data.map)
    shares = split(source, recipe.data)
    try:
        record(source, recipe.data, shares)
    except MachineError as error:
        warn(f"{error.message} So rows that are added later may move old ones.")
    loaded = load.load(resolve(recipe.model.base, near=recipe.folder), quantize=recipe.model.quantize)
    limit = load.memory_limit(machine().limit)
    emit(
        "model.loaded", base=loaded.source.name, path=loaded.path, parameters=loaded.parameters, seconds=loaded.seconds, limit=limit
    )
    template = ChatTemplate(loaded.tokenizer)
    shares.refuse_sealed((*shares.train, *shares.valid))
    train, valid = (encode(template, rows, recipe.data.max_tokens) for rows in (shares.train, shares.valid))
    cut = [row for row in (*train, *valid) if row.truncated]
    if cut:
        named = ", ".join(str(row.place) for row in cut[:5])
        warn(f"{plural(len(cut), 'row')} cut at {recipe.data.max_tokens:,} tokens: {named}{' …' if len(cut) > 5 else ''}")
    config = lora.add(loaded.model, recipe.adapter, recipe.training.seed)
    parts = head.split(loaded.model)
    if parts.warning:
        warn(parts.warning)
    stack = Stack(loaded.model, parts, Lanes(lanes.suitable()))
    shared = batches.shared_prefix([*train, *valid])
    plain = stack.can_share()
    prefix = shared if plain else 0
    lengths = Lengths(tuple(map(_length, train)), tuple(map(_length, valid)), prefix, plain)
    if _checkpoints(recipe, loaded.source, lengths, limit):
        stack = Stack(loaded.model, parts, stack.lanes, checkpointed=True)
    loop = Loop(
        folder, stack, recipe.training, recipe.adapter, config, train, valid, prefix,
        compiled=loaded.compute == "native", guard=MemoryGuard(limit),
    )  # fmt: skip
    if _caches(recipe, loop):
        loop.cache = lambda rows: FrozenCache(stack, rows, loop.prefix, budget=limit // CACHED, folder=folder)
    return Assembled(loop, loaded, template, shares)


def encode(template: ChatTemplate, rows: Sequence[Row], max_tokens: int) -> list[Encoded]:
    """Every row as tokens. Raises ``DataError`` or ``TemplateError`` for the first that cannot be trained."""
    return [template.encode(row, max_tokens) for row in rows]


def _checkpoints(recipe: Recipe, source: ModelFolder, lengths: Lengths, limit: int) -> bool:
    """Whether layers keep only their input: as the recipe says, or as the plan does, for ``limit`` bytes, where that is open."""
    if isinstance(recipe.training.grad_checkpoint, bool):
        return recipe.training.grad_checkpoint
    here = replace(machine(), limit=limit)
    planner = Planner(here, shapes.read(source.folder, source.config), lengths, source.fingerprint)
    _, _, checkpointed, _ = planner.decide(recipe)
    return checkpointed


def _length(row: Encoded) -> Length:
    return Length(row.full, int(row.trained[1:].sum()), int(row.trained.argmax()))


def _caches(recipe: Recipe, loop: Loop) -> bool:
    """Whether to keep what enters the first adapted layer: where there is more than one epoch to use it in, and room."""
    wish = recipe.training.cache_frozen
    if wish is False or not loop.stack.can_enter():
        if wish is True:
            raise RecipeError(
                "training.cache_frozen: this model's layers below the first adapter cannot be run apart, or there are none.",
                mend="Lower adapter.layers, or leave cache_frozen out.",
            )
        return False
    needed = sum(len(row.tokens) for row in (*loop.train, *loop.valid)) * _width(loop.stack)
    if needed > disk_free(loop.folder) // 2:
        if wish is True:
            raise RecipeError(f"training.cache_frozen needs {size(needed)} of disk, and there is not twice that.")
        return False
    return wish is True or loop.epochs > 1


def _width(stack: Stack) -> int:
    """Bytes of one token's hidden state."""
    hidden: Any = stack.hidden(mx.array([[1, 2]]), until=stack.first)
    return int(hidden[0, 0].nbytes)

"""From a recipe to everything a run needs: rows, model, adapter, and the loop over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from mlxtune.adapters.layout import LINEAGE
from mlxtune.core.errors import DataError, Interrupted, MachineError, ModelError, RecipeError
from mlxtune.core.files import read_json
from mlxtune.core.text import plural, size
from mlxtune.data.source import read_source
from mlxtune.data.split import Split, record, split
from mlxtune.models import head, lanes, load, lora
from mlxtune.models.lanes import Lanes
from mlxtune.models.load import LoadedModel
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.models.template import ChatTemplate
from mlxtune.planning import shapes
from mlxtune.planning.machine import disk_free, machine
from mlxtune.planning.plan import Planner
from mlxtune.planning.workload import Lengths
from mlxtune.recipe import Recipe
from mlxtune.training import batches, drift, pairs
from mlxtune.training.dpo import Preferring
from mlxtune.training.encode import encode, measure
from mlxtune.training.frozen import FrozenCache
from mlxtune.training.guard import MemoryGuard
from mlxtune.training.kto import Labelled
from mlxtune.training.loop import Loop
from mlxtune.training.objective import Cache
from mlxtune.training.pairs import PairCache
from mlxtune.training.reference import bare, refer
from mlxtune.training.sft import Supervised
from mlxtune.training.stack import Stack

CACHED = 8  # the frozen layers' outputs may take one part in so many of the memory; beyond that they go to disk


class Listener(Protocol):
    """Whom the run is made for: a worker."""

    @property
    def stopping(self) -> bool: ...

    @property
    def emit(self) -> Callable[..., None]: ...

    def warn(self, text: str) -> None: ...


@dataclass
class Assembled:
    """A loop and what it was made of; ``skipped`` are the ids of rows that the window leaves nothing of, each with why."""

    loop: Loop
    loaded: LoadedModel
    template: ChatTemplate
    shares: Split
    skipped: dict[str, str]


def assemble(recipe: Recipe, folder: Path, worker: Listener) -> Assembled:
    """Read, load, encode and put together what ``recipe`` asks for; ``folder`` is the run's.

    Raises ``InputError`` and its kin for whatever of the recipe, the data or the model cannot be used, and ``Interrupted`` when the
    worker is to stop while the reference model scores the pairs.
    """
    source = read_source(recipe.source, recipe.data.format, recipe.data.map)
    shares = split(source, recipe.data)
    try:
        record(source, recipe.data, shares)
    except MachineError as error:
        worker.warn(f"{error.message} So rows that are added later may move old ones.")
    loaded = load.load(resolve(recipe.model.base, near=recipe.folder), quantize=recipe.model.quantize)
    limit = load.memory_limit(machine().limit)
    worker.emit(
        "model.loaded", base=loaded.source.name, path=loaded.path, parameters=loaded.parameters, seconds=loaded.seconds, limit=limit
    )
    template = ChatTemplate(loaded.tokenizer)
    shares.refuse_sealed((*shares.train, *shares.valid))
    train, valid, _ = (encode(template, rows, recipe) for rows in (shares.train, shares.valid, shares.test))
    skipped = train.skipped | valid.skipped
    _tell_losses([*train.rows, *valid.rows], skipped, recipe.data.max_tokens, worker.warn)
    config = lora.add(loaded.model, recipe.adapter, recipe.training.seed)
    if recipe.adapter.parent:
        _start_from(recipe.path(recipe.adapter.parent), loaded)
    loaded.model.eval()  # what is tried out below is computed twice and compared: dropout would differ
    parts = head.split(loaded.model)
    if parts.warning:
        worker.warn(parts.warning)
    stack = Stack(loaded.model, parts, Lanes(lanes.suitable()))
    plain = stack.can_share()
    objective: Supervised | Preferring
    prefix = 0
    if recipe.method.kind != "sft":
        plain = plain and pairs.can_share(stack)
        kind = Labelled if recipe.method.kind == "kto" else Preferring
        prefix = pairs.shared_prefix([*train.rows, *valid.rows]) if plain else 0
        objective = kind(recipe.method, plain, prefix, stack.lanes.count)
    else:
        prefix = batches.shared_prefix([*train.rows, *valid.rows]) if plain else 0
        objective = Supervised(prefix, stack.lanes.count)
    lengths = Lengths(measure(train.rows), measure(valid.rows), prefix, plain)
    if _checkpoints(recipe, loaded.source, lengths, limit):
        stack = Stack(loaded.model, parts, stack.lanes, checkpointed=True)
    loop = Loop(
        folder, stack, recipe.training, recipe.adapter, config, train.rows, valid.rows, objective,
        compiled=loaded.compute == "native", guard=MemoryGuard(limit),
    )  # fmt: skip
    if _caches(recipe, loop, plain=plain):
        loop.cache = partial(_cache, stack, objective, limit // CACHED, folder)
    if isinstance(objective, Preferring):
        base = f"{loaded.source.fingerprint}/{recipe.model.quantize}/{loaded.compute}"
        with bare(loaded.model) if recipe.method.reference == "base" else nullcontext():
            skipped |= _refer(loop, recipe, objective, base, worker)
    return Assembled(loop, loaded, template, shares, skipped)


def _start_from(parent: Path, loaded: LoadedModel) -> None:
    """Begin with the weights of the adapter in ``parent``. Raises ``ModelError`` when it belongs to another base."""
    told = parent / LINEAGE
    base = read_json(told).get("base_fingerprint", "") if told.is_file() else ""
    if base and base != loaded.source.fingerprint:
        raise ModelError(f"The adapter in {parent} was trained on other weights than those of {loaded.source.name}.")
    lora.put(loaded.model, parent)


def _tell_losses(rows: Sequence[Any], skipped: Mapping[str, str], window: int, warn: Callable[[str], None]) -> None:
    """Name what the window takes away."""
    cut = [row for row in rows if row.truncated]
    for what, named in (("cut", [str(row.place) for row in cut]), ("left out, with nothing left to train", list(skipped))):
        if named:
            warn(f"{plural(len(named), 'row')} {what} at {window:,} tokens: {', '.join(named[:5])}{' …' if len(named) > 5 else ''}")


def _refer(loop: Loop, recipe: Recipe, objective: Preferring, base: str, worker: Listener) -> dict[str, str]:
    """Let the model as it stands be the reference: score every pair, with the caches that training then goes on with.

    Returns the ids of pairs that need not train, each with why. Raises ``DataError`` when none is left.
    """

    def tell(done: int, total: int) -> None:
        if worker.stopping:
            raise Interrupted(0)
        worker.emit("reference", done=done, total=total)

    shares: list[Sequence[Any]] = [loop.train, loop.valid]
    caches: list[Any] = [loop.cache(rows) if rows and recipe.method.referred else None for rows in shares]
    if shares[1]:
        how: Any = {"shared": objective.shared, "prefix": objective.prefix, "cache": caches[1]}
        loop.distance = drift.Distance(loop.stack, shares[1], **how)
    if not recipe.method.referred:
        return {}
    train, loop.valid = (
        refer(loop.stack, rows, base, shared=objective.shared, cache=cache, progress=tell) if rows else rows
        for rows, cache in zip(shares, caches, strict=True)
    )
    right: dict[str, str] = {}
    if recipe.method.pairs == "wrong":
        right = {pair.id: "the reference prefers its chosen answer already" for pair in train if pair.means[0] > pair.means[1]}
        wrong = [pair for pair in train if pair.id not in right]
        if not wrong:
            raise DataError("The model prefers the chosen answer of every pair already.", mend='Use pairs = "all" in [method].')
        caches[0] = caches[0] and loop.cache(wrong)
        train = wrong
    loop.train = train
    loop.cache = lambda rows: caches[0 if rows is loop.train else 1]
    return right


def _cache(stack: Stack, objective: Supervised | Preferring, budget: int, folder: Path, rows: Sequence[Any]) -> Cache:
    if isinstance(objective, Preferring):
        return PairCache(stack, rows, objective.prefix, budget=budget, folder=folder)
    return FrozenCache(stack, rows, objective.prefix, budget=budget, folder=folder)


def _checkpoints(recipe: Recipe, source: ModelFolder, lengths: Lengths, limit: int) -> bool:
    """Whether layers keep only their input: as the recipe says, or as the plan does, for ``limit`` bytes, where that is open."""
    if isinstance(recipe.training.grad_checkpoint, bool):
        return recipe.training.grad_checkpoint
    here = replace(machine(), limit=limit)
    planner = Planner(here, shapes.read(source.folder, source.config), lengths, source.fingerprint)
    _, _, checkpointed, _ = planner.decide(recipe)
    return checkpointed


def _caches(recipe: Recipe, loop: Loop, *, plain: bool) -> bool:
    """Whether to keep what enters the first adapted layer: where more than one pass comes back to it, and there is room.

    A reference model's pass is one, too.
    """
    wish = recipe.training.cache_frozen
    pairwise = isinstance(loop.objective, Preferring)
    if wish is False or not loop.stack.can_enter() or (pairwise and not plain):
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
    return wish is True or recipe.method.referred or loop.epochs > 1


def _width(stack: Stack) -> int:
    """Bytes of one token's hidden state."""
    hidden: Any = stack.hidden(mx.array([[1, 2]]), until=stack.first)
    return int(hidden[0, 0].nbytes)

"""Build the rows, model, adapter and training loop for a recipe."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxtune.adapters.layout import LINEAGE
from mlxtune.core.errors import DataError, Interrupted, MachineError, ModelError, RecipeError
from mlxtune.core.files import read_json, write_json
from mlxtune.core.text import size
from mlxtune.data.source import read_source
from mlxtune.data.split import Splits, record_splits, split
from mlxtune.models import head, load, lora
from mlxtune.models.cpu import streams
from mlxtune.models.resolve import resolve, same_base
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template
from mlxtune.planning import shapes
from mlxtune.planning.machine import disk_free, this_machine
from mlxtune.planning.plan import Planner, high_rate
from mlxtune.planning.training_rule import apply_rule, example_count, model_width
from mlxtune.planning.workload import DatasetLengths
from mlxtune.recipe import Recipe
from mlxtune.training import checkpoint, sft
from mlxtune.training.encode import EncodedRows, SkippedRow, count_notes, encode, replay_rows, row_lengths
from mlxtune.training.frozen_cache import FrozenCache
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.loop import RunListener, TrainingLoop
from mlxtune.training.preference import batches as pair_batches
from mlxtune.training.preference.forward import PairCache, can_share_prompts
from mlxtune.training.preference.losses import KTOObjective, PreferenceObjective
from mlxtune.training.preference.reference import ReferenceKL, adapters_disabled, reference_logps
from mlxtune.training.stopping import MemoryGuard

REVIEW = "review.json"  # in the folder of a run
CACHE_MEMORY_DIVISOR = 8  # the frozen layers' outputs may use 1/8 of the memory; the rest goes to disk


@dataclass(frozen=True)
class Foundation:
    """The parts shared by all adapters that are trained on the same data and base."""

    splits: Splits
    loaded: load.LoadedModel
    template: ChatTemplate
    train: EncodedRows
    valid: EncodedRows

    @property
    def skipped(self) -> list[SkippedRow]:
        return [*self.train.skipped, *self.valid.skipped]


@dataclass(frozen=True)
class TrainingSetup:
    base: Foundation
    loop: TrainingLoop
    skipped: list[SkippedRow]  # rows that are not trained on


def prepare(recipe: Recipe, folder: Path, worker: RunListener) -> TrainingSetup:
    """Build the training loop for ``recipe``. Raise ``InputError`` if it cannot be trained, or ``Interrupted`` on request."""
    return build_loop(load_foundation(recipe, worker, folder / REVIEW), recipe, folder, worker)


def load_foundation(recipe: Recipe, worker: RunListener, reviewed: Path) -> Foundation:
    """Read and split the data, load the model, and encode the rows. Raise ``InputError`` or a subclass as :func:`prepare` does.

    The file ``reviewed`` records how many entries of the review's journal were applied when the run started. A resumed run applies
    the same ones, so rows can be reviewed in the meantime.
    """
    entries = read_json(reviewed)["entries"] if reviewed.is_file() else None
    source = read_source(recipe.source, recipe.data, review_entries=entries)
    if entries is None and checkpoint.newest(reviewed.parent) is None:
        write_json(reviewed, {"v": 1, "entries": source.review_entries})
    splits = split(source, recipe.data)
    try:
        record_splits(source, recipe.data, splits)
    except MachineError as error:
        worker.warn("split_not_recorded", error=error.message)
    loaded = load.load(resolve(recipe.model.base, relative_to=recipe.folder), quantize=recipe.model.quantize)
    worker.emit("model.loaded", **loaded.event)
    template = load_template(loaded.source, TemplateSettings.from_recipe(recipe), loaded.tokenizer)
    splits.refuse_sealed((*splits.train, *splits.valid))
    train, valid, _ = (encode(template, rows, recipe) for rows in (splits.train, splits.valid, splits.test))
    base = with_replay(Foundation(splits, loaded, template, train, valid), recipe, worker)
    rows = [*base.train.rows, *valid.rows]
    for note, count in count_notes(rows).items():
        worker.warn("template_note", note=note.value, rows=count)
    if rate := high_rate(recipe):
        worker.warn("high_learning_rate", rate=rate)
    if truncated := [str(row.location) for row in rows if row.truncated]:
        worker.warn("rows_truncated", rows=truncated, max_tokens=recipe.data.max_tokens)
    if skipped := base.skipped:
        worker.warn("rows_skipped", rows=[str(row.location) for row in skipped], max_tokens=recipe.data.max_tokens)
    return base


def with_replay(base: Foundation, recipe: Recipe, worker: RunListener) -> Foundation:
    """Return ``base`` with the replay rows of ``recipe``, which the base answers first if it has not yet. It must have no adapter."""
    own = [row for row in base.train.rows if not getattr(row, "replay", False)]
    rows = replay_rows(recipe, base.loaded, base.template, base.splits, worker)
    return replace(base, train=replace(base.train, rows=[*own, *rows]))


def build_loop(base: Foundation, recipe: Recipe, folder: Path, worker: RunListener) -> TrainingSetup:
    """Add a new adapter to the model, which must have none, and build its training loop. ``folder`` is the run's folder."""
    loaded, train, valid, limit = base.loaded, base.train, base.valid, base.loaded.memory_limit
    recipe = apply_rule(recipe, model_width(loaded.source.config), example_count(base.splits.train, recipe.data.max_tokens))
    rows = [*train.rows, *valid.rows]
    adapter_config = lora.add(loaded.model, recipe.adapter, recipe.training.seed)
    if recipe.adapter.parent:
        _load_parent(recipe, loaded, worker)
    loaded.model.eval()  # the checks below compare two computations, which would differ with dropout
    model_head = head.split_head(loaded.model)
    if not model_head.is_split:
        worker.warn("head_not_split")
    elif model_head.has_unusual_head:
        worker.warn("head_computed_twice")
    stack = LayerStack(loaded.model, model_head, streams.StreamPool(streams.default_size()))
    can_share = stack.can_share_prefix()
    objective: sft.SFTObjective | PreferenceObjective
    if recipe.method.kind == "sft":
        objective = sft.SFTObjective(sft.shared_prefix(rows) if can_share else 0, stack.streams.size)
    else:
        can_share = can_share and can_share_prompts(stack)
        kind = KTOObjective if recipe.method.kind == "kto" else PreferenceObjective
        prefix = pair_batches.shared_prefix(rows) if can_share else 0
        objective = kind(recipe.method, can_share, prefix, stack.streams.size)
    lengths = DatasetLengths(row_lengths(train.rows), row_lengths(valid.rows), objective.prefix, can_share)
    source, machine = loaded.source, replace(this_machine(), limit=limit)
    planner = Planner(machine, shapes.read_shapes(source.folder, source.config), lengths, source.fingerprint)
    decisions = planner.decisions(recipe)
    recomputed = recipe.training.grad_checkpoint
    if decisions.checkpointed if recomputed == "auto" else recomputed:
        stack = LayerStack(loaded.model, model_head, stack.streams, checkpointed=True)
        if not stack.checkpointed:
            worker.warn("not_recomputable")
    loop = TrainingLoop(
        folder, stack, recipe.training, recipe.adapter, adapter_config, train.rows, valid.rows, objective,
        compiled=loaded.compute == "native" and decisions.work.traces > 0, segment=decisions.segment, guard=MemoryGuard(limit),
    )  # fmt: skip
    if decisions.segment:
        loop.objective = replace(loop.objective, streams=1)
    elif _use_frozen_cache(recipe, loop, can_share=can_share):
        cache_type: Any = PairCache if isinstance(objective, PreferenceObjective) else FrozenCache
        loop.cache = partial(cache_type, stack, prefix=objective.prefix, budget=limit // CACHE_MEMORY_DIVISOR, folder=folder)
    learned: list[SkippedRow] = []
    if isinstance(objective, PreferenceObjective):
        reference = f"{loaded.source.fingerprint}/{recipe.model.quantize}/{loaded.compute}"
        with adapters_disabled(loaded.model) if recipe.method.reference == "base" else nullcontext():
            learned = _score_reference(loop, recipe, objective, reference, worker)
    return TrainingSetup(base, loop, [*base.skipped, *learned])


def _load_parent(recipe: Recipe, loaded: load.LoadedModel, worker: RunListener) -> None:
    """Load the weights of the parent adapter. Raise ``ModelError`` if it was trained from a different base."""
    parent, thinking = recipe.path(recipe.adapter.parent), recipe.model.thinking
    lineage = read_json(parent / LINEAGE) if (parent / LINEAGE).is_file() else {}
    if (before := lineage.get("thinking", thinking)) != thinking:
        worker.warn("parent_thinking", parent=before, run=thinking)
    if not same_base(lineage.get("base_fingerprint", ""), loaded.source.fingerprint):
        hint = "Set model.base to the adapter's own base."
        raise ModelError(f"The adapter in {parent} was trained from a different base than {loaded.source.name}.", hint=hint)
    lora.load_weights(loaded.model, parent)


def _score_reference(
    loop: TrainingLoop, recipe: Recipe, objective: PreferenceObjective, base: str, worker: RunListener
) -> list[SkippedRow]:
    """Score the pairs with the model as it is now. Return those that need no training. Raise ``DataError`` if none is left."""
    train: Sequence[Any] = loop.train
    valid: Sequence[Any] = loop.valid
    needs_reference = recipe.method.needs_reference
    caches: list[Any] = [loop.cache(rows) if rows and needs_reference else None for rows in (train, valid)]
    share_prompts = objective.share_prompts
    used = range(len(train)) if recipe.method.pairs == "wrong" else sorted(loop.used_rows())

    def progress(done: int, total: int, **fields: str) -> None:
        if worker.stopping:
            raise Interrupted(0)
        worker.emit("reference", done=done, total=total, **fields)

    if valid:
        loop.reference_kl = ReferenceKL(
            loop.stack, valid, share_prompts=share_prompts, prefix=objective.prefix, cache=caches[1],
            progress=partial(progress, of="distance"),
        )  # fmt: skip
    if not needs_reference:
        return []

    before, total = len(used), len(used) + len(valid)
    score = partial(reference_logps, loop.stack, base=base, share_prompts=share_prompts)
    train = score(train, used=used, cache=caches[0], progress=lambda done, _: progress(done, total))
    loop.valid = score(valid, cache=caches[1], progress=lambda done, _: progress(before + done, total)) if valid else valid
    progress(total, total)  # an earlier run may have scored the last pairs
    learned = [pair for pair in train if recipe.method.pairs == "wrong" and pair.reference_means[0] > pair.reference_means[1]]
    if learned:
        train = [pair for pair in train if pair.reference_means[0] <= pair.reference_means[1]]
        if not train:
            raise DataError("The model already prefers the chosen answer of every pair.", hint='Use pairs = "all" in [method].')
        caches[0] = caches[0] and loop.cache(train)
    loop.train = train
    loop.cache = lambda rows: caches[0 if rows is loop.train else 1]
    return [SkippedRow(pair.id, pair.location, "the reference already prefers its chosen answer") for pair in learned]


def _use_frozen_cache(recipe: Recipe, loop: TrainingLoop, *, can_share: bool) -> bool:
    """Whether to cache the frozen layers' outputs: if they are used more than once, also by a reference, and the disk has space."""
    setting = recipe.training.cache_frozen
    if setting is False:
        return False
    problem, hint = "", "Lower adapter.layers, or remove cache_frozen."
    if not loop.stack.can_skip_frozen() or (isinstance(loop.objective, PreferenceObjective) and not can_share):
        problem = "is set, but this model has no frozen layers that can run separately"
    else:
        state: Any = loop.stack.hidden_states(mx.array([[1, 2]]), until=loop.stack.first_adapted)
        needed = sum(len(row.tokens) for row in (*loop.train, *loop.valid)) * int(state[0, 0].nbytes)
        if needed > disk_free(loop.folder) // 2:
            problem = f"needs {size(needed)} of disk space, but less than twice that is free"
            hint = "Free up some disk space, or remove cache_frozen."
    if problem and setting is True:
        raise RecipeError(f"training.cache_frozen {problem}.", hint=hint)
    return not problem and (setting is True or recipe.method.needs_reference or loop.epochs > 1)

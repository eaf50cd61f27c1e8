"""Measure row lengths and the cost of two steps for a plan. Runs as the child process of ``planning.measurements``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune import __version__
from mlxtune.core.child_process import Progress, Request, quiet, serve
from mlxtune.core.errors import DataError
from mlxtune.core.files import home, read_state, write_text
from mlxtune.core.hashing import sha256_json
from mlxtune.core.json_fields import from_json, to_json
from mlxtune.data.rows import Location, Preference, PromptRow
from mlxtune.data.split import recipe_splits
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import this_machine
from mlxtune.planning.measurements import StepCost
from mlxtune.planning.workload import BatchShape, DatasetLengths, run_date
from mlxtune.recipe import MethodSection, Recipe, parse

if TYPE_CHECKING:
    from mlxtune.data.checks.check_input import TokenCount
    from mlxtune.models.encoded import Encoded, EncodedPair
    from mlxtune.models.load import LoadedModel
    from mlxtune.training.objective import TrainingBatch
    from mlxtune.training.optimizer import Stepper
    from mlxtune.training.preference.losses import Objective


def lengths(recipe: Recipe) -> DatasetLengths:
    """Return the length of each row without reading weights. Raise ``InputError`` for everything that the worker would reject."""
    from mlx_lm.utils import load_model

    from mlxtune.models.template import TemplateSettings, load_template
    from mlxtune.models.thinking import prints_date
    from mlxtune.training import sft
    from mlxtune.training.encode import count_notes, encode, planned_replay_rows, row_lengths
    from mlxtune.training.layer_stack import plain_attention
    from mlxtune.training.preference import batches

    shares = recipe_splits(recipe)
    shares.refuse_sealed((*shares.train, *shares.valid))
    source = resolve(recipe.model.base)
    template = load_template(source, TemplateSettings.from_recipe(recipe))
    encoded = [encode(template, rows, recipe) for rows in (shares.train, shares.valid)]
    replayed = planned_replay_rows(recipe, source.fingerprint, template, shares)
    train, valid = [*encoded[0].rows, *replayed], encoded[1].rows
    model, _ = load_model(source.folder, lazy=True)
    plain = plain_attention(model)
    shared_prefix = sft.shared_prefix if recipe.method.kind == "sft" else batches.shared_prefix
    prefix = shared_prefix([*train, *valid]) if plain else 0
    notes = tuple(note.describe(count) for note, count in count_notes([*train, *valid]).items())
    thinking = template.thinking.effect(recipe.model.thinking)
    date = run_date(recipe) if prints_date(template.source) else ""
    skipped = len(encoded[0].skipped), len(encoded[1].skipped)
    lengths = row_lengths(train), row_lengths(valid)
    held_out = [row for row in shares.test if isinstance(row, PromptRow)]
    pairs = (row for row in held_out if isinstance(row, Preference) and recipe.method.kind == "dpo")
    incomparable = tuple(row.hash for row in pairs if not template.can_compare(row, recipe.data.max_tokens))
    references = tuple((row.hash, template.count_tokens(row.reference)) for row in held_out if row.reference)
    return DatasetLengths(*lengths, prefix, plain, notes, thinking, date, len(replayed), skipped, incomparable, references)


def tokens(recipe: Recipe) -> list[TokenCount | None]:
    """Return the token count of each record of the recipe's source, in order; ``None`` for an invalid row.

    For a pair, the longer answer is counted. Counts are kept for a day. Raise ``InputError`` for the model or the file, not for a row.
    """
    from mlxtune.data import review
    from mlxtune.data.access.records import SourceRecords
    from mlxtune.data.checks.check_input import TokenCount
    from mlxtune.data.reviewed_records import ReviewedRecords
    from mlxtune.models.template import TemplateSettings, load_template
    from mlxtune.training.encode import count_row_tokens

    source, settings = resolve(recipe.model.base), TemplateSettings.from_recipe(recipe)
    files = sorted([file.name, file.stat().st_mtime_ns] for file in source.folder.iterdir())
    key = sha256_json([__version__, source.fingerprint, files, asdict(settings), time.strftime("%Y-%m-%d")])  # may be printed
    cache = home() / "tokens" / f"{sha256_json(str(recipe.source.resolve()))[:16]}.json"
    known = state.get("counts", {}) if (state := read_state(cache, 1)).get("key") == key else {}
    template = lru_cache(lambda: load_template(source, settings))
    counts: dict[str, Any] = {}
    ids: list[str] = []
    with SourceRecords(recipe.source, recipe.data.format, recipe.data.map) as records:
        for item in ReviewedRecords(records, review.load(recipe.source)):
            ids.append("" if isinstance(item.record, DataError) else sha256_json(item.record.content)[:16])
            if ids[-1] and ids[-1] not in counts:
                counts[ids[-1]] = known.get(ids[-1]) or to_json(count_row_tokens(template(), item.record))
    if counts != known:
        write_text(cache, json.dumps({"v": 1, "key": key, "counts": counts}))
    return [from_json(TokenCount, count) if (count := counts.get(id)) else None for id in ids]


def steps(request: Request) -> StepCost:
    from mlxtune.models import load

    params, recipe = request.params, parse(request.params["recipe"])
    request.progress(("loading the base", 0.0))
    loaded = load.load(resolve(recipe.model.base), quantize=recipe.model.quantize)
    batch, options = from_json(BatchShape, params["batch"]), {name: params[name] for name in ("grouped", "checkpointed")}
    return measure_steps(loaded, recipe, batch, lambda *update: request.progress(update), **options)


def measure_steps(
    loaded: LoadedModel, recipe: Recipe, batch: BatchShape, progress: Progress = quiet, *, grouped: int = 0, checkpointed: bool = False
) -> StepCost:  # fmt: skip
    """Measure two optimizer steps of an adapter for ``loaded`` on rows with the batch's shape. All times are for one batch.

    ``step`` is the time of the second one, and ``frozen`` that of the layers below the first adapter, if there are any. If they are
    cached, ``grouped`` rows run through them before the steps.
    """
    import mlx.core as mx

    from mlxtune.models import head, lora
    from mlxtune.models.cpu import streams
    from mlxtune.training import optimizer
    from mlxtune.training.frozen_cache import FrozenCache
    from mlxtune.training.layer_stack import LayerStack
    from mlxtune.training.optimizer import Stepper
    from mlxtune.training.preference.forward import PairCache
    from mlxtune.training.preference.losses import PreferenceObjective
    from mlxtune.training.setup import CACHE_MEMORY_DIVISOR
    from mlxtune.training.sft import SFTObjective

    compiled = loaded.compute == "native"
    lora.add(loaded.model, recipe.adapter, recipe.training.seed)
    parts = head.split_head(loaded.model)
    stack = LayerStack(loaded.model, parts, streams.StreamPool(streams.default_size()), checkpointed=checkpointed)
    rows: list[Any] = (random_pairs if batch.sides else random_rows)(batch, max(batch.rows, grouped), recipe)
    objective: Objective = SFTObjective(batch.prefix, stack.streams.size)
    if batch.sides:
        objective = PreferenceObjective(MethodSection(), len(batch.sides) == 1, batch.prefix, stack.streams.size)
    (chosen,) = objective.collate(rows, [range(batch.rows)], range(batch.rows))
    update = optimizer.make(recipe.training, recipe.adapter)
    update.init(loaded.model.trainable_parameters())
    stepper = partial(Stepper, stack, update, objective, clip=recipe.training.clip)
    first = stepper(compiled=compiled)
    mx.eval(update.state)
    loaded.model.train()
    rest, loading = mx.get_active_memory(), mx.get_peak_memory()
    mx.reset_peak_memory()
    batches = min(2, recipe.training.accumulate)
    with tempfile.TemporaryDirectory() as folder:
        cache_type: Any = PairCache if batch.sides else FrozenCache
        frozen = cache_type(stack, rows, batch.prefix, budget=this_machine().limit // CACHE_MEMORY_DIVISOR, folder=Path(folder))
        skips = stack.can_skip_frozen()
        frozen_seconds = _seconds(lambda: mx.eval(frozen.outputs(chosen))) if grouped and skips else 0.0
        step = partial(_step, chosen=chosen, cache=frozen if frozen_seconds else None, batches=batches, weight=objective.weight)
        step_seconds = _timed_twice("step", lambda: step(first), progress)
        peak = mx.get_peak_memory()
        trace = uncompiled = 0.0
        if compiled:
            plain = stepper(compiled=False)
            trace = max(0.0, step_seconds[0] - step_seconds[1])
            uncompiled = min(_timed_twice("uncompiled step", lambda: step(plain), progress))
        if not frozen_seconds and skips:
            frozen_seconds = _seconds(lambda: mx.eval(frozen.outputs(chosen)))
        frozen.close()
    return {
        "rest": rest, "loading": loading, "peak": peak, "frozen": frozen_seconds, "step": step_seconds[-1] / batches,
        "trace": trace, "uncompiled": uncompiled / batches,
    }  # fmt: skip


def _step(stepper: Stepper, *, chosen: TrainingBatch, cache: Any, batches: int, weight: Callable[[Any], int]) -> None:
    """Take an optimizer step on as many copies of a batch as the recipe accumulates, two at most."""
    import mlx.core as mx

    sums: Any = None
    for _ in range(batches):
        sums = stepper.add(chosen.arrays(cache), sums)
        mx.async_eval(sums)
    mx.eval(stepper.apply(sums[1], weight(chosen.counts)), stepper.results)


def _timed_twice(name: str, work: Callable[[], None], progress: Progress) -> list[float]:
    seconds = []
    for number in range(2):
        progress(f"{name} {number + 1} of 2 with the largest batch", number / 2)
        seconds.append(_seconds(work))
    return seconds


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def random_rows(batch: BatchShape, count: int, recipe: Recipe) -> list[Encoded]:
    """Return ``count`` random rows of the batch's length that share a prefix; their last tokens are trained."""
    import numpy as np

    from mlxtune.models.encoded import Encoded

    rng = np.random.default_rng(recipe.training.seed)
    length, trained = batch.prefix + batch.width + 1, min(-(-batch.trained // batch.rows), batch.width)
    rows = []
    for index in range(count):
        tokens = rng.integers(3, 250, length).astype(np.int32)
        tokens[: batch.prefix] = np.arange(batch.prefix) % 200 + 3
        rows.append(Encoded(str(index), Location(recipe.folder, index + 1), tokens, np.arange(length) >= length - trained, length))
    return rows


def random_pairs(batch: BatchShape, count: int, recipe: Recipe) -> list[EncodedPair]:
    """Return ``count`` random pairs of the batch's widths, each with half of the trained tokens in both answers."""
    import numpy as np

    from mlxtune.models.encoded import EncodedPair

    rng = np.random.default_rng(recipe.training.seed)
    longer, *others = batch.sides
    trained = min(batch.trained // batch.rows, sum(batch.sides) - 1)
    if others:  # the prompt occurs in both
        prompt = max(1, (longer + others[0] + 2 - trained) // 2)
        lengths = [prompt, *(max(1, width + 1 - prompt) for width in batch.sides)]
    else:
        better_size = max(1, trained // 2)
        worse_size = max(1, trained - better_size)
        lengths = [longer + 2 - better_size - worse_size, better_size, worse_size]
    pairs = []
    for index in range(count):
        prompt_tokens, better, worse = (rng.integers(3, 250, max(1, length)).astype(np.int32) for length in lengths)
        prompt_tokens = np.concatenate([np.arange(batch.prefix, dtype=np.int32) % 200 + 3, prompt_tokens])
        worse[0] = 2  # the answers differ from the first token on
        sizes = (len(better), len(worse))
        pairs.append(EncodedPair(str(index), Location(recipe.folder, index + 1), prompt_tokens, better, worse, sizes))
    return pairs


if __name__ == "__main__":
    blas.preload()
    sys.exit(serve({
        "lengths": lambda request: vars(lengths(parse(request.params["recipe"]))),
        "tokens": lambda request: to_json(tokens(parse(request.params["recipe"]))),
        "steps": steps,
    }))  # fmt: skip

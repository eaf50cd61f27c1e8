"""What a plan can only learn from MLX: true lengths, and what two steps take. Asked by ``planning.ask``, in a process of its own.

    python -m mlxtune.training.probe lengths < request.json
    python -m mlxtune.training.probe tokens  < request.json
    python -m mlxtune.training.probe steps   < request.json

A request is ``{"recipe": TOML}``, for ``steps`` with the shape of a ``batch`` beside it, as ``planning.ask`` writes it. The answer is
one JSON document on stdout; an error of ours is ``{"error", "mend", "kind"}``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import DataError, MlxtuneError, TemplateError
from mlxtune.data.rows import Conversation, Message, Place, Preference, Row, Unpaired
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.models import blas
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import machine
from mlxtune.recipe import MethodSection, Recipe, parse

if TYPE_CHECKING:
    from mlxtune.models.template import ChatTemplate, Encoded, EncodedPair

_ENDLESS = 2**31 - 1  # a window that nothing fills


def lengths(request: dict[str, Any]) -> dict[str, Any]:
    """Each row as the worker will encode it: the fields of ``planning.workload.Length``.

    ``prefix`` is what all rows share and a batch computes once. No weight is read. Raises ``InputError`` for whatever the worker would
    refuse.
    """
    from mlx_lm.models.cache import KVCache, make_prompt_cache
    from mlx_lm.utils import load_model, load_tokenizer

    from mlxtune.models.template import ChatTemplate
    from mlxtune.training import batches, pairs
    from mlxtune.training.encode import encode, measure

    recipe = parse(request["recipe"])
    shares = split(read_source(recipe.source, recipe.data.format, recipe.data.map), recipe.data)
    shares.refuse_sealed((*shares.train, *shares.valid))
    source = resolve(recipe.model.base)
    template = ChatTemplate(load_tokenizer(source.folder, eos_token_ids=source.config.get("eos_token_id")))
    train, valid = (encode(template, rows, recipe).rows for rows in (shares.train, shares.valid))
    model, _ = load_model(source.folder, lazy=True)
    plain = all(type(cache) is KVCache for cache in make_prompt_cache(model))
    shared = batches.shared_prefix if recipe.method.kind == "sft" else pairs.shared_prefix
    prefix = shared([*train, *valid]) if plain else 0
    return {
        "train": list(map(astuple, measure(train))),
        "valid": list(map(astuple, measure(valid))),
        "prefix": prefix,
        "plain": plain,
    }


def tokens(request: dict[str, Any]) -> dict[str, Any]:
    """Each record of the recipe's source as it would be encoded, in order: ``[full, first, why]``, or null for what is no row.

    ``full`` and ``first`` are as in :func:`lengths`; of a pair, they count the longer of its answers. ``why`` says why a row cannot be
    rendered. Raises ``InputError`` for the model or a file as a whole, but for no row.
    """
    from mlx_lm.utils import load_tokenizer

    from mlxtune.data.records import Records
    from mlxtune.models.template import ChatTemplate

    recipe = parse(request["recipe"])
    source = resolve(recipe.model.base)
    template = ChatTemplate(load_tokenizer(source.folder, eos_token_ids=source.config.get("eos_token_id")))
    with Records(recipe.source, recipe.data.format, recipe.data.map) as records:
        return {"rows": [_tokens(template, records.record(at)) for at in range(len(records))]}


def _tokens(template: ChatTemplate, record: Row | DataError) -> list[Any] | None:
    try:
        if isinstance(record, DataError):
            return None
        if isinstance(record, Preference):
            pair = template.pair(record, _ENDLESS)
            return [len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)), len(pair.prompt), ""]
        if isinstance(record, Unpaired):
            record = Conversation(record.place, record.meta, (*record.prompt, Message("assistant", record.completion)))
        row = template.encode(record, _ENDLESS)
        return [row.full, int(row.trained.argmax()), ""]
    except TemplateError as error:
        return [0, 0, error.message]
    except DataError:  # a row that trains nothing whatever the window
        return None


def steps(request: dict[str, Any]) -> dict[str, Any]:
    """Two optimizer steps of the recipe on rows of the batch's shape: bytes at the peak and at rest, and seconds.

    ``step`` is the second step, for one batch. ``frozen`` is what the layers below the first adapter took by themselves, 0.0 where
    there are none: ahead of the steps where their cache is asked for, and no part of them then. ``compute`` in the request
    overrides the compute path.
    """
    import mlx.core as mx

    from mlxtune.models import head, lanes, load, lora
    from mlxtune.training import optimizer
    from mlxtune.training.assemble import CACHED
    from mlxtune.training.dpo import Preferring
    from mlxtune.training.frozen import FrozenCache
    from mlxtune.training.objective import Cache, Objective
    from mlxtune.training.pairs import PairCache
    from mlxtune.training.sft import Supervised
    from mlxtune.training.stack import Stack
    from mlxtune.training.step import Stepper

    recipe, batch = parse(request["recipe"]), request["batch"]
    loaded = load.load(resolve(recipe.model.base), request.get("compute"), quantize=recipe.model.quantize)
    lora.add(loaded.model, recipe.adapter, recipe.training.seed)
    parts = head.split(loaded.model)
    stack = Stack(loaded.model, parts, lanes.Lanes(lanes.suitable()), checkpointed=batch["checkpointed"])
    rows: list[Any] = _pairs(batch, recipe) if batch["sides"] else _rows(batch, recipe)
    objective: Objective = (
        Preferring(MethodSection(), len(batch["sides"]) == 3, batch["prefix"], stack.lanes.count)
        if batch["sides"]
        else Supervised(batch["prefix"], stack.lanes.count)
    )
    (chosen,) = objective.collate(rows, [range(batch["rows"])], range(batch["rows"]))
    update = optimizer.make(recipe.training, recipe.adapter)
    update.init(loaded.model.trainable_parameters())
    stepper = Stepper(stack, update, objective, clip=recipe.training.clip, compiled=loaded.compute == "native")
    mx.eval(update.state)
    loaded.model.train()
    rest, loading = mx.get_active_memory(), mx.get_peak_memory()
    mx.reset_peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        frozen: Cache = (
            PairCache(stack, rows, batch["prefix"], budget=machine().limit // CACHED, folder=Path(folder))
            if batch["sides"]
            else FrozenCache(stack, rows, batch["prefix"], budget=machine().limit // CACHED, folder=Path(folder))
        )
        apart = _seconds(lambda: mx.eval(frozen.entering(chosen))) if batch["grouped"] and stack.can_enter() else 0.0

        def step() -> None:
            sums: Any = None
            for _ in range(batches):
                sums = stepper.add(chosen.arrays | {"entering": frozen.entering(chosen) if apart else []}, sums)
                mx.async_eval(sums)
            mx.eval(stepper.apply(sums[1], objective.weight(chosen.counts)), stepper.results)

        batches = min(2, recipe.training.accumulate)
        taken = [_seconds(step) for _ in range(2)]
        peak = mx.get_peak_memory()
        if not apart and stack.can_enter():
            apart = _seconds(lambda: mx.eval(frozen.entering(chosen)))
        frozen.close()
    return {"rest": rest, "loading": loading, "peak": peak, "frozen": apart, "step": taken[-1] / batches}


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _rows(batch: dict[str, Any], recipe: Recipe) -> list[Encoded]:
    """Rows of the batch's length that begin alike, as many as are computed together; their tokens mean nothing, the last ones train."""
    import numpy as np

    from mlxtune.models.template import Encoded

    dice = np.random.default_rng(recipe.training.seed)
    length, trained, prefix = batch["tokens"], batch["trained"], batch["prefix"]
    made = []
    for at in range(max(batch["rows"], batch["grouped"])):
        tokens = dice.integers(3, 250, length).astype(np.int32)
        tokens[:prefix] = np.arange(prefix) % 200 + 3
        mask = np.zeros(length, bool)
        mask[length - trained :] = True
        made.append(Encoded(str(at), Place(recipe.folder, at + 1), tokens, mask, length))
    return made


def _pairs(batch: dict[str, Any], recipe: Recipe) -> list[EncodedPair]:
    """Pairs of the batch's widths, likewise; where sides hold their prompts, a prompt is what the rest leaves."""
    import numpy as np

    from mlxtune.models.template import EncodedPair

    dice = np.random.default_rng(recipe.training.seed)
    *prompt, chosen, rejected = batch["sides"]
    answered = batch["trained"] // batch["rows"]
    asked = prompt[0] + 1 if prompt else max(1, (chosen + rejected - answered) // 2)
    common = min(max(0, answered - chosen - rejected), asked - 1) if prompt else 0  # predicted in the stem
    lengths = [asked - common, *((common + chosen, common + rejected) if prompt else (chosen - asked, rejected - asked))]
    made = []
    for at in range(max(batch["rows"], batch["grouped"])):
        asks, better, worse = (dice.integers(3, 250, max(1, length)).astype(np.int32) for length in lengths)
        asks = np.concatenate([np.arange(batch["prefix"], dtype=np.int32) % 200 + 3, asks])
        worse[:common], worse[common : common + 1] = better[:common], 2  # from there on they differ
        made.append(EncodedPair(str(at), Place(recipe.folder, at + 1), asks, better, worse, (len(better), len(worse))))
    return made


def main() -> int:
    """Entry point; always prints one JSON document."""
    answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"lengths": lengths, "tokens": tokens, "steps": steps}
    blas.preload()
    try:
        answer = answers[sys.argv[1]](json.load(sys.stdin))
    except MlxtuneError as error:
        answer = {"error": error.message, "mend": error.mend, "kind": type(error).__name__}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Log-probabilities under the reference model: computed once, before training, with the one model that is there.

The reference is the model as it stands when training starts, and then nothing has to be switched off: a fresh adapter's B is zero,
so the model is the base; a parent adapter makes it the model that the parent was proved to be. ``bare`` takes adapters off where
the base is wanted under a parent.

What was computed is kept in ``references/`` of mlxtune's home, a journal for each reference model, by the tokens of a pair as they
were cut. So it serves any beta, loss and rank, and a run that was killed goes on behind its last whole group of pairs. Groups do
not depend on what is known already, so a run that was interrupted has the same bits as one that was not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from mlxtune.core import journal
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import disk_errors, home
from mlxtune.core.hashing import sha256_json
from mlxtune.models.template import EncodedPair
from mlxtune.runs import locks
from mlxtune.training.pairs import PairBatch, PairCache, collate, groups, logps, shared_prefix
from mlxtune.training.stack import Stack

PATIENCE = 3600.0  # seconds to wait for another process of the same run, which computes the same

Known = dict[str, tuple[float, float]]


def path(base: str, model: nn.Module) -> Path:
    """Where the log-probabilities of ``model`` as it stands are kept.

    ``base`` identifies the model without adapters as it computes: fingerprint, quantisation and compute path.
    """
    return home() / "references" / f"{sha256_json([1, base, identity(model)])[:32]}.jsonl"


def identity(model: nn.Module) -> str:
    """Identifies the adapters on ``model`` by what they do: hex sha256, or nothing where they leave every output as it is."""
    adapters = _adapters(model)
    if not any("m" in module or mx.any(module.lora_b).item() for module in adapters.values()):
        return ""
    digest = hashlib.sha256()
    for name, module in sorted(adapters.items()):
        digest.update(f"{name}\0{module.scale}\0".encode())
        for part in ("lora_a", "lora_b", "m"):
            if part in module:
                digest.update(np.array(module[part].view(mx.uint8)).tobytes())
    return digest.hexdigest()


@contextmanager
def bare(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` is without its adapters, of whatever kind: what they wrap stands in their place."""
    adapters = _adapters(model)
    inner = [(name, module["linear"] if "linear" in module else module["embedding"]) for name, module in adapters.items()]
    try:
        model.update_modules(tree_unflatten(inner))
        yield
    finally:
        model.update_modules(tree_unflatten(list(adapters.items())))


def refer(
    stack: Stack,
    pairs: Sequence[EncodedPair],
    base: str,
    *,
    shared: bool,
    cache: PairCache | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[EncodedPair]:
    """``pairs`` with their reference log-probabilities, from disk where they are known and from the model as it stands otherwise.

    Call it before the first step and before a checkpoint is restored. ``base`` is as in :func:`path`; ``cache`` holds what enters the
    first adapted layer of ``pairs``, which the first epoch then need not compute again. ``progress`` is told how many of how many
    pairs are done before each group, and may raise to stop. Raises ``MlxtuneError`` when the model gives a pair no number, and
    ``MachineError`` on a full disk.
    """
    file, keys = path(base, stack.model), [_key(pair) for pair in pairs]
    known = _read(file)
    if not known.keys() >= set(keys):
        with locks.hold(file.with_suffix(".lock"), busy="Another run is computing the same reference.", patience=PATIENCE):
            known = _read(file)
            _complete(file, known, stack, pairs, keys, shared, cache, progress)
    return [replace(pair, reference=known[key]) for pair, key in zip(pairs, keys, strict=True)]


def _complete(
    file: Path,
    known: Known,
    stack: Stack,
    pairs: Sequence[EncodedPair],
    keys: Sequence[str],
    shared: bool,
    cache: PairCache | None,
    progress: Callable[[int, int], None],
) -> None:
    """Compute every group of pairs of which one is not in ``known``, and add it there and in ``file``."""
    prefix = cache.prefix if cache else shared_prefix(pairs) if shared else 0
    writer = journal.Journal(file)
    done = 0
    try:
        with _without_gradients(stack):
            for some in groups(pairs, prefix, shared=shared):
                progress(done, len(pairs))
                done += len(some)
                if all(keys[at] in known for at in some):
                    continue
                (batch,) = collate(pairs, [some], shared=shared, prefix=prefix, lanes=stack.lanes.count)
                found = _group(stack, pairs, batch, cache)
                new = {keys[at]: logps for at, logps in found.items() if keys[at] not in known}
                writer.append({"logps": new})
                known |= new
        with disk_errors(file.name):
            writer.sync()
    finally:
        writer.close()
    progress(done, len(pairs))


def _group(stack: Stack, pairs: Sequence[EncodedPair], batch: PairBatch, cache: PairCache | None) -> dict[int, tuple[float, float]]:
    """Log-probabilities of chosen and rejected of those of ``pairs`` that are in ``batch``, in nats."""
    arrays = batch.arrays | {"entering": cache.entering(batch) if cache else []}
    stack.lanes.share(len(batch.parts))
    lazy = logps(stack, arrays)
    mx.eval(lazy)
    stack.lanes.share(1)
    found: dict[int, tuple[float, float]] = {}
    for part, values in zip(batch.parts, lazy, strict=True):
        numbers: Any = values.tolist()
        found |= {at: (numbers[line], numbers[line + len(part.rows)]) for line, at in enumerate(part.rows)}
    for at, both in found.items():
        if not all(map(math.isfinite, both)):
            raise MlxtuneError(f"{pairs[at].place}: the reference model gives this pair no number.", mend="Remove the row.")
    return found


@contextmanager
def _without_gradients(stack: Stack) -> Iterator[None]:
    """Inside, dropout is off, and layers keep nothing for a backward pass that will not come."""
    training, checkpointed = stack.model.training, stack.checkpointed
    try:
        stack.model.eval()
        stack.checkpointed = False
        yield
    finally:
        stack.model.train(training)
        stack.checkpointed = checkpointed


def _adapters(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if "lora_a" in module}


def _key(pair: EncodedPair) -> str:
    """Identifies a pair by its tokens as they are computed."""
    return sha256_json([pair.prompt.tolist(), pair.chosen.tolist(), pair.rejected.tolist()])


def _read(file: Path) -> Known:
    """What ``file`` holds; the first word on a pair counts."""
    known: Known = {}
    for record in journal.read(file):
        found = record.get("logps")
        for key, both in found.items() if isinstance(found, dict) else ():
            known.setdefault(key, (float(both[0]), float(both[1])))
    return known

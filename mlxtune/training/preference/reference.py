"""Log-probabilities under the reference model, computed once before training without a second model, and the distance from it.

The reference is the model at the start of training. No adapter needs to be disabled: B is zero in a new adapter, so the model
equals the base; with a parent adapter, the model equals the parent as it was evaluated. ``adapters_disabled`` gives access to the
base below a parent.

Results are cached in ``references/`` in mlxtune's home, in one journal per reference model, keyed by a pair's truncated tokens.
They can be reused for any beta, loss and rank, and an interrupted run resumes after its last complete group of pairs. Groups do not
depend on what is cached, so an interrupted run gets bit-identical results.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlxtune.core import journal
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import home
from mlxtune.core.hashing import sha256_json
from mlxtune.data.batching import KL_PAIRS
from mlxtune.models import lora
from mlxtune.models.cpu.streams import parallel_map
from mlxtune.models.encoded import EncodedPair
from mlxtune.models.head import CHUNK
from mlxtune.runs.locks import file_lock
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.preference.batches import PairBatch, collate, inference_groups, shared_prefix
from mlxtune.training.preference.forward import PairCache, logps, target_states

LOCK_TIMEOUT = 3600.0  # seconds to wait for another process that is computing the same reference


def cache_file(base: str, model: nn.Module) -> Path:
    """Return the cache of log-probabilities under ``model``, whose base, quantization, and compute path ``base`` identifies."""
    return home() / "references" / f"{sha256_json([1, base, adapter_hash(model)])[:32]}.jsonl"


def adapter_hash(model: nn.Module) -> str:
    """Return the hex SHA-256 of the adapters on ``model``; ``""`` if they do not change any output."""
    adapters = lora.adapter_modules(model)
    if not any("m" in module or mx.any(module.lora_b).item() for module in adapters.values()):
        return ""
    digest = hashlib.sha256()
    for name, module in sorted(adapters.items()):
        digest.update(f"{name}\0{module.scale}\0".encode())
        for part in lora.ADAPTER_ARRAYS:
            if part in module:
                digest.update(np.array(module[part].view(mx.uint8)).tobytes())
    return digest.hexdigest()


@contextmanager
def adapters_disabled(model: nn.Module) -> Iterator[None]:
    """Replace all adapters of ``model`` with the modules that they wrap."""
    adapters = lora.adapter_modules(model)
    try:
        lora.remove(model)
        yield
    finally:
        model.update_modules(tree_unflatten(list(adapters.items())))


def reference_logps(
    stack: LayerStack,
    pairs: Sequence[EncodedPair],
    base: str,
    *,
    share_prompts: bool,
    used: Sequence[int] | None = None,
    cache: PairCache | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[EncodedPair]:
    """Return ``pairs`` with their reference log-probabilities, read from the cache or computed with the model.

    Call this before the first step and before a checkpoint is restored. ``base`` is as in :func:`cache_file`. Only the pairs at
    the indices in ``used`` are scored, by default all. ``cache`` stores the frozen layers' outputs for reuse in the first epoch.
    ``progress`` is called before each group with the number of finished pairs and the total, and may raise an exception to stop.
    Raise ``MlxtuneError`` for a pair whose log-probability is not finite, and ``MachineError`` on a full disk.
    """
    used = range(len(pairs)) if used is None else used
    parts = {index: (pairs[index].prompt, pairs[index].chosen, pairs[index].rejected) for index in used}
    keys = {index: sha256_json([part.tolist() for part in own]) for index, own in parts.items()}
    file = cache_file(base, stack.model)
    known = _read(file)
    if not known.keys() >= set(keys.values()):
        with file_lock(file.with_suffix(".lock"), busy="Another run is computing the same reference.", timeout=LOCK_TIMEOUT):
            known = _read(file)
            prefix = cache.prefix if cache else shared_prefix(pairs) if share_prompts else 0
            done = 0
            with journal.Journal(file) as writer, stack.evaluating():
                for group in inference_groups(pairs, prefix, used, share_prompts=share_prompts):
                    progress(done, len(used))
                    done += len(group)
                    if all(keys[index] in known for index in group):
                        continue
                    (batch,) = collate(pairs, [group], share_prompts=share_prompts, prefix=prefix, streams=stack.streams.size)
                    computed = _batch_logps(stack, pairs, batch, cache)
                    new = {keys[index]: both for index, both in computed.items() if keys[index] not in known}
                    writer.append({"logps": new})
                    known |= new
                writer.sync()
            progress(done, len(used))
    return [replace(pair, reference_logps=known[keys[index]]) if index in keys else pair for index, pair in enumerate(pairs)]


def _batch_logps(
    stack: LayerStack, pairs: Sequence[EncodedPair], batch: PairBatch, cache: PairCache | None
) -> dict[int, tuple[float, float]]:
    arrays = batch.arrays(cache)
    stack.streams.share_cores(len(batch.parts))
    lazy = logps(stack, arrays)
    mx.eval(lazy)
    stack.streams.share_cores(1)
    by_pair: dict[int, tuple[float, float]] = {}
    for part, values in zip(batch.parts, lazy, strict=True):
        numbers: Any = values.tolist()
        by_pair |= {index: (numbers[line], numbers[line + len(part.rows)]) for line, index in enumerate(part.rows)}
    for index, both in by_pair.items():
        if not all(map(math.isfinite, both)):
            raise MlxtuneError(
                f"{pairs[index].location}: the reference model's log-probability of this pair is NaN or infinite.",
                hint="Remove the row.",
            )
    return by_pair


def _read(file: Path) -> dict[str, tuple[float, float]]:
    """Return the cached log-probabilities by key. The first record of each pair is used."""
    known: dict[str, tuple[float, float]] = {}
    for record in journal.read(file):
        logps = record.get("logps")
        for key, both in logps.items() if isinstance(logps, dict) else ():
            known.setdefault(key, (float(both[0]), float(both[1])))
    return known


DISPLACED = 0.05  # nats per token that chosen completions may lose before the run warns


class ReferenceKL:
    """Next-token KL(policy ‖ reference) in nats over the chosen completions of validation pairs, computed exactly, not sampled.

    Create it while the model is still the reference. It stores the reference's hidden states rather than its logits, which the head
    computes in chunks. If the head is trained too, there is no result, because the head would be compared with itself.
    """

    def __init__(
        self,
        stack: LayerStack,
        pairs: Sequence[EncodedPair],
        *,
        share_prompts: bool,
        prefix: int = 0,
        cache: PairCache | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """``progress`` is called with the number of pairs read and the total, and may raise an exception to stop."""
        pairs = pairs[:KL_PAIRS]
        self.stack, self.cache = stack, cache
        groups = inference_groups(pairs, prefix, share_prompts=share_prompts)
        self.batches = collate(pairs, groups, share_prompts=share_prompts, prefix=prefix, streams=stack.streams.size)
        self.adapter_hash = adapter_hash(stack.model)
        trainable = tree_flatten(stack.model.trainable_parameters())
        self.reference = self._hidden_states(progress) if all("layers." in name for name, _ in trainable) else []

    def __call__(self) -> float | None:
        """Return the mean over all tokens, or 0 without computing it if the adapter has not changed."""
        if not self.reference:
            return None
        if adapter_hash(self.stack.model) == self.adapter_hash:
            return 0.0
        chunks = [
            (policy[start : start + CHUNK], reference[start : start + CHUNK])
            for policy, reference in zip(self._hidden_states(), self.reference, strict=True)
            for start in range(0, policy.shape[0], CHUNK)
        ]
        return sum(float(part) for _, part in parallel_map(self._kl_sum, chunks)) / sum(policy.shape[0] for policy, _ in chunks)

    def _kl_sum(self, states: tuple[mx.array, mx.array]) -> mx.array:
        policy, reference = (nn.log_softmax(self.stack.head.logits(hidden).astype(mx.float32)) for hidden in states)
        return (mx.exp(policy) * (policy - reference)).sum()

    def _hidden_states(self, progress: Callable[[int, int], None] = lambda done, total: None) -> list[mx.array]:
        """Return the hidden states ``(tokens, width)`` that predict the chosen completions, for each part."""
        sizes = [len(batch.counts) for batch in self.batches]
        with self.stack.evaluating():
            states = []
            progress(0, sum(sizes))
            for number, batch in enumerate(self.batches):
                self.stack.streams.share_cores(len(batch.parts))
                for part, part_states in zip(batch.parts, target_states(self.stack, batch.arrays(self.cache)), strict=True):
                    pairs = len(part.rows)
                    chosen = np.array(part.target_index)[:pairs][np.array(part.mask)[:pairs] > 0]
                    states.append(part_states[mx.array(chosen)])
                mx.eval(states)
                progress(sum(sizes[: number + 1]), sum(sizes))
            self.stack.streams.share_cores(1)
            return states


def displacement(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Return the nats that both answers lost, if both did: likelihood displacement (Razin et al. 2024, arXiv:2410.08847)."""
    chosen, rejected, length = (metrics.get(name) for name in ("drift/chosen", "drift/rejected", "lengths/chosen"))
    if chosen is None or rejected is None or not length or rejected >= 0 or chosen / length > -DISPLACED:
        return {}
    return {"chosen": -chosen, "rejected": -rejected}

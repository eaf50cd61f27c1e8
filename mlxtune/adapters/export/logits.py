"""Compare two models' logits on the same answers."""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxtune.adapters.export.fidelity import LogitDistance
from mlxtune.models.cpu.streams import parallel_map
from mlxtune.models.generate import Progress
from mlxtune.models.prefix_cache import STEP, PrefixCache, batches

MAX_BYTES = 2**28  # maximum size of the logits stored per model

Tokens = Sequence[tuple[Sequence[int], Sequence[int]]]  # prompts and their answers


def logits(model: nn.Module, rows: Tokens, *, batch_size: int, progress: Progress = lambda done, total: None) -> list[mx.array]:
    """Return the logits ``(positions, vocabulary)`` for each answer, at as many evenly spaced positions as fit in ``MAX_BYTES``."""
    progress(0, len(rows))
    vocabulary = int(model(mx.array([list(rows[0][0][:1])])).shape[-1])
    most = max(1, MAX_BYTES // (4 * vocabulary) // len(rows))
    spaced = (np.linspace(0, len(answer) - 1, min(most, len(answer))) for _, answer in rows)
    positions = [sorted({int(position) for position in one}) for one in spaced]
    prefix = PrefixCache(model)([prompt for prompt, _ in rows])
    result: dict[int, mx.array] = {}
    if prefix is None:
        for index, (prompt, answer) in enumerate(rows):
            out = model(mx.array([[*prompt, *answer[:-1]]]))[0, -len(answer) :]
            result[index] = out[mx.array(positions[index])].astype(mx.float32)
            mx.eval(result[index])
            progress(len(result), len(rows))
    else:
        tails = [[*prompt[len(prefix) :], *answer[:-1]] for prompt, answer in rows]
        parts = batches([len(tail) for tail in tails], batch_size, extra=len(prefix), max_computed=STEP)
        for batch, (hidden, _) in parallel_map(lambda batch: prefix.prefill([tails[index] for index in batch]), parts):
            for line, index in enumerate(batch):
                ends = hidden[line, -len(rows[index][1]) :][mx.array(positions[index])]
                result[index] = prefix.head.logits(ends).astype(mx.float32)
            mx.eval([result[index] for index in batch])
            progress(len(result), len(rows))
    return [result[index] for index in range(len(rows))]


def distance(first: Sequence[mx.array], second: Sequence[mx.array]) -> LogitDistance:
    """Return the distance of ``second`` from ``first`` at the same positions. KL (Kullback and Leibler 1951) in nats per token."""
    largest, total, divergence, agreed, positions, numbers = 0.0, 0.0, 0.0, 0, 0, 0
    for one, two in zip(first, second, strict=True):
        gap = mx.abs(one - two)
        logp, other = (rows - mx.logsumexp(rows, axis=-1, keepdims=True) for rows in (one, two))
        largest = max(largest, float(gap.max()))
        total += float(gap.sum())
        divergence += float((mx.exp(logp) * (logp - other)).sum())
        agreed += int((mx.argmax(one, axis=-1) == mx.argmax(two, axis=-1)).sum())
        positions += one.shape[0]
        numbers += one.size
    return LogitDistance(largest, total / numbers, max(0.0, divergence / positions), agreed / positions, positions)

"""How far models are from each other where held-out rows have their answers: their logits, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxtune.adapters.fidelity import Distance
from mlxtune.models.generate import Progress
from mlxtune.models.lanes import side_by_side
from mlxtune.models.prefix import TOGETHER, Shared

BUDGET = 2**28  # bytes of logits that are kept of one model

Asked = Sequence[tuple[Sequence[int], Sequence[int]]]  # prompts and their answers, as tokens


@dataclass(frozen=True)
class Logits:
    """For each row, the logits ``(positions, vocabulary)`` at evenly chosen places of its answer."""

    rows: tuple[mx.array, ...]


def logits(model: nn.Module, asked: Asked, *, batch_size: int, progress: Progress = lambda done, total: None) -> Logits:
    """What ``model``, as it stands, expects where each answer of ``asked`` stands; at as many places as fit the budget."""
    vocabulary = _vocabulary(model, asked[0][0])
    places = _places([len(answer) for _, answer in asked], BUDGET // (4 * vocabulary))
    prefix = Shared(model)([prompt for prompt, _ in asked])
    found: dict[int, mx.array] = {}
    if prefix is None:
        for at, (prompt, answer) in enumerate(asked):
            out = model(mx.array([[*prompt, *answer[:-1]]]))[0, -len(answer) :]
            found[at] = out[mx.array(places[at])].astype(mx.float32)
            mx.eval(found[at])
            progress(len(found), len(asked))
    else:
        tails = [[*prompt[len(prefix) :], *answer[:-1]] for prompt, answer in asked]
        batches = prefix.batches([len(tail) for tail in tails], batch_size, computed=TOGETHER)
        for batch, (hidden, _) in side_by_side(batches, lambda some: prefix.begin([tails[at] for at in some])):
            for row, at in enumerate(batch):
                ends = hidden[row, -len(asked[at][1]) :][mx.array(places[at])]
                found[at] = prefix.parts.logits(ends).astype(mx.float32)
            mx.eval([found[at] for at in batch])
            progress(len(found), len(asked))
    return Logits(tuple(found[at] for at in range(len(asked))))


def distance(first: Logits, second: Logits) -> Distance:
    """``second`` from ``first``, which stand at the same places. KL as in Kullback and Leibler 1951, in nats a token."""
    most, total, divergence, agreed, positions, numbers = 0.0, 0.0, 0.0, 0, 0, 0
    for one, two in zip(first.rows, second.rows, strict=True):
        gap = mx.abs(one - two)
        told, other = (rows - mx.logsumexp(rows, axis=-1, keepdims=True) for rows in (one, two))
        kl = (mx.exp(told) * (told - other)).sum()
        same = (mx.argmax(one, axis=-1) == mx.argmax(two, axis=-1)).sum()
        most = max(most, float(gap.max()))
        total += float(gap.sum())
        divergence += float(kl)
        agreed += int(same)
        positions += one.shape[0]
        numbers += one.size
    return Distance(most, total / numbers, max(0.0, divergence / positions), agreed / positions, positions)


def _vocabulary(model: nn.Module, prompt: Sequence[int]) -> int:
    return int(model(mx.array([list(prompt[:1])])).shape[-1])


def _places(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """For each answer, evenly spaced places in it, at most ``budget`` in all but at least one each."""
    each = max(1, budget // len(lengths))
    return [sorted({int(at) for at in np.linspace(0, length - 1, min(each, length))}) for length in lengths]

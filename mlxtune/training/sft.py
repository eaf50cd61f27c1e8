"""The objective of supervised fine-tuning: minus the log-probability of every trained token."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlxtune.training.stack import Stack

Arrays = dict[str, list[mx.array]]


def loss_sum(stack: Stack, arrays: Arrays) -> mx.array:
    """Cross-entropy summed over the trained tokens of a batch: a scalar.

    ``arrays`` is ``Batch.arrays``: prefix (one or none), and for each part inputs, positions, targets, weights and what enters the
    first adapted layer (or none of it). A sum and not a mean: the caller divides by the trained tokens of the whole optimizer
    step, so that neither the shape of a batch nor accumulation changes the objective.
    """
    entering = list(arrays["entering"])
    recorded = None
    if arrays["prefix"]:
        recorded, _ = stack.record(arrays["prefix"][0], entering.pop(0) if entering else None)
    losses = []
    parts: Sequence[tuple[mx.array, ...]] = list(
        zip(arrays["inputs"], arrays["positions"], arrays["targets"], arrays["weights"], strict=True)
    )
    for lane, (inputs, positions, targets, weights) in enumerate(parts):
        with stack.lanes(lane):
            hidden = stack.hidden(inputs, recorded, entering[lane] if entering else None)
            hidden = hidden.reshape(-1, hidden.shape[-1])[positions]
            losses.append(-(stack.split.logp(hidden, targets) * weights).sum())
    return mx.stack(losses).sum()

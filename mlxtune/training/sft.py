"""The objective of supervised fine-tuning: minus the log-probability of every trained token."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxtune.models.head import Split
from mlxtune.training.batches import Batch
from mlxtune.training.prefix import hidden_behind


def loss_sum(model: nn.Module, split: Split, batch: Batch) -> mx.array:
    """Cross-entropy summed over the trained tokens of ``batch``: a scalar.

    A sum and not a mean: the caller divides by the trained tokens of the whole optimizer step, so that neither the shape of
    a batch nor accumulation changes the objective.
    """
    if batch.prefix is None:
        hidden = split.backbone(batch.inputs)
    else:
        hidden = hidden_behind(split, len(model.layers), batch.prefix, batch.inputs)
    hidden = hidden.reshape(-1, hidden.shape[-1])[batch.positions]
    return -split.logp(hidden, batch.targets).sum()


def validate(model: nn.Module, split: Split, batches: Iterable[Batch], stopping: Callable[[], bool]) -> tuple[float, int] | None:
    """Mean loss over all trained tokens of ``batches``, and how many those are; dropout is off meanwhile.

    ``None`` when ``stopping`` said so on the way: a part of the validation set is no validation.
    """
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        if stopping():
            model.train()
            return None
        total += float(np.array(loss_sum(model, split, batch)))
        count += batch.trained
    model.train()
    return total / count, count

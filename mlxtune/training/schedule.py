"""Learning rates by optimizer step."""

from __future__ import annotations

import math

from mlxtune.recipe import TrainingSection


def rate(section: TrainingSection, step: int, total: int) -> float:
    """The learning rate of optimizer step ``step`` (from 0) of ``total``.

    Rises in a straight line over the warm-up's share of the steps, then stays, falls in a straight line to 0, falls as half a
    cosine to 0 (Loshchilov and Hutter 2016, arXiv:1608.03983), or stays until it falls in a straight line over the last ``decay``
    share of the steps (WSD: warm-up, stable, decay; Hu et al. 2024, arXiv:2404.06395).
    """
    warmup = math.ceil(section.warmup * total)
    if step < warmup:
        return section.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    match section.schedule:
        case "constant":
            return section.learning_rate
        case "linear":
            return section.learning_rate * (1 - done)
        case "cosine":
            return section.learning_rate * (1 + math.cos(math.pi * done)) / 2
        case "wsd":
            falling = max(1, math.ceil(section.decay * total))
            return section.learning_rate * min(1.0, (total - step) / falling)

"""The rungs of a search: the lengths after which trials are compared, and the ``[training]`` sections to train up to each length.

Each trial has a trunk with a constant learning rate. A rung branches off its trunk and decays the rate to 0, so that it is a complete
run of that length with ``schedule = "wsd"``; the next rung continues from the trunk, not from the start (Hu et al. 2024,
arXiv:2404.06395).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from mlxtune.recipe import Recipe, TrainingSection

FRACTIONS = (1 / 6, 1 / 3, 1.0)  # lengths of the rungs as fractions of the recipe's steps
MIN_STEPS = 4  # minimum number of steps of a trial
_NEVER = 1_000_000_000  # steps


def rung_lengths(total: int) -> tuple[int, ...]:
    """Return the numbers of steps after which trials of ``total`` steps are compared, in ascending order."""
    return tuple(sorted({max(2, math.ceil(fraction * total)) for fraction in FRACTIONS}))


def trunk_steps(section: TrainingSection, length: int) -> int:
    """Return the number of steps of the trunk before the rung of ``length`` steps branches off."""
    return length - _decay_steps(section, length)


def rung_steps(section: TrainingSection, lengths: Sequence[int]) -> tuple[int, ...]:
    """Return the steps that each rung of ``lengths`` takes: the trunk since the rung before branched off, and the decay."""
    starts = [0, *(trunk_steps(section, length) for length in lengths[:-1])]
    return tuple(length - start for start, length in zip(starts, lengths, strict=True))


def trunk_section(section: TrainingSection, length: int, total: int) -> TrainingSection:
    """Return the section that trains the trunk up to where the rung of ``length`` steps branches off."""
    steps = trunk_steps(section, length)
    return replace(_common(section, steps, total), schedule="constant")


def rung_section(section: TrainingSection, length: int, total: int) -> TrainingSection:
    """Return the section of a whole run of ``length`` steps, which begins with the trunk."""
    decay = _fraction(_decay_steps(section, length), length)
    return replace(_common(section, length, total), schedule="wsd", decay=decay)


def rung_recipe(recipe: Recipe, length: int, total: int) -> Recipe:
    """Return the recipe of a run that ends with the adapter of the rung of ``length`` steps."""
    section = replace(rung_section(recipe.training, length, total), validate_every=length, samples=recipe.training.samples)
    return replace(recipe, training=section)


def _common(section: TrainingSection, steps: int, total: int) -> TrainingSection:
    """Return ``section`` for ``steps`` steps, with the warmup of ``total`` steps and without validation or early stopping."""
    first = rung_lengths(total)[0]
    warmup = min(math.ceil(section.warmup * total), trunk_steps(section, first))
    return replace(
        section, steps=steps, warmup=_fraction(warmup, steps), early_stop=0, samples=0, validate_every=_NEVER, keep=1,
    )  # fmt: skip


def _decay_steps(section: TrainingSection, length: int) -> int:
    return min(length - 1, max(1, math.ceil(section.decay * length)))


def _fraction(count: int, total: int) -> float:
    """Return a fraction of ``total`` that rounds up to ``count``."""
    return round((count - 0.5) / total, 9) if count and total else 0.0

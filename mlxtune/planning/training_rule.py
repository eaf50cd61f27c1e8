"""The training settings that a recipe leaves open, from its method, the width of the base, and the number of training rows.

The learning rate is Thinking Machines' formula for LoRA on all linear layers of Llama models (``get_lr`` in ``hyperparam_utils.py`` of their
``tinker-cookbook`` at commit e1024a4; *LoRA Without Regret*, 2025): ten times that of full fine-tuning, nearly independent of the rank, and
falling with the width of the model. The number of epochs and the batch are starting points: few rows are repeated until there are
enough updates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlxtune.data.rows import Row, TextRow
from mlxtune.recipe import Recipe

_FULL_RATE, _LORA_FACTOR, _WIDTH, _WIDTH_POWER = 5e-5, 10, 2000, 0.781
_PREFERENCE_SHARE = 1 / 25  # of the rate for SFT: preference losses break the format of answers at higher rates
_FEW_ROWS, _MANY_ROWS = 512, 4096  # up to which a batch has 4 or 8 rows, and 16 beyond
_LEAST_UPDATES = 60  # a few dozen rows are repeated until they make so many
_MOST_EPOCHS, _PREFERENCE_EPOCHS = 8, 2
_ROW_PASSES = 1200  # passes over a row that are divided among many rows
_CHARACTERS_PER_TOKEN = 4.0  # of English text
_RANGE = (0.5, 4.0)  # of the number of updates, within which a recipe's own settings raise no warning


@dataclass(frozen=True)
class TrainingRule:
    """Settings for the training of ``rows`` rows. ``least`` and ``most`` are the updates outside of which a plan warns."""

    learning_rate: float
    batch_size: int
    epochs: int
    least: int
    most: int


def training_rule(kind: str, width: int, rows: int) -> TrainingRule:
    """Return the rule for a training method (``sft``, ``dpo`` or ``kto``), a base with hidden states of ``width``, and ``rows`` rows."""
    rate = _FULL_RATE * _LORA_FACTOR * (_WIDTH / width) ** _WIDTH_POWER
    batch = 4 if rows <= _FEW_ROWS else 8 if rows <= _MANY_ROWS else 16
    per_epoch = math.ceil(rows / batch)
    epochs = min(_MOST_EPOCHS, math.ceil(_ROW_PASSES / rows))
    if kind != "sft":
        rate, epochs = rate * _PREFERENCE_SHARE, _PREFERENCE_EPOCHS
    epochs = max(epochs, math.ceil(_LEAST_UPDATES / per_epoch))
    low, high = (max(1, round(factor * epochs * per_epoch)) for factor in _RANGE)
    return TrainingRule(float(f"{rate:.1e}"), batch, epochs, low, high)


def example_count(rows: Sequence[Row], max_tokens: int) -> int:
    """Return the number of examples in ``rows``, estimating the windows of ``max_tokens`` into which long texts are divided."""
    texts = (len(row.text) / _CHARACTERS_PER_TOKEN / max_tokens if isinstance(row, TextRow) else 1 for row in rows)
    return sum(max(1, round(windows)) for windows in texts)


def model_width(config: Mapping[str, Any]) -> int:
    """Return the size of a hidden state from a model's ``config.json``."""
    return int(config.get("hidden_size") or config.get("text_config", {}).get("hidden_size") or _WIDTH)


def apply_rule(recipe: Recipe, width: int, rows: int) -> Recipe:
    """Return ``recipe`` with the rule's values for the settings that it leaves at 0."""
    section, rule = recipe.training, training_rule(recipe.method.kind, width, rows)
    rate = section.learning_rate or rule.learning_rate
    batch = section.batch_size or (0 if section.batch_tokens else rule.batch_size)
    epochs = section.epochs or (0 if section.steps else rule.epochs)
    return replace(recipe, training=replace(section, learning_rate=rate, batch_size=batch, epochs=epochs))


def by_rule(recipe: Recipe, width: int, rows: int) -> Recipe:
    """Return ``recipe`` with the rule's values in place of its own, except for a number of steps or tokens per batch."""
    section = replace(recipe.training, learning_rate=0.0, batch_size=0, epochs=0)
    return apply_rule(replace(recipe, training=section), width, rows)

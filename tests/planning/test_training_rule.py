"""The training settings that follow from the rows and the base."""

import math
from pathlib import Path

import pytest

from mlxtune.data.rows import Conversation, Location, Message, TextRow
from mlxtune.planning.training_rule import apply_rule, example_count, training_rule
from mlxtune.recipe import parse


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto"])
@pytest.mark.parametrize("rows", [10, 50, 121, 200, 500, 1024, 8198, 100_000])
def test_every_row_is_trained_and_few_rows_get_enough_updates(kind: str, rows: int) -> None:
    rule = training_rule(kind, 576, rows)
    updates = math.ceil(rows / rule.batch_size) * rule.epochs
    assert rule.epochs >= 1
    assert rule.least <= updates <= rule.most
    assert updates >= 60


def test_more_rows_get_fewer_epochs() -> None:
    rules = [training_rule("sft", 576, rows) for rows in (16, 64, 256, 1024, 4096, 16_384)]
    assert [rule.epochs for rule in rules] == sorted((rule.epochs for rule in rules), reverse=True)


def test_rate_falls_with_width_as_published() -> None:
    """Llama 3.1 8B, with a width of 4,096: 5e-5 × 10 × (2000 / 4096) ** 0.781."""
    assert training_rule("sft", 4096, 500).learning_rate == pytest.approx(2.9e-4)
    assert training_rule("sft", 2000, 500).learning_rate == pytest.approx(5e-4)
    assert training_rule("dpo", 576, 500).learning_rate < training_rule("sft", 576, 500).learning_rate / 20


def test_settings_of_the_recipe_take_precedence() -> None:
    recipe = parse('name = "own"\n[model]\nbase = "b"\n[data]\nsource = "s"\n[training]\nlearning_rate = 1e-4\nbatch_tokens = 2048')
    filled = apply_rule(recipe, 576, 50).training
    assert (filled.learning_rate, filled.batch_tokens, filled.batch_size) == (1e-4, 2048, 0)
    assert filled.epochs == training_rule("sft", 576, 50).epochs
    assert apply_rule(apply_rule(recipe, 576, 50), 576, 9_999).training == filled


def test_a_long_text_counts_as_its_windows():
    text = TextRow(Location(Path("a"), 1), {}, "word " * 8_000)
    chat = Conversation(Location(Path("a"), 2), {}, (Message("user", "a" * 9_000), Message("assistant", "b")))
    assert example_count([text, chat], 1_000) == 11

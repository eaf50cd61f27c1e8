import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.errors import RecipeError
from mlxtune.core.text import safe_text
from mlxtune.recipe import Recipe, parse
from mlxtune.recipe.edit import edit_text, toml_literal
from mlxtune.recipe.keys import KEYS, format_value, keys

MINIMAL = 'name = "n"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n'
BY_PATH = {key.path: key for key in KEYS}


def _error(overrides: list[str]) -> str:
    try:
        parse(MINIMAL, overrides=overrides)
    except RecipeError as error:
        return error.message
    return ""


def parse_minimal(*overrides: str) -> Recipe:
    return parse(MINIMAL, overrides=overrides)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_every_key_has_a_description_a_default_and_parseable_values(key):
    recipe = parse_minimal()
    value = key.value_in(recipe)
    assert key.about.description
    assert key.default is dataclasses.MISSING or key.default == value
    assert key.parse(format_value(value)) == value, "formatted values can be parsed"
    for choice in key.choices:
        assert key.parse(format_value(choice)) == choice
    if key.item_choices:
        assert key.parse(", ".join(key.item_choices)) == list(key.item_choices)


def test_items_that_can_be_listed_are():
    assert BY_PATH["evaluation.forbid"].item_choices == ()


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_every_next_value_is_valid(key):
    method = f'method.kind="{(*key.about.methods, "sft")[0]}"'
    for direction in (1, -1):
        value = key.value_in(parse_minimal(method))
        for _ in range(8):
            value = key.next_value(value, direction)
            error = _error([method, f"{key.path}={toml_literal(value)}"])
            if error:
                assert re.search(rf"{key.path} must be|leave no rows for training|are both 0|requires method.kind", error)
                break


@pytest.mark.parametrize(
    ("path", "value", "up", "down"),
    [
        ("training.learning_rate", 2e-4, 5e-4, 1e-4),
        ("training.learning_rate", 5e-4, 1e-3, 2e-4),
        ("training.learning_rate", 3e-4, 5e-4, 2e-4),
        ("training.learning_rate", 1e-3, 2e-3, 5e-4),
        ("adapter.rank", 8, 16, 4),
        ("adapter.rank", 12, 16, 8),
        ("adapter.alpha", 20.0, 32, 16),
        ("training.batch_size", 0, 1, 0),
        ("training.batch_size", 1, 2, 0),
        ("training.steps", 60, 70, 50),
        ("training.steps", 64, 70, 60),
        ("data.holdout", 0.15, 0.2, 0.1),
        ("data.validation", 0.03, 0.05, 0.0),
        ("training.epochs", 0, 1, 0),
        ("adapter.layers", "all", "all", 16),
        ("adapter.layers", 32, "all", 16),
        ("evaluation.max_tokens", "auto", 32, "auto"),
        ("evaluation.max_tokens", 32, 64, "auto"),
        ("evaluation.max_tokens", 64, 128, 32),
        ("training.grad_checkpoint", "auto", True, False),
        ("model.quantize", 8, 0, 4),
        ("method.kind", "sft", "dpo", "kto"),
        ("adapter.targets", "all-linear", "attention", "attention"),
        ("adapter.targets", "attention", "all-linear", "all-linear"),
        ("adapter.targets", ["q_proj"], ["q_proj"], ["q_proj"]),
        ("evaluation.forbid", ["x"], ["x"], ["x"]),
        ("model.base", "m", "m", "m"),
    ],
)
def test_the_next_value(path, value, up, down):
    key = BY_PATH[path]
    assert key.next_value(value, 1) == pytest.approx(up) if isinstance(up, float) else key.next_value(value, 1) == up
    assert key.next_value(value, -1) == pytest.approx(down) if isinstance(down, float) else key.next_value(value, -1) == down


def test_typed_text_becomes_a_list_for_list_keys():
    assert BY_PATH["adapter.targets"].parse("q_proj, v_proj") == ["q_proj", "v_proj"]
    assert BY_PATH["adapter.targets"].parse("attention") == "attention"
    assert BY_PATH["method.weights"].parse("1, 0.2") == [1, 0.2]
    assert BY_PATH["evaluation.forbid"].parse('["one, two", "3"]') == ["one, two", "3"]
    assert BY_PATH["evaluation.forbid"].parse('"one, two", "3"') == ["one, two", "3"]
    assert format_value(["As an AI", "but"]) == '["As an AI", "but"]', "each phrase is seen"
    assert BY_PATH["evaluation.forbid"].parse("2024") == ["2024"]
    assert BY_PATH["evaluation.forbid"].parse("") == []
    assert BY_PATH["adapter.layers"].parse("4") == 4
    assert BY_PATH["adapter.layers"].parse("all") == "all"
    assert BY_PATH["evaluation.prompt"].parse("12") == "12"
    assert BY_PATH["training.learning_rate"].parse("3e-4") == 3e-4
    assert BY_PATH["training.learning_rate"].parse("fast") == "fast", "the recipe's types refuse it"


def test_a_table_is_edited_as_its_fields():
    key = BY_PATH["evaluation.length"]
    assert key.value_in(parse_minimal()) == key.default == {}
    assert key.parse("200 words") == "200 words"  # which is refused as it was typed
    recipe = parse_minimal('evaluation.length={ max = 40, unit = "words" }')
    assert key.value_in(recipe) == {"max": 40, "unit": "words"}
    assert format_value(key.value_in(recipe)) == 'max = 40, unit = "words"'
    for text in ('max = 40, unit = "words"', '{ max = 40, unit = "words" }'):
        assert key.parse(text) == key.value_in(recipe)
    assert key.parse("") == {}
    assert key.parse("40") == "40", "the recipe's types refuse it"
    edited = edit_text('name = "n"\n[evaluation]\nlength = { max = 9 } # short\n', {"evaluation.length": key.parse("max = 40")})
    assert edited == 'name = "n"\n[evaluation]\nlength = { max = 40 } # short\n'
    assert edit_text('name = "n"\n[evaluation]\n', {"evaluation.length": {"min": 2}}).endswith("length = { min = 2 }\n")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=3),
)
def test_any_text_round_trips_safely(text, words):
    for key, value in ((BY_PATH["evaluation.prompt"], text), (BY_PATH["evaluation.forbid"], words)):
        formatted = format_value(value)
        assert key.parse(formatted) == value
        assert safe_text(formatted) == formatted
        assert "\n" not in formatted


def test_keys_of_other_methods_are_left_out_and_unused_ones_have_a_reason():
    assert "method.beta" not in [key.path for key in keys(parse_minimal())]
    assert "method.beta" in [key.path for key in keys(parse_minimal('method.kind="kto"'))]
    assert "method.loss" not in [key.path for key in keys(parse_minimal('method.kind="kto"'))]
    assert "method.loss" in [key.path for key in keys(parse_minimal('method.kind="dpo"'))]
    assert BY_PATH["training.epochs"].unused_reason(parse_minimal("training.steps=60")) == "steps = 60 takes precedence"
    assert BY_PATH["training.epochs"].unused_reason(parse_minimal()) == ""
    assert BY_PATH["adapter.rank"].unused_reason(parse_minimal('adapter.parent="x"')) == "set by the parent"
    assert BY_PATH["adapter.dropout"].unused_reason(parse_minimal('adapter.parent="x"')) == ""

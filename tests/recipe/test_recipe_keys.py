from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.errors import RecipeError
from mlxtune.core.text import safe_text
from mlxtune.recipe import Recipe, parse
from mlxtune.recipe.edit import literal
from mlxtune.recipe.keys import KEYS, Key, keys, shown

LEAST = 'name = "n"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n'
BY_PATH = {key.path: key for key in KEYS}


def _refused(overrides: list[str]) -> str:
    try:
        parse(LEAST, overrides=overrides)
    except RecipeError as error:
        return error.message
    return ""


def made(*overrides: str) -> Recipe:
    return parse(LEAST, overrides=overrides)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_every_key_exists_has_a_default_a_meaning_and_typed_values(key: Key) -> None:
    recipe = made()
    value = key.of(recipe)
    assert key.about
    assert key.default is dataclasses.MISSING or key.default == value
    assert key.typed(shown(value)) == value, "what is shown can be typed"
    for choice in key.choices:
        assert key.typed(shown(choice)) == choice


@pytest.mark.parametrize("key", [key for key in KEYS if key.ladder or key.choices], ids=lambda key: key.path)
def test_every_step_from_a_default_is_a_value_that_a_recipe_takes(key: Key) -> None:
    method = f'method.kind="{(*key.kinds, "sft")[0]}"'
    for by in (1, -1):
        value = key.of(made(method))
        for _ in range(8):
            value = key.next(value, by)
            told = _refused([method, f"{key.path}={literal(value)}"])
            if told:
                assert re.search(rf"{key.path} must be|leave nothing to train on|needs epochs or steps|needs pairs", told)
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
        ("training.grad_checkpoint", "auto", True, False),
        ("model.quantize", 8, 0, 4),
        ("method.kind", "sft", "dpo", "kto"),
        ("evaluation.forbid", ["x"], ["x"], ["x"]),
        ("model.base", "m", "m", "m"),
    ],
)
def test_the_next_value(path: str, value: Any, up: Any, down: Any) -> None:
    key = BY_PATH[path]
    assert key.next(value, 1) == pytest.approx(up) if isinstance(up, float) else key.next(value, 1) == up
    assert key.next(value, -1) == pytest.approx(down) if isinstance(down, float) else key.next(value, -1) == down


def test_typed_words_become_lists_where_lists_may_stand() -> None:
    assert BY_PATH["adapter.targets"].typed("q_proj, v_proj") == ["q_proj", "v_proj"]
    assert BY_PATH["adapter.targets"].typed("attention") == "attention"
    assert BY_PATH["method.weights"].typed("1, 0.2") == [1, 0.2]
    assert BY_PATH["evaluation.forbid"].typed('["one, two", "3"]') == ["one, two", "3"]
    assert BY_PATH["evaluation.forbid"].typed("2024") == ["2024"]
    assert BY_PATH["evaluation.forbid"].typed("") == []
    assert BY_PATH["adapter.layers"].typed("4") == 4
    assert BY_PATH["adapter.layers"].typed("all") == "all"
    assert BY_PATH["evaluation.prompt"].typed("12") == "12"
    assert BY_PATH["training.learning_rate"].typed("3e-4") == 3e-4
    assert BY_PATH["training.learning_rate"].typed("fast") == "fast", "the recipe's own types refuse it"


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=3),
)
def test_any_text_is_shown_safely_and_comes_back_as_it_was(text: str, words: list[str]) -> None:
    for key, value in ((BY_PATH["evaluation.prompt"], text), (BY_PATH["evaluation.forbid"], words)):
        told = shown(value)
        assert key.typed(told) == value
        assert safe_text(told) == told
        assert "\n" not in told


def test_keys_of_other_methods_are_left_out_and_idle_ones_say_why() -> None:
    assert "method.beta" not in [key.path for key in keys(made())]
    assert "method.beta" in [key.path for key in keys(made('method.kind="kto"'))]
    assert "method.loss" not in [key.path for key in keys(made('method.kind="kto"'))]
    assert "method.loss" in [key.path for key in keys(made('method.kind="dpo"'))]
    assert BY_PATH["training.epochs"].idle(made("training.steps=60")) == "steps = 60 decides"
    assert BY_PATH["training.epochs"].idle(made()) == ""
    assert BY_PATH["adapter.rank"].idle(made('adapter.parent="x"')) == "the parent decides"
    assert BY_PATH["adapter.dropout"].idle(made('adapter.parent="x"')) == ""

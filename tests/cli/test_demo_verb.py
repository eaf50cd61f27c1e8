"""The demo's arms: a grammar is added for the base and for the adapter where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxtune.cli import demo
from mlxtune.data import samples
from mlxtune.recipe import load

RECIPE: Path = samples.samples_root() / samples.RECIPE


@pytest.mark.parametrize(
    ("overrides", "installed", "arms"),
    [
        ([], True, ["base", "base+grammar", "tuned", "tuned+grammar"]),
        ([], False, ["base", "tuned"]),
        (["evaluation.schema="], True, ["base", "tuned"]),
        (['evaluation.arms=["base"]'], True, ["base"]),
    ],
)
def test_grammar_is_added_where_it_can_be_used(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], installed: bool, arms: list[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: object() if installed else None)
    assert demo.with_grammar_arms(load(RECIPE, overrides)).evaluation.arms == arms

"""``mlxtune plan`` as a shell sees it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mlxtune.cli import plan as verb
from mlxtune.core.text import size
from mlxtune.models import catalog
from mlxtune.planning.machine import mac, machine


@pytest.fixture
def recipe(workspace: Path) -> str:
    return str(workspace / "recipes" / "tiny.toml")


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no room for anything."""
    monkeypatch.setattr(verb, "machine", lambda: replace(machine(), limit=2**20))


def test_json_is_one_document_with_every_part_of_the_memory(cli, recipe) -> None:
    ended = cli("plan", recipe, "--json")
    found = json.loads(ended.out)
    assert (ended.code, found["word"]) == (0, "go")
    parts = ("weights", "adapter", "optimizer", "gradients", "activations", "head", "frozen")
    assert sum(found["estimate"][part] for part in parts) == found["step"]
    assert found["peak"] == max(found["step"], found["estimate"]["loading"])
    assert found["memory"] == found["peak"] + found["estimate"]["buffers"]
    assert found["cost"] == {"seconds": None, "source": "", "watts": 0.0}


def test_the_table_says_what_the_json_says(cli, recipe) -> None:
    found = json.loads(cli("plan", recipe, "--json").out)
    ended = cli("plan", recipe)
    assert found["sentence"] in ended.out
    assert f"{found['steps']:,} in 2 epochs" in ended.out
    assert "unknown until --probe" in ended.out
    for name in ("weights", "adapter", "optimizer", "gradients", "activations", "head"):
        assert f"  {name} " in ended.out


def test_overrides_change_the_plan(cli, recipe) -> None:
    plain = json.loads(cli("plan", recipe, "--json").out)
    fewer = json.loads(cli("plan", recipe, "--json", "--set", "training.epochs=1").out)
    assert fewer["steps"] * 2 == plain["steps"]


@pytest.mark.usefixtures("cramped")
def test_what_does_not_fit_exits_one_and_says_what_to_change(cli, recipe) -> None:
    ended = cli("plan", recipe)
    assert ended.code == 1
    assert "What to change" in ended.out
    assert "--set training.batch_size=1 --set training.accumulate=4" in ended.out
    assert "This does not fit: " in ended.err
    found = json.loads(cli("plan", recipe, "--json").out)
    assert found["word"] == "refuse"
    assert found["changes"]


def test_a_recipe_that_cannot_train_is_bad_input(cli, recipe) -> None:
    ended = cli("plan", recipe, "--set", "data.max_tokens=8")
    assert (ended.code, ended.out) == (2, "")
    assert "the prompt fills the window" in ended.err


@pytest.mark.real
@pytest.mark.usefixtures("real")
def test_a_base_of_the_catalogue_is_planned_before_it_is_downloaded(cli, recipe, monkeypatch) -> None:
    monkeypatch.setattr(verb, "machine", lambda: mac(32))
    base = catalog.find("mlx-community/Llama-3.2-3B-Instruct-4bit")
    ended = cli("plan", recipe, "--set", f"model.base={base.id}")
    assert ended.code == 0
    assert re.search(rf"weights +{size(base.size)} ", ended.out)
    assert f"{base.id} is not here yet" in ended.out
    assert f"mlxtune models pull {base.id}" in ended.out

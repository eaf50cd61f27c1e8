import re
from dataclasses import replace
from pathlib import Path

import pytest

from mlxtune.cli import plan as verb
from mlxtune.core.text import size
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation.holdout import ledger
from mlxtune.models import catalog
from mlxtune.planning.machine import PowerState, mac_with, this_machine
from mlxtune.recipe import load

pytestmark = pytest.mark.usefixtures("workers_in_process")


@pytest.fixture
def recipe(workspace: Path) -> str:
    return str(workspace / "recipes" / "tiny.toml")


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing fits."""
    monkeypatch.setattr(verb, "this_machine", lambda: replace(this_machine(), limit=2**20))


def test_json_is_one_document_with_every_part_of_the_memory(cli, recipe):
    result = cli("plan", recipe, "--json")
    document = result.json
    assert (result.code, document["outcome"]) == (0, "go")
    parts = ("weights", "adapter", "optimizer", "gradients", "activations", "head", "frozen")
    assert sum(document["estimate"][part] for part in parts) == document["step"]
    assert document["peak"] == max(document["step"], document["estimate"]["loading"])
    assert document["memory"] == document["peak"] + document["estimate"]["buffers"] + document["estimate"]["process"]
    times = dict.fromkeys(("reference_seconds", "validation_seconds"), 0.0)
    assert document["cost"] == {**times, "seconds": None, "source": "", "watts": 0.0, "sample_answers": 0}


def test_the_table_matches_the_json(cli, recipe):
    document = cli("plan", recipe, "--json").json
    result = cli("plan", recipe)
    assert f"✓ This fits: {size(document['memory'])} needed, {size(document['limit'])} available." in result.out
    assert f"{document['steps']:,}  in {document['epochs']:g} epochs" in result.out
    assert "{:,} to {:,} steps".format(*document["usual_updates"]) in result.out
    assert "unknown  measure it: --probe" in result.out
    assert f"≥ {100 * document['detectable_gain']:.0f} points" in result.out
    free = document["free"]
    assert f"one answer passes {free['constant'] / free['rows']:.1%}  of {free['rows']} held-out rows" in result.out
    assert f"the nearest row's answer passes {free['copier'] / free['rows']:.1%}  of {free['rows']} held-out rows" in result.out
    for name in ("weights", "adapter", "optimizer", "gradients", "activations", "head"):
        assert f"  {name} " in result.out


def test_power_problems_are_in_the_plan(cli, recipe, monkeypatch):
    monkeypatch.setattr(verb, "power", lambda: PowerState(on_battery=True, charge=0.1, thermal="heavy"))
    assert "! heavy thermal pressure, battery at 10%  slow, or might not finish" in cli("plan", recipe).out
    assert cli("plan", recipe, "--json").json["power"]["charge"] == 0.1


def test_overrides_change_the_plan(cli, recipe):
    plain = cli("plan", recipe, "--json").json
    fewer = cli("plan", recipe, "--json", "--set", "training.epochs=1").json
    assert fewer["steps"] * 2 == plain["steps"]


@pytest.mark.usefixtures("cramped")
def test_a_recipe_that_does_not_fit_exits_1_with_suggestions(cli, recipe):
    result = cli("plan", recipe)
    assert result.code == 1
    assert "Fits with" in result.out
    assert "--set training.batch_size=1 --set training.accumulate=4" in result.out
    assert "This does not fit: " in result.err
    document = cli("plan", recipe, "--json").json
    assert document["outcome"] == "refuse"
    assert document["changes"]


def test_a_recipe_that_cannot_train_is_bad_input(refused, recipe):
    refused(("plan", recipe, "--set", "data.max_tokens=8"), "the prompt fills the window")


@pytest.mark.real
@pytest.mark.usefixtures("real")
def test_a_catalog_model_is_planned_without_a_download(ok, recipe, monkeypatch):
    monkeypatch.setattr(verb, "this_machine", lambda: mac_with(32))
    base = catalog.find("mlx-community/Llama-3.2-3B-Instruct-4bit")
    result = ok("plan", recipe, "--set", f"model.base={base.id}")
    assert re.search(rf"weights +{size(base.nbytes)} ", result.out)
    assert f"! {base.id}" in result.out
    assert f"mlxtune models pull {base.id}" in result.out


def test_looks_at_the_held_out_rows_are_in_the_plan(cli, recipe):
    assert "at these held-out rows" not in cli("plan", recipe).out
    loaded = load(Path(recipe))
    rows = split(read_source(loaded.source), loaded.data).test
    Path("evals").mkdir()
    for result in ("one", "two"):
        ledger.record(Path("evals", ledger.FILE), "eval", result, [row.id for row in rows], result=result, adapter="run")
    assert "! 2 at these held-out rows  the next has level 0.83%" in cli("plan", recipe).out
    assert cli("plan", recipe, "--json").json["looks"] == 2

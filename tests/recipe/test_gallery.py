"""Every recipe of the gallery loads, matches its header, and trains if it is for the bundled model."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exhaustive import cases
from listener import Listener

from mlxtune.data import samples
from mlxtune.data.source import read_source
from mlxtune.data.split import Splits, group_name, split
from mlxtune.evaluation.arms import build_arms
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.models import bundled, catalog
from mlxtune.recipe import Recipe, load
from mlxtune.recipe.parent import inherit

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import gallery  # noqa: E402

RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
NAMES = [str(path.relative_to(ROOT / "recipes")) for path in RECIPES]
BUNDLED = {path.stem: path for path in RECIPES if path.parent == ROOT / "recipes"}


def test_every_task_has_a_recipe_for_the_bundled_model_and_twelve_others():
    folders = {base.recipes for base in catalog.models()} - {""}
    assert len(folders) == 12
    assert len(RECIPES) == 6 * (1 + len(folders)) == 78
    assert set(BUNDLED) == set(gallery.TASKS)
    for name, path in BUNDLED.items():
        assert (load(path).name, load(path).model.base) == (name, bundled.DEFAULT.alias)
    for folder in folders:
        assert {path.stem for path in RECIPES if path.parent.name == folder} == set(gallery.TASKS)
    assert len({load(path).name for path in RECIPES}) == len(RECIPES)


@pytest.fixture(scope="module")
def shares() -> dict[str, Splits]:
    """The rows of the recipes, once split."""
    return {}


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_a_recipe_loads_its_files_exist_and_its_header_is_complete(path, shares):
    recipe = load(path)
    base = catalog.find(recipe.model.base)
    assert base is not None
    assert recipe.source.is_file()
    assert recipe.has_contract
    Contract.from_recipe(recipe)
    assert recipe.prompt_file is None or recipe.prompt_file.is_file()
    assert recipe.data.max_tokens <= base.context
    assert (recipe.method.kind == "dpo") == bool(recipe.adapter.parent)
    if recipe.adapter.parent:
        assert load(path.with_name("support-json.toml")).name == recipe.adapter.parent
    few_shot = replace(recipe, evaluation=replace(recipe.evaluation, arms=["base", "base+kshot"]))
    if (key := f"{recipe.source} {recipe.data}") not in shares:  # recipes for other bases read the same rows
        shares[key] = split(read_source(recipe.source), recipe.data)
    assert len(build_arms(few_shot, None, shares[key].train)) == 2
    head = path.read_text().partition("\nname = ")[0]
    assert re.search(r"^# Use for: ", head, re.MULTILINE)
    assert f"mlxtune train {path.relative_to(ROOT)}" in head
    assert "# Results: " in head
    assert f"License: {base.license}, commercial use " in head
    assert f"Context: {base.context // 1024}k tokens" in head
    assert re.search(r"^# Memory \(computed, never measured on a Mac\): 8 GB .* 16 GB .* 32 GB .* 64 GB ", head, re.MULTILINE)
    if path.parent.name != "recipes":
        assert "not measured on this base" in head


# One task with a parent, one with rows for bases without tools, and one with neither. The others differ in their rows.
@pytest.mark.real
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("task", cases(gallery.TASKS, "brand-voice", "tool-calling", "style"))
def test_recipes_are_up_to_date_and_planned_for_four_machines(monkeypatch, task):
    made: dict[tuple[str, str], Any] = {}
    planned = gallery.planned

    def plan(recipe: Any, base: Any, stem: str) -> Any:
        return made.setdefault((recipe.model.base, stem), planned(recipe, base, stem))

    monkeypatch.setattr(gallery, "planned", plan)
    monkeypatch.setattr(gallery, "TASKS", (task,))
    rendered = dict(gallery.rendered())
    assert sorted(rendered) == [path for path in RECIPES if path.stem == task]
    stale = [str(path.relative_to(ROOT)) for path, text in rendered.items() if path.read_text() != text]
    assert stale == [], "run: python tools/gallery.py"
    for path in rendered:
        recipe = load(path)
        base = catalog.find(recipe.model.base)
        assert base
        plans = made[recipe.model.base, path.stem]
        assert tuple(plans) == (8, 16, 32, 64)
        assert plans[32][0] == "go", path  # the intended machine
        order = ["refuse", "warn", "go"]
        words = [order.index(word) for word, _ in plans.values()]
        assert words == sorted(words)
        assert all(need > base.nbytes for _, need in plans.values())


@pytest.mark.parametrize("task", ["tool-calling", "classification", "style"])
def test_sample_rows_pass_their_contract_and_have_unique_prompts(task):
    recipe = load(BUNDLED[task])
    rows = read_source(recipe.source).rows
    contract = Contract.from_recipe(recipe)
    assert 200 <= len(rows) <= 240
    assert len({group_name(row, "") for row in rows}) == len(rows)
    for row in rows:
        score = contract.score(ModelAnswer(row.reference, reference=row.reference))
        assert score["contract"].passed, f"{row.location}: {score['contract'].detail}"
    for key in rows[0].meta:
        assert all(json.loads(row.reference)["name" if key == "call" else key] == row.meta[key] for row in rows)


# two training steps of each bundled recipe, on the tiny model


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample workspace with four rows of each source."""
    folder = tmp_path_factory.mktemp("gallery") / "shop"
    samples.create(folder)
    for path in BUNDLED.values():
        source = load(path).source
        lines = source.read_text().splitlines(keepends=True)
        (folder / source.relative_to(ROOT)).write_text("".join(sorted(lines, key=len)[:4]))
    return folder


def train_two_steps(recipe: Recipe, tiny: Path, folder: Path) -> Path:
    """Train two steps of ``recipe`` and return the adapter's folder."""
    import mlx.core as mx

    from mlxtune.models import lora
    from mlxtune.training.setup import prepare

    short = replace(
        recipe, model=replace(recipe.model, base=str(tiny)), method=replace(recipe.method, pairs="all"),
        training=replace(recipe.training, steps=2, batch_size=1, samples=0),
        data=replace(recipe.data, validation=0.0, holdout=0.0, max_tokens=4096),  # its tokens are bytes
    )  # fmt: skip
    folder.mkdir()
    listener = Listener()
    prepared = prepare(short, folder, listener)
    before = {name: mx.array(array) for name, array in lora.adapter_arrays(prepared.base.loaded.model).items()}
    prepared.loop.run(listener)
    steps = [event for event in listener.events if event["type"] == "step"]
    assert [event["step"] for event in steps] == [1, 2]
    assert all(math.isfinite(event["loss"]) for event in steps)
    after = lora.adapter_arrays(prepared.base.loaded.model)
    assert any(not mx.array_equal(before[name], after[name]) for name in after)
    lora.save(folder / "adapter", after, prepared.loop.adapter_config | {"model": str(prepared.base.loaded.source.folder)})
    return folder / "adapter"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["tool-calling", "classification", "style"])
def test_a_bundled_recipe_trains(task, shop, tiny, tmp_path):
    train_two_steps(load(shop / "recipes" / f"{task}.toml"), tiny, tmp_path / "run")


@pytest.mark.slow
def test_the_style_adapter_trains_on_top_of_the_format_adapter(shop, tiny, tmp_path):
    parent = train_two_steps(load(shop / samples.RECIPE), tiny, tmp_path / "format")
    child = train_two_steps(inherit(load(shop / "recipes" / "brand-voice.toml"), parent), tiny, tmp_path / "voice")
    assert (child / "adapters.safetensors").read_bytes() != (parent / "adapters.safetensors").read_bytes()

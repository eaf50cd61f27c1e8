"""Every recipe of the gallery: it loads, its data is clean, it fits what its header says, and those of the bundled model train."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data import samples
from mlxtune.data.source import read_source
from mlxtune.data.split import group, split
from mlxtune.evaluation.arms import arms
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import Answer
from mlxtune.models import bundled, catalog
from mlxtune.recipe import Recipe, load
from mlxtune.recipe.parent import inherit

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import gallery  # noqa: E402

RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
NAMES = [str(path.relative_to(ROOT / "recipes")) for path in RECIPES]
BUNDLED = {path.stem: path for path in RECIPES if path.parent == ROOT / "recipes"}


def test_each_task_is_there_for_the_bundled_model_and_for_seven_bases_of_a_mac() -> None:
    folders = {base.recipes for base in catalog.bases()} - {""}
    assert len(folders) == 7
    assert len(RECIPES) == 5 * (1 + len(folders)) == 40
    assert set(BUNDLED) == set(gallery.TASKS)
    for folder in folders:
        assert {path.stem for path in RECIPES if path.parent.name == folder} == set(gallery.TASKS)
    assert len({load(path).name for path in RECIPES}) == len(RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_a_recipe_loads_and_all_that_it_names_is_there(path: Path) -> None:
    recipe = load(path)
    base = catalog.find(recipe.model.base)
    assert base is not None
    assert recipe.source.is_file()
    assert recipe.contract
    Contract.of(recipe)
    assert recipe.prompt_file is None or recipe.prompt_file.is_file()
    assert recipe.data.max_tokens <= base.context
    assert (recipe.method.kind == "dpo") == bool(recipe.adapter.parent)
    if recipe.adapter.parent:
        assert load(path.with_name("support-json.toml")).name == recipe.adapter.parent
    asked = replace(recipe, evaluation=replace(recipe.evaluation, arms=["base", "base+kshot"]))
    assert len(arms(asked, None, split(read_source(recipe.source), recipe.data).train)) == 2


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_a_header_says_what_it_is_for_how_to_start_it_and_what_to_expect(path: Path) -> None:
    head = path.read_text().partition("\nname = ")[0]
    base = catalog.find(load(path).model.base)
    assert base
    assert re.search(r"(^#|\.) For: ", head, re.MULTILINE)
    assert f"mlxtune train {path.relative_to(ROOT)}" in head
    assert "# Expect: " in head
    assert f"Licence: {base.licence}, commercial use " in head
    assert f"Context: {base.context // 1024}k tokens" in head
    assert re.search(r"^# Memory on a Mac, by the planner: 8 GB .* 16 GB .* 32 GB .* 64 GB ", head, re.MULTILINE)
    if path.parent.name != "recipes":
        assert "not measured on this base" in head


@pytest.mark.real
@pytest.mark.usefixtures("real")
def test_every_recipe_is_planned_for_four_memories_and_is_what_the_gallery_writes() -> None:
    written = dict(gallery.written())
    assert sorted(written) == RECIPES
    stale = [str(path.relative_to(ROOT)) for path, text in written.items() if path.read_text() != text]
    assert stale == [], "python tools/gallery.py writes them again"
    for path in RECIPES:
        recipe = load(path)
        base = catalog.find(recipe.model.base)
        assert base
        found = gallery.planned(recipe, base, path.stem)
        assert tuple(found) == (8, 16, 32, 64)
        assert found[32][0] == "go", path  # the machine that this is for
        order = ["refuse", "warn", "go"]
        words = [order.index(word) for word, _ in found.values()]
        assert words == sorted(words)
        assert all(need > base.size for _, need in found.values())


@pytest.mark.parametrize("task", ["tool-calling", "classification", "style"])
def test_sample_rows_keep_their_own_contract_and_ask_no_question_twice(task: str) -> None:
    recipe = load(BUNDLED[task])
    rows = read_source(recipe.source).rows
    contract = Contract.of(recipe)
    assert 200 <= len(rows) <= 240
    assert len({group(row, "") for row in rows}) == len(rows)
    for row in rows:
        score = contract.score(Answer(row.reference, reference=row.reference))
        assert score["contract"].holds, f"{row.place}: {score['contract'].why}"
    for key in rows[0].meta:
        assert all(json.loads(row.reference)["name" if key == "call" else key] == row.meta[key] for row in rows)


# ---- two steps of each bundled recipe, with the tiny model in the place of the bundled one ----


class Listener:
    stopping = False

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def emit(self, type: str, **fields: Any) -> None:
        self.events.append({"type": type, **fields})

    def warn(self, text: str) -> None:
        self.emit("warning", text=text)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample workspace with four rows of each source: this is about recipes, not about learning."""
    folder = tmp_path_factory.mktemp("gallery") / "shop"
    samples.create(folder)
    for path in BUNDLED.values():
        source = load(path).source
        lines = source.read_text().splitlines(keepends=True)
        (folder / source.relative_to(ROOT)).write_text("".join(sorted(lines, key=len)[:4]))
    return folder


def trained(recipe: Recipe, tiny: Path, folder: Path) -> Path:
    """Two steps of ``recipe``; the folder of the adapter."""
    import mlx.core as mx

    from mlxtune.models import lora
    from mlxtune.training.assemble import assemble

    few = replace(
        recipe, model=replace(recipe.model, base=str(tiny)), method=replace(recipe.method, pairs="all"),
        training=replace(recipe.training, steps=2, batch_size=1, samples=0),
        data=replace(recipe.data, validation=0.0, holdout=0.0, max_tokens=4096),  # its tokens are bytes
    )  # fmt: skip
    folder.mkdir()
    listener = Listener()
    made = assemble(few, folder, listener)
    before = {name: mx.array(array) for name, array in lora.weights(made.loaded.model).items()}
    made.loop.run(listener)
    steps = [event for event in listener.events if event["type"] == "step"]
    assert [event["step"] for event in steps] == [1, 2]
    assert all(math.isfinite(event["loss"]) for event in steps)
    after = lora.weights(made.loaded.model)
    assert any(not mx.array_equal(before[name], after[name]) for name in after)
    lora.save(folder / "adapter", after, made.loop.config | {"model": str(made.loaded.source.folder)})
    return folder / "adapter"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("task", ["tool-calling", "classification", "style"])
def test_a_bundled_recipe_trains(task: str, shop: Path, tiny: Path, tmp_path: Path) -> None:
    trained(load(shop / "recipes" / f"{task}.toml"), tiny, tmp_path / "run")


@pytest.mark.usefixtures("one_thread")
def test_the_voice_trains_on_top_of_the_format(shop: Path, tiny: Path, tmp_path: Path) -> None:
    parent = trained(load(shop / samples.RECIPE), tiny, tmp_path / "format")
    child = trained(inherit(load(shop / samples.VOICE), parent), tiny, tmp_path / "voice")
    assert (child / "adapters.safetensors").read_bytes() != (parent / "adapters.safetensors").read_bytes()


def test_the_bundled_recipes_are_for_the_bundled_model() -> None:
    assert {load(path).model.base for path in BUNDLED.values()} == {bundled.ALIAS}

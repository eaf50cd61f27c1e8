"""What a recipe means by its parent, and what it takes over from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.core.errors import RecipeError
from mlxtune.recipe import dump, load, parse
from mlxtune.runs import parents, registry

CHILD = 'name = "child"\n[model]\nbase = "x"\n[data]\nsource = "y"\n[adapter]\nparent = "{}"\nrank = 3\nlayers = 2\n'
CONFIG = {
    "fine_tune_type": "dora", "num_layers": 7,
    "lora_parameters": {"rank": 12, "scale": 2.5, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.up_proj"]},
}  # fmt: skip


def adapter(folder: Path, config: dict = CONFIG) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def resolved(workspace: Path, named: str):
    return parents.resolve(workspace, parse(CHILD.format(named), folder=workspace)).adapter


def test_a_recipe_without_a_parent_stays_as_it_is(tmp_path: Path) -> None:
    recipe = parse(CHILD.format(""))
    assert parents.resolve(tmp_path, recipe) is recipe


@pytest.mark.parametrize("named", ["made", "made/adapter"])
def test_a_folder_or_the_run_around_it_is_a_parent(tmp_path: Path, named: str) -> None:
    adapter(tmp_path / "made" / "adapter")
    found = resolved(tmp_path, named)
    assert (found.kind, found.rank, found.scale, found.layers) == ("dora", 12, 2.5, 7)
    assert found.targets == ["self_attn.q_proj", "mlp.up_proj"]
    assert found.parent == str(tmp_path / "made" / "adapter")


def test_a_recipes_name_means_its_newest_run_that_has_an_adapter(tmp_path: Path) -> None:
    recipe = parse(CHILD.format("").replace("child", "parent"))
    runs = []
    for _ in range(3):
        run = registry.create(tmp_path, "train", "parent")
        (run.folder / "recipe.toml").write_text(dump(recipe))
        runs.append(run)
    for run in runs[:2]:
        adapter(run.adapter)
    assert resolved(tmp_path, "parent").parent == str(runs[1].adapter)
    assert resolved(tmp_path, runs[0].id).parent == str(runs[0].adapter)


def test_a_resolved_recipe_survives_the_way_to_disk(tmp_path: Path) -> None:
    adapter(tmp_path / "adapter")
    recipe = parents.resolve(tmp_path, parse(CHILD.format("adapter"), folder=tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text(dump(recipe))
    assert load(tmp_path / "run" / "recipe.toml").adapter == recipe.adapter


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        {"fine_tune_type": "full"},
        CONFIG | {"fine_tune_type": "full"},
        CONFIG | {"lora_parameters": {"rank": 0, "scale": 1.0}},
    ],
)
def test_what_is_no_adapter_is_refused(tmp_path: Path, config) -> None:
    adapter(tmp_path / "adapter", config)
    with pytest.raises(RecipeError, match=r"adapter\.parent"):
        resolved(tmp_path, "adapter")


def test_a_parent_that_is_not_there_says_what_it_could_be(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no adapter nobody, no run"):
        resolved(tmp_path, "nobody")

import json
from pathlib import Path

import pytest

from mlxtune.core.errors import RecipeError
from mlxtune.recipe import dump, load, parse
from mlxtune.runs import registry

CHILD = 'name = "child"\n[model]\nbase = "x"\n[data]\nsource = "y"\n[adapter]\nparent = "{}"\nrank = 3\nlayers = 2\n'
CONFIG = {
    "fine_tune_type": "dora", "num_layers": 7,
    "lora_parameters": {"rank": 12, "scale": 2.5, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.up_proj"]},
}  # fmt: skip


def adapter(folder: Path, config: dict = CONFIG) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def resolve(workspace: Path, parent: str):
    return registry.resolve_parent(workspace, parse(CHILD.format(parent), folder=workspace)).adapter


def test_a_recipe_without_a_parent_is_unchanged(tmp_path: Path) -> None:
    recipe = parse(CHILD.format(""))
    assert registry.resolve_parent(tmp_path, recipe) is recipe


@pytest.mark.parametrize("parent", ["run", "run/adapter"])
def test_a_parent_may_be_an_adapter_folder_or_a_run(tmp_path: Path, parent: str) -> None:
    adapter(tmp_path / "run" / "adapter")
    adapter_section = resolve(tmp_path, parent)
    assert (adapter_section.kind, adapter_section.rank, adapter_section.scale, adapter_section.layers) == ("dora", 12, 2.5, 7)
    assert adapter_section.targets == ["self_attn.q_proj", "mlp.up_proj"]
    assert adapter_section.parent == str(tmp_path / "run" / "adapter")


def test_a_recipe_name_means_its_newest_run_with_an_adapter(tmp_path: Path) -> None:
    recipe = parse(CHILD.format("").replace("child", "parent"))
    runs = []
    for _ in range(3):
        run = registry.create(tmp_path, "train", "parent")
        (run.folder / "recipe.toml").write_text(dump(recipe))
        runs.append(run)
    for run in runs[:2]:
        adapter(run.adapter)
    assert resolve(tmp_path, "parent").parent == str(runs[1].adapter)
    assert resolve(tmp_path, runs[0].id).parent == str(runs[0].adapter)


def test_a_resolved_recipe_round_trips(tmp_path: Path) -> None:
    adapter(tmp_path / "adapter")
    recipe = registry.resolve_parent(tmp_path, parse(CHILD.format("adapter"), folder=tmp_path))
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
def test_an_invalid_parent_is_refused(tmp_path: Path, config) -> None:
    adapter(tmp_path / "adapter", config)
    with pytest.raises(RecipeError, match=r"adapter\.parent"):
        resolve(tmp_path, "adapter")


def test_a_missing_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nobody is not an adapter folder, a run"):
        resolve(tmp_path, "nobody")

"""Recipes, sources and files that are made to crash, stall or fill a machine end in one sentence and exit code 2."""

import json
import os
import stat

import pytest

from mlxtune.cli import score
from mlxtune.core import settings
from mlxtune.core.errors import DataError, InputError, ModelError, RecipeError
from mlxtune.core.files import read_json, user_path, write_text
from mlxtune.data.access.records import RecordFile
from mlxtune.evaluation.off_task.prompts import read_prompts
from mlxtune.models.resolve import resolve
from mlxtune.recipe import load, parse
from mlxtune.recipe.importers.mlx_lm import import_config
from mlxtune.training import checkpoint

RECIPE = 'name = "a"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "d.jsonl"\n'


@pytest.mark.parametrize("base", ["a/..", "../" * 30 + "none", "a" * 5000, "a/" + "b" * 200, "~nouser/x", "a/b-", ".a/b", "a\0b/c"])
def test_a_base_that_cannot_exist_is_bad_input(base, tmp_path):
    with pytest.raises(InputError):
        resolve(base, relative_to=tmp_path, fetch=False)


HOSTILE_RECIPES = {
    "deep array": RECIPE + "[x]\na = " + "[" * 100_000,
    "closed deep array": "a = " + "[" * 900 + "]" * 900,
    "many digits": RECIPE + "[training]\nseed = " + "1" * 6000,
    "large seed": RECIPE + f"[training]\nseed = {10**40}",
    "negative seed": RECIPE + "[training]\nseed = -1",
    "large rank": RECIPE + f"[adapter]\nrank = {10**40}",
    "many steps": RECIPE + "[training]\nsteps = 10_000_000",
    "many epochs": RECIPE + "[training]\nepochs = 1_000_000_000",
}


@pytest.mark.parametrize("case", HOSTILE_RECIPES)
def test_a_hostile_recipe_is_bad_input(case):
    with pytest.raises(RecipeError) as error:
        parse(HOSTILE_RECIPES[case])
    assert len(error.value.message) < 400


def test_a_hostile_override_is_bad_input():
    for override in ("training.seed=" + "1" * 6000, "training.seed=" + "[" * 100_000):
        with pytest.raises(RecipeError):
            parse(RECIPE, overrides=[override])


def test_a_user_who_does_not_exist_is_bad_input():
    with pytest.raises(InputError, match="~nouser/x: there is no user with that name"):
        user_path("~nouser/x")
    with pytest.raises(InputError, match="there is no user"):
        _ = parse(RECIPE.replace("d.jsonl", "~nouser/x")).source


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RecipeError, match="is not a regular file"):
        load(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        score._lines(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):  # schemas, answers of the interview, host files
        read_json(tmp_path / "pipe")
    with pytest.raises(RecipeError, match="not a regular file"):
        import_config(tmp_path / "pipe", tmp_path / "recipe.toml")
    with pytest.raises(DataError, match="not a regular file"):
        read_prompts(tmp_path / "pipe")


def test_a_named_pipe_as_settings_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path))
    os.mkfifo(tmp_path / settings.FILE)
    assert settings.load().errors == ("settings.toml cannot be read: it is not a regular file.",)
    with pytest.raises(InputError, match="it is not a regular file"):
        settings.save_theme("ink")


@pytest.mark.timeout(60)
def test_a_table_with_many_columns_is_read_in_linear_time(tmp_path):
    """It takes a tenth of a second; quadratic time would be minutes."""
    names = [f"c{index}" for index in range(100_000)]
    (tmp_path / "wide.csv").write_text(",".join(names) + "\n" + ",".join("x" for _ in names) + "\n")
    with RecordFile(tmp_path / "wide.csv") as file:
        assert len(file) == 1
    (tmp_path / "wide.csv").write_text(",".join([*names, "c7"]) + "\n")
    with pytest.raises(DataError, match="two columns named c7"):
        RecordFile(tmp_path / "wide.csv")


@pytest.mark.parametrize("manifest", ["{}", "[]", "null", '{"state.json": 5}', '{"adapters.safetensors": "0"}'])
def test_a_checkpoint_with_a_partial_manifest_is_damaged(tmp_path, manifest):
    folder = tmp_path / "checkpoints" / "0000003"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"step": 3}')
    (folder / "adapters.safetensors").write_bytes(b"damaged")
    (folder / checkpoint.MANIFEST).write_text(manifest)
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.damaged_folders(tmp_path) == [folder]


def test_files_respect_the_umask(tmp_path):
    old = os.umask(0o077)
    try:
        write_text(tmp_path / "private", "data")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    write_text(tmp_path / "shared", "data")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o666 & ~old


@pytest.mark.parametrize("dropout", [5.0, 1, -0.1, float("nan"), "0.1", None])
def test_an_adapter_with_an_invalid_dropout_is_refused(tmp_path, dropout):
    from mlxtune.adapters.layout import parse_layout
    from mlxtune.core.safetensors import Header

    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 1.0, "dropout": dropout}}
    with pytest.raises(ModelError, match="invalid rank, scale, dropout"):
        parse_layout(json.loads(json.dumps(config)), Header({}, {}), tmp_path)

from mlxtune.recipe import load


def test_import_writes_a_recipe_and_lists_keys_without_a_counterpart(refused, cli, cwd):
    (cwd / "data").mkdir(exist_ok=True)
    (cwd / "lora.yaml").write_text("data: data\nmask_prompt: true\nadapter_path: out\nlora_parameters: {rank: 8, scale: 2.0}\n")
    result = cli("recipe", "import", "lora.yaml")
    assert (result.code, result.out) == (0, "✓ Wrote lora.toml.   mlxtune plan lora.toml\n")
    assert "adapter_path has no equivalent" in result.err
    assert load(cwd / "lora.toml").adapter.alpha == 16
    refused(("recipe", "import", "lora.yaml"), "lora.toml already exists.")
    assert cli("recipe", "import", "lora.yaml", "--force").code == 0
    assert "mlxtune plan 'a recipe.toml'" in cli("recipe", "import", "lora.yaml", "--to", "a recipe.toml").out
    other = cli("recipe", "import", "lora.yaml", "--to", "recipes/other.toml", "--json")
    assert other.json["recipe"] == "recipes/other.toml"
    assert load(cwd / "recipes" / "other.toml").source == cwd / "data"


def test_a_bad_config_writes_nothing(refused, cwd):
    (cwd / "lora.yaml").write_text("rank: 8\n")
    refused(("recipe", "import", "lora.yaml"), "unknown key rank")
    assert not (cwd / "lora.toml").exists()

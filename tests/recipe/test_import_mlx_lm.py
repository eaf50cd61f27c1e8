"""An ``mlx_lm.lora`` config becomes a recipe with the same effect, or an error that names the key."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlxtune.core.errors import RecipeError
from mlxtune.recipe import Recipe, load
from mlxtune.recipe.importers.mlx_lm import DEFAULTS, NO_COUNTERPART, import_config


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a config, import it and load the result; return the recipe and the notes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").touch()

    def convert(text: str = "", **values: Any) -> tuple[Recipe, list[str]]:
        config = tmp_path / "configs" / "my run.yaml"
        config.parent.mkdir(exist_ok=True)
        config.write_text(text or yaml.safe_dump({"data": "data", **values}))
        target = config.with_suffix(".toml")
        imported = import_config(config, target)
        target.write_text(imported.text)
        return load(target), imported.notes

    return convert


FULL = """
model: mlx-community/Qwen3-4B-4bit
train: true
fine_tune_type: dora
optimizer: adamw
optimizer_config:
  adamw: {weight_decay: 0.1, bias_correction: true}
data: data
seed: 3
num_layers: 8
batch_size: 2
iters: 600
val_batches: -1
learning_rate: 1e-5
steps_per_eval: 100
save_every: 200
max_seq_length: 512
grad_checkpoint: true
grad_accumulation_steps: 4
mask_prompt: true
lora_parameters:
  keys: ["self_attn.q_proj", "self_attn.v_proj"]
  rank: 16
  scale: 10.0
  dropout: 0.05
"""


def test_every_key_is_converted(convert, tmp_path):
    recipe, notes = convert(FULL)
    assert notes == []
    assert (recipe.name, recipe.model.base, recipe.source) == ("my-run", "mlx-community/Qwen3-4B-4bit", tmp_path / "data")
    assert recipe.data.max_tokens == 512
    adapter = recipe.adapter
    assert (adapter.kind, adapter.rank, adapter.alpha, adapter.scale, adapter.dropout) == ("dora", 16, 160.0, 10.0, 0.05)
    assert (adapter.layers, adapter.targets) == (8, ["self_attn.q_proj", "self_attn.v_proj"])
    training = recipe.training
    assert (training.steps, training.batch_size, training.accumulate) == (150, 2, 4)
    assert (training.validate_every, training.save_every) == (25, 50)
    assert (training.learning_rate, training.schedule, training.warmup) == (1e-5, "constant", 0.0)
    assert (training.optimizer, training.weight_decay, training.clip) == ("adamw", 0.1, 0.0)
    assert (training.grad_checkpoint, training.seed) == (True, 3)
    assert recipe.method.kind == "sft"


def test_defaults_match_mlx_lm(convert):
    recipe, _ = convert(data="data")
    assert (recipe.adapter.rank, recipe.adapter.scale, recipe.adapter.layers, recipe.adapter.targets) == (8, 20.0, 16, "all-linear")
    assert (recipe.training.steps, recipe.training.batch_size, recipe.training.weight_decay) == (1000, 4, 0.0)
    spec = importlib.util.find_spec("mlx_lm")
    assert spec
    assert spec.origin
    tree = ast.parse((Path(spec.origin).parent / "lora.py").read_text())
    peer_defaults = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CONFIG_DEFAULTS"
    )
    assert set(peer_defaults) <= {*DEFAULTS, *NO_COUNTERPART, "train"}, "mlx-lm has a key that the importer does not know"
    for key, value in peer_defaults.items():
        if key in DEFAULTS and key != "optimizer_config":
            assert DEFAULTS[key] == value, key


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"adapter_path": "out"}, "adapter_path has no equivalent"),
        ({"steps_per_report": 1}, "steps_per_report has no equivalent"),
        ({"trust_remote_code": True}, "remote code is never run"),
        ({"val_batches": 25}, "val_batches = 25"),
        ({"mask_prompt": False}, "mask_prompt = false"),
        ({"optimizer": "adam"}, "adam without bias correction"),
        ({"optimizer": "adamw", "optimizer_config": {"adamw": {"eps": 1e-6}}}, "optimizer_config.adamw.eps has no equivalent"),
        ({"optimizer": "adafactor"}, "relative_step"),
        ({"resume_adapter_file": "out/0000100_adapters.safetensors"}, "training starts from scratch"),
        ({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-4, 500, 1e-6]}}, "decays to 0, not to 1e-06"),
        ({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-4, 500]}}, "over all 1000 steps, not over 500"),
        ({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-4, 900], "warmup": 100, "warmup_init": 1e-7}}, "warmup_init"),
    ],
)
def test_keys_without_a_counterpart_are_reported(convert, values, words):
    _, notes = convert(**{"val_batches": -1, "mask_prompt": True, "optimizer": "muon", **values})
    (note,) = [note for note in notes if words in note]
    assert note.endswith(".")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"name": "cosine_decay", "arguments": [1e-4, 1000]}, ("cosine", 1e-4, 0.0)),
        ({"name": "cosine_decay", "arguments": [1e-4, 900], "warmup": 100}, ("cosine", 1e-4, 0.1)),
        ({"name": "linear_schedule", "arguments": [2e-4, 0.0, 1000]}, ("linear", 2e-4, 0.0)),
    ],
)
def test_schedules(convert, schedule, expected):
    recipe, notes = convert(lr_schedule=schedule)
    assert (recipe.training.schedule, recipe.training.learning_rate, recipe.training.warmup) == expected
    assert not [note for note in notes if "lr_schedule" in note]


def test_all_layers_local_model_parent_and_column_names(convert, tmp_path):
    (tmp_path / "base").mkdir()
    recipe, _ = convert(
        model="base", num_layers=-1, resume_adapter_file="out/adapters.safetensors", prompt_feature="question", completion_feature="answer"
    )  # fmt: skip
    assert (recipe.adapter.layers, recipe.path(recipe.model.base)) == ("all", tmp_path / "base")
    assert recipe.path(recipe.adapter.parent) == tmp_path / "out"
    assert recipe.data.map == {"prompt": "question", "completion": "answer"}


def test_held_out_rows_without_a_test_file_get_a_note(convert, tmp_path):
    (tmp_path / "data" / "test.jsonl").unlink()
    assert [note for note in convert()[1] if "held out" in note]


@pytest.mark.parametrize(
    ("values", "words", "hint"),
    [
        ({"lerning_rate": 1}, "unknown key lerning_rate", "Did you mean learning_rate?"),
        ({"zzz": 1}, "unknown key zzz", "Known keys: "),
        ({"lora_parameters": {"rank": 8, "alpha": 16}}, r"unknown key lora_parameters\.alpha", "scale = alpha / rank"),
        ({"lora_parameters": 8}, "lora_parameters must be a mapping", ""),
        ({"hf_dataset": {"path": "x"}}, "hf_dataset cannot be imported", "Download the dataset"),
        ({"data": "mlx-community/wikisql"}, "data: mlx-community/wikisql does not exist", "download the dataset"),
        ({"fine_tune_type": "full"}, "fine_tune_type: full cannot be imported", "lora and dora"),
        ({"optimizer": "sgd"}, "optimizer: sgd cannot be imported", "Use adam"),
        ({"lr_schedule": {"name": "step_decay", "arguments": [1e-4]}}, "name: step_decay cannot be imported", "cosine_decay"),
        ({"lr_schedule": {"name": "cosine_decay"}}, r"lr_schedule\.arguments must be", ""),
        ({"iters": "many"}, "iters must be an integer", ""),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1", ""),
        ({"learning_rate": "fast"}, "learning_rate must be a number", ""),
        ({"learning_rate": 7}, r"learning_rate must be from 0 to less than 1", ""),
    ],
)
def test_unsupported_values_are_refused(convert, values, words, hint):
    with pytest.raises(RecipeError, match=words) as caught:
        convert(**values)
    assert hint in caught.value.hint


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "!!python/object/apply:os.system ['true']", "text"])
def test_an_invalid_config_is_refused(convert, text):
    with pytest.raises(RecipeError):
        convert(text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="Cannot read"):
        import_config(tmp_path / "none.yaml", tmp_path / "none.toml")

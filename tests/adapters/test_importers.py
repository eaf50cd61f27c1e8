"""Imported adapters give the same logits as in their original library; unsupported ones are refused with a reason."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import stream_generate
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load as load_stock
from mlx_lm.utils import load_model, save_model
from safetensors.numpy import save_file
from tiny_model import make_tiny

from mlxtune.adapters import library
from mlxtune.adapters.entry import score_from_lineage
from mlxtune.adapters.importers.importer import import_adapter
from mlxtune.adapters.layout import read_layout
from mlxtune.core.errors import InputError, ModelError
from mlxtune.core.hashing import sha256_file
from mlxtune.core.json_fields import to_json
from mlxtune.evaluation.report import Caveat
from mlxtune.models import load, lora
from mlxtune.models.generate import GenerationSettings, PromptGroup, generate
from mlxtune.recipe.parent import CONFIG, WEIGHTS

from .conftest import SIZES, arrays, config, reported_score, write

TOKENS = [[70, 71, 72, 80, 81, 90]]


def logits(folder: Path, adapter: Path | None = None, weights: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """Return the tiny model's logits from stock mlx-lm, with an adapter or with other ``weights``."""
    model, _ = load_model(folder)
    if adapter:
        load_adapters(model, str(adapter))
    if weights:
        model.load_weights([(name, mx.array(array)) for name, array in weights.items()], strict=False)
    model.eval()
    return np.array(model(mx.array(TOKENS)))


def merged(folder: Path, tensors: dict[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    """Merge a PEFT adapter into the base weights by PEFT's definition: W + s B A, rescaled to the row magnitudes for DoRA."""
    base = {name: np.array(array) for name, array in mx.load(str(folder / "model.safetensors")).items()}
    weights = {}
    for name in [name for name in tensors if name.endswith("lora_A.weight")]:
        stem = name.removesuffix(".lora_A.weight")
        own = stem.removeprefix("base_model.model.") + ".weight"
        whole = base[own] + scale * (tensors[f"{stem}.lora_B.weight"] @ tensors[name])
        magnitude = tensors.get(f"{stem}.lora_magnitude_vector")
        if magnitude is not None:
            whole = magnitude[:, None] * whole / np.linalg.norm(whole, axis=1, keepdims=True)
        weights[own] = whole
    return weights


def peft_tensors(
    rank: int = 4, *, dora: bool = False, layers: tuple[int, ...] = (0, 1), targets: tuple[str, ...] = tuple(SIZES)
) -> dict[str, np.ndarray]:
    names = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
    own = arrays(rank, kind="dora" if dora else "lora", targets=targets, layers=layers, seed=3)
    parts = [(*name.rsplit(".", 1), array) for name, array in own.items()]
    return {f"base_model.model.{stem}.{names[part]}": np.ascontiguousarray(array.T) for stem, part, array in parts}


def peft(folder: Path, tensors: dict[str, np.ndarray], **settings: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    defaults = {"peft_type": "LORA", "base_model_name_or_path": "someone/model", "r": 4, "lora_alpha": 6}
    defaults |= {"bias": "none", "modules_to_save": None}
    (folder / "adapter_config.json").write_text(json.dumps(defaults | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "scale", "how"),
    [
        ({}, 1.5, {}),
        ({"use_rslora": True}, 3.0, {}),
        ({"use_dora": True}, 1.5, {"dora": True}),
        ({}, 1.5, {"layers": (1,), "targets": ("q_proj", "down_proj")}),
        ({"use_dora": True}, 1.5, {"dora": True, "layers": (0,)}),
    ],
    ids=["LoRA", "rsLoRA", "DoRA", "last layer", "DoRA on the first layer alone"],
)
def test_peft_import_matches_peft_definition(
    empty_workspace: Path, tiny: Path, settings: dict[str, Any], scale: float, how: dict[str, Any]
) -> None:
    tensors = peft_tensors(**how)
    folder = peft(empty_workspace / "theirs", tensors, **settings)
    imported = import_adapter(empty_workspace, folder, "mine", str(tiny))
    assert (imported.kind, imported.rank, imported.scale) == ("dora" if how.get("dora") else "lora", 4, scale)
    expected = logits(tiny, weights=merged(tiny, tensors, scale))
    np.testing.assert_allclose(logits(tiny, imported.folder), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - logits(tiny)).max() > 0.1


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_peft_dtypes_and_values_are_preserved(empty_workspace: Path, tiny: Path, dtype: Any) -> None:
    tensors = {name: mx.array(array).astype(dtype) for name, array in peft_tensors(targets=("v_proj",)).items()}
    folder = peft(empty_workspace / "theirs", {})
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), tensors)
    own = mx.load(str(import_adapter(empty_workspace, folder, "mine", str(tiny)).weights))
    theirs = tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"]
    mine = own["model.layers.1.self_attn.v_proj.lora_a"]
    assert mine.dtype == dtype
    assert mx.array_equal(mine, theirs.T)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"peft_type": "LOHA"}, "PEFT type LOHA"),
        ({"bias": "lora_only"}, "does not support bias"),
        ({"rank_pattern": {"q_proj": 8}}, "does not support rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "does not support modules_to_save"),
        ({"init_lora_weights": "pissa_niter_16"}, "changes the base's weights"),
        ({"r": 8}, "has rank 4, but the configuration says 8"),
        ({"r": None}, "lacks a numeric r or lora_alpha"),
        ({"lora_alpha": "x"}, "lacks a numeric r or lora_alpha"),
        ({"use_dora": True}, "lacks DoRA magnitudes for its"),
    ],
)
def test_unsupported_peft_feature_is_refused(empty_workspace: Path, tiny: Path, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        import_adapter(empty_workspace, peft(empty_workspace / "theirs", peft_tensors(), **settings), "mine", str(tiny))
    assert library.all_adapters(empty_workspace) == []
    assert not [item for item in (empty_workspace / "adapters").glob("*") if "library" not in item.name]


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.weight", (64, 64), "does not support"),
        ("base_model.model.model.layers.0.conv.lora_A.weight", (4, 64, 3), "is not an F32, F16 or BF16 matrix"),
        (
            "base_model.model.model.layers.0.mlp.fc1.lora_A.weight",
            (4, 64),
            "a different base .* that base has no model.layers.0.mlp.fc1",
        ),
        ("base_model.model.model.embed_tokens.lora_embedding_A", (4, 320), "tied to the head"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", (4, 64), "two tensors map to"),
    ],
)
def test_unmatched_peft_tensor_is_refused(empty_workspace: Path, tiny: Path, name: str, shape: tuple[int, ...], why: str) -> None:
    tensors = peft_tensors() | {name: np.ones(shape, np.float32)}
    with pytest.raises(ModelError, match=why):
        import_adapter(empty_workspace, peft(empty_workspace / "theirs", tensors), "mine", str(tiny))


def stock_trained(folder: Path, tiny: Path, kind: str) -> Path:
    """Train and save an adapter with stock ``mlx_lm.lora``."""
    from mlx_lm.lora import CONFIG_DEFAULTS, run

    data = folder / "data"
    data.mkdir(parents=True)
    rows = [{"prompt": f"Question {at}?", "completion": f"Answer {at}."} for at in range(8)]
    for part in ("train", "valid"):
        (data / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    how = {
        "model": str(tiny), "data": str(data), "train": True, "fine_tune_type": kind, "num_layers": 1, "iters": 6, "batch_size": 2,
        "learning_rate": 5e-2, "steps_per_eval": 100, "val_batches": 1, "adapter_path": str(folder / "adapter"), "save_every": 100,
        "max_seq_length": 128, "seed": 3,
    }  # fmt: skip
    run(SimpleNamespace(**(CONFIG_DEFAULTS | how)))
    return folder / "adapter"


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_stock_mlx_lm_adapter_imports_with_same_logits(empty_workspace: Path, tiny: Path, kind: str) -> None:
    trained = stock_trained(empty_workspace / "stock", tiny, kind)
    imported = import_adapter(empty_workspace, trained, "mine")
    assert (imported.kind, imported.base) == (kind, str(tiny))
    assert sha256_file(imported.weights) == sha256_file(trained / WEIGHTS)
    stock, tokenizer = load_stock(str(tiny), adapter_path=str(trained))
    stock_tokens = [part.token for part in stream_generate(stock, tokenizer, TOKENS[0], max_tokens=24)]
    model, _ = load_model(tiny)
    lora.load(model, imported.folder)
    settings = GenerationSettings(max_tokens=24, stops=frozenset(), batch_size=1)
    output = generate(model, tokenizer, [PromptGroup(TOKENS, settings)])[0].text
    assert output.startswith(tokenizer.decode(stock_tokens).split("<|im_end|>")[0])
    np.testing.assert_array_equal(logits(tiny, trained), logits(tiny, imported.folder))
    assert np.abs(logits(tiny, trained) - logits(tiny)).max() > 1e-3
    config = json.loads((imported.folder / CONFIG).read_text())
    assert config["lora_parameters"]["keys"] == list(read_layout(trained).keys)


def test_imported_adapter_can_be_trained_further(empty_workspace: Path, tiny: Path) -> None:
    from mlxtune.recipe import parse
    from mlxtune.recipe.parent import inherit

    imported = import_adapter(empty_workspace, write(empty_workspace / "theirs", arrays(), config()), "mine", str(tiny))
    recipe = inherit(parse('name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n'), imported.folder)
    assert (recipe.adapter.rank, recipe.adapter.scale, recipe.adapter.layers) == (4, 2.0, 2)
    model = load.load(load.ModelFolder("m", tiny, json.loads((tiny / "config.json").read_text()), "")).model
    lora.add(model, recipe.adapter, seed=1)
    lora.load_weights(model, imported.folder)


def test_imported_scores_are_recorded_as_reported(empty_workspace: Path, tiny: Path, source: Any) -> None:
    lineage = {"base": str(tiny), "base_fingerprint": source.fingerprint, "run": "r", "data_hash": "d", "junk": ["x"]}
    lineage["evaluation"] = reported_score(hits=4)
    theirs = write(empty_workspace / "theirs", arrays(), config(), lineage)
    imported = import_adapter(empty_workspace, theirs)
    assert (imported.name, imported.run, imported.data_hash, imported.origin) == ("theirs", "r", "d", str(theirs))
    assert (imported.score.outcome, imported.score.folder, imported.score.changes[-1][1].hits) == ("better", None, 4)
    assert imported.score.caveat is None
    score = score_from_lineage({"evaluation": to_json(replace(imported.score, caveat=Caveat("off_task_dropped", 0.6, 0.4, 0.05)))})
    assert score.caveat == Caveat("off_task_dropped", 0.6, 0.4, 0.05)
    (theirs / "mlxtune.json").write_text(json.dumps(lineage | {"base_fingerprint": "0" * 64}))
    with pytest.raises(ModelError, match="trained from different weights"):
        import_adapter(empty_workspace, theirs, "two")
    assert import_adapter(empty_workspace, theirs, "two", other_weights=True).score is None


def test_different_base_is_detected_by_shapes(empty_workspace: Path, tiny: Path, tmp_path: Path) -> None:
    theirs = write(empty_workspace / "theirs", arrays(), config(model=str(tiny)))
    other = json.loads((make_tiny(tmp_path / "other") / "config.json").read_text())
    wide = other | {"hidden_size": 128, "intermediate_size": 96}
    save_model(tmp_path / "other", Model(ModelArgs.from_dict(wide)))
    (tmp_path / "other" / "config.json").write_text(json.dumps(wide))
    with pytest.raises(
        ModelError, match=r"a different base than .*q_proj has the shape \(128, 128\) in the base and \(64, 64\) in the adapter"
    ):
        import_adapter(empty_workspace, theirs, "mine", str(tmp_path / "other"))
    with pytest.raises(ModelError, match=r"that base has no model\.layers\.2\.self_attn\.q_proj"):
        import_adapter(empty_workspace, write(empty_workspace / "deep", arrays(layers=(2,)), config(layers=3)), "mine", str(tiny))
    with pytest.raises(ModelError, match="is not in the last 1 layer"):
        import_adapter(empty_workspace, write(empty_workspace / "low", arrays(), config(layers=1)), "mine", str(tiny))


def test_quantized_base_reports_logical_shapes(empty_workspace: Path, tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "four", bits=4)
    imported = import_adapter(
        empty_workspace, write(empty_workspace / "theirs", arrays(targets=tuple(SIZES)), config()), "mine", str(base)
    )
    model, _ = load_model(base)
    lora.load(model, imported.folder)


@pytest.mark.parametrize(("dtype", "value"), [("float32", np.nan), ("float32", -np.inf), ("float16", np.inf), ("bfloat16", np.nan)])
def test_non_numeric_weights_are_refused(empty_workspace: Path, tiny: Path, dtype: str, value: float) -> None:
    tensors = arrays()
    tensors["model.layers.1.self_attn.v_proj.lora_b"][2, 3] = value
    theirs = write(empty_workspace / "theirs", tensors, config())
    mx.save_safetensors(
        str(theirs / WEIGHTS), {name: mx.array(array).astype(getattr(mx, dtype)) for name, array in tensors.items()}
    )
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.v_proj\.lora_b has 1 infinite or NaN value"):
        import_adapter(empty_workspace, theirs, "mine", str(tiny))
    assert library.all_adapters(empty_workspace) == []


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapters.npz", "model.pt", "weights.PKL", "x.ckpt"])
def test_pickles_are_refused_without_opening(empty_workspace: Path, tiny: Path, name: str) -> None:
    (empty_workspace / "theirs").mkdir()
    (empty_workspace / "theirs" / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    (empty_workspace / "theirs" / CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ModelError, match=r"in a pickle file, .*, which could run"):
        import_adapter(empty_workspace, empty_workspace / "theirs", "mine", str(tiny))


def test_only_adapter_files_are_copied(empty_workspace: Path, tiny: Path) -> None:
    theirs = write(empty_workspace / "theirs", arrays(), config())
    (theirs / "training_args.bin").write_bytes(b"cos\nsystem\n")
    (theirs / "0000100_adapters.safetensors").write_bytes(b"x")
    imported = import_adapter(empty_workspace, theirs, "mine", str(tiny))
    assert sorted(file.name for file in imported.folder.iterdir()) == [CONFIG, WEIGHTS, "mlxtune.json"]
    assert imported.folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("what", ["folder", WEIGHTS, CONFIG, "mlxtune.json", "README.md"])
def test_symbolic_links_are_refused(empty_workspace: Path, tiny: Path, what: str) -> None:
    theirs = write(empty_workspace / "theirs", arrays(), config(), {})
    if what == "folder":
        os.rename(theirs, empty_workspace / "real")
        theirs.symlink_to(empty_workspace / "real")
    else:
        (theirs / what).unlink(missing_ok=True)
        (theirs / what).symlink_to(empty_workspace / "elsewhere")
    with pytest.raises(ModelError, match="symbolic link"):
        import_adapter(empty_workspace, theirs, "mine", str(tiny))


def test_names_in_use_or_outside_the_library_are_refused(empty_workspace: Path, tiny: Path) -> None:
    theirs = write(empty_workspace / "theirs", arrays(), config())
    import_adapter(empty_workspace, theirs, "mine", str(tiny))
    with pytest.raises(InputError, match="An adapter named mine already exists"):
        import_adapter(empty_workspace, theirs, "mine", str(tiny))
    for name in ("../mine", "/tmp/mine", "a/../../b", ".hidden", "base"):
        with pytest.raises(InputError, match="is not a valid adapter name"):
            import_adapter(empty_workspace, theirs, name, str(tiny))


def test_base_is_not_downloaded_implicitly(empty_workspace: Path) -> None:
    with pytest.raises(ModelError, match="base, someone/model, is not on this machine") as caught:
        import_adapter(empty_workspace, peft(empty_workspace / "theirs", peft_tensors()), "mine")
    assert "--base" in caught.value.hint
    with pytest.raises(ModelError, match="does not name its base"):
        import_adapter(empty_workspace, write(empty_workspace / "silent", arrays(), config()), "mine")


def test_folder_without_adapter_is_refused(empty_workspace: Path, tiny: Path) -> None:
    (empty_workspace / "file").write_text("x")
    (empty_workspace / "empty").mkdir()
    mixed = write(empty_workspace / "mixed", arrays(), {"peft_type": "LORA", "r": 4, "lora_alpha": 8})
    for folder, why in (
        (empty_workspace / "file", "does not exist"),
        (empty_workspace / "none", "does not exist"),
        (empty_workspace / "empty", "contains no adapter"),
        (mixed, "is in PEFT format"),
    ):
        with pytest.raises(ModelError, match=why):
            import_adapter(empty_workspace, folder, "mine", str(tiny))

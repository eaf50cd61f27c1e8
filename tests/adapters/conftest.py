"""Adapters of the tiny model in mlx-lm and PEFT format, and workspaces that contain some."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from safetensors.numpy import save_file
from tiny_model import CHATML, make_tiny

from mlxtune.adapters import library, publish
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.adapters.export import export_worker as exporting
from mlxtune.adapters.export import fidelity, start
from mlxtune.core.files import read_json, write_json
from mlxtune.core.json_fields import to_json
from mlxtune.evaluation.verdict import Verdict
from mlxtune.models import lora
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.recipe import AdapterSection, dump, load
from mlxtune.runs import launch, registry
from mlxtune.runs.worker import Worker

SIZES = {
    "q_proj": (64, 64),
    "k_proj": (32, 64),
    "v_proj": (32, 64),
    "o_proj": (64, 64),
    "gate_proj": (96, 64),
    "up_proj": (96, 64),
    "down_proj": (64, 96),
}
WHERE = {name: ("mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn") for name in SIZES}


write_template = publish.write_template


@pytest.fixture(autouse=True)
def frozen_template(monkeypatch: pytest.MonkeyPatch) -> str:
    """Replace the child process that freezes the chat template of an adapter."""

    def write(entry: AdapterEntry, folder: Path, library: publish.Library) -> list[str]:
        if library == "peft":
            return publish.copy_tokenizer(resolve(entry.base), folder, CHATML)
        return publish.copy_tokenizer(ModelFolder("", folder, {}, ""), folder, CHATML, ())

    monkeypatch.setattr(publish, "write_template", write)
    return CHATML


@pytest.fixture(scope="session")
def source(tiny: Path) -> ModelFolder:
    """Return the tiny model: two layers of width 64, tied embeddings."""
    return resolve(str(tiny))


def arrays(
    rank: int = 4,
    *,
    kind: str = "lora",
    targets: tuple[str, ...] = ("q_proj", "v_proj"),
    layers: tuple[int, ...] = (0, 1),
    seed: int = 1,
) -> dict[str, np.ndarray]:
    """Return nonzero mlx-lm adapter tensors for the tiny model."""
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer in layers:
        for target in targets:
            outputs, inputs = SIZES[target]
            stem = f"model.layers.{layer}.{WHERE[target]}.{target}"
            tensors[f"{stem}.lora_a"] = draw.normal(0, 0.3, (inputs, rank)).astype(np.float32)
            tensors[f"{stem}.lora_b"] = draw.normal(0, 0.3, (rank, outputs)).astype(np.float32)
            if kind == "dora":
                tensors[f"{stem}.m"] = draw.uniform(0.5, 1.5, outputs).astype(np.float32)
    return tensors


def config(rank: int = 4, *, kind: str = "lora", scale: float = 2.0, layers: int = 2, **more: Any) -> dict[str, Any]:
    """Return an mlx-lm adapter configuration."""
    return {"fine_tune_type": kind, "num_layers": layers, "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0}, **more}


def write(folder: Path, tensors: dict[str, np.ndarray], settings: dict[str, Any], lineage: dict[str, Any] | None = None) -> Path:
    """Write an adapter folder. ``lineage`` is its ``mlxtune.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapters.safetensors", metadata={"format": "mlx"})
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    if lineage is not None:
        (folder / "mlxtune.json").write_text(json.dumps(lineage))
    return folder


@pytest.fixture
def empty_workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def shop(tmp_path: Path, source: ModelFolder) -> Callable[..., Path]:
    """Add a run with an adapter to the workspace ``tmp_path / "work"`` and return the adapter folder."""

    def make(run: str = "20261124-1412-shop", created: str = "2026-11-24T14:12:00+0000", **how: Any) -> Path:
        folder = tmp_path / "work" / "runs" / run
        folder.mkdir(parents=True)
        (folder / "recipe.toml").write_text('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n')
        lineage = {
            "v": 1, "made": created, "run": run, "base": source.name, "base_fingerprint": source.fingerprint, "method": "sft",
            "recipe_hash": "1" * 64, "data_hash": "2" * 64, "steps": 40, "parent": how.pop("parent", None),
        }  # fmt: skip
        kind = how.get("kind", "lora")
        return write(folder / "adapter", arrays(**how), config(how.get("rank", 4), kind=kind), lineage)

    return make


def reported_score(hits: int) -> dict[str, Any]:
    """Return a score in a lineage: one of four rows passed before training, and ``hits`` after it."""
    rate = {"metric": "contract", "hits": 1, "total": 4, "low": 0.0, "high": 0.5, "failures": {}, "mean": None}
    score = {"outcome": "better", "verdict": to_json(Verdict("better", "change", "contract")), "rows": 4, "rival": "base"}
    return score | {"made": "2026-11-24", "before": [rate], "after": [rate | {"hits": hits}]}


def shaken(base: Path, folder: Path, section: AdapterSection, strength: float = 0.2) -> Path:
    """Write an adapter with random nonzero weights for the model in ``base``."""
    model, _ = load_model(base)
    settings = lora.add(model, section, seed=1)
    mx.random.seed(3)
    arrays = {name: array + strength * mx.random.normal(array.shape) for name, array in lora.adapter_arrays(model).items()}
    lora.save(folder, arrays, settings)
    return folder


def in_float32(model: Any) -> Any:
    """Convert all floating-point parameters of ``model``, and return it."""
    model.apply(lambda array: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array)
    return model


def with_merge(folder: Path) -> Path:
    """Give the tokenizer in ``folder`` a merge: llama.cpp requires one."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["ok"] = vocabulary.pop(max(vocabulary, key=vocabulary.get))  # instead of a byte, so that IDs stay consecutive
    tokenizer["model"]["merges"] = [["o", "k"]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def replace_template(folder: Path, template: str) -> None:
    """Replace the chat template of the model in ``folder``."""
    settings = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", settings | {"chat_template": template})


@pytest.fixture(scope="session")
def four_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 4-bit tiny model and an adapter for it."""
    folder = tmp_path_factory.mktemp("four-bits")
    shaken(with_merge(make_tiny(folder / "four", bits=4)), folder / "adapter", AdapterSection(rank=4), 0.15)
    return folder


def launched(monkeypatch: pytest.MonkeyPatch) -> list[registry.Run]:
    """Return the list of runs that are launched from now on, without starting their workers."""
    runs: list[registry.Run] = []

    def spawn(run: registry.Run, kind: str, request: dict[str, Any]) -> registry.Run:
        launch.write_record(run, kind, request)
        runs.append(run)
        return run

    monkeypatch.setattr(launch, "_spawn", spawn)
    return runs


class Exports:
    """Exports the adapter of ``workspace`` in this process."""

    def __init__(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workspace, self.monkeypatch = workspace, monkeypatch
        self.base, self.out = workspace / "four", workspace / "out"
        self.adapter = workspace / "runs" / "20261124-1412-tiny" / "adapter"

    def start(self, form: str, *settings: str, which: str = "last", **how: Any) -> Worker:
        """Return the worker of a new export, which does nothing yet. ``settings`` override the recipe."""
        runs, entry = launched(self.monkeypatch), library.find(self.workspace, which)
        if settings:
            how["recipe"], _ = start.run_recipe(entry, settings)
        start.start(self.workspace, entry, form, **how)
        return Worker(runs[-1].folder)

    def export(self, form: str, *settings: str, **how: Any) -> fidelity.Fidelity:
        """Return how faithful a new export is."""
        worker = self.start(form, *settings, **how)
        exporting.export(worker)
        return fidelity.load(worker.folder)


@pytest.fixture
def exports(workspace: Path, four_bits: Path, monkeypatch: pytest.MonkeyPatch) -> Exports:
    """A workspace with a 4-bit tiny model and a run with an adapter."""
    exports, recipe = Exports(workspace, monkeypatch), workspace / "recipes" / "tiny.toml"
    shutil.copytree(four_bits / "four", exports.base)
    recipe.write_text(recipe.read_text().replace("../tiny", "../four"))
    run = exports.adapter.parent
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text(dump(load(recipe)))
    shutil.copytree(four_bits / "adapter", exports.adapter)
    source = resolve(str(exports.base))
    write_json(
        exports.adapter / "mlxtune.json", {"base": str(exports.base), "base_fingerprint": source.fingerprint, "run": run.name}
    )
    return exports

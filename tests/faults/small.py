"""A complete training run in 0.1 seconds: the real worker, loop and checkpoints with a random model and synthetic rows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.llama import Model, ModelArgs
from operations import leftovers
from scenario import Scenario

from mlxtune.core.files import write_json, write_text
from mlxtune.core.hashing import sha256_file
from mlxtune.data.rows import Location
from mlxtune.data.split import Splits
from mlxtune.models import lora
from mlxtune.models.encoded import Encoded
from mlxtune.models.head import split_head
from mlxtune.models.load import LoadedModel
from mlxtune.models.resolve import ModelFolder
from mlxtune.models.template import TemplateSettings
from mlxtune.recipe import Recipe, dump, parse
from mlxtune.runs import events, registry
from mlxtune.runs.registry import Run
from mlxtune.training import checkpoint, setup, worker
from mlxtune.training.encode import EncodedRows
from mlxtune.training.frozen_cache import FrozenCache
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.loop import RunListener, TrainingLoop
from mlxtune.training.setup import Foundation, TrainingSetup
from mlxtune.training.sft import SFTObjective

STEPS = 3
NEWEST = "newest.txt"  # the step of the newest checkpoint after a fault
RECIPE = f"""
name = "small"
[model]
base = "small"
[data]
source = "rows.jsonl"
[adapter]
rank = 2
alpha = 4
dropout = 0.1
layers = 1
[training]
steps = {STEPS}
batch_size = 3
accumulate = 2
learning_rate = 0.05
schedule = "constant"
validate_every = 1
save_every = 1
keep = 1
samples = 0
"""


def prepare(folder: Path) -> None:
    """Create the files that the launcher writes before it starts a worker."""
    write_text(folder / "recipe.toml", dump(parse(RECIPE)))
    write_json(folder / registry.LAUNCH_FILE, {"v": 1, "kind": "train", "request": {}})


def rows() -> list[Encoded]:
    """Return fourteen rows with three learnable patterns."""
    encoded = []
    for at in range(14):
        tokens = (np.arange(10 + at % 5) * (1 + at % 3) % 60).astype(np.int32)
        encoded.append(Encoded(f"row{at}", Location(Path("rows.jsonl"), at + 1), tokens, np.arange(len(tokens)) >= 4, len(tokens)))
    return encoded


def load_model(folder: Path, worker: RunListener) -> LoadedModel:
    """Return a random model."""
    mx.random.seed(1)
    config: dict[str, Any] = {
        "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 2,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "vocab_size": 256, "tie_word_embeddings": True,
    }  # fmt: skip
    model = Model(ModelArgs.from_dict(config))
    mx.eval(model.parameters())
    loaded = LoadedModel(ModelFolder("small", folder, config, "made up"), model, None, "float32", "made up", 0.0)
    worker.emit("model.loaded", base="small", path=loaded.description, parameters=loaded.parameters, seconds=0.0, limit=2**30)
    return loaded


def build_loop(loaded: LoadedModel, recipe: Recipe, folder: Path) -> TrainingLoop:
    """Add an adapter to the model, and return its loop; the cache of frozen-layer outputs spills to disk."""
    adapter = lora.add(loaded.model, recipe.adapter, recipe.training.seed)
    parts = split_head(loaded.model)
    stack, encoded = LayerStack(loaded.model, parts), rows()
    assert parts.is_split
    assert not parts.has_unusual_head
    skips = stack.can_skip_frozen()
    loop = TrainingLoop(folder, stack, recipe.training, recipe.adapter, adapter, encoded[:11], encoded[11:], SFTObjective())
    loop.cache = lambda rows: FrozenCache(stack, rows, 0, budget=5000, folder=folder) if skips else None
    return loop


def make_template() -> Any:
    return SimpleNamespace(settings=TemplateSettings(), source="", count_tokens=len)


def assemble(recipe: Recipe, folder: Path, worker: RunListener) -> TrainingSetup:
    """Replace the real ``assemble``."""
    loaded = load_model(folder, worker)
    loop = build_loop(loaded, recipe, folder)
    assert loop.stack.can_skip_frozen()
    nothing = EncodedRows([], [])
    return TrainingSetup(Foundation(Splits((), (), ()), loaded, make_template(), nothing, nothing), loop, [])


def install() -> Any:
    setup.prepare = assemble
    return worker.lead


def check(run: Path) -> None:
    """Assert that every reported checkpoint is there and whole, and at most one step behind."""
    state, newest = Run(run).state(), checkpoint.newest(run)
    saved = newest.step if newest else 0
    assert saved >= max(state.checkpoints, default=0), f"checkpoint {saved}, reported {state.checkpoints}"
    assert state.step - saved <= 1, f"checkpoint {saved} at step {state.step}"
    assert not checkpoint.damaged_folders(run), checkpoint.damaged_folders(run)
    (run / NEWEST).write_text(str(saved))


def end(run: Path) -> dict[str, Any]:
    """Return the sha256 of its files and its folded events. It must have resumed from the newest checkpoint."""
    log = events.read_all(run)
    start = max(at for at, event in enumerate(log) if event["type"] in ("run.started", "run.resumed"))
    saved = int((run / NEWEST).read_text()) if (run / NEWEST).exists() else 0
    assert log[start].get("step", 0) == saved, log[start]
    steps = [event["step"] for event in log[start:] if event["type"] == "step"]
    assert steps == list(range(saved + 1, STEPS + 1)), steps
    state, newest = Run(run).state(), checkpoint.newest(run)
    saved_files = (newest.folder / name for name in (lora.WEIGHTS, checkpoint.OPTIMIZER, checkpoint.STATE))  # others name the run
    results = [run / "certificate.json", run / "data.json", run / "adapter" / "adapters.safetensors"]
    return {
        **{str(path.relative_to(run)): sha256_file(path) for path in (*saved_files, *results)},
        "steps": [(item.step, item.loss, item.rate) for item in state.steps],
        "validations": [(item.step, item.loss) for item in state.validations],
        "summary": state.summary,
        "warnings": state.warnings,
        "status": Run(run).status(state),
        "half-written": leftovers(run),
    }


SCENARIO = Scenario("runs", prepare, install, check, end)

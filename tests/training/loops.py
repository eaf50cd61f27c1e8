"""Helpers for training loop tests: a loop on the tiny model, a listener, and stop/resume checks."""

import dataclasses
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import pytest
from listener import Listener
from mlx_lm.utils import load_model, load_tokenizer
from tiny_model import CHATML, write_chat

from mlxtune.core.errors import Interrupted
from mlxtune.data.source import read_file
from mlxtune.models import lora
from mlxtune.models.cpu.streams import StreamPool
from mlxtune.models.encoded import Encoded
from mlxtune.models.head import split_head
from mlxtune.models.template import ChatTemplate
from mlxtune.recipe import AdapterSection, Recipe, TrainingSection, parse
from mlxtune.training import checkpoint, coverage
from mlxtune.training.frozen_cache import FrozenCache
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.loop import TrainingLoop
from mlxtune.training.sft import SFTObjective

SECTION = TrainingSection(epochs=3, batch_size=4, accumulate=2, learning_rate=5e-3, validate_every=5, save_every=3, keep=2)


@dataclasses.dataclass(frozen=True)
class Ways:
    """Compute options of a loop."""

    dropout: float = 0.1
    layers: int | Literal["all"] = "all"
    targets: tuple[str, ...] = ()
    lora_plus: float = 1.0
    lanes: int = 1
    cached: bool = False
    compiled: bool = False
    half: bool = False  # bf16


@cache
def encoded_chats(model_folder: Path, count: int) -> list[Encoded]:
    """Return the tokens of ``count`` chats."""
    template = ChatTemplate(load_tokenizer(model_folder))
    with tempfile.TemporaryDirectory() as folder:
        rows = read_file(write_chat(Path(folder) / "chat.jsonl", count))
    return [template.encode(row, 256)[0] for row in rows]


def make(model_folder: Path, folder: Path, section: TrainingSection = SECTION, ways: Ways = Ways(), rows: int = 26) -> TrainingLoop:
    """Return a loop over ``rows`` chats, the last four used for validation."""
    folder.mkdir(exist_ok=True)
    model, _ = load_model(model_folder)
    if ways.half:
        model.set_dtype(mx.bfloat16)
    encoded = encoded_chats(model_folder, rows)
    targets = list(ways.targets) or "all-linear"
    adapter = AdapterSection(rank=4, alpha=8, dropout=ways.dropout, layers=ways.layers, targets=targets, lora_plus=ways.lora_plus)
    config = lora.add(model, adapter, seed=section.seed)
    stack = LayerStack(model, split_head(model), StreamPool(ways.lanes))
    loop = TrainingLoop(
        folder, stack, section, adapter, config, encoded[:-4], encoded[-4:], SFTObjective(0, ways.lanes), compiled=ways.compiled
    )
    if ways.cached:
        assert stack.can_skip_frozen()
        loop.cache = lambda rows: FrozenCache(stack, rows, 0, budget=20_000, folder=folder)
    return loop


def weights(loop: TrainingLoop) -> dict[str, mx.array]:
    return lora.adapter_arrays(loop.stack.model)


def assert_same(one: dict[str, mx.array], other: dict[str, mx.array]) -> None:
    """Assert that all arrays are bit-identical."""
    assert one.keys() == other.keys()
    assert all(mx.array_equal(one[name], other[name]) for name in one)


def stopped(loop: TrainingLoop, at: int) -> checkpoint.Checkpoint:
    """Run ``loop`` for ``at`` steps and return its checkpoint."""
    with pytest.raises(Interrupted) as stop:
        loop.run(Listener(stop_at=at))
    saved = checkpoint.newest(loop.folder)
    assert saved.step == stop.value.step == at
    return saved


def state_bytes(loop: TrainingLoop) -> dict[str, bytes]:
    """Return the bytes of the files in the last checkpoint."""
    return {path.name: path.read_bytes() for path in checkpoint.newest(loop.folder).folder.iterdir()}


def assert_resumes(model_folder: Path, folder: Path, section: TrainingSection, ways: Ways, at: int) -> list[Any]:
    """Assert that a run stopped after ``at`` steps and resumed ends bit-identical to an uninterrupted one; return its step events."""
    whole, listener, again = make(model_folder, folder / "whole", section, ways), Listener(), Listener()
    whole.run(listener)
    saved = stopped(make(model_folder, folder / "parts", section, ways), at)
    assert saved.state["unchecked"] == (at % section.validate_every == 0 or at == whole.total_steps)
    second = make(model_folder, folder / "parts", section, ways)
    second.run(again, saved)
    assert_same(weights(whole), weights(second))
    if at < whole.total_steps:  # at the end, the validation that was stopped is not saved again
        assert state_bytes(whole) == state_bytes(second)
    assert (whole.folder / coverage.FILE).read_bytes() == (second.folder / coverage.FILE).read_bytes()
    assert again.of("validation") == [event for event in listener.of("validation") if event["step"] >= at]
    return listener.of("step")


def write_recipe(folder: Path, base: object, rows: list[Any], steps: int, template: str = CHATML, **data: Any) -> Recipe:
    """Write ``rows`` and ``template``, and return a recipe that trains on them in batches of the same number as ``steps``."""
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in rows))
    (folder / "template.jinja").write_text(template)
    options = "".join(f"{key} = {json.dumps(value)}\n" for key, value in data.items())
    return parse(
        f'name = "t"\n[model]\nbase = "{base}"\ntemplate = "template.jinja"\n[data]\nsource = "rows.jsonl"\nholdout = 0.2\n'
        f"validation = 0.2\n{options}[training]\nsteps = {steps}\nbatch_size = {steps}\nsamples = 0\nvalidate_every = {steps}\n",
        folder=folder,
    )

"""The loop: schedules, resuming bit for bit, damaged checkpoints, losses that are not numbers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model, load_tokenizer
from tiny_model import write_chat

from mlxtune.core.errors import Interrupted, MachineError, MlxtuneError
from mlxtune.data.source import read_file
from mlxtune.models import lora
from mlxtune.models.head import split
from mlxtune.models.template import ChatTemplate
from mlxtune.recipe import AdapterSection, TrainingSection
from mlxtune.training import checkpoint, schedule
from mlxtune.training.loop import Loop
from mlxtune.training.stack import Stack


class Listener:
    """Keeps events; asks to stop after ``stop_at`` steps."""

    def __init__(self, stop_at: int = 0) -> None:
        self.events: list[dict] = []
        self.stop_at = stop_at

    @property
    def stopping(self) -> bool:
        return bool(self.stop_at) and sum(event["type"] == "step" for event in self.events) >= self.stop_at

    def emit(self, type: str, **fields: object) -> None:
        self.events.append({"type": type, **fields})

    def of(self, type: str) -> list[dict]:
        return [event for event in self.events if event["type"] == type]


SECTION = TrainingSection(epochs=3, batch_size=4, accumulate=2, learning_rate=5e-3, validate_every=5, save_every=3, keep=2)


def make(tiny: Path, folder: Path, section: TrainingSection = SECTION, dropout: float = 0.1) -> Loop:
    model, _ = load_model(tiny)
    template = ChatTemplate(load_tokenizer(tiny))
    rows = [template.encode(row, 256) for row in read_file(write_chat(folder / "chat.jsonl", 26))]
    adapter = AdapterSection(rank=4, alpha=8, dropout=dropout)
    config = lora.add(model, adapter, seed=section.seed)
    return Loop(folder, Stack(model, split(model)), section, adapter, config, rows[:22], rows[22:], prefix=0)


def test_loss_falls_and_every_step_is_told(tiny: Path, tmp_path: Path) -> None:
    listener = Listener()
    loop = make(tiny, tmp_path)
    summary = loop.run(listener)
    assert loop.total == 3 * math.ceil(math.ceil(22 / 4) / 2) == summary["steps"]
    assert [event["step"] for event in listener.of("step")] == list(range(1, loop.total + 1))
    losses = [event["loss"] for event in listener.of("validation")]
    assert losses[-1] < losses[0]
    assert sum(event["tokens"] for event in listener.of("step")) == 3 * sum(int(row.trained.sum()) for row in loop.train)


def test_resuming_ends_in_the_weights_of_an_uninterrupted_run(tiny: Path, tmp_path: Path) -> None:
    whole = make(tiny, tmp_path / "whole") if (tmp_path / "whole").mkdir() is None else None
    assert whole is not None
    whole.run(Listener())
    (tmp_path / "parts").mkdir()
    first = make(tiny, tmp_path / "parts")
    with pytest.raises(Interrupted) as stop:
        first.run(Listener(stop_at=4))
    assert stop.value.step == 4
    found = checkpoint.newest(tmp_path / "parts")
    assert found is not None
    assert found.step == 4
    second = make(tiny, tmp_path / "parts")
    listener = Listener()
    second.run(listener, found)
    assert next(event["step"] for event in listener.of("step")) == 5
    expected, own = lora.weights(whole.stack.model), lora.weights(second.stack.model)
    assert all(mx.array_equal(expected[name], own[name]) for name in expected)


def test_only_the_newest_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tiny: Path, tmp_path: Path) -> None:
    make(tiny, tmp_path).run(Listener())
    kept = sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())
    assert kept == ["0000006", "0000009"]
    file = tmp_path / "checkpoints" / "0000009" / "adapters.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.step == 6


def test_a_full_disk_is_told_and_leaves_the_earlier_checkpoint(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make(tiny, tmp_path)
    real, calls = checkpoint.write_bytes, 0

    def full(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    with pytest.raises(MachineError, match="The disk is full, so step 5 was not saved"):
        loop.run(Listener())
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.step == 3


def test_a_loss_that_is_no_number_stops_with_the_rows_named(tiny: Path, tmp_path: Path) -> None:
    loop = make(
        tiny, tmp_path, dataclasses.replace(SECTION, learning_rate=0.99, clip=0.0, schedule="constant", warmup=0.0, epochs=30)
    )
    name, array = next(iter(lora.weights(loop.stack.model).items()))
    loop.stack.model.load_weights([(name, array * math.nan)], strict=False)
    listener = Listener()
    with pytest.raises(MlxtuneError, match=r"The loss of step 1 is not a number\. Its rows: "):
        loop.run(listener)
    assert listener.of("step")[-1]["loss"] is None
    assert not listener.of("checkpoint")


@pytest.mark.parametrize(("kind", "end"), [("constant", 1e-3), ("linear", 0.0), ("cosine", 0.0)])
def test_schedules_rise_then_follow_their_shape(kind: str, end: float) -> None:
    section = TrainingSection(learning_rate=1e-3, warmup=0.1, schedule=kind)
    rates = [schedule.rate(section, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1e-3 / 11)
    assert rates[10] == pytest.approx(1e-3)
    assert rates[:11] == sorted(rates[:11])
    assert rates[-1] == pytest.approx(end, abs=2e-5)
    assert schedule.rate(section, 55, 100) == pytest.approx({"constant": 1e-3, "linear": 5e-4, "cosine": 5e-4}[kind])

"""A long run with validation, samples and checkpoints leaks neither file descriptors nor memory."""

import dataclasses
import gc
import os
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import loops
import pytest
from listener import Listener
from mlx_lm.utils import load_tokenizer
from tiny_model import write_chat

from mlxtune.data.source import read_file
from mlxtune.evaluation.contract import Contract
from mlxtune.models.template import ChatTemplate
from mlxtune.planning.machine import footprint
from mlxtune.recipe import EvaluationSection
from mlxtune.training.sampler import Sampler

pytestmark = pytest.mark.slow

STEPS = 240
EVERY = 10  # steps between validations, samples and checkpoints
MAX_GROWTH = 3 * 2**20  # bytes over the second half of the run
DESCRIPTORS = Path("/dev/fd")


class Meter(Listener):
    """Records the process's open files and memory after every ``EVERY`` steps."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[int] = []
        self.bytes: list[int] = []

    def emit(self, type: str, **fields: object) -> None:
        if type in ("sample", "validation", "checkpoint"):
            super().emit(type, step=fields["step"])
        if type == "step" and int(str(fields["step"])) % EVERY == 0:
            gc.collect()
            self.files.append(len(os.listdir(DESCRIPTORS)))
            self.bytes.append(footprint())


@pytest.mark.exhaustive
@pytest.mark.parametrize("compiled", [False, True])
def test_files_and_memory_stay_flat(tiny, tmp_path, compiled):
    section = dataclasses.replace(
        loops.SECTION, epochs=1, steps=STEPS, batch_size=2, accumulate=1, learning_rate=1e-4, validate_every=EVERY, save_every=EVERY
    )
    loop = loops.make(tiny, tmp_path / "run", section, loops.Ways(cached=not compiled, layers=1, compiled=compiled))
    tokenizer, meter = load_tokenizer(tiny), Meter()
    loaded: Any = SimpleNamespace(model=loop.stack.model, tokenizer=tokenizer)
    rows = read_file(write_chat(tmp_path / "chat.jsonl", 26))
    loop.sample = Sampler(
        loaded, ChatTemplate(tokenizer), rows, 2, 8, 8, meter.emit, [], Contract(EvaluationSection()), checked=False
    )
    loop.run(meter)
    assert len(meter.bytes) == STEPS // EVERY
    assert len(meter.of("sample")) == 2 * (len(meter.of("validation"))) == 2 * (1 + STEPS // EVERY)
    assert len(meter.of("checkpoint")) >= STEPS // EVERY
    half = len(meter.bytes) // 2
    assert max(meter.files[half:]) <= max(meter.files[:half])
    assert median(meter.bytes[-3:]) - median(meter.bytes[half : half + 3]) < MAX_GROWTH, [size >> 20 for size in meter.bytes]

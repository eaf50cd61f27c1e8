"""The planned run against the loop that will make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.data.rows import Place
from mlxtune.models.template import Encoded
from mlxtune.planning.workload import Length, Lengths, smaller, workload
from mlxtune.recipe import TrainingSection
from mlxtune.training.loop import Loop
from mlxtune.training.sft import Supervised

from .conftest import lengths

FULL = [12 + (at * 37) % 90 for at in range(150)]


def encoded(rows: tuple[Length, ...], window: int) -> list[Encoded]:
    made = []
    for at, row in enumerate(rows):
        trained = np.zeros(row.full, bool)
        trained[row.first : row.first + row.trained] = True
        made.append(Encoded(str(at), Place(Path("x"), at), np.zeros(row.full, np.int32)[:window], trained[:window], row.full))
    return made


class Lanes:
    count = 1


class Stack:
    lanes = Lanes()


@pytest.mark.parametrize(
    "section",
    [
        TrainingSection(epochs=2, batch_tokens=512),
        TrainingSection(epochs=3, batch_size=8, accumulate=3),
        TrainingSection(steps=7, batch_size=4, accumulate=2),
        TrainingSection(steps=45, batch_size=4),
    ],
)
@pytest.mark.parametrize("prefix", [0, 5])
def test_steps_epochs_and_tokens_are_the_loops(section: TrainingSection, prefix: int) -> None:
    given = lengths(*FULL, prefix=prefix)
    anything: Any = Stack()
    nothing: Any = None
    loop = Loop(Path(), anything, section, nothing, {}, encoded(given.train, 80), encoded(given.valid, 80), Supervised(prefix))
    found = workload(given, section, 80)
    assert (found.steps, found.epochs) == (loop.total, loop.epochs)
    prepared = []
    for planned in loop.steps():
        if planned.step > loop.total:
            break
        for group in planned.groups:
            prepared.append(_collated(loop, group))
    assert found.computed == sum(batch.computed for batch in prepared)
    assert found.trained == sum(batch.trained for batch in prepared)
    assert {(one.rows, one.width) for one in found.shapes} == {batch.parts[0].inputs.shape for batch in prepared}
    assert found.validated == sum(batch.computed for batch in loop.validation())


def _collated(loop: Loop, group: list[int]) -> Any:
    from mlxtune.training.batches import collate

    return collate(loop.train, group, loop.objective.prefix, 1)


def test_a_window_cuts_rows_and_says_how_many() -> None:
    given = lengths(100, 50, 40, 90)
    assert given.cut(64) == 3  # the first two validate, too: 100 twice, and 90
    assert workload(given, TrainingSection(batch_size=1), 64).longest == 64
    assert given.shortest_window == 77


def test_smaller_batches_keep_the_step_and_end_at_one_row() -> None:
    assert list(smaller(TrainingSection(batch_tokens=2048, accumulate=1), 600)) == [(1024, 2), (600, 4)]
    assert list(smaller(TrainingSection(batch_size=4), 600)) == [(2, 2), (1, 4)]
    assert list(smaller(TrainingSection(batch_size=1), 600)) == []


def test_a_single_row_makes_a_run() -> None:
    row = Length(9, 3, 6)
    assert workload(Lengths((row,), (), 0, True), TrainingSection(epochs=1), 64).steps == 1

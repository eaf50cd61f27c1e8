"""The planned run against the loop that will make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.data.rows import Place
from mlxtune.models.template import Encoded, EncodedPair
from mlxtune.planning.workload import Length, Lengths, smaller, workload
from mlxtune.recipe import MethodSection, TrainingSection
from mlxtune.training.dpo import Preferring
from mlxtune.training.encode import measure
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


@pytest.mark.parametrize("prefix", [0, 20])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("section", [TrainingSection(epochs=2, batch_tokens=700), TrainingSection(epochs=1, batch_size=4)])
def test_of_pairs_too_steps_and_tokens_are_the_loops(section: TrainingSection, shared: bool, prefix: int) -> None:
    prefix = prefix if shared else 0
    rows = [_pair(at, prefix + 1 + at * 37 % 90, 5 + at * 7 % 40, 3 + at * 5 % 30) for at in range(61)]
    anything: Any = Stack()
    nothing: Any = None
    given = Lengths(measure(rows), measure(rows[:9]), prefix, shared)
    loop = Loop(Path(), anything, section, nothing, {}, rows, rows[:9], Preferring(MethodSection(), shared, prefix))
    found = workload(given, section, 500)
    assert (found.steps, found.epochs) == (loop.total, loop.epochs)
    planned = [step for step, _ in zip(loop.steps(), range(loop.total), strict=False)]
    made = loop.objective.collate(rows, [group for step in planned for group in step.groups], [])
    assert found.computed == sum(batch.computed for batch in made)
    assert found.trained == sum(batch.trained for batch in made)
    assert found.read == section.epochs * sum(2 * len(row.prompt) + len(row.chosen) + len(row.rejected) for row in rows)
    assert found.validated == sum(batch.computed for batch in loop.validation())
    if shared:
        blocks = {
            (len(part.rows), *(block.shape[1] for block in (part.stems, *part.inputs))) for batch in made for part in batch.parts
        }
        assert {(one.rows, *one.sides) for one in found.shapes} == blocks
        assert {one.prefix for one in found.shapes if one.rows > 1} == {prefix}
        assert all(one.prefix == 0 for one in found.shapes if one.rows == 1)


def _pair(at: int, *lengths: int) -> EncodedPair:
    """Answers that begin alike: in nothing, for a half, or until one ends."""
    prompt, chosen, rejected = (np.zeros(length, np.int32) for length in lengths)
    rejected[len(rejected) * (at % 3) // 2 :] = 1
    return EncodedPair(str(at), Place(Path("x"), at), prompt, chosen, rejected, (len(chosen), len(rejected)))


def _collated(loop: Loop, group: list[int]) -> Any:
    from mlxtune.training.batches import collate

    return collate(loop.train, group, loop.objective.prefix, 1)


def test_a_window_cuts_rows_and_says_how_many() -> None:
    given = lengths(100, 50, 40, 90)
    assert given.cut(64) == 3  # the first two validate, too: 100 twice, and 90
    assert workload(given, TrainingSection(batch_size=1), 64).longest == 64
    assert given.shortest_window == 77
    alike = Length(90, 60, 30, (50, 40, 20))  # the answers differ from token 50 on
    assert Lengths((alike,), (), 0, True).shortest_window == 52


def test_smaller_batches_keep_the_step_and_end_at_one_row() -> None:
    assert list(smaller(TrainingSection(batch_tokens=2048, accumulate=1), 600)) == [(1024, 2), (600, 4)]
    assert list(smaller(TrainingSection(batch_size=4), 600)) == [(2, 2), (1, 4)]
    assert list(smaller(TrainingSection(batch_size=1), 600)) == []


def test_a_single_row_makes_a_run() -> None:
    row = Length(9, 3, 6)
    assert workload(Lengths((row,), (), 0, True), TrainingSection(epochs=1), 64).steps == 1

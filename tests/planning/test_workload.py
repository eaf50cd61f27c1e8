"""The planned workload compared with the training loop."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlxtune.data import batching
from mlxtune.data.rows import Location
from mlxtune.models.encoded import Encoded, EncodedPair
from mlxtune.planning.workload import BatchShape, DatasetLengths, RowLength, smaller_batches, workload
from mlxtune.recipe import DataSection, MethodSection, ModelSection, Recipe, TrainingSection
from mlxtune.training import probe
from mlxtune.training.encode import row_lengths
from mlxtune.training.loop import TrainingLoop
from mlxtune.training.preference.losses import Objective, PreferenceObjective
from mlxtune.training.sft import SFTObjective, collate

from .conftest import lengths

FULL = [12 + (index * 37) % 90 for index in range(150)]


def encoded(rows: tuple[RowLength, ...], window: int) -> list[Encoded]:
    rows_encoded = []
    for index, row in enumerate(rows):
        trained = np.zeros(row.full, bool)
        trained[row.prompt : row.prompt + row.trained] = True
        rows_encoded.append(
            Encoded(str(index), Location(Path("x"), index), np.zeros(row.full, np.int32)[:window], trained[:window], row.full)
        )
    return rows_encoded


def loop_of(section: TrainingSection, train: list[Any], valid: list[Any], objective: Objective, **options: Any) -> TrainingLoop:
    """Return a loop that plans steps but has no model."""
    stack: Any = SimpleNamespace(streams=SimpleNamespace(count=1))
    adapter: Any = None
    return TrainingLoop(Path(), stack, section, adapter, {}, train, valid, objective, **options)


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
def test_steps_epochs_and_tokens_match_the_training_loop(section: TrainingSection, prefix: int) -> None:
    given = lengths(*FULL, prefix=prefix)
    loop = loop_of(section, encoded(given.train, 80), encoded(given.valid, 80), SFTObjective(prefix))
    planned_work = workload(given, section, 80)
    assert (planned_work.steps, planned_work.epochs) == (loop.total_steps, loop.epochs)
    plans = itertools.islice(loop.step_plans(), loop.total_steps)
    prepared = [collate(loop.train, group, prefix) for plan in plans for group in plan.groups]
    assert planned_work.computed == sum(batch.computed_positions for batch in prepared)
    assert planned_work.trained == sum(count for batch in prepared for _, count in batch.counts.values())
    assert {(batch.rows, batch.width) for batch in planned_work.batches} == {batch.parts[0].inputs.shape for batch in prepared}
    assert planned_work.validation_positions == sum(batch.computed_positions for batch in loop.validation_batches())
    assert planned_work.traces == 0


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("pairs", [True, False])
def test_compiled_shapes_match_the_training_loop(pairs: bool, streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 5 shapes at most, batches are padded in every dimension."""
    monkeypatch.setattr(batching, "MAX_SHAPES", 5)
    section, prefix = TrainingSection(epochs=3, batch_tokens=700, accumulate=2), 5
    if pairs:
        rows, objective = pairs_after(prefix), PreferenceObjective(MethodSection(), True, prefix, streams)
        given = DatasetLengths(row_lengths(rows), row_lengths(rows), prefix, True)
    else:
        given, objective = lengths(*FULL, prefix=prefix), SFTObjective(prefix, streams)
        rows = encoded(given.train, 200)
    loop = loop_of(section, rows, rows[:4], objective, compiled=True)
    planned_work = workload(given, section, 500, compiled=True, streams=streams)
    plans = list(itertools.islice(loop.step_plans(), loop.total_steps))
    batches = [batch for plan in plans for batch in objective.collate(rows, plan.groups, plan.rows, loop.padded_shapes)]
    assert planned_work.traces == len(set(loop.padded_shapes.values())) == 5
    assert planned_work.batch_count == len(batches)
    assert planned_work.computed == sum(batch.computed_positions for batch in batches)
    assert len({tuple((name, array.shape) for name, array in tree_flatten(batch.arrays())) for batch in batches}) <= 5


@pytest.mark.parametrize("prefix", [0, 20])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("section", [TrainingSection(epochs=2, batch_tokens=700), TrainingSection(epochs=1, batch_size=4)])
def test_steps_and_tokens_of_pairs_match_the_training_loop(section: TrainingSection, shared: bool, prefix: int) -> None:
    prefix = prefix if shared else 0
    rows = pairs_after(prefix)
    given = DatasetLengths(row_lengths(rows), row_lengths(rows[:9]), prefix, shared)
    loop = loop_of(section, rows, rows[:9], PreferenceObjective(MethodSection(), shared, prefix))
    planned_work = workload(given, section, 500)
    assert (planned_work.steps, planned_work.epochs) == (loop.total_steps, loop.epochs)
    planned = itertools.islice(loop.step_plans(), loop.total_steps)
    batches = loop.objective.collate(rows, [group for step in planned for group in step.groups], [])
    assert planned_work.computed == sum(batch.computed_positions for batch in batches)
    assert planned_work.trained == sum(count for batch in batches for _, count in batch.counts.values())
    assert planned_work.tokens_read == section.epochs * sum(
        2 * len(row.prompt) + len(row.chosen) + len(row.rejected) for row in rows
    )
    assert planned_work.validation_positions == sum(batch.computed_positions for batch in loop.validation_batches())
    if shared:
        blocks = {(len(part.rows), *(block.shape[1] for block in part.inputs)) for batch in batches for part in batch.parts}
        assert {(batch.rows, *batch.sides) for batch in planned_work.batches} == blocks
        assert {batch.prefix for batch in planned_work.batches} == {prefix}


@pytest.mark.parametrize("sides", [(), (97,), (60, 51)])
def test_the_rows_of_a_probe_have_the_trained_tokens_of_its_batch(sides: tuple[int, ...]) -> None:
    batch = BatchShape(rows=4, width=sum(sides) or 60, prefix=3, trained=80, sides=sides)
    recipe = Recipe("probe", ModelSection("tiny"), DataSection("rows.jsonl"))
    rows = probe.random_pairs(batch, 4, recipe) if sides else probe.random_rows(batch, 4, recipe)
    assert sum(int(row.trained.sum()) for row in rows) == pytest.approx(batch.trained, abs=len(rows))


def pairs_after(prefix: int) -> list[EncodedPair]:
    """Return pairs whose answers share no prefix, half of the rejected answer, or all of it."""
    pairs = []
    for index in range(61):
        lengths = prefix + 1 + index * 37 % 90, 5 + index * 7 % 40, 3 + index * 5 % 30
        prompt, chosen, rejected = (np.zeros(length, np.int32) for length in lengths)
        rejected[len(rejected) * (index % 3) // 2 :] = 1
        pairs.append(EncodedPair(str(index), Location(Path("x"), index), prompt, chosen, rejected, (len(chosen), len(rejected))))
    return pairs


def test_a_window_truncates_rows_and_counts_them() -> None:
    given = lengths(100, 50, 40, 90)
    assert given.count_truncated(64) == 3  # the first two are also used for validation: 100 twice, and 90
    assert workload(given, TrainingSection(epochs=1, batch_size=1), 64).longest == 64
    assert given.shortest_window == 77
    alike = RowLength(90, 60, 30, (50, 40, 20))  # the answers differ from token 50 on
    assert DatasetLengths((alike,), (), 0, True).shortest_window == 52


def test_smaller_batches_keep_the_step_size() -> None:
    assert list(smaller_batches(TrainingSection(batch_tokens=2048, accumulate=1), 600)) == [(1024, 2), (600, 4)]
    assert list(smaller_batches(TrainingSection(batch_size=4), 600)) == [(2, 2), (1, 4)]
    assert list(smaller_batches(TrainingSection(batch_size=1), 600)) == []


def test_a_single_row_makes_a_run() -> None:
    row = RowLength(9, 3, 6)
    assert workload(DatasetLengths((row,), (), 0, True), TrainingSection(epochs=1), 64).steps == 1

"""What a run will compute: its rows' true lengths, and the batches that the batcher will make of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlxtune.data import batching
from mlxtune.recipe import TrainingSection


@dataclass(frozen=True)
class Length:
    """A row in tokens: ``full`` before it is cut, ``trained`` of it within the window, ``first`` before the first that trains."""

    full: int
    trained: int
    first: int


@dataclass(frozen=True)
class Lengths:
    """All rows that train and validate, ``prefix`` tokens that they share, and whether attention is ``plain`` in every layer."""

    train: tuple[Length, ...]
    valid: tuple[Length, ...]
    prefix: int
    plain: bool

    def cut(self, max_tokens: int) -> int:
        """How many rows a window of ``max_tokens`` cuts."""
        return sum(row.full > max_tokens for row in (*self.train, *self.valid))

    @property
    def shortest_window(self) -> int:
        """The fewest ``data.max_tokens`` that leave every row something to train."""
        return max(row.first for row in (*self.train, *self.valid)) + 2


@dataclass(frozen=True)
class Batch:
    """The shape of a batch: ``rows`` padded to ``width`` tokens behind a ``prefix`` computed once; ``trained`` positions see the head."""

    rows: int
    width: int
    prefix: int
    trained: int

    @property
    def tokens(self) -> int:
        """Positions computed."""
        return self.rows * self.width + self.prefix


@dataclass(frozen=True)
class Workload:
    """A run's work. ``computed`` counts positions with padding, over the whole run; ``first_epoch`` those of epoch 0 alone.

    ``shapes`` are the distinct batches, ``kept`` the positions whose hidden states a cache of the frozen layers would hold.
    """

    steps: int
    epochs: int
    computed: int
    first_epoch: int
    trained: int
    validated: int
    kept: int
    longest: int
    shapes: tuple[Batch, ...]


def workload(lengths: Lengths, section: TrainingSection, max_tokens: int) -> Workload:
    """The run that ``section`` makes of ``lengths``: the very batches the loop will make, in its order."""
    totals = [min(row.full, max_tokens) for row in lengths.train]
    behind = [total - 1 - lengths.prefix for total in totals]
    trained = [max(1, min(row.trained, total - row.first)) for row, total in zip(lengths.train, totals, strict=True)]
    shapes: dict[tuple[int, int], Batch] = {}
    computed = first = learned = 0
    steps = list(_steps(behind, section, lengths.prefix))
    for number, groups in steps:
        for rows in groups:
            width = batching.padded(max(behind[at] for at in rows))
            batch = Batch(len(rows), width, lengths.prefix, sum(trained[at] for at in rows))
            before = shapes.get((batch.rows, width))
            if before is None or before.trained < batch.trained:
                shapes[batch.rows, width] = batch
            computed, learned = computed + batch.tokens, learned + batch.trained
            first += batch.tokens if number == 0 else 0
    held = [min(row.full, max_tokens) - 1 - lengths.prefix for row in lengths.valid]
    bounds = {"batch_tokens": section.batch_tokens, "batch_size": section.batch_size, "prefix": lengths.prefix}
    validated = sum(
        len(rows) * batching.padded(max(held[at] for at in rows)) + lengths.prefix
        for rows in batching.group(held, range(len(held)), **bounds)
    )
    kept = sum(map(batching.padded, behind)) + sum(map(batching.padded, held)) + lengths.prefix
    return Workload(len(steps), steps[-1][0] + 1, computed, first, learned, validated, kept, max(totals), tuple(shapes.values()))


def _steps(behind: Sequence[int], section: TrainingSection, prefix: int) -> Iterator[tuple[int, list[list[int]]]]:
    """Each optimizer step's epoch and batches, as ``training.loop`` walks."""
    step = number = 0
    while (step < section.steps) if section.steps else (number < section.epochs):
        batches = batching.epoch(
            behind,
            seed=section.seed,
            number=number,
            batch_tokens=section.batch_tokens,
            batch_size=section.batch_size,
            prefix=prefix,
        )
        for start in range(0, len(batches), section.accumulate):
            step += 1
            yield number, batches[start : start + section.accumulate]
            if step == section.steps:
                return
        number += 1


def smaller(section: TrainingSection, longest: int) -> Iterator[tuple[int, int]]:
    """Ever smaller batches that keep the step: ``(bound, accumulate)``, the bound being of what the section bounds by."""
    bound, accumulate = section.batch_size or section.batch_tokens, section.accumulate
    least = 1 if section.batch_size else longest
    while bound > least:
        bound, accumulate = max(least, math.ceil(bound / 2)), accumulate * 2
        yield bound, accumulate

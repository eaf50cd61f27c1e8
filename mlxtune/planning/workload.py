"""What a run will compute: its rows' true lengths, and the batches that the batcher will make of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlxtune.data import batching
from mlxtune.data.batching import Arrange, Sides
from mlxtune.recipe import TrainingSection


@dataclass(frozen=True)
class Length:
    """A row in tokens: ``full`` before it is cut, ``trained`` of it within the window, ``first`` before the first that trains.

    ``sides`` are those of a preference pair, uncut. Its ``full`` is the longer of its two sequences.
    """

    full: int
    trained: int
    first: int
    sides: Sides | None = None


@dataclass(frozen=True)
class Lengths:
    """All rows that train and validate, ``prefix`` tokens that they share, and whether attention is ``plain`` in every layer.

    Only then can a beginning, which rows or the sides of a pair share, be computed once.
    """

    train: tuple[Length, ...]
    valid: tuple[Length, ...]
    prefix: int
    plain: bool

    def cut(self, max_tokens: int) -> int:
        """How many rows a window of ``max_tokens`` cuts."""
        return sum(row.full > max_tokens for row in (*self.train, *self.valid))

    @property
    def call(self) -> tuple[float, float]:
        """The tokens of a prompt and of an answer, the mean over all rows; of a pair, the wanted answer."""
        rows = (*self.train, *self.valid)
        asked = sum(row.first if row.sides else row.full - row.trained for row in rows)
        answered = sum(sum(row.sides[:2]) - row.first if row.sides else row.trained for row in rows)
        return asked / len(rows), answered / len(rows)

    @property
    def shortest_window(self) -> int:
        """The fewest ``data.max_tokens`` that leave every row something to train."""
        return max(row.sides[0] if row.sides else row.first for row in (*self.train, *self.valid)) + 2


@dataclass(frozen=True)
class Batch:
    """The shape of a batch: ``rows`` padded to ``width`` tokens behind a ``prefix`` computed once; ``trained`` positions see the head.

    A row may be a pair: its ``sides`` are as wide as ``batching.pair_widths`` says, and ``width`` is all of them together.
    """

    rows: int
    width: int
    prefix: int
    trained: int
    sides: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Positions computed."""
        return self.rows * self.width + self.prefix


@dataclass(frozen=True)
class Workload:
    """A run's work. ``computed`` counts positions with padding, over the whole run; ``once`` those of all rows that train, each once;
    ``read`` the tokens of rows without padding, at every visit, both sequences of a pair.

    ``shapes`` are the distinct batches, ``kept`` the positions whose hidden states a cache of the frozen layers would hold.
    """

    steps: int
    epochs: int
    computed: int
    once: int
    trained: int
    validated: int
    kept: int
    longest: int
    shapes: tuple[Batch, ...]
    read: int = 0


def workload(lengths: Lengths, section: TrainingSection, max_tokens: int) -> Workload:
    """The run that ``section`` makes of ``lengths``: the very batches the loop will make, in its order."""
    train, valid = (_Rows(rows, lengths, section, max_tokens) for rows in (lengths.train, lengths.valid))
    shapes: dict[tuple[int, ...], Batch] = {}
    computed = learned = seen = 0
    steps = list(_steps(len(lengths.train), train.arrange, section))
    for _, groups in steps:
        for rows in groups:
            batch = train.batch(rows)
            key = (batch.rows, batch.width, *batch.sides)
            before = shapes.get(key)
            if before is None or before.trained < batch.trained:
                shapes[key] = batch
            computed, learned, seen = computed + batch.tokens, learned + train.learned(rows), seen + sum(map(train.read, rows))
    once = sum(train.batch(rows).tokens for rows in batching.epoch(len(lengths.train), train.arrange, seed=section.seed, number=0))
    validated = sum(valid.batch(rows).tokens for rows in valid.arrange(range(len(lengths.valid))))
    kept = sum(rows.batch([at]).rows * rows.batch([at]).width for rows in (train, valid) for at in range(len(rows.lengths)))
    longest = max(min(row.full, max_tokens) for row in lengths.train)
    return Workload(
        len(steps),
        steps[-1][0] + 1,
        computed,
        once,
        learned,
        validated,
        kept + lengths.prefix,
        longest,
        tuple(shapes.values()),
        seen,
    )


class _Rows:
    """Rows as they are computed: cut at the window, and how they become batches."""

    def __init__(self, rows: Sequence[Length], lengths: Lengths, section: TrainingSection, max_tokens: int) -> None:
        self.prefix, self.shared = lengths.prefix, lengths.plain
        self.lengths = [min(row.full, max_tokens) for row in rows]
        self.trained = [max(1, min(row.trained, total - row.first)) for row, total in zip(rows, self.lengths, strict=True)]
        self.sides = [_cut(row.sides, max_tokens, lengths.prefix) for row in rows if row.sides]
        self.common = [row.sides[0] - row.first for row in rows if row.sides]
        self.bounds = {"batch_tokens": section.batch_tokens, "batch_size": section.batch_size}
        self.behind = [total - 1 - lengths.prefix for total in self.lengths]

    def arrange(self, order: Sequence[int]) -> list[list[int]]:
        if self.sides:
            return batching.group_pairs(self.sides, order, shared=self.shared, prefix=self.prefix, **self.bounds)
        return batching.group(self.behind, order, prefix=self.prefix, **self.bounds)

    def read(self, row: int) -> int:
        """Tokens of a row, cut at the window."""
        if not self.sides:
            return self.lengths[row]
        prompt, chosen, rejected = self.sides[row]
        return 2 * (self.prefix + prompt) + chosen + rejected

    def learned(self, rows: Sequence[int]) -> int:
        """Tokens that train, of a pair those of both answers."""
        if not self.sides:
            return sum(self.trained[at] for at in rows)
        return sum(2 * self.common[at] + sum(self.sides[at][1:]) for at in rows)

    def batch(self, rows: Sequence[int]) -> Batch:
        if self.sides:
            prefix = self.prefix if len(rows) > 1 else 0  # as training.pairs.collate decides
            back = self.prefix - prefix
            some = [(prompt + back, chosen, rejected) for prompt, chosen, rejected in (self.sides[at] for at in rows)]
            widths = batching.pair_widths(some, shared=self.shared)
            times = 1 if self.shared else 2  # what both answers begin with is predicted
            trained = sum(times * self.common[at] + sum(self.sides[at][1:]) for at in rows)
            return Batch(len(rows), sum(widths), prefix, trained, widths)
        width = batching.padded(max(self.behind[at] for at in rows))
        return Batch(len(rows), width, self.prefix, sum(self.trained[at] for at in rows))


def _cut(sides: Sides, max_tokens: int, prefix: int) -> Sides:
    prompt, chosen, rejected = sides
    room = max(1, max_tokens - prompt)
    return prompt - prefix, min(chosen, room), min(rejected, room)


def _steps(count: int, arrange: Arrange, section: TrainingSection) -> Iterator[tuple[int, list[list[int]]]]:
    """Each optimizer step's epoch and batches, as ``training.loop`` walks."""
    step = number = 0
    while (step < section.steps) if section.steps else (number < section.epochs):
        batches = batching.epoch(count, arrange, seed=section.seed, number=number)
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

"""The work of a run: the exact lengths of its rows, and the batches that training will make from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mlxtune.data import batching
from mlxtune.data.batching import KL_PAIRS, PaddedShapes, PairLengths, Shape
from mlxtune.recipe import Recipe, TrainingSection


def run_date(recipe: Recipe) -> str:
    """Return the date that templates print as today's in a run of ``recipe``, as text."""
    return recipe.data.date or "the day on which the run starts"


class RowLength(NamedTuple):
    """Token counts of a row."""

    full: int  # before truncation; of a pair, in the longer of its two sequences
    trained: int  # within the window
    prompt: int  # before the first trained token
    sides: PairLengths | None = None  # of a pair, before truncation
    unprefixed: bool = False  # does not begin with the shared prefix


@dataclass(frozen=True)
class DatasetLengths:
    train: tuple[RowLength, ...]
    valid: tuple[RowLength, ...]
    prefix: int  # number of leading tokens that all but unprefixed rows share
    full_attention: bool  # False if a layer uses a sliding window; shared prefixes then cannot be computed once
    notes: tuple[str, ...] = ()  # what the chat template changes in the rows
    thinking: str = ""  # what the thinking mode does (models.thinking.ThinkingEffect)
    date: str = ""  # in the prompts; empty if the template does not print it
    replayed: int = 0  # the last rows of ``train``, which are answers of the base
    skipped: tuple[int, int] = (0, 0)  # training and validation rows that are too long and not among them
    incomparable: tuple[str, ...] = ()  # hashes of held-out pairs that are too long for their likelihoods to be compared
    references: tuple[tuple[str, int], ...] = ()  # hashes of held-out rows, and the tokens of their references

    def count_truncated(self, max_tokens: int) -> int:
        return sum(row.full > max_tokens for row in (*self.train, *self.valid))

    @property
    def mean_prompt_and_answer(self) -> tuple[float, float]:
        """Return the mean number of tokens in prompts and in answers (in pairs, the chosen answers)."""
        rows = (*self.train, *self.valid)
        prompts = sum(row.prompt if row.sides else row.full - row.trained for row in rows)
        answers = sum(sum(row.sides[:2]) - row.prompt if row.sides else row.trained for row in rows)
        return prompts / len(rows), answers / len(rows)

    @property
    def shortest_window(self) -> int:
        """The smallest ``data.max_tokens`` that leaves a trained token in every row."""
        return max(row.sides[0] if row.sides else row.prompt for row in (*self.train, *self.valid)) + 2


@dataclass(frozen=True)
class BatchShape:
    """The shape of a batch: ``rows`` padded to ``width`` tokens after a shared ``prefix``."""

    rows: int
    width: int
    prefix: int
    trained: int  # positions that the head sees
    sides: tuple[int, ...] = ()  # of pairs: the batching.pair_batch_widths, one if prompts are shared, whose sum is the width
    earlier: int = 0  # tokens of each row whose keys and values are kept, because the row is computed in segments

    def in_segments(self, segment: int) -> BatchShape:
        """Return the shape of the last segment of ``segment`` tokens, or the whole batch if it is not longer or ``segment`` is 0."""
        tokens = self.prefix + self.width
        if not segment or tokens <= segment:
            return self
        return BatchShape(self.rows, segment, 0, min(self.trained, self.rows * segment), earlier=tokens - segment)

    @property
    def tokens(self) -> int:
        """Number of positions computed."""
        return self.rows * self.width + self.prefix


@dataclass(frozen=True)
class Workload:
    steps: int
    epochs: float
    computed: int  # positions including padding, over the whole run
    positions_per_epoch: int  # the same over one epoch
    trained: int
    validation_positions: int
    cached_positions: int  # that a cache of the frozen layers would hold
    longest: int
    batches: tuple[BatchShape, ...]  # the distinct batch shapes
    tokens_read: int = 0  # without padding, including both sequences of a pair
    batch_count: int = 0
    traces: int = 0  # padded shapes for which a step is compiled; 0 if it is not
    kl_positions: int = 0  # of the chosen completions whose distance from the reference is measured; 0 without pairs


def workload(
    lengths: DatasetLengths, section: TrainingSection, max_tokens: int, *, compiled: bool = False, streams: int = 1
) -> Workload:
    """Return the training workload of rows with ``lengths``, with the same batches in the same order as the training loop.

    If steps are ``compiled``, batches are split over ``streams`` and padded to a few shapes.
    """
    train, valid = (_TruncatedRows(rows, lengths, section, max_tokens) for rows in (lengths.train, lengths.valid))
    batches: dict[tuple[int, ...], BatchShape] = {}
    computed = trained = tokens_read = 0
    steps = [(number, train.separate(groups)) for number, groups in _steps(train, section)]
    shapes = train.padded_shapes([rows for _, groups in steps for rows in groups], streams) if compiled else {}
    for _, groups in steps:
        for rows in groups:
            batch = train.batch(rows, shapes, streams)
            key = (batch.rows, batch.width, batch.prefix, *batch.sides)
            if key not in batches or batches[key].trained < batch.trained:
                batches[key] = batch
            computed += batch.tokens
            trained += sum(train.trained[row] for row in rows)
            tokens_read += sum(train.tokens[row] for row in rows)
    epoch = train.epoch_batches(section.seed, 0)
    last = steps[-1][0]
    last_epoch = train.epoch_batches(section.seed, last)
    taken = sum(number == last for number, _ in steps)
    singles = [rows.batch([index]) for rows in (train, valid) for index in range(len(rows.lengths))]
    kl_batches = map(valid.batch, valid.arrange(range(min(KL_PAIRS, len(lengths.valid)))) if valid.sides else ())
    return Workload(
        steps=len(steps), epochs=batching.passes(last, taken, math.ceil(len(last_epoch) / section.accumulate)), computed=computed,
        positions_per_epoch=sum(train.batch(rows).tokens for rows in train.separate(epoch)), trained=trained,
        validation_positions=sum(valid.batch(rows).tokens for rows in valid.arrange(range(len(lengths.valid)))),
        cached_positions=sum(batch.rows * batch.width for batch in singles) + lengths.prefix,
        longest=max(min(row.full, max_tokens) for row in lengths.train), batches=tuple(batches.values()), tokens_read=tokens_read,
        batch_count=sum(len(groups) for _, groups in steps), traces=len(set(shapes.values())),
        kl_positions=sum(batch.tokens for batch in kl_batches),
    )  # fmt: skip


class _TruncatedRows:
    """Rows truncated to the window, and how they are batched."""

    def __init__(self, rows: Sequence[RowLength], lengths: DatasetLengths, section: TrainingSection, max_tokens: int) -> None:
        self.prefix, self.share_prompts = lengths.prefix, lengths.full_attention
        self.lengths = [min(row.full, max_tokens) for row in rows]
        self.trained = [max(1, min(row.trained, length - row.prompt)) for row, length in zip(rows, self.lengths, strict=True)]
        self.sides: list[PairLengths] = []
        for prompt, *answers in (row.sides for row in rows if row.sides):
            chosen, rejected = (min(answer, max(1, max_tokens - prompt)) for answer in answers)
            self.sides.append((prompt - lengths.prefix, chosen, rejected))
        self.widths = 2 if self.sides and not self.share_prompts else 1
        # of a pair: tokens of both sequences and both answers; the common start of the answers is predicted once or twice
        self.common = [row.sides[0] - row.prompt for row in rows if row.sides]
        self.tokens, self.predicted = self.lengths, self.trained
        if self.sides:
            self.tokens = [2 * (self.prefix + prompt) + chosen + rejected for prompt, chosen, rejected in self.sides]
            once, self.trained = (
                [copies * start + sum(answers) for (_, *answers), start in zip(self.sides, self.common, strict=True)]
                for copies in (1, 2)
            )
            self.predicted = once if self.share_prompts else self.trained
        self.limits = {"batch_tokens": section.batch_tokens, "batch_size": section.batch_size}
        self.unprefixed = [row.unprefixed for row in rows]
        self.inputs = [
            length - 1 - (0 if unprefixed else lengths.prefix)
            for length, unprefixed in zip(self.lengths, self.unprefixed, strict=True)
        ]
        replayed = lengths.replayed if rows is lengths.train else 0
        self.replay = frozenset(range(len(rows) - replayed, len(rows)))

    def arrange(self, order: Sequence[int]) -> list[list[int]]:
        if self.sides:
            return batching.group_pairs(self.sides, order, shared=self.share_prompts, prefix=self.prefix, **self.limits)
        return batching.group_by_length(self.inputs, order, prefix=self.prefix, spread=self.replay, **self.limits)

    def epoch_batches(self, seed: int, number: int) -> list[list[int]]:
        return batching.epoch_batches(len(self.lengths), self.arrange, seed=seed, number=number, widths=self.widths)

    def separate(self, groups: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Return ``groups`` with unprefixed rows in groups of their own, as the SFT objective separates them."""
        if not self.prefix:
            return list(groups)
        return [part for group in groups for part in batching.separate(group, [self.unprefixed[row] for row in group])]

    def batch(self, rows: Sequence[int], shapes: PaddedShapes | None = None, streams: int = 1) -> BatchShape:
        """Return the shape of the batch of ``rows``, padded to one of ``shapes`` if there are any."""
        exact = self._shape(rows, streams)
        count, *sizes = shapes[exact] if shapes else exact
        widths, targets = tuple(sizes[: self.widths]), sizes[self.widths]
        predicted = min(streams, count) * targets if shapes else sum(self.predicted[row] for row in rows)
        prefix = 0 if self.unprefixed[rows[0]] else self.prefix
        return BatchShape(count, sum(widths), prefix, predicted, widths if self.sides else ())

    def padded_shapes(self, batches: Sequence[Sequence[int]], streams: int) -> PaddedShapes:
        """Return the shapes that ``batches`` are padded to; see ``TrainingLoop.padded_shapes``."""
        cost = batching.pair_batch_cost if self.sides else batching.row_batch_cost
        counts = Counter(self._shape(rows, streams) for rows in batches)
        return batching.choose_shapes(counts, cost, batching.MAX_SHAPES * self.widths)

    def _shape(self, rows: Sequence[int], streams: int) -> Shape:
        if self.sides:
            sides, common = [self.sides[row] for row in rows], [self.common[row] for row in rows]
            return batching.pair_batch_shape(sides, common, streams, shared=self.share_prompts)
        inputs, trained = [self.inputs[row] for row in rows], [self.trained[row] for row in rows]
        return batching.row_batch_shape(inputs, trained, streams)


def _steps(rows: _TruncatedRows, section: TrainingSection) -> Iterator[tuple[int, list[list[int]]]]:
    """Yield each optimizer step's epoch and batches, as ``training.loop`` does."""
    step = number = 0
    while (step < section.steps) if section.steps else (number < section.epochs):
        batches = rows.epoch_batches(section.seed, number)
        for start in range(0, len(batches), section.accumulate):
            step += 1
            yield number, batches[start : start + section.accumulate]
            if step == section.steps:
                return
        number += 1


def smaller_batches(section: TrainingSection, longest: int) -> Iterator[tuple[int, int]]:
    """Yield ``(batch_size or batch_tokens, accumulate)`` with smaller and smaller batches and the same number of rows or tokens per step."""
    limit, accumulate = section.batch_size or section.batch_tokens, section.accumulate
    minimum = 1 if section.batch_size else longest
    while limit > minimum:
        limit, accumulate = max(minimum, math.ceil(limit / 2)), accumulate * 2
        yield limit, accumulate

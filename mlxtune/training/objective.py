"""The interface between the training loop and an objective (SFT, preference losses, KTO)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import mlx.core as mx
from mlx.utils import tree_flatten

from mlxtune.data.batching import BatchRows, PaddedShapes, Shape
from mlxtune.models.encoded import Encoded, EncodedPair
from mlxtune.recipe import TrainingSection
from mlxtune.training.layer_stack import LayerStack

TrainingRow = Encoded | EncodedPair
Counts = Mapping[int, tuple[int, int]]  # row -> tokens, trained tokens
Arrays = dict[str, Any]  # the arrays of a :class:`TrainingBatch` by name


class FrozenOutputs(Protocol):
    """A cache of the frozen layers' outputs, which are the inputs of the first adapted layer."""

    def outputs(self, batch: Any) -> list[Any]:
        """Return the outputs for each part of ``batch``."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class TrainingBatch:
    """The rows of one forward pass, split into one part per stream."""

    prefix: mx.array | None  # int32 (prefix,): the tokens that every row begins with
    parts: Sequence[Any]  # dataclasses with the row indices in ``rows``, and arrays
    counts: dict[int, tuple[int, int]]  # tokens and trained tokens of each row

    def arrays(self, cache: FrozenOutputs | None = None) -> Arrays:
        """Return the arrays that the objective computes on: lists of the parts' arrays by name, without those that are ``None``.

        ``prefix`` has one array or none, and ``frozen_outputs`` has the frozen layers' outputs from ``cache``.
        """
        names = [field.name for field in fields(self.parts[0]) if field.name != "rows"]
        arrays = {name: [array for part in self.parts if (array := getattr(part, name)) is not None] for name in names}
        prefix = [] if self.prefix is None else [self.prefix]
        return arrays | {"prefix": prefix, "frozen_outputs": cache.outputs(self) if cache else []}

    @property
    def computed_positions(self) -> int:
        """The number of computed positions, including padding and the prefix."""
        arrays = self.arrays()
        blocks = tree_flatten([arrays[name] for name in ("prefix", "stems", "inputs") if name in arrays])
        return sum(block.size for _, block in blocks)


class Objective(Protocol):
    """A loss over batches of rows, and how rows are arranged in batches."""

    @property
    def metric_count(self) -> int:
        """The number of metrics computed in addition to the loss."""

    def means(self, sums: Sequence[float], weight: float, *, at_start: bool = False) -> dict[str, float]:
        """Return the metrics by name, given their ``sums`` over rows with a total weight of ``weight``.

        ``at_start``, before the first update, those that would only measure rounding are omitted.
        """

    def arrange(self, rows: Sequence[Any], section: TrainingSection) -> BatchRows:
        """Return a function that groups ``rows`` into batches within the recipe's limits."""

    def separate(self, rows: Sequence[Any], indices: Sequence[int]) -> list[Sequence[int]]:
        """Return the rows at ``indices`` in groups that can be computed in one forward pass: with the shared prefix, and without it."""

    def batch_shape(self, rows: Sequence[Any], indices: Sequence[int]) -> Shape:
        """Return the sizes of the arrays of the batch of the rows at ``indices``."""

    def batch_cost(self, shape: Shape) -> float:
        """Return the approximate cost of a batch of this shape, in computed positions."""

    def collate(
        self, rows: Sequence[Any], groups: Sequence[Sequence[int]], step: Sequence[int], shapes: PaddedShapes | None = None
    ) -> list[Any]:
        """Return one batch per group, padded to its shape in ``shapes`` if given.

        ``step`` holds all rows of the optimizer step; ``groups`` may be a single host's shard of them.
        """

    def weight(self, counts: Counts) -> int:
        """Return the number by which sums over these rows are divided: trained tokens, or pairs."""

    def __call__(self, stack: LayerStack, arrays: Arrays) -> tuple[mx.array, mx.array]:
        """Return the scalar loss and the metrics ``(metric_count,)``, summed over a batch. Both are lazy and differentiable.

        They are sums, not means: the caller divides by the weight of the whole optimizer step, so that neither the batch shape nor
        accumulation changes the objective.
        """

"""What a run learns: the one thing in which supervised and preference training differ, as the loop sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from mlxtune.data.batching import Arrange
from mlxtune.data.rows import Place
from mlxtune.recipe import TrainingSection
from mlxtune.training.stack import Stack

Arrays = dict[str, Any]
Counts = Mapping[int, tuple[int, int]]  # row -> tokens seen, tokens trained


class Row(Protocol):
    """What trains: ``tokens`` int32 and ``trained`` bool, each ``(tokens,)``; ``Encoded`` and ``EncodedPair`` are such."""

    @property
    def id(self) -> str: ...

    @property
    def place(self) -> Place: ...

    @property
    def tokens(self) -> np.ndarray[Any, np.dtype[np.int32]]: ...

    @property
    def trained(self) -> np.ndarray[Any, np.dtype[np.bool_]]: ...

    @property
    def full(self) -> int: ...

    @property
    def truncated(self) -> bool: ...


class Batch(Protocol):
    """What one pass computes on: ``computed`` positions, padding included, a part for each lane."""

    @property
    def parts(self) -> Sequence[Any]: ...

    @property
    def counts(self) -> dict[int, tuple[int, int]]: ...

    @property
    def arrays(self) -> Arrays: ...

    @property
    def computed(self) -> int: ...


class Cache(Protocol):
    """What enters the first adapted layer, kept over epochs."""

    def entering(self, batch: Any) -> list[Any]:
        """As the objective takes it."""

    def close(self) -> None: ...


class Objective(Protocol):
    """A loss over batches of rows, and how batches are made."""

    @property
    def sums(self) -> int:
        """How many sums it measures beside the loss."""

    def means(self, sums: Sequence[float], weight: float) -> dict[str, float]:
        """What these sums over rows of ``weight`` mean, by name."""

    def arrange(self, rows: Sequence[Any], section: TrainingSection) -> Arrange:
        """How ``rows`` become batches, in the bounds of the recipe."""

    def collate(self, rows: Sequence[Any], groups: Sequence[Sequence[int]], step: Sequence[int]) -> list[Any]:
        """A batch of each of ``groups``; ``step`` names all rows of the optimizer step, where ``groups`` are one host's share."""

    def weight(self, counts: Counts) -> int:
        """What the sums over these rows are divided by: trained tokens, or pairs."""

    def __call__(self, stack: Stack, arrays: Arrays) -> tuple[mx.array, mx.array]:
        """The loss summed over a batch, a scalar, and what else is measured, summed likewise, ``(sums,)``. Lazy, and differentiable.

        ``arrays`` is the batch's, and what enters the first adapted layer or nothing of it. Sums and not means: the caller divides
        by the weight of the whole optimizer step, so that neither the shape of a batch nor accumulation changes the objective.
        """

"""The rows and batches that an objective (SFT, preference losses, KTO) is computed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlxtune.models.encoded import Encoded, EncodedPair

if TYPE_CHECKING:
    from mlxtune.training.frozen_cache import FrozenCache

TrainingRow = Encoded | EncodedPair
Counts = Mapping[int, tuple[int, int]]  # row -> tokens, trained tokens
Arrays = dict[str, Any]  # the arrays of a :class:`TrainingBatch` by name


@dataclass(frozen=True)
class TrainingBatch:
    """The rows of one forward pass, split into one part per stream."""

    prefix: mx.array | None  # int32 (prefix,): the tokens that every row begins with
    parts: Sequence[Any]  # dataclasses with the row indices in ``rows``, and arrays
    counts: dict[int, tuple[int, int]]  # tokens and trained tokens of each row

    def arrays(self, cache: FrozenCache | None = None) -> Arrays:
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
        blocks = tree_flatten([arrays[name] for name in ("prefix", "inputs")])
        return sum(block.size for _, block in blocks)

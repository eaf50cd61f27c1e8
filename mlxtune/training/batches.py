"""Which rows go together, and what a step computes on.

Each epoch visits every row exactly once, in an order that the seed and the epoch's number decide. Rows of like length are
put together inside shuffled windows, so little is padded and the order stays random. No padding token is ever a target.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlxtune.models.template import Encoded, common_prefix
from mlxtune.training.prefix import WORTH

WINDOW = 64  # rows that are sorted together
PAD_TO = 8  # lengths are padded to a multiple of it


@dataclass(frozen=True)
class Batch:
    """What one pass computes on.

    ``prefix`` is int32 ``(prefix,)`` or ``None``; ``inputs`` int32 ``(rows, tokens)``; ``positions`` int32 ``(targets,)``
    indexes the flattened inputs at the tokens that predict; ``targets`` int32 ``(targets,)`` is what they should predict.
    """

    prefix: mx.array | None
    inputs: mx.array
    positions: mx.array
    targets: mx.array
    rows: tuple[str, ...]

    @property
    def trained(self) -> int:
        """How many tokens train."""
        return int(self.targets.size)


def shared_prefix(rows: Sequence[Encoded]) -> int:
    """How many tokens all rows begin with and none trains on; 0 when it is too short to be worth a pass of its own."""
    first_target = min(int(np.argmax(row.trained)) for row in rows)
    shared = min(common_prefix([row.tokens.tolist() for row in rows]), first_target - 1)
    return shared if shared >= WORTH and len(rows) > 1 else 0


def epoch(rows: Sequence[Encoded], *, seed: int, number: int, batch_tokens: int, batch_size: int, prefix: int) -> list[list[int]]:
    """The batches of epoch ``number`` as indices into ``rows``: all of them, each once.

    ``batch_tokens`` bounds what a batch computes, padding and prefix included, but for a single row that is longer;
    ``batch_size``, where it is not 0, bounds the rows instead.
    """
    order = list(range(len(rows)))
    dice = random.Random(f"{seed}/{number}")
    dice.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), WINDOW):
        batches += group(rows, order[start : start + WINDOW], batch_tokens=batch_tokens, batch_size=batch_size, prefix=prefix)
    dice.shuffle(batches)
    return batches


def group(rows: Sequence[Encoded], order: Sequence[int], *, batch_tokens: int, batch_size: int, prefix: int) -> list[list[int]]:
    """``order`` sorted by length and cut into batches within the bounds."""
    batches: list[list[int]] = []
    for index in sorted(order, key=lambda at: (len(rows[at].tokens), at)):
        width = _padded(len(rows[index].tokens) - 1 - prefix)
        current = batches[-1] if batches else None
        if current is not None and (
            len(current) < batch_size if batch_size else (len(current) + 1) * width + prefix <= batch_tokens
        ):
            current.append(index)
        else:
            batches.append([index])
    return batches


def collate(rows: Sequence[Encoded], prefix: int) -> Batch:
    """``rows``, whose first ``prefix`` tokens are the same, as arrays."""
    width = _padded(max(len(row.tokens) for row in rows) - 1 - prefix)
    tokens = np.zeros((len(rows), width + 1), np.int32)
    trained = np.zeros((len(rows), width + 1), bool)
    for at, row in enumerate(rows):
        tokens[at, : len(row.tokens) - prefix] = row.tokens[prefix:]
        trained[at, : len(row.tokens) - prefix] = row.trained[prefix:]
    targets = trained[:, 1:]
    return Batch(
        prefix=mx.array(rows[0].tokens[:prefix]) if prefix else None,
        inputs=mx.array(tokens[:, :-1]),
        positions=mx.array(np.flatnonzero(targets).astype(np.int32)),
        targets=mx.array(tokens[:, 1:][targets]),
        rows=tuple(row.id for row in rows),
    )


def _padded(length: int) -> int:
    return -(-max(length, 1) // PAD_TO) * PAD_TO

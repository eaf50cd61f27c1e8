"""What a step computes on: rows as arrays, the targets among them, and never a padding token as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlxtune.data.batching import padded
from mlxtune.models.template import Encoded, common_prefix

WORTH = 16  # tokens: a shorter shared prefix is not worth a pass of its own


@dataclass(frozen=True)
class Part:
    """What one lane computes.

    ``inputs`` is int32 ``(rows, tokens)``, padded on the right; ``positions`` int32 ``(targets,)`` indexes the flattened inputs at
    the tokens that predict; ``targets`` int32 ``(targets,)`` is what they should predict; ``weights`` float32 ``(targets,)`` is 1 for
    a target and 0 for what fills ``targets`` up to one of few sizes.
    """

    rows: tuple[int, ...]
    inputs: mx.array
    positions: mx.array
    targets: mx.array
    weights: mx.array


@dataclass(frozen=True)
class Batch:
    """What one pass computes on: ``prefix`` int32 ``(prefix,)``, which every row begins with, or ``None``, and a part a lane."""

    prefix: mx.array | None
    parts: tuple[Part, ...]
    counts: dict[int, tuple[int, int]]  # row -> tokens seen, tokens trained

    @property
    def arrays(self) -> dict[str, list[mx.array]]:
        """What an objective computes on, as lists by name."""
        return {
            "prefix": [] if self.prefix is None else [self.prefix],
            "inputs": [part.inputs for part in self.parts],
            "positions": [part.positions for part in self.parts],
            "targets": [part.targets for part in self.parts],
            "weights": [part.weights for part in self.parts],
        }

    @property
    def trained(self) -> int:
        """How many tokens train."""
        return sum(trained for _, trained in self.counts.values())

    @property
    def computed(self) -> int:
        """How many positions are computed, padding and prefix included."""
        return sum(part.inputs.size for part in self.parts) + (self.prefix.size if self.prefix is not None else 0)


def shared_prefix(rows: Sequence[Encoded]) -> int:
    """How many tokens all rows begin with and none trains on; 0 when it is too short to be worth a pass of its own."""
    first_target = min(int(np.argmax(row.trained)) for row in rows)
    shared = min(common_prefix([row.tokens.tolist() for row in rows]), first_target - 1)
    return shared if shared >= WORTH and len(rows) > 1 else 0


def collate(rows: Sequence[Encoded], chosen: Sequence[int], prefix: int, lanes: int = 1) -> Batch:
    """``chosen`` of ``rows``, whose first ``prefix`` tokens are the same, dealt out to ``lanes``."""
    dealt = [list(chosen[lane::lanes]) for lane in range(min(lanes, len(chosen)))]
    counts = {at: (len(rows[at].tokens), int(rows[at].trained[1:].sum())) for at in chosen}
    shared = mx.array(rows[chosen[0]].tokens[:prefix]) if prefix else None
    return Batch(shared, tuple(_part(rows, part, prefix) for part in dealt), counts)


def _part(rows: Sequence[Encoded], chosen: Sequence[int], prefix: int) -> Part:
    width = padded(max(len(rows[at].tokens) for at in chosen) - 1 - prefix)
    tokens = np.zeros((len(chosen), width + 1), np.int32)
    trained = np.zeros((len(chosen), width + 1), bool)
    for line, at in enumerate(chosen):
        row = rows[at]
        tokens[line, : len(row.tokens) - prefix] = row.tokens[prefix:]
        trained[line, : len(row.tokens) - prefix] = row.trained[prefix:]
    wanted = trained[:, 1:]
    count = int(wanted.sum())
    room = padded(count)
    positions, targets, weights = np.zeros(room, np.int32), np.zeros(room, np.int32), np.zeros(room, np.float32)
    positions[:count], targets[:count], weights[:count] = np.flatnonzero(wanted), tokens[:, 1:][wanted], 1
    return Part(tuple(chosen), mx.array(tokens[:, :-1]), mx.array(positions), mx.array(targets), mx.array(weights))

"""What enters the first adapted layer, computed once and kept over epochs.

Layers below the first adapter never change, so neither do their outputs. They are computed in fixed groups of rows, whatever batch
asks for them and when: a run that was resumed computes the same bits as one that was not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import mlx.core as mx
import numpy as np

from mlxtune.core.files import disk_errors
from mlxtune.data.batching import group
from mlxtune.models.template import Encoded
from mlxtune.training.batches import Batch, collate
from mlxtune.training.stack import Recorded, Stack

GROUP_TOKENS = 4096  # computed together


class FrozenCache:
    """Hidden states per row: in memory up to ``budget`` bytes, in a scratch file in ``folder`` beyond it."""

    def __init__(self, stack: Stack, rows: Sequence[Encoded], prefix: int, *, budget: int, folder: Path) -> None:
        self.stack, self.rows, self.prefix, self.budget = stack, rows, prefix, budget
        lengths = [len(row.tokens) - 1 - prefix for row in rows]
        self.groups = group(lengths, range(len(rows)), batch_tokens=GROUP_TOKENS, batch_size=0, prefix=prefix)
        self._where = {at: (number, line) for number, rows in enumerate(self.groups) for line, at in enumerate(rows)}
        self._held: dict[int, mx.array | tuple[int, tuple[int, ...], mx.Dtype]] = {}
        self._recorded: list[Recorded] = []  # of the prefix
        self._shared: mx.array | None = None
        self._used = 0
        self._folder = folder
        self._file: IO[bytes] | None = None

    def entering(self, batch: Batch) -> list[mx.array]:
        """What enters the first adapted layer: ``(1, prefix, width)`` if there is a prefix, then ``(rows, tokens, width)`` a part."""
        self._begin(self.rows[0].tokens)
        for number in sorted({self._where[at][0] for part in batch.parts for at in part.rows} - self._held.keys()):
            self._compute(number)
        parts = [self._gather(part.rows, part.inputs.shape[1]) for part in batch.parts]
        return [self._shared, *parts] if self._shared is not None else parts

    def _begin(self, tokens: Any) -> None:
        """Compute the prefix, which ``tokens`` begin with, if there is one and it was not."""
        if self.prefix and self._shared is None:
            self._recorded, self._shared = self.stack.record(mx.array(tokens[: self.prefix]), until=self.stack.first)
            mx.eval(self._shared, [(cache.keys, cache.values) for cache in self._recorded])

    def close(self) -> None:
        """Give the scratch file back."""
        if self._file:
            self._file.close()

    def _compute(self, number: int) -> None:
        lanes = self.stack.lanes
        batch = collate(self.rows, self.groups[number], self.prefix, lanes.count)
        lanes.share(len(batch.parts))
        made = []
        for lane, part in enumerate(batch.parts):
            with lanes(lane):
                made.append(self.stack.hidden(part.inputs, self._recorded or None, until=self.stack.first))
        width = max(array.shape[1] for array in made)
        even = [mx.pad(array, [(0, 0), (0, width - array.shape[1]), (0, 0)]) for array in made]
        order = {at: line for line, at in enumerate(at for part in batch.parts for at in part.rows)}
        hidden = mx.concatenate(even)[mx.array([order[at] for at in self.groups[number]])]
        mx.eval(hidden)
        self._used += hidden.nbytes
        self._held[number] = hidden if self._used <= self.budget else self._spill(hidden)

    def _spill(self, hidden: mx.array) -> tuple[int, tuple[int, ...], mx.Dtype]:
        with disk_errors("the cache of the frozen layers"):
            file = self._file = self._file or _scratch(self._folder)
            start = file.seek(0, 2)
            file.write(np.array(hidden.view(mx.uint8)).tobytes())
            file.flush()
        return start, hidden.shape, hidden.dtype

    def _gather(self, rows: Sequence[int], width: int) -> mx.array:
        lines = []
        for at in rows:
            number, line = self._where[at]
            held = self._held[number]
            if isinstance(held, mx.array):
                hidden = held[line]
            else:
                start, shape, kind = held
                size = shape[1] * shape[2] * kind.size
                assert self._file is not None
                self._file.seek(start + line * size)
                hidden = mx.array(np.frombuffer(self._file.read(size), np.uint8)).view(kind).reshape(shape[1:])
            lines.append(mx.pad(hidden[:width], [(0, max(0, width - hidden.shape[0])), (0, 0)]))
        return mx.stack(lines)


def _scratch(folder: Path) -> IO[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)  # has no name: gone with the process, whatever ends it

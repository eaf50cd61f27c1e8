"""Cache the frozen layers' outputs, which are the inputs of the first adapted layer, across epochs.

Layers below the first adapter never change, and neither do their outputs. They are computed in fixed groups of rows, regardless of
which batch needs them and when, so a resumed run gets bit-identical results.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import mlx.core as mx
import numpy as np

from mlxtune.core.files import disk_errors
from mlxtune.data.batching import group_by_length, separate
from mlxtune.training.layer_stack import LayerStack, RecordingCache
from mlxtune.training.objective import TrainingBatch
from mlxtune.training.sft import collate, input_lengths

GROUP_TOKENS = 4096  # tokens computed together


class FrozenCache:
    """Hidden states per row, stored in memory up to ``budget`` bytes, then in a scratch file in ``folder``."""

    def __init__(self, stack: LayerStack, rows: Sequence[Any], prefix: int, *, budget: int, folder: Path) -> None:
        self.stack, self.rows, self.prefix, self.budget = stack, rows, prefix, budget
        self.groups = self.group()
        self._position = {index: (number, line) for number, rows in enumerate(self.groups) for line, index in enumerate(rows)}
        self._blocks: dict[int, mx.array | tuple[int, tuple[int, ...], mx.Dtype]] = {}  # an array, or its scratch-file location
        self.prefix_caches: list[RecordingCache] = []
        self._prefix_output: mx.array | None = None
        self._bytes = 0
        self._folder = folder
        self._file: IO[bytes] | None = None

    def group(self) -> list[list[int]]:
        """Return the indices of the rows that are computed together."""
        lengths, kinds = input_lengths(self.rows, self.prefix), [row.unprefixed for row in self.rows]
        limits: Any = {"batch_tokens": GROUP_TOKENS, "batch_size": 0, "prefix": self.prefix}
        return [group for kind in separate(range(len(kinds)), kinds) for group in group_by_length(lengths, kind, **limits)]

    def collate(self, indices: Sequence[int]) -> TrainingBatch:
        return collate(self.rows, indices, self.prefix, self.stack.streams.size)

    def run(self, batch: TrainingBatch, part: Any) -> mx.array:
        """Return the outputs ``(rows, tokens, width)`` of ``part``."""
        prefix = None if batch.prefix is None else self.prefix_caches
        return self.stack.hidden_states(part.inputs, prefix, until=self.stack.first_adapted)

    def outputs(self, batch: TrainingBatch) -> list[mx.array]:
        """Return ``(1, prefix, width)`` if there is a prefix, then ``(rows, tokens, width)`` for each part."""
        if self.prefix and self._prefix_output is None:
            self.prefix_caches, self._prefix_output = self.stack.run_prefix(
                mx.array(self.rows[0].tokens[: self.prefix]), until=self.stack.first_adapted
            )
            mx.eval(self._prefix_output, [(cache.keys, cache.values) for cache in self.prefix_caches])
        for number in sorted({self._position[index][0] for part in batch.parts for index in part.rows} - self._blocks.keys()):
            self._compute(number)
        filler = next(iter(batch.counts))  # a row that is repeated where there is padding, which has no effect on other rows
        parts = []
        for part in batch.parts:
            count, width = (part.inputs if isinstance(part.inputs, mx.array) else part.inputs[0]).shape
            parts.append(self._gather([*part.rows, *[filler] * (count - len(part.rows))], width))
        return parts if batch.prefix is None or self._prefix_output is None else [self._prefix_output, *parts]

    def close(self) -> None:
        """Delete the scratch file."""
        if self._file:
            self._file.close()

    def _compute(self, number: int) -> None:
        streams = self.stack.streams
        batch = self.collate(self.groups[number])
        streams.share_cores(len(batch.parts))
        outputs = []
        for stream, part in enumerate(batch.parts):
            with streams(stream):
                outputs.append(self.run(batch, part))
        width = max(array.shape[1] for array in outputs)
        padded = [mx.pad(array, [(0, 0), (0, width - array.shape[1]), (0, 0)]) for array in outputs]
        order = {index: line for line, index in enumerate(index for part in batch.parts for index in part.rows)}
        hidden = mx.concatenate(padded)[mx.array([order[index] for index in self.groups[number]])]
        mx.eval(hidden)
        self._store(number, hidden)

    def _store(self, number: int, hidden: mx.array) -> None:
        """Keep a block in memory if it fits in the budget; otherwise, write it to the scratch file."""
        self._bytes += hidden.nbytes
        if self._bytes <= self.budget:
            self._blocks[number] = hidden
            return
        with disk_errors("the cache of the frozen layers"):
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - unnamed, so it is deleted with the process
            start = self._file.seek(0, 2)
            self._file.write(np.array(hidden.view(mx.uint8)).tobytes())
            self._file.flush()
        self._blocks[number] = (start, hidden.shape, hidden.dtype)

    def _gather(self, rows: Sequence[int], width: int) -> mx.array:
        lines = []
        for index in rows:
            number, line = self._position[index]
            block = self._blocks[number]
            if isinstance(block, mx.array):
                hidden = block[line]
            else:
                start, shape, dtype = block
                size = shape[1] * shape[2] * dtype.size
                assert self._file is not None
                self._file.seek(start + line * size)
                hidden = mx.array(np.frombuffer(self._file.read(size), np.uint8)).view(dtype).reshape(shape[1:])
            lines.append(mx.pad(hidden[:width], [(0, max(0, width - hidden.shape[0])), (0, 0)]))
        return mx.stack(lines)

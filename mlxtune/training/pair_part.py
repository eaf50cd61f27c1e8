"""Some preference pairs as arrays: what a lane computes of them, once, and which of its places predict which token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.data.batching import padded
from mlxtune.models.template import EncodedPair


@dataclass(frozen=True)
class PairPart:
    """What one lane computes.

    A stem is a prompt, and what both of its completions begin with.

    ``stems`` int32 ``(pairs, stem)`` without the prefix and their last tokens, padded on the right; ``None`` where ``inputs`` begin
    with their prompts. ``starts`` int32 ``(pairs,)`` says where each stem's last token stands. ``inputs`` are two, chosen and rejected: int32 ``(pairs, tokens)``.
    ``targets`` int32 ``(targets,)`` is a flat list of what is predicted: from places ``begun`` in flattened stems, nothing where no
    completions begin alike, and then from places ``positions`` in both flattened inputs one after the other. ``where`` int32
    ``(2 pairs, completion)`` says where in that list each token of a completion is, and ``mask`` float32 of the same shape which
    are real. ``reference`` float32 ``(2 pairs,)`` holds the reference's log-probabilities, chosen and then rejected, 0 where they are
    not known.
    """

    rows: tuple[int, ...]
    stems: mx.array | None
    starts: mx.array
    inputs: tuple[mx.array, mx.array]
    begun: mx.array
    positions: mx.array
    targets: mx.array
    where: mx.array
    mask: mx.array
    reference: mx.array


def part_of(pairs: Sequence[EncodedPair], chosen: Sequence[int], shared: bool, prefix: int) -> PairPart:
    """Those of ``pairs`` at ``chosen``. With ``shared``, stems run apart, without the ``prefix`` that all prompts begin with."""
    some = [pairs[at] for at in chosen]
    common = [pair.common if shared else 0 for pair in some]
    answers = [pair.chosen for pair in some], [pair.rejected for pair in some]
    stems = [np.concatenate([pair.prompt, pair.chosen[:both]]) for pair, both in zip(some, common, strict=True)]
    before = [stem[-1:] if shared else stem for stem in stems]
    asked = _rows([stem[prefix:-1] for stem in stems]) if shared else np.zeros((0, 0), np.int32)
    inputs = [
        _rows([np.concatenate([start, answer[both:-1]]) for start, answer, both in zip(before, side, common, strict=True)])
        for side in answers
    ]
    lengths = np.array([len(answer) for side in answers for answer in side])
    where = np.zeros((len(lengths), padded(int(lengths.max()))), np.int32)
    real = np.arange(where.shape[1]) < lengths[:, None]
    begun, begins = _Predicted(), []
    for line, (pair, both) in enumerate(zip(some, common, strict=True)):
        begins.append(begun.add(pair.chosen[:both], line * asked.shape[1] + len(pair.prompt) - 1 - prefix))
    begun.fill()
    own, block = _Predicted(len(begun.places)), 0
    for number, (side, rows) in enumerate(zip(answers, inputs, strict=True)):
        for line, (answer, both) in enumerate(zip(side, common, strict=True)):
            row = where[number * len(some) + line]
            row[:both] = begins[line]
            row[both : len(answer)] = own.add(answer[both:], block + line * rows.shape[1] + len(before[line]) - 1)
        block += rows.size
    own.fill()
    known = np.array([pair.reference or (0.0, 0.0) for pair in some], np.float32)
    return PairPart(
        tuple(chosen),
        mx.array(asked) if shared else None,
        mx.array(np.array([len(stem) - 1 for stem in stems], np.int32)),
        (mx.array(inputs[0]), mx.array(inputs[1])),
        mx.array(np.array(begun.places, np.int32)),
        mx.array(np.array(own.places, np.int32)),
        mx.array(np.array(begun.targets + own.targets, np.int32)),
        mx.array(where),
        mx.array(real.astype(np.float32)),
        mx.array(known.T.flatten()),
    )


@dataclass
class _Predicted:
    """Tokens that are predicted, and the places from which; the first is ``start`` in the list of all."""

    start: int = 0
    places: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def add(self, tokens: Any, first: int) -> range:
        """``tokens`` predicted from the place ``first`` on; where in the list of all they are."""
        begin = self.start + len(self.places)
        self.places += range(first, first + len(tokens))
        self.targets += tokens.tolist()
        return range(begin, begin + len(tokens))

    def fill(self) -> None:
        """Pad to one of few lengths, if there is anything."""
        more = [0] * (padded(len(self.places)) - len(self.places) if self.places else 0)
        self.places += more
        self.targets += more


def _rows(rows: Sequence[Any]) -> Any:
    """``rows`` of tokens as one array, padded on the right."""
    out = np.zeros((len(rows), padded(max(map(len, rows)))), np.int32)
    for at, row in enumerate(rows):
        out[at, : len(row)] = row
    return out

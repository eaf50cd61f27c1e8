"""Which rows go together: every row once an epoch, in an order that the seed decides, with little padding.

Rows of like length are put together inside shuffled windows and the batches are shuffled again, so the order stays random.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

WINDOW = 256  # rows that are sorted together


def padded(length: int) -> int:
    """``length`` rounded up to one of few: to a multiple of 8 up to 256, of 16 up to 512, of 32 up to 1,024, and so on."""
    step = 8
    while length > 32 * step:
        step *= 2
    return -(-max(length, 1) // step) * step


def epoch(
    lengths: Sequence[int], *, seed: int, number: int, batch_tokens: int, batch_size: int, prefix: int = 0
) -> list[list[int]]:
    """The batches of epoch ``number`` as indices into ``lengths``: all of them, each once.

    ``lengths`` counts what each row computes behind a shared ``prefix``. ``batch_tokens`` bounds what a batch computes, padding
    and prefix included, but for a single row that is longer; ``batch_size``, where it is not 0, bounds the rows instead.
    """
    order = list(range(len(lengths)))
    dice = random.Random(f"{seed}/{number}")
    dice.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), WINDOW):
        batches += group(lengths, order[start : start + WINDOW], batch_tokens=batch_tokens, batch_size=batch_size, prefix=prefix)
    dice.shuffle(batches)
    return batches


def group(lengths: Sequence[int], order: Sequence[int], *, batch_tokens: int, batch_size: int, prefix: int = 0) -> list[list[int]]:
    """``order`` sorted by padded length (rows of one length keep their order) and cut into batches within the bounds."""
    batches: list[list[int]] = []
    for index in sorted(order, key=lambda at: padded(lengths[at])):
        width = padded(lengths[index])
        current = batches[-1] if batches else None
        fits = current is not None and (
            len(current) < batch_size if batch_size else (len(current) + 1) * width + prefix <= batch_tokens
        )
        if fits and current is not None:
            current.append(index)
        else:
            batches.append([index])
    return batches

"""Which rows go together: every row once an epoch, in an order that the seed decides, with little padding.

Rows of like length are put together inside shuffled windows and the batches are shuffled again, so the order stays random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

WINDOW = 256  # rows that are sorted together
STRIDE = 64  # tokens: prompts whose lengths differ by less are sorted by their completions

Arrange = Callable[[Sequence[int]], list[list[int]]]  # indices of rows, as batches of them
Sides = tuple[int, int, int]  # of a pair, in tokens: its prompt with what both completions begin with, and the rest of each


def padded(length: int) -> int:
    """``length`` rounded up to one of few: to a multiple of 8 up to 256, of 16 up to 512, of 32 up to 1,024, and so on."""
    step = 8
    while length > 32 * step:
        step *= 2
    return -(-max(length, 1) // step) * step


def epoch(count: int, arrange: Arrange, *, seed: int, number: int) -> list[list[int]]:
    """The batches of epoch ``number`` as indices of ``count`` rows: all of them, each once.

    ``arrange`` makes batches of the rows of one window, like :func:`group` and :func:`group_pairs`.
    """
    order = list(range(count))
    dice = random.Random(f"{seed}/{number}")
    dice.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), WINDOW):
        batches += arrange(order[start : start + WINDOW])
    dice.shuffle(batches)
    return batches


def group(lengths: Sequence[int], order: Sequence[int], *, batch_tokens: int, batch_size: int, prefix: int = 0) -> list[list[int]]:
    """``order`` sorted by padded length (rows of one length keep their order) and cut into batches within the bounds.

    ``lengths`` counts what each row computes behind a shared ``prefix``. ``batch_tokens`` bounds what a batch computes, padding
    and prefix included, but for a single row that is longer; ``batch_size``, where it is not 0, bounds the rows instead.
    """
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


def pair_widths(pairs: Iterable[Sides], *, shared: bool) -> tuple[int, ...]:
    """How many tokens wide a batch of ``pairs`` is, padding included: prompts and both sides apart, or both sides with their prompts.

    The last token before the sides part runs with each of them, whose own last token is only predicted.
    """
    lengths = [(prompt - 1, chosen, rejected) for prompt, chosen, rejected in pairs]
    blocks = lengths if shared else [(prompt + chosen, prompt + rejected) for prompt, chosen, rejected in lengths]
    return tuple(padded(max(block)) for block in zip(*blocks, strict=True))


def group_pairs(
    pairs: Sequence[Sides], order: Sequence[int], *, shared: bool, batch_tokens: int, batch_size: int, prefix: int = 0
) -> list[list[int]]:
    """``order``, which are indices of ``pairs``, sorted by lengths and cut into batches within the bounds of :func:`group`.

    ``pairs`` counts of each prompt what comes behind a shared ``prefix``. Prompts and both sides are padded apart, so one sum of
    lengths would put together what does not fit together.
    """

    def lengths(at: int) -> tuple[int, int]:
        prompt, *sides = pairs[at]
        return prompt // STRIDE, padded(max(sides))

    def fits(batch: list[int]) -> bool:
        if batch_size:
            return len(batch) <= batch_size
        return len(batch) * sum(pair_widths((pairs[at] for at in batch), shared=shared)) + prefix <= batch_tokens

    batches: list[list[int]] = []
    for at in sorted(order, key=lengths):
        if batches and fits([*batches[-1], at]):
            batches[-1].append(at)
        else:
            batches.append([at])
    return batches

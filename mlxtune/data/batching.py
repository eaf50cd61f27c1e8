"""Group rows into batches with little padding. The seed determines the order, and every row occurs once per epoch.

Rows of similar length are grouped within shuffled windows, and the batches are shuffled again, so the order stays random.
"""

import random
from collections.abc import Callable, Collection, Iterable, Sequence

WINDOW = 256  # number of rows that are sorted together
KL_PAIRS = 16  # validation pairs on which preference training measures its distance from the reference
STRIDE = 64  # tokens; prompts whose lengths differ by less than this are sorted by their completions

BatchRows = Callable[[Sequence[int]], list[list[int]]]  # groups the row indices of a window into batches
PairLengths = tuple[int, int, int]  # tokens in the prompt with any shared start of both completions, and in the rest of each


def padded_length(length: int) -> int:
    """Round ``length`` up to one of a small set of values: multiples of 8 up to 256, of 16 up to 512, of 32 up to 1,024, and so on."""
    step = 8
    while length > 32 * step:
        step *= 2
    return -(-max(length, 1) // step) * step


def passes(epoch: int, steps: int, whole: int) -> float:
    """Return the number of epochs up to and including ``steps`` of the ``whole`` steps of ``epoch`` (from 0), to one decimal.

    A number below 0.05 is rounded to one significant digit.
    """
    exact = epoch + steps / whole
    count = round(exact, 1) or float(f"{exact:.1g}")
    return int(count) if count.is_integer() else count


def epoch_batches(count: int, batch_rows: BatchRows, *, seed: int, number: int) -> list[list[int]]:
    """Return the batches of epoch ``number`` over ``count`` rows. ``batch_rows`` groups the rows of one window."""
    order = list(range(count))
    rng = random.Random(f"{seed}/{number}")
    rng.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), WINDOW):
        batches += batch_rows(order[start : start + WINDOW])
    rng.shuffle(batches)
    return batches


def _cut(order: Iterable[int], fits: Callable[[list[int]], bool]) -> list[list[int]]:
    batches: list[list[int]] = []
    for index in order:
        if batches and fits([*batches[-1], index]):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def group_by_length(
    lengths: Sequence[int],
    order: Sequence[int],
    *,
    batch_tokens: int,
    batch_size: int,
    prefix: int = 0,
    spread: Collection[int] = (),
) -> list[list[int]]:
    """Sort ``order`` by padded length and cut it into batches.

    ``lengths`` counts the tokens in each row after a shared ``prefix``. A batch has at most ``batch_size`` rows or, if that is 0, at
    most ``batch_tokens`` tokens including padding and prefix, except for a single longer row. The rows in ``spread`` are
    distributed evenly over the batches, whatever their lengths.
    """

    def fits(batch: list[int]) -> bool:
        if batch_size:
            return len(batch) <= batch_size
        return len(batch) * padded_length(max(lengths[index] for index in batch)) + prefix <= batch_tokens

    by_length = sorted(order, key=lambda index: padded_length(lengths[index]))
    if spread:  # merge its rows with the others so that every part of the result has about the same fraction of both
        kinds = [index for index in by_length if index not in spread], [index for index in by_length if index in spread]
        rank = {index: (number + 0.5) / len(kind) for kind in kinds for number, index in enumerate(kind)}
        by_length.sort(key=lambda index: rank[index])
    return _cut(by_length, fits)


def separate(indices: Sequence[int], marked: Sequence[bool]) -> list[list[int]]:
    """Return the ``indices`` that are not ``marked`` and those that are, without empty lists."""
    kinds = ([index for index, is_marked in zip(indices, marked, strict=True) if is_marked is kind] for kind in (False, True))
    return [kind for kind in kinds if kind]


def pair_batch_widths(pairs: Iterable[PairLengths], *, shared: bool) -> tuple[int, ...]:
    """Return the padded widths for a batch of ``pairs``: prompt, chosen and rejected, or both sides including their prompts.

    The last token before the sides differ is processed with each side. A side's last token is a target only, never an input.
    """
    lengths = [(prompt - 1, chosen, rejected) for prompt, chosen, rejected in pairs]
    blocks = lengths if shared else [(prompt + chosen, prompt + rejected) for prompt, chosen, rejected in lengths]
    return tuple(padded_length(max(block)) for block in zip(*blocks, strict=True))


def group_pairs(
    pairs: Sequence[PairLengths], order: Sequence[int], *, shared: bool, batch_tokens: int, batch_size: int, prefix: int = 0
) -> list[list[int]]:
    """Group pairs like :func:`group_by_length`. Prompts and sides are padded separately, so pairs are sorted by both lengths."""

    def fits(batch: list[int]) -> bool:
        if batch_size:
            return len(batch) <= batch_size
        return len(batch) * sum(pair_batch_widths((pairs[index] for index in batch), shared=shared)) + prefix <= batch_tokens

    by_length = sorted(order, key=lambda index: (pairs[index][0] // STRIDE, padded_length(max(pairs[index][1:]))))
    return _cut(by_length, fits)

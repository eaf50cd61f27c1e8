"""Adjustment for multiple tests and for repeated looks, each with its source, and how near a conclusion is to another one."""

from collections.abc import Callable, Iterable, Sequence

from mlxtune.evaluation.statistics.intervals import LEVEL


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple testing by Holm's step-down procedure (Holm 1979), in the given order.

    Rejecting every hypothesis with an adjusted p-value below 5% keeps the chance of any false rejection below 5%.
    """
    adjusted = [0.0] * len(values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        floor = max(floor, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = floor
    return adjusted


def level_for_look(look: int) -> float:
    """Return the two-sided level of the ``look``-th comparison on the same rows, counted from 1.

    The first look has 5%, look n > 1 has 5% / (n(n − 1)). These levels add up to 10%, and half of a level is the chance of a false
    *better*, so at most 5% of all series of looks contain one, however long they are (Bonferroni's inequality; a budget spent over looks
    is the idea of Lan and DeMets 1983). Raises ``ValueError`` if ``look`` is less than 1.
    """
    if look < 1:
        raise ValueError(f"looks are counted from 1: got {look}")
    return LEVEL if look == 1 else LEVEL / (look * (look - 1))


def fewest_changes(orders: Iterable[Sequence[int]], is_turned: Callable[[frozenset[int]], bool]) -> int | None:
    """Return the fewest rows whose change turns a conclusion, or ``None`` if no number does.

    Rows change one after another in each of ``orders``, which should begin with those that matter most; ``is_turned`` says whether the
    conclusion is another one once the given rows have changed.
    """
    fewest: int | None = None
    for order in orders:
        low, high = 0, len(order) if fewest is None else min(len(order), fewest - 1)
        if high < 1 or not is_turned(frozenset(order[:high])):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_turned(frozenset(order[:middle])) else (middle, high)
        fewest = high
    return fewest

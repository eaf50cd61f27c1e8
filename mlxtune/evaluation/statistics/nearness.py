"""How near a conclusion is to another one: the fewest answers that would have to be different."""

from collections.abc import Callable, Iterable, Sequence


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

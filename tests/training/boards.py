"""Boards of searches with given answers, for tests without a model."""

from collections.abc import Mapping, Sequence

from mlxtune.training.search.board import Board, RungResult, SearchPlan, Trial


def board(
    passed: Mapping[tuple[int, int], Sequence[int]], *, trials: int, rungs: int = 3, costs: Sequence[float] = (), **state: object
) -> Board:
    """Return a board of ``trials`` with the rows that passed after each ``(trial, rung)``; all losses are equal."""
    rows = len(next(iter(passed.values()), ()))
    lengths = tuple(range(10, 10 * rungs + 1, 10))
    items = tuple(
        Trial(number, {"rank": number}, costs[number - 1] if costs else 1.0, lengths, (10,) * rungs)
        for number in range(1, trials + 1)
    )
    names = tuple(map(str, range(rows)))
    results = {key: RungResult(*key, tuple(map(bool, rows)), 1.0, 1, 10, 1.0) for key, rows in passed.items()}
    return Board(SearchPlan(items, names, names), results, **state)  # type: ignore[arg-type]


def rate(hits: int, total: int = 20) -> list[int]:
    """Return the rows of an arm that passes the first ``hits`` of ``total``."""
    return [1] * hits + [0] * (total - hits)

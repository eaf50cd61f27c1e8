"""Exact tests by scipy, to compare ours with."""

from scipy import stats


def mcnemar(broken: int, fixed: int) -> float:
    """Return the exact two-sided p-value of McNemar's test."""
    return float(stats.binomtest(broken, broken + fixed).pvalue) if broken + fixed else 1.0


def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of the sign test, which ignores ties."""
    return mcnemar(losses, wins)

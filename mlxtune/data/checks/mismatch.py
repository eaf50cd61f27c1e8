"""Answers that belong to other prompts. ``models.row_likelihoods`` finds them, because it takes a model."""

from collections.abc import Sequence
from statistics import median

from mlxtune.data.checks.base import DROP, Check, CheckFamily, Finding

family = CheckFamily()
_MISMATCH = family.register(
    Check(
        "mismatch", "note", "answers that do not fit their prompts",
        "The base finds the answer hardly more likely after this prompt than after others.", DROP, "≠",
    )
)  # fmt: skip
FIT = 1.5  # least information of a prompt about its answer
_INFORMED = 2 * FIT  # median information from which the base can tell answers apart


def mismatches(information: Sequence[tuple[int, float]]) -> tuple[Finding, ...] | None:
    """Return a finding for each record number whose prompt has less information about its answer than ``FIT``, or ``None`` if most do."""
    if information and median(found for _, found in information) < _INFORMED:
        return None
    return tuple(_MISMATCH.finding(row, values={"odds": -found}) for row, found in information if found < FIT)

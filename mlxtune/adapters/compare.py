"""Compare two adapters, and their evaluations if both used the same rows and contract. Imports no mlx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlxtune.adapters.entry import AdapterEntry
from mlxtune.core.errors import MlxtuneError
from mlxtune.evaluation.compare import EvaluationComparison, compare_evaluations, find_side


@dataclass(frozen=True)
class AdapterComparison:
    """Two adapters, and the comparison of their newest evaluations, if there is one."""

    first: AdapterEntry
    second: AdapterEntry
    hashes: tuple[str, str]  # of their weights
    contrast: EvaluationComparison | None = None
    unevaluated: str = ""  # the name of an adapter that was not evaluated in this workspace
    error: str = ""  # the message of the error that prevents the comparison


def compare(workspace: Path, first: AdapterEntry, second: AdapterEntry) -> AdapterComparison:
    """Compare ``second`` with ``first``. Neither may have a ``problem``."""
    hashes = first.sha256(), second.sha256()
    folders = []
    for entry in (first, second):
        if entry.score is None or entry.score.folder is None:
            return AdapterComparison(first, second, hashes, unevaluated=entry.name)
        folders.append(str(entry.score.folder))
    try:
        sides = [find_side(workspace, folder) for folder in folders]
        return AdapterComparison(first, second, hashes, compare_evaluations(*sides))
    except MlxtuneError as error:
        return AdapterComparison(first, second, hashes, error=error.message)

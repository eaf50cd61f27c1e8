"""Compare two adapters' properties, and their evaluations if both used the same rows and contract. Imports no mlx."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mlxtune.adapters.entry import AdapterEntry
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import size
from mlxtune.evaluation.compare import EvaluationComparison, compare_evaluations, find_side


@dataclass(frozen=True)
class AdapterFact:
    """One property of both adapters, as text."""

    name: str
    first: str
    second: str

    @property
    def same(self) -> bool:
        return self.first == self.second


@dataclass(frozen=True)
class AdapterComparison:
    """``contrast`` compares the newest evaluations of both adapters; if it is ``None``, ``reason`` says why."""

    facts: tuple[AdapterFact, ...]
    contrast: EvaluationComparison | None
    reason: str


def compare(workspace: Path, first: AdapterEntry, second: AdapterEntry) -> AdapterComparison:
    """Compare ``second`` with ``first``. Neither may have a ``problem``."""
    one, two = facts(first), facts(second)
    same_weights = first.size == second.size and first.sha256() == second.sha256()
    one["weights"], two["weights"] = ("the same",) * 2 if same_weights else (first.sha256()[:12], second.sha256()[:12])
    rows = tuple(AdapterFact(name, one[name], two[name]) for name in one)
    folders = []
    for entry in (first, second):
        if entry.score is None or entry.score.folder is None:
            return AdapterComparison(rows, None, f"{entry.name} has not been evaluated in this workspace.")
        folders.append(str(entry.score.folder))
    try:
        sides = [find_side(workspace, folder) for folder in folders]
        return AdapterComparison(rows, compare_evaluations(*sides), "")
    except MlxtuneError as error:
        return AdapterComparison(rows, None, error.message)


def facts(entry: AdapterEntry) -> dict[str, str]:
    """Return an adapter's properties as names and values."""
    return {
        "base": " ".join(filter(None, (entry.base, f"({entry.base_hash[:12]})" if entry.base_hash else ""))),
        "kind": {"lora": "LoRA", "dora": "DoRA"}.get(entry.kind, ""),
        "rank": f"{entry.rank}, scale {entry.scale:g}",
        "targets": ", ".join(target.rsplit(".", 1)[-1] for target in entry.targets),
        "layers": str(entry.layers),
        "size": f"{entry.parameters:,} parameters, {size(entry.size)}",
        "created": time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created)),
        "method": entry.method,
        "thinking": entry.thinking if entry.thinking != "off" else "",
        "run": entry.run,
        "step": f"{entry.step:,}" if entry.step else "",
        "recipe": entry.recipe_hash[:12],
        "data": entry.data_hash[:12],
        "parent": (entry.parent.run or entry.parent.folder) if entry.parent else "",
        "origin": entry.origin,
        "tags": ", ".join(entry.tags),
    }

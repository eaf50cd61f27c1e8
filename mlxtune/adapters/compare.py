"""Two adapters beside each other: what they are, and which answered better where both were measured on the same terms. No mlx."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mlxtune.adapters.entry import AdapterEntry
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import size
from mlxtune.evaluation.compare import Contrast, contrast, side


@dataclass(frozen=True)
class Fact:
    """One property of both, in words."""

    name: str
    first: str
    second: str

    @property
    def same(self) -> bool:
        return self.first == self.second


@dataclass(frozen=True)
class Compared:
    """``contrast`` holds the second adapter's newest evaluation against the first's; where it is ``None``, ``why`` says why."""

    facts: tuple[Fact, ...]
    contrast: Contrast | None
    why: str


def compare(workspace: Path, first: AdapterEntry, second: AdapterEntry) -> Compared:
    """``second`` beside ``first``. Neither may have a problem."""
    one, two = facts(first), facts(second)
    listed = [Fact(name, one[name], two[name]) for name in one]
    same = first.size == second.size and first.sha256() == second.sha256()
    listed.append(Fact("weights", *(("the same",) * 2 if same else (first.sha256()[:12], second.sha256()[:12]))))
    found, why = None, ""
    places = [item.score.folder if item.score else None for item in (first, second)]
    if places[0] is None or places[1] is None:
        missing = first if places[0] is None else second
        why = f"{missing.name} was not evaluated here."
    else:
        try:
            found = contrast(side(workspace, str(places[0])), side(workspace, str(places[1])))
        except MlxtuneError as error:
            why = error.message
    return Compared(tuple(listed), found, why)


def facts(entry: AdapterEntry) -> dict[str, str]:
    """What an adapter is, as names and values for a reader."""
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
    return {
        "base": " ".join(filter(None, (entry.base, f"({entry.base_hash[:12]})" if entry.base_hash else ""))),
        "kind": {"lora": "LoRA", "dora": "DoRA"}.get(entry.kind, ""),
        "rank": f"{entry.rank}, scale {entry.scale:g}",
        "targets": ", ".join(target.rsplit(".", 1)[-1] for target in entry.targets),
        "layers": str(entry.layers),
        "size": f"{entry.parameters:,} numbers, {size(entry.size)}",
        "made": made,
        "method": entry.method,
        "run": entry.run,
        "recipe": entry.recipe_hash[:12],
        "data": entry.data_hash[:12],
        "parent": (entry.parent.run or entry.parent.folder) if entry.parent else "",
        "origin": entry.origin,
        "tags": ", ".join(entry.tags),
    }

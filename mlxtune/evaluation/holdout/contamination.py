"""Check whether an adapter was trained on the rows it is evaluated on, using the records of its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.files import read_json
from mlxtune.core.text import plural
from mlxtune.data.rows import PromptRow, prompt_hash
from mlxtune.data.source import read_source
from mlxtune.recipe import load
from mlxtune.runs import registry

_RECORD, _LINEAGE = "data.json", "mlxtune.json"
_NAMED = 5  # maximum number of rows listed in an error


@dataclass(frozen=True)
class Contamination:
    """Whether an adapter or its ancestors were trained on the evaluated rows."""

    code: Literal["unseen", "unknown"]  # unknown if some training records are missing. Rows that were trained on are refused.
    adapter: str
    rows: int = 0  # how many training and validation rows were compared with the evaluated ones


def check(workspace: Path, adapter: Path | None, rows: Sequence[PromptRow]) -> Contamination | None:
    """Return whether ``adapter`` or its ancestors were trained on ``rows``, or ``None`` without an adapter.

    Raises ``InputError`` if one of ``rows``, or another row with the same prompt, was used to train or validate any of them.
    """
    if adapter is None:
        return None
    checked = 0
    for folder in _lineage(workspace, adapter):
        if folder is None:
            return Contamination("unknown", adapter.name)
        count, ids, prompts = _training_rows(folder)
        overlap = [row for row in rows if row.id in ids or prompt_hash(row) in prompts]
        if overlap:
            named = "; ".join(str(row.location) for row in overlap[:_NAMED])
            raise InputError(
                f"{folder.name} was trained or validated on {len(overlap)} of the {plural(len(rows), 'row')} to evaluate: {named}.",
                hint="Evaluate with the data settings that were used for training: a result on these rows would prove nothing.",
            )
        checked += count
    return Contamination("unseen", adapter.name, checked)


def _lineage(workspace: Path, adapter: Path) -> Iterator[Path | None]:
    """Yield the folder of the run that made ``adapter``, then of its parent's run, and so on; ``None`` if a run is missing."""
    seen: set[Path] = set()
    while True:
        folder = _run(workspace, adapter)
        if folder is None or folder in seen:
            yield None
            return
        seen.add(folder)
        yield folder
        recipe = load(folder / "recipe.toml")
        if not recipe.adapter.parent:
            return
        adapter = recipe.path(recipe.adapter.parent)


def _run(workspace: Path, adapter: Path) -> Path | None:
    """Return the folder of the run that made ``adapter``: its parent folder, or the run that its lineage names."""
    if (adapter.parent / _RECORD).is_file():
        return adapter.parent
    try:
        name = read_json(adapter / _LINEAGE)["run"]
    except (InputError, KeyError, TypeError):
        return None
    return next((run.folder for run in registry.list_runs(workspace) if run.id == name and (run.folder / _RECORD).is_file()), None)


def _training_rows(folder: Path) -> tuple[int, set[str], set[str]]:
    """Return the number of a run's training and validation rows, their IDs, of which copies share one, and their prompt hashes.

    Rows that are no longer in the source have no prompt hash.
    """
    try:
        record = read_json(folder / _RECORD)
        listed = [*(str(row["id"]) for row in record["train"]), *map(str, record["valid"])]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / _RECORD} is damaged.") from error
    recipe = load(folder / "recipe.toml")
    try:
        rows = read_source(recipe.source, recipe.data.format, recipe.data.map).rows
    except MlxtuneError:  # the source is missing or changed, but the IDs are known
        rows = ()
    ids = set(listed)
    return len(listed), ids, {prompt_hash(row) for row in rows if row.id in ids}

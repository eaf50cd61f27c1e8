"""Did an adapter see the rows that it is measured on? Looked up in what its runs wrote down, and never assumed. No mlx here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.files import read_json
from mlxtune.core.text import one_line, plural
from mlxtune.data.groups import question
from mlxtune.data.rows import Question
from mlxtune.data.source import read_source
from mlxtune.recipe import load
from mlxtune.runs import registry

_RECORD, _LINEAGE = "data.json", "mlxtune.json"
_NAMED = 5  # rows in an error


def check(workspace: Path, adapter: Path | None, rows: Sequence[Question]) -> str:
    """What is known of ``rows`` and the training of ``adapter`` and of those that it came from, in a sentence; empty without one.

    Raises ``InputError`` when one of ``rows``, or another row that asks the same, trained or validated any of them.
    """
    if adapter is None:
        return ""
    counted = 0
    for folder in _line(workspace, adapter):
        if folder is None:
            return f"Whether {one_line(adapter.name, 60)} was trained on them is not known: not all of its training rows are."
        ids, questions = _seen(folder)
        touched = [row for row in rows if row.id in ids or question(row) in questions]
        if touched:
            named = "; ".join(str(row.place) for row in touched[:_NAMED])
            raise InputError(
                f"{folder.name} trained or validated on {len(touched)} of the {plural(len(rows), 'row')} that it is to be measured on: {named}.",
                mend="Evaluate with the data settings that it was trained with: a result on these rows proves nothing.",
            )
        counted += len(ids)
    return f"None of them, and nothing that asks the same, is among the {plural(counted, 'row')} that trained or validated it."


def _line(workspace: Path, adapter: Path) -> Iterator[Path | None]:
    """The run that made ``adapter``, the one that made its parent, and so on; ``None`` for one that is not here."""
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
    """The folder of the run that made ``adapter``: the one it lies in, or the one that its lineage names."""
    if (adapter.parent / _RECORD).is_file():
        return adapter.parent
    try:
        name = read_json(adapter / _LINEAGE)["run"]
    except (InputError, KeyError, TypeError):
        return None
    return next((run.folder for run in registry.all_runs(workspace) if run.id == name and (run.folder / _RECORD).is_file()), None)


def _seen(folder: Path) -> tuple[set[str], set[str]]:
    """Ids of the rows that trained and validated a run, and the hashes of what they ask, where their source still has them."""
    try:
        record = read_json(folder / _RECORD)
        ids = {str(row["id"]) for row in record["train"]} | set(map(str, record["valid"]))
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / _RECORD} is not what training wrote there.") from error
    recipe = load(folder / "recipe.toml")
    try:
        rows = read_source(recipe.source, recipe.data.format, recipe.data.map).rows
    except MlxtuneError:  # it is gone, or was changed: the ids are known all the same
        rows = ()
    return ids, {question(row) for row in rows if row.id in ids}

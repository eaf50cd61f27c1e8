"""Check whether an adapter was trained on the rows it is evaluated on, using the records of its runs."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_text
from mlxtune.core.json_fields import from_json, to_json
from mlxtune.core.text import plural
from mlxtune.data.rows import PromptRow, messages_hash
from mlxtune.evaluation.evidence import TRAINED, EvaluatedRow, read_records, to_jsonl
from mlxtune.recipe import load
from mlxtune.runs import registry

_RECORD, _LINEAGE = "data.json", "mlxtune.json"
_NAMED = 5  # maximum number of rows listed in an error


@dataclass(frozen=True)
class Contamination:
    """Whether adapters or their ancestors were trained on the evaluated rows."""

    code: Literal["unseen", "unknown"]  # unknown if some training records are missing. Rows that were trained on are refused.
    adapter: str  # the first one, or one whose record is missing
    rows: int = 0  # how many training and validation rows were compared with the evaluated ones


@dataclass(frozen=True)
class TrainedRows:
    """The rows that a run trained or validated on: their number, their IDs, of which copies share one, and the hashes of all prompts
    whose answers were trained, also those of earlier turns and of replay."""

    run: str
    rows: int
    ids: tuple[str, ...]
    prompts: tuple[str, ...]

    def overlap(self, rows: Sequence[PromptRow | EvaluatedRow]) -> list[PromptRow | EvaluatedRow]:
        """Return the evaluated ``rows`` that are among these, or whose prompt is."""
        ids, prompts = set(self.ids), set(self.prompts)
        return [row for row in rows if row.id in ids or messages_hash(row.prompt) in prompts]


def check(
    workspace: Path, adapters: Sequence[Path], rows: Sequence[PromptRow]
) -> tuple[Contamination | None, tuple[TrainedRows, ...]]:
    """Return whether ``adapters`` or their ancestors were trained on ``rows``, ``None`` without adapters, and what they were trained on.

    Raises ``InputError`` if one of ``rows``, or another row with the same prompt, was used to train or validate any of them.
    """
    trained: dict[Path, TrainedRows] = {}
    unknown = ""
    for adapter in adapters:
        for folder in _lineage(workspace, adapter):
            if folder is None:
                unknown = unknown or adapter.name
                break
            trained[folder] = _trained_rows(folder)
            if overlap := trained[folder].overlap(rows):
                named = "; ".join(str(row.location) for row in overlap[:_NAMED])
                raise InputError(
                    f"{folder.name} was trained or validated on {len(overlap)} of the {plural(len(rows), 'row')} to evaluate: {named}.",
                    hint="Evaluate with the data settings that were used for training: a result on these rows would prove nothing.",
                )
    records = tuple(trained.values())
    if unknown or not adapters:
        return Contamination("unknown", unknown) if unknown else None, records
    return Contamination("unseen", adapters[0].name, sum(one.rows for one in records)), records


def save(folder: Path, trained: Sequence[TrainedRows]) -> None:
    """Write ``trained.jsonl`` into the folder of an evaluation, if an adapter was evaluated."""
    if trained:
        write_text(folder / TRAINED, to_jsonl([to_json(one) for one in trained]))


def load_trained(folder: Path) -> list[TrainedRows]:
    """Load ``trained.jsonl``; empty if it is missing. Raises ``InputError`` if it is malformed."""
    return read_records(folder / TRAINED, partial(from_json, TrainedRows))


def _lineage(workspace: Path, adapter: Path) -> Iterator[Path | None]:
    """Yield the folder of the run that made ``adapter``, then of its parent's run, and so on; ``None`` if a run is missing."""
    seen: set[Path] = set()
    while (folder := _run(workspace, adapter)) and folder not in seen:
        seen.add(folder)
        yield folder
        recipe = load(folder / "recipe.toml")
        if not recipe.adapter.parent:
            return
        adapter = recipe.path(recipe.adapter.parent)
    yield None


def _run(workspace: Path, adapter: Path) -> Path | None:
    """Return the folder of the run that made ``adapter``: its parent folder, or the run that its lineage names."""
    runs = [registry.run_of(adapter)]
    with suppress(InputError, KeyError, TypeError):
        name = read_json(adapter / _LINEAGE)["run"]
        runs += (run for run in registry.list_runs(workspace) if run.id == name)
    return next((run.folder for run in runs if (run.folder / _RECORD).is_file()), None)


def _trained_rows(folder: Path) -> TrainedRows:
    try:
        record = read_json(folder / _RECORD)
        ids = *(str(row["id"]) for row in record["train"]), *map(str, record["valid"])
        return TrainedRows(folder.name, len(ids), tuple(sorted(set(ids))), tuple(record["prompts"]))
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / _RECORD} is damaged.") from error

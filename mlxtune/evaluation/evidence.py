"""What an evaluation keeps beside its report, so that every number in it can be computed again, offline, long after its source changed.

    recipe.toml         the contract, with every default
    schema.json         the bytes of the schema that was used
    questions.jsonl     each held-out row: id, line, group, reference, prompt
    outputs.jsonl       each arm's answer to each row, and why it fails what the contract asks
    preferences.jsonl   of pairs, the mean log-probabilities of both answers under each arm
    regression.jsonl    off-task prompts, what their answers must say, and what the base and the adapter answered
    nearest.jsonl       of rows that failed, the train rows most like them and who reviewed those

Their hashes stand in ``report.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_bytes, write_text
from mlxtune.core.hashing import sha256_file, sha256_json
from mlxtune.data.groups import question, together
from mlxtune.data.rows import Message, Place, Question, Row
from mlxtune.evaluation.preference import Preferred
from mlxtune.evaluation.regression import Probe
from mlxtune.evaluation.scorers import Answer
from mlxtune.recipe import Recipe, load

RECIPE, SCHEMA = "recipe.toml", "schema.json"
QUESTIONS, OUTPUTS, PREFERENCES, NEAREST = "questions.jsonl", "outputs.jsonl", "preferences.jsonl", "nearest.jsonl"
REGRESSION = "regression.jsonl"
FILES = (RECIPE, SCHEMA, QUESTIONS, OUTPUTS, PREFERENCES, REGRESSION, NEAREST)


@dataclass(frozen=True)
class Asked:
    """One held-out row as it was asked: where it stands, what it goes by in intervals, the data's answer (if it has a wanted one), and the messages."""

    id: str
    line: int
    group: str
    reference: str | None
    prompt: tuple[Message, ...]
    tools: tuple[Any, ...] = ()

    def answer(self, output: str, ended: str) -> Answer:
        """What a scorer is given of an output to this row."""
        return Answer(output, ended, self.reference, "\n\n".join(message.content for message in self.prompt))


@dataclass(frozen=True)
class Said:
    """One arm's answer as ``outputs.jsonl`` has it; ``failed`` maps a metric to the class and the reason of its failure.

    ``nats`` is the negative log-likelihood of the row's reference, over its ``tokens`` tokens.
    """

    id: str
    output: str
    ended: str
    failed: dict[str, list[str]]
    nats: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class Reviewer:
    """Who decided what about a row, and when (seconds since the epoch)."""

    who: str
    action: str
    t: float


@dataclass(frozen=True)
class Near:
    """A train row: where it stands, what it asks, how alike that is (Jaccard of 5-grams, 0 to 1), and its reviewers, oldest first."""

    id: str
    file: str
    line: int
    asks: str
    alike: float
    reviewed: tuple[Reviewer, ...]


@dataclass(frozen=True)
class Linked:
    """Of a row that failed, who reviewed it, and its nearest train rows, most alike first."""

    reviewed: tuple[Reviewer, ...]
    near: tuple[Near, ...]


@dataclass(frozen=True)
class Evidence:
    """All of it. ``said`` maps an arm to its answers in the order of ``asked``, ``preferred`` an arm to its pairs by the row's id."""

    recipe: Recipe
    asked: tuple[Asked, ...]
    said: dict[str, tuple[Said, ...]]
    preferred: dict[str, dict[str, Preferred]]


def keep(
    folder: Path,
    recipe: Recipe,
    rows: Sequence[Question],
    preferred: Mapping[str, Mapping[str, Preferred]],
    among: Sequence[Row],
) -> None:
    """Write what was asked and by which schema, and what the arms prefer; ``outputs.jsonl`` is written where answers are scored.

    Rows go by what must not straddle a split ``among`` all rows of their source: near-duplicates, and one value of ``group_by``.
    """
    if recipe.schema:
        write_bytes(folder / SCHEMA, recipe.schema.read_bytes())
    questions = [question(row) for row in among]
    first: dict[int, str] = {}
    labels = together(among, questions, recipe.data.group_by)
    groups = {row.hash: first.setdefault(label, asked) for row, label, asked in zip(among, labels, questions, strict=True)}
    asked = [
        {
            "id": row.id,
            "line": row.place.line,
            "group": groups.get(row.hash, question(row)),
            "reference": row.reference,
            "prompt": [message.as_dict() for message in row.prompt],
            "tools": list(row.tools),
        }
        for row in rows
    ]
    write_text(folder / QUESTIONS, lines(asked))
    pairs = [{"arm": arm, "id": id, **asdict(found)} for arm, by_id in preferred.items() for id, found in by_id.items()]
    if pairs:
        write_text(folder / PREFERENCES, lines(pairs))


def keep_off_task(folder: Path, probes: Sequence[Probe], said: Mapping[str, Sequence[str]]) -> None:
    """Write ``regression.jsonl``: what each arm ``said`` to each of ``probes``, in their order."""
    records = [
        {"arm": arm, "id": probe.id, "prompt": probe.prompt, "accept": probe.accept, "output": output}
        for arm, outputs in said.items()
        for probe, output in zip(probes, outputs, strict=True)
    ]
    write_text(folder / REGRESSION, lines(records))


def off_task(folder: Path) -> tuple[tuple[Probe, ...], dict[str, list[str]]]:
    """The probes of ``regression.jsonl``, none where it is missing, and what each arm said to them. Raises ``InputError``."""
    probes: dict[str, Probe] = {}
    said: dict[str, list[str]] = {}
    for place, record in _records(folder / REGRESSION):
        match record:
            case {"arm": str(arm), "id": str(id), "prompt": str(prompt), "accept": list(accept), "output": str(output)}:
                probes[id] = Probe(id, prompt, tuple(map(str, accept)), Place(folder / REGRESSION, len(probes) + 1))
                said.setdefault(arm, []).append(output)
            case _:
                raise InputError(f"{place}: not an off-task answer of the form that mlxtune writes.")
    return tuple(probes.values()), said


def lines(records: Sequence[Any]) -> str:
    """JSON lines, a half surrogate as an escape: a file of them is UTF-8 whatever a model said."""
    return "".join(json.dumps(record, ensure_ascii=True) + "\n" for record in records)


def load_evidence(folder: Path) -> Evidence:
    """The evidence in ``folder``. Raises ``InputError`` when a file is missing or not of this form."""
    asked = questions(folder)
    recipe = load(folder / RECIPE)
    if recipe.evaluation.schema:
        recipe = replace(recipe, evaluation=replace(recipe.evaluation, schema=SCHEMA), folder=folder)
    said: dict[str, list[Said]] = {}
    for place, record in _records(folder / OUTPUTS):
        match record:
            case {"arm": str(arm), "id": str(id), "output": str(output), "ended": str(ended), "failed": dict(failed)}:
                said.setdefault(arm, []).append(Said(id, output, ended, failed, record.get("nats", 0.0), record.get("tokens", 0)))
            case _:
                raise InputError(f"{place}: not an answer of the form that mlxtune writes.")
    preferred: dict[str, dict[str, Preferred]] = {}
    for place, record in _records(folder / PREFERENCES):
        match record:
            case {"arm": str(arm), "id": str(id), "chosen": float(chosen), "rejected": float(rejected)}:
                preferred.setdefault(arm, {})[id] = Preferred(chosen, rejected)
            case _:
                raise InputError(f"{place}: not a pair of the form that mlxtune writes.")
    return Evidence(recipe, asked, {arm: tuple(answers) for arm, answers in said.items()}, preferred)


def questions(folder: Path) -> tuple[Asked, ...]:
    """The rows of ``questions.jsonl``, in their order. Raises ``InputError`` when it is missing or not of this form."""
    if not (folder / QUESTIONS).is_file():
        raise InputError(
            f"{folder} keeps no {QUESTIONS}: its numbers cannot be computed again.",
            mend="It is no evaluation, or one of an older mlxtune. Evaluate again: mlxtune eval",
        )
    return tuple(_asked(record, place) for place, record in _records(folder / QUESTIONS))


def linked(folder: Path) -> dict[str, Linked]:
    """What ``nearest.jsonl`` says of each row that failed, by its id. Raises ``InputError`` when it is not of this form."""
    found = {}
    for place, record in _records(folder / NEAREST):
        try:
            near = tuple(Near(**{**one, "reviewed": _reviewers(one["reviewed"])}) for one in record["near"])
            found[str(record["id"])] = Linked(_reviewers(record["reviewed"]), near)
        except (KeyError, TypeError) as error:
            raise InputError(f"{place}: not links of the form that mlxtune writes.") from error
    return found


def _reviewers(records: Any) -> tuple[Reviewer, ...]:
    return tuple(Reviewer(**record) for record in records)


def schema_hash(folder: Path) -> str:
    """Hex sha256 of the schema as canonical JSON, however its file is laid out; empty where there is none."""
    return sha256_json(read_json(folder / SCHEMA)) if (folder / SCHEMA).is_file() else ""


def _asked(record: Any, place: str) -> Asked:
    match record:
        case {"id": str(id), "line": int(line), "group": str(group), "reference": str() | None as reference, "prompt": list(turns)}:
            messages = [
                Message(turn["role"], turn["content"], {key: turn[key] for key in turn if key not in ("role", "content")})
                for turn in turns
                if isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
            ]
            if len(messages) == len(turns):
                return Asked(id, line, group, reference, tuple(messages), tuple(record.get("tools", ())))
    raise InputError(f"{place}: not a question of the form that mlxtune writes.")


def _records(file: Path) -> list[tuple[str, Any]]:
    """Each line of ``file``, with its place; a missing file has none. Raises ``InputError``: a line that is passed over proves nothing."""
    if not file.is_file():
        return []
    found = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        try:
            found += [(f"{file.name}, line {number}", json.loads(line))] if line else []
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file.name}, line {number}: not JSON.") from error
    return found


def hashes(folder: Path, names: Sequence[str] = FILES) -> dict[str, str]:
    """Hex sha256 of each of the files that ``folder`` has."""
    return {name: sha256_file(folder / name) for name in names if (folder / name).is_file()}

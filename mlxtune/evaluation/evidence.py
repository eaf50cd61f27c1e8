"""The files that an evaluation stores next to its report, from which every number can be recomputed offline.

    recipe.toml         the recipe with the contract, including every default
    schema.json         the schema, byte for byte
    questions.jsonl     each held-out row: ID, line, group, reference, prompt
    outputs.jsonl       each arm's answer to each row with its scores (see ``answers``)
    regression.jsonl    off-task prompts, the conditions of correct answers, and the answers of the base and the adapter
    nearest.jsonl       for failed rows, the most similar training rows and who reviewed them
    optimized.md        the prompt of the arm base+optimized
    validation.jsonl    for several seeds or the arm strongest, the validation rows, like questions.jsonl
    candidates.jsonl    the answers of the arms of which the strongest was chosen to the validation rows, like outputs.jsonl
    seeds.jsonl         for several seeds, each one's answers
    holdout.jsonl       the ledger of held-out rows when the report was made
    trained.jsonl       for each run that the adapters come from, the hashes of all rows and prompts that it was trained on

``report.json`` stores their hashes.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from mlxtune.core.errors import InputError
from mlxtune.core.files import write_bytes, write_text
from mlxtune.core.hashing import sha256_file
from mlxtune.core.json_fields import from_json, optional, to_json
from mlxtune.core.sequences import grouped
from mlxtune.core.text import one_line, suggest
from mlxtune.data.rows import Location, Message, PromptRow, Row, prompt_hash
from mlxtune.data.source_files import read_json_lines
from mlxtune.data.split import group_labels
from mlxtune.evaluation.answers import Answer, SeedAnswers
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt, parse_prompt
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.disclaimer import required_by
from mlxtune.recipe import Recipe, load

RECIPE, SCHEMA = "recipe.toml", "schema.json"
QUESTIONS, OUTPUTS, NEAREST = "questions.jsonl", "outputs.jsonl", "nearest.jsonl"
REGRESSION, OPTIMIZED_PROMPT = "regression.jsonl", "optimized.md"
VALIDATION, SEEDS, TRAINED, HOLDOUT = "validation.jsonl", "seeds.jsonl", "trained.jsonl", "holdout.jsonl"
CANDIDATES = "candidates.jsonl"
FILES = (RECIPE, SCHEMA, QUESTIONS, OUTPUTS, REGRESSION, OPTIMIZED_PROMPT, NEAREST, VALIDATION, SEEDS, CANDIDATES, TRAINED, HOLDOUT)
T = TypeVar("T")


@dataclass(frozen=True)
class EvaluatedRow:
    """A held-out row: its position in the source, its group of related rows, its reference answer (if any), and its prompt."""

    id: str
    line: int
    group: str
    reference: str | None
    prompt: tuple[Message, ...]
    tools: tuple[Any, ...] = ()
    element: int | None = optional(None)  # its number in a JSON array

    @property
    def location(self) -> Location:
        """The position in the source, without its file."""
        return Location(Path(), self.line, self.element)

    @property
    def question(self) -> str:
        """The last user message."""
        return next((message.content for message in reversed(self.prompt) if message.role == "user"), "")

    def answer(self, output: str, ended: str) -> ModelAnswer:
        """Return an output for this row in the form that scorers expect."""
        return ModelAnswer(output, ended, self.reference, "\n\n".join(message.content for message in self.prompt))


@dataclass(frozen=True)
class ReviewDecision:
    """A reviewer's decision on a row, and its time in seconds since the Unix epoch."""

    who: str
    action: str
    t: float


@dataclass(frozen=True)
class NearestRow:
    """A training row similar to a failed row, with its reviews, oldest first."""

    id: str
    file: str
    line: int
    question: str
    similarity: float  # 0 to 1: the cosine of the base's hidden states or, where there are none, Jaccard's of 5-grams
    reviews: tuple[ReviewDecision, ...]
    element: int | None = None
    answer: str = optional("")  # its reference answer

    @property
    def location(self) -> Location:
        """The position in the source."""
        return Location(Path(self.file), self.line, self.element)


@dataclass(frozen=True)
class EvaluationEvidence:
    """The stored rows and answers of an evaluation. ``answers`` maps each arm to its answers in the order of ``rows``."""

    recipe: Recipe
    rows: tuple[EvaluatedRow, ...]
    answers: dict[str, tuple[Answer, ...]]

    @property
    def mismatched(self) -> list[str]:
        """The arms whose answers are not to these rows, one to one."""
        ids = [row.id for row in self.rows]
        return [arm for arm, own in self.answers.items() if [answer.id for answer in own] != ids]

    @property
    def has_pairs(self) -> bool:
        """Whether preferences were compared."""
        return any(answer.rejected for answers in self.answers.values() for answer in answers)


@dataclass(frozen=True)
class AnswerPair(EvaluatedRow):
    """A held-out row with two arms' answers. Rows in the same ``group`` are not independent."""

    reference: str  # empty if there is none
    first: str = field(kw_only=True)
    second: str = field(kw_only=True)
    required: tuple[str, ...] = ()  # the names of the conditional disclaimers that the reference requires


def save_evidence(
    folder: Path, recipe: Recipe, rows: Sequence[PromptRow], source_rows: Sequence[Row], validation: Sequence[PromptRow] = ()
) -> None:
    """Write the schema, ``questions.jsonl`` and, if there are ``validation`` rows, ``validation.jsonl``.

    Rows that a split must keep together (near-duplicates, or rows with the same ``group_by`` value) share a group.
    """
    if recipe.schema_file:
        write_bytes(folder / SCHEMA, recipe.schema_file.read_bytes())
    for name, split in ((QUESTIONS, rows), (VALIDATION, validation)):
        stored = (
            {**to_json(row), "prompt": [turn.as_dict() for turn in row.prompt]} for row in grouped_rows(recipe, split, source_rows)
        )
        if split:
            write_text(folder / name, to_jsonl(stored))


def grouped_rows(recipe: Recipe, rows: Sequence[Row], source_rows: Sequence[Row]) -> list[EvaluatedRow]:
    """Return those of ``rows`` that have a prompt in the form in which they are stored, with their groups among ``source_rows``."""
    labels, first = group_labels(source_rows, recipe.data.turns, recipe.data.group_by), dict[int, str]()
    groups = {row.location: first.setdefault(label, prompt_hash(row)) for row, label in zip(source_rows, labels, strict=True)}
    prompted = [row for row in rows if isinstance(row, PromptRow)]
    own = [groups.get(row.location, prompt_hash(row)) for row in prompted]
    return [replace(row, group=group) for row, group in zip(evaluated_rows(prompted), own, strict=True)]


def save_off_task(folder: Path, prompts: Sequence[OffTaskPrompt], answers: Mapping[str, Sequence[str]]) -> None:
    """Write ``regression.jsonl``: each arm's answers to ``prompts``, in order."""
    pairs = ((arm, *pair) for arm, outputs in answers.items() for pair in zip(prompts, outputs, strict=True))
    write_text(folder / REGRESSION, to_jsonl({"arm": arm, **to_json(prompt), "output": output} for arm, prompt, output in pairs))


def load_off_task(folder: Path) -> tuple[tuple[OffTaskPrompt, ...], dict[str, list[str]]]:
    """Load the off-task prompts and each arm's answers; empty if the file is missing. Raises ``InputError``."""
    prompts: dict[tuple[str, bool], OffTaskPrompt] = {}

    def read(record: Any) -> tuple[str, str]:
        prompt = parse_prompt(record, Location(folder / REGRESSION, len(prompts) + 1))
        match record:
            case {"arm": str(arm), "output": str(output)} if prompt and to_json(
                prompts.setdefault((prompt.id, prompt.with_system), prompt)
            ) == to_json(prompt):
                return arm, output
        raise ValueError("the arms answered different prompts")

    answers = grouped(read_records(folder / REGRESSION, read))
    return tuple(prompts.values()), answers


def to_jsonl(records: Iterable[Any]) -> str:
    """Return ``records`` as JSON Lines in ASCII, so that a lone surrogate in an output can be written."""
    return "".join(json.dumps(record, ensure_ascii=True) + "\n" for record in records)


def load_evidence(folder: Path) -> EvaluationEvidence:
    """Load the stored answers in ``folder``. Raises ``InputError`` if a file is missing or malformed."""
    rows = load_rows(folder)
    recipe = load(folder / RECIPE)
    if recipe.evaluation.schema:
        recipe = replace(recipe, evaluation=replace(recipe.evaluation, schema=SCHEMA), folder=folder)
    return EvaluationEvidence(recipe, rows, _by_arm(folder / OUTPUTS))


def load_pairs(folder: Path, first: str, second: str) -> tuple[AnswerPair, ...]:
    """Return the rows that both arms answered, in order. Raises ``InputError`` for an unknown arm or missing answers."""
    if first == second:
        raise InputError(f"{one_line(first, 40)} cannot be compared with itself.", hint="Specify two different arms.")
    evidence = load_evidence(folder)
    for arm in (first, second):
        if arm not in evidence.answers:
            raise InputError(f"{folder.name} has no arm named {one_line(arm, 40)}.", hint=suggest(arm, evidence.answers))
    one, two = ({answer.id: answer.output for answer in evidence.answers[arm]} for arm in (first, second))
    rules = evidence.recipe.evaluation.disclaimers
    rows = [(row, row.reference or "") for row in evidence.rows if row.id in one and row.id in two]
    return tuple(
        AnswerPair(**vars(row) | {"reference": text}, first=one[row.id], second=two[row.id], required=required_by(text, rules))
        for row, text in rows
    )


def save_outputs(folder: Path, arms: Iterable[tuple[Any, Sequence[Answer]]], name: str = OUTPUTS) -> None:
    """Write the answers of each of ``arms``, with its name, to ``outputs.jsonl`` or the file ``name`` of the same form."""
    write_text(folder / name, to_jsonl([{"arm": arm, **to_json(answer)} for arm, answers in arms for answer in answers]))


def load_outputs(folder: Path, rows: Sequence[EvaluatedRow], name: str = OUTPUTS) -> dict[str, tuple[Answer, ...]]:
    """Load each arm's answers to ``rows``, in order. Raises ``InputError`` if the file is malformed or has other rows."""
    answers = _by_arm(folder / name)
    if any([answer.id for answer in own] != [row.id for row in rows] for own in answers.values()):
        raise _malformed(name)
    return answers


def _by_arm(file: Path) -> dict[Any, tuple[Answer, ...]]:
    def read(record: Any) -> tuple[Any, Answer]:
        arm = record.pop("arm")
        return tuple(arm) if isinstance(arm, list) else arm, from_json(Answer, record)

    return {arm: tuple(own) for arm, own in grouped(read_records(file, read)).items()}


def save_seed_answers(folder: Path, seeds: Sequence[SeedAnswers]) -> None:
    """Write ``seeds.jsonl``, like ``outputs.jsonl``, whose arms are a run, its seed, and the part of the data."""
    parts = (((seed.run, seed.seed, part), getattr(seed, part)) for seed in seeds for part in ("validation", "held_out"))
    save_outputs(folder, parts, SEEDS)


def load_seed_answers(folder: Path, validation: Sequence[EvaluatedRow], held_out: Sequence[EvaluatedRow]) -> list[SeedAnswers]:
    """Load each seed's answers to the rows; empty if the evaluation has no seeds. Raises ``InputError`` if the file is malformed."""
    stored, seeds = _by_arm(folder / SEEDS), []
    for arm in stored:
        match arm:
            case (str(run), int(number), "held_out"):
                seed = SeedAnswers(run, number, stored.get((run, number, "validation"), ()), stored[arm])
                for answers, rows in ((seed.validation, validation), (seed.held_out, held_out)):
                    if [answer.id for answer in answers] != [row.id for row in rows]:
                        raise InputError(f"{SEEDS} lacks an answer of {one_line(run, 80)}, or has others.")
                seeds.append(seed)
            case (str(), int(), "validation"):
                pass
            case _:
                raise _malformed(SEEDS)
    return seeds


def load_rows(folder: Path, name: str = QUESTIONS) -> tuple[EvaluatedRow, ...]:
    """Load an evaluation's held-out rows, in order. Raises ``InputError`` if the file is missing or malformed."""
    if not (folder / name).is_file():
        hint = "It is not an evaluation; to make one, run: mlxtune eval"
        raise InputError(f"{folder} has no {name}, so its numbers cannot be recomputed.", hint=hint)
    return tuple(read_records(folder / name, _row))


def evaluated_rows(rows: Sequence[PromptRow]) -> list[EvaluatedRow]:
    """Return ``rows`` in the form in which they are stored, without groups."""
    return [
        EvaluatedRow(row.id, row.location.line, "", row.reference, tuple(row.prompt), tuple(row.tools), row.location.element)
        for row in rows
    ]


def load_nearest(folder: Path) -> dict[str, tuple[NearestRow, ...]]:
    """Load ``nearest.jsonl``, keyed by row ID. Raises ``InputError`` if it is malformed."""
    read = lambda record: (str(record["id"]), tuple(from_json(NearestRow, row) for row in record["nearest"]))  # noqa: E731
    return dict(read_records(folder / NEAREST, read))


def _row(record: Any) -> EvaluatedRow:
    turns = [Message(turn.pop("role"), turn.pop("content"), turn) for turn in record.pop("prompt")]
    return from_json(EvaluatedRow, record, prompt=tuple(turns))


def read_records(file: Path, read: Callable[[Any], T]) -> list[T]:
    """Return what ``read`` returns for the JSON value in each line of ``file``; empty if the file is missing.

    Raises ``InputError`` if a line is not JSON, or if ``read`` fails because it has another form.
    """
    records = []
    for location, value in read_json_lines(file) if file.is_file() else ():
        try:
            records.append(read(value))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _malformed(str(location)) from error
    return records


def _malformed(location: str) -> InputError:
    return InputError(f"{location}: unexpected format.", hint="The file was changed or damaged, so evaluate again: mlxtune eval")


def hashes(folder: Path, names: Sequence[str] = FILES) -> dict[str, str]:
    """Return the hex SHA-256 of each named file that exists in ``folder``."""
    return {name: sha256_file(folder / name) for name in names if (folder / name).is_file()}

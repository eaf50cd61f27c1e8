"""The context of a generation: the rows that the teacher may see, the texts that it must not repeat, and its first questions."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import user_path
from mlxtune.core.text import one_line
from mlxtune.data import filters, review
from mlxtune.data.access.records import SourceRecords
from mlxtune.data.generate import questions
from mlxtune.data.generate.documents import Passage, read_passages
from mlxtune.data.generate.lineage import lineage_of
from mlxtune.data.generate.questions import Subject, TeacherQuestion
from mlxtune.data.generate.request import GenerationRequest
from mlxtune.data.generate.selection import HELD_OUT
from mlxtune.data.readers.columns import apply_mapping
from mlxtune.data.readers.formats import as_object, parse
from mlxtune.data.readers.row_format import InvalidRecord, Record
from mlxtune.data.replay import read_prompts
from mlxtune.data.review import EXCLUDED, Decision, ReviewState
from mlxtune.data.reviewed_records import ReviewedRecords
from mlxtune.data.rows import Conversation, Location, Message, Preference, PromptRow, Row, RowError, shared_system_prompt
from mlxtune.data.source import Source, read_source
from mlxtune.data.source_files import GENERATED, read_lines
from mlxtune.data.split import SplitName, Splits, split
from mlxtune.recipe import DataSection, Recipe

_SPARE_SUBJECTS = 1.25  # prompts that are answered per row, because some answers are refused


@dataclass(frozen=True)
class GenerationContext:
    """``train`` contains the training rows that no model wrote, and ``examples`` the ones that the teacher writes variations of."""

    source: Source
    splits: Splits
    train: tuple[Conversation | Preference, ...]
    examples: tuple[Conversation | Preference, ...]
    system: str
    review: ReviewState

    def new_subject(self, prompt: str, rows: Sequence[PromptRow] = ()) -> Subject:
        """Return a subject for a new prompt, with the system turn and the metadata that ``rows`` share."""
        system = shared_system_prompt(rows) if rows else self.system
        head = (Message("system", system),) if system else ()
        meta = questions.common_meta(rows) if rows else {}
        return Subject((*head, Message("user", prompt)), rows[0].tools if rows else (), meta, tuple(row.id for row in rows))

    def without_answer(self, subject: Subject) -> Conversation:
        return Conversation(Location(self.source.path, 1), {}, (*subject.prompt, Message("assistant", "")))


@dataclass(frozen=True)
class FirstStage:
    """The first questions, and the passages or example groups that they are about, or the subjects if the prompts are already
    known."""

    questions: Sequence[TeacherQuestion] = ()
    groups: Sequence[Sequence[PromptRow]] = ()
    passages: Sequence[Passage] = ()
    subjects: Sequence[Subject] = ()

    def most_subjects(self, count: int) -> int:
        """Return the highest number of prompts that are answered for ``count`` rows."""
        return math.ceil(_SPARE_SUBJECTS * count) if self.questions else len(self.subjects)


def load_context(recipe: Recipe, request: GenerationRequest) -> GenerationContext:
    """Read and split the recipe's source, and choose the examples. Raises ``InputError`` if the request does not fit the rows."""
    source, splits, train = _read(recipe, skip_invalid=request.task == "answers" and not request.prompts)
    is_pair = isinstance(train[0], Preference)
    if (request.task == "pairs") != is_pair and request.task != "scores":
        raise InputError(
            f'A recipe with method.kind = "{recipe.method.kind}" trains on {"pairs" if is_pair else "answers"}.',
            hint="Generate worse answers with --worse." if is_pair else "Use a recipe for dpo with --worse.",
        )
    if request.task == "retries" and {"answer", "fields", "calls"} & {*recipe.evaluation.correct}:
        hint = "Name a teacher that writes new rows: --local NAME, --adapter NAME, or --model NAME --url URL."
        raise InputError("By evaluation.correct, each row has only one correct answer, so no other is proposed.", hint=hint)
    state = review.load(source.path)
    examples = _examples(train, request, state, source)
    return GenerationContext(source, splits, train, examples, shared_system_prompt(train), state)


def training_rows(recipe: Recipe) -> tuple[Conversation | Preference, ...]:
    """Return the training rows that a teacher may see. Raises ``DataError`` or ``InputError`` if there are none."""
    return _read(recipe)[2]


def _read(recipe: Recipe, *, skip_invalid: bool = False) -> tuple[Source, Splits, tuple[Conversation | Preference, ...]]:
    if recipe.method.kind == "kto":
        raise InputError("Rows for KTO cannot be generated.", hint="Use a recipe with method.kind = sft or dpo.")
    source = read_source(recipe.source, recipe.data, skip_invalid=skip_invalid)
    splits = split(source, recipe.data)
    kind: type[Conversation | Preference] = Preference if recipe.method.kind == "dpo" else Conversation
    train = tuple(row for row in splits.train if isinstance(row, kind) and not lineage_of(row))
    if not train:
        hint = "Add a few chat or completion rows." if kind is Conversation else "Add a few preference pairs."
        raise DataError(f"{source.path.name} has no training rows that a teacher could use as examples.", hint=hint)
    return source, splits, train


def first_stage(context: GenerationContext, recipe: Recipe, request: GenerationRequest) -> FirstStage:
    """Return the first questions for the teacher. Raises ``DataError`` if a file or the documents cannot be read, or nothing needs
    an answer."""
    if request.task == "variations":
        groups = questions.example_groups(context.examples, request.count, request.seed)
        return FirstStage(questions.variation_questions(groups, request.about, request.seed), groups)
    if request.task == "documents":
        passages = read_passages(user_path(request.documents))
        needed = max(1, -(-int(questions.SPARE * request.count) // questions.PER_QUESTION))
        step = max(1, len(passages) // needed)
        chosen = passages[::step][:needed]  # spread over the documents
        asked = questions.document_questions(chosen, context.examples, request.about, request.seed)
        return FirstStage(asked, passages=chosen)
    if request.task == "pairs":
        return FirstStage(subjects=questions.pair_subjects(context.examples, request.count, request.seed))
    if request.task == "retries":
        rows = [row for row in context.examples if isinstance(row, Conversation)][: request.count]
        subjects = [
            Subject(row.prompt, row.tools, questions.common_meta([row]), (row.id,), reference=row.reference) for row in rows
        ]
        return FirstStage(subjects=subjects)
    if request.task == "answers":
        asked_for = _prompt_subjects(context, request) if request.prompts else unanswered(context.source.path, recipe.data)
        return FirstStage(subjects=asked_for[: request.count])
    return FirstStage()


def known_rows(context: GenerationContext, recipe: Recipe) -> Iterator[tuple[str, Row]]:
    """Yield every row of the source, both the original and the edited version, with the reason why a generated row must not repeat
    it."""
    held_out = {row.hash for row in (*context.splits.test, *context.splits.valid)}
    with SourceRecords(context.source.path, recipe.data.format, recipe.data.map) as records:
        for item in ReviewedRecords(records, context.review):
            versions = [item.record, *([records.record(item.index)] if item.is_edited else [])]
            rows = [row for row in versions if not isinstance(row, DataError)]
            if item.part in ("test", "valid") or not held_out.isdisjoint(row.hash for row in rows):
                kind = HELD_OUT
            elif item.decision.status in EXCLUDED:
                kind = "rejected"
            else:
                kind = "proposed" if item.part == GENERATED and item.decision.status != "accepted" else "training"
            yield from ((kind, row) for row in rows)


def _prompt_subjects(context: GenerationContext, request: GenerationRequest) -> list[Subject]:
    file = user_path(request.prompts)
    if file.suffix == ".txt":
        return [context.new_subject(line.strip()) for _, line in read_lines(file, "Correct --prompts.")]
    result = []
    for _, messages in read_prompts(file, "--prompts"):
        head = () if messages[0].is_system or not context.system else (Message("system", context.system),)
        result.append(Subject((*head, *messages)))
    return result


def unanswered(path: Path, data: DataSection) -> list[Subject]:
    """Return the prompts of the rows of a source, outside test files, that only lack an answer. Raises ``DataError`` if there are none."""
    subjects = []
    with SourceRecords(path, data.format, data.map) as records:
        for file in (file for part, file in records.files if part in ("all", "train")):
            for index in range(len(file)):
                with suppress(RowError, InvalidRecord):
                    if record := _with_answer(apply_mapping(as_object(file.raw(index), file.location(index)), data.map)):
                        row = parse(record, file.location(index), data.format)
                        if isinstance(row, Conversation):
                            subjects.append(Subject(row.prompt, row.tools, questions.common_meta([row])))
    if not subjects:
        raise DataError(f"{path.name} has no rows without an answer.", hint="Answer the prompts of another file with --prompts.")
    return subjects


def _with_answer(record: Record) -> Record | None:
    """Return ``record`` with a stand-in for its missing answer, or ``None`` if it has an answer or no prompt."""
    for turns, key, own in (("messages", "content", {"role": "assistant"}), ("conversations", "value", {"from": "gpt"})):
        match record.get(turns):
            case [*before, {**last}]:
                is_open = own.items() <= last.items() and not last.get(key) and "tool_calls" not in last
                asked = last.get("role", last.get("from")) in ("user", "human")
                kept = before if is_open else [*before, last]
                return {**record, turns: [*kept, {**own, key: "."}]} if is_open or asked else None
    key = "completion" if record.get("prompt") else "output" if record.get("instruction") else ""
    return {**record, key: "."} if key and not str(record.get(key) or "").strip() else None


def _examples(
    train: Sequence[Conversation | Preference], request: GenerationRequest, state: ReviewState, source: Source
) -> tuple[Conversation | Preference, ...]:
    """Return the training rows that ``request`` selects. Raises ``InputError`` if there are none."""
    matches = filters.parse(request.filter)
    if filters.fields(request.filter) & filters.CHECKED:
        raise InputError(
            "Training rows cannot be selected by findings, splits, or tokens.", hint="Select them by tag, status, id, len, or text."
        )
    chosen = tuple(
        row
        for row in train
        if (not request.rows or row.id in request.rows)
        and matches(_TrainRow(row, state.decision(source.edited.get(row.hash, row.hash))))
    )
    if not chosen:
        what = one_line(request.filter, 80) or "the given IDs"
        raise InputError(f"No training row matches {what}.", hint="Use a filter that matches more of the training rows.")
    return chosen


@dataclass(frozen=True)
class _TrainRow:
    row: Row
    decision: Decision
    findings: tuple[str, ...] = ()
    split: SplitName = "train"
    tokens: int = -1

    @property
    def current(self) -> Row:
        return self.row

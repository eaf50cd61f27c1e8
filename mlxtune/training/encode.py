"""Encode rows as tokens, among them the base's answers to the replay prompts.

Errors are collected for all rows that cannot be trained on. Answers are cached in ``replay/`` in mlxtune's home, in one file per base,
keyed by a prompt's tokens and the kind of answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlxtune.core.errors import DataError, Interrupted, TemplateError, TooLongError
from mlxtune.core.files import disk_errors, home
from mlxtune.core.hashing import sha256_json
from mlxtune.core.journal import Journal, read
from mlxtune.core.text import plural
from mlxtune.data.checks.check_input import TokenCount
from mlxtune.data.replay import MAX_TOKENS, ReplayPrompt, replay_prompts
from mlxtune.data.rows import Conversation, Location, Preference, Row, TextRow, Unpaired, assistant_message
from mlxtune.data.template_notes import TemplateNote
from mlxtune.evaluation.answers import is_loop
from mlxtune.models.encoded import Encoded, EncodedPair
from mlxtune.models.template import ChatTemplate
from mlxtune.planning.workload import RowLength
from mlxtune.recipe import Recipe

if TYPE_CHECKING:
    from mlxtune.data.split import Splits
    from mlxtune.models.load import LoadedModel
    from mlxtune.training.loop import RunListener


_NO_LIMIT = 2**31 - 1  # tokens
MAX_LISTED = 5  # rows listed in an error


class SkippedRow(NamedTuple):
    """A row that is not trained on, where it is, and the reason."""

    id: str
    location: Location
    reason: str


@dataclass(frozen=True)
class EncodedRows:
    """``rows`` are ``Encoded`` or ``EncodedPair``; ``skipped`` has the rows that are too long."""

    rows: list[Any]
    skipped: list[SkippedRow]


def encode(template: ChatTemplate, rows: Sequence[Row], recipe: Recipe) -> EncodedRows:
    """Encode ``rows``. Raise ``DataError`` with up to ``MAX_LISTED`` unusable rows, or ``TemplateError`` if all are."""
    if any(not isinstance(row, TextRow) for row in rows):
        template.check_trainable()
    window = recipe.data.max_tokens
    encoded: list[Any] = []
    skipped: list[SkippedRow] = []
    errors: list[DataError | TemplateError] = []
    for index, row in enumerate(rows):
        try:
            match recipe.method.kind:
                case "sft":
                    encoded += template.encode(row, window)
                case "dpo":
                    encoded.append(template.encode_pair(row, window))
                case "kto":
                    encoded.append(template.encode_unpaired(row, rows[index - 1], window))
        except TooLongError as error:
            if recipe.data.too_long == "skip":
                skipped.append(SkippedRow(row.id, row.location, error.message))
            else:
                errors.append(error)
        except (DataError, TemplateError) as error:
            errors.append(error)
    if errors:
        raise _combined(errors, len(rows))
    if rows and not encoded:
        raise DataError(f"None of {plural(len(rows), 'row')} fits in data.max_tokens.", hint="Raise data.max_tokens.")
    return EncodedRows(encoded, skipped)


def count_notes(rows: Sequence[Encoded | EncodedPair]) -> dict[TemplateNote, int]:
    """Return the changes that the template makes, with the number of affected rows in the source."""
    changes = {(row.id, note) for row in rows for note in row.notes}
    return {note: count for note in TemplateNote if (count := sum(note == other for _, other in changes))}


def row_lengths(rows: Sequence[Encoded | EncodedPair]) -> tuple[RowLength, ...]:
    lengths = []
    for row in rows:
        if isinstance(row, Encoded):
            trained, prompt = int(row.trained[1:].sum()), int(row.trained.argmax())
            lengths.append(RowLength(row.full_length, trained, prompt, unprefixed=row.unprefixed))
        else:
            prompt, common, (chosen, rejected) = len(row.prompt), row.common_length, row.full_lengths
            sides = (prompt + common, chosen - common, rejected - common)
            lengths.append(RowLength(prompt + max(row.full_lengths), len(row.chosen) + len(row.rejected), prompt, sides))
    return tuple(lengths)


def count_row_tokens(template: ChatTemplate, record: Row | DataError) -> TokenCount | None:
    """Return a row's tokens in training, of a pair with its longer answer; ``None`` if nothing is trained on."""
    try:
        if isinstance(record, DataError):
            return None
        if isinstance(record, Preference):
            pair = template.encode_pair(record, _NO_LIMIT)
            total = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
            return TokenCount(total, len(pair.prompt), notes=tuple(sorted(pair.notes)))
        if isinstance(record, Unpaired):
            record = Conversation(record.location, record.meta, (*record.prompt, assistant_message(record.completion)))
        rows = template.encode(record, _NO_LIMIT)
        notes = sorted(frozenset().union(*(row.notes for row in rows)))
        return TokenCount(max(row.full_length for row in rows), min(int(row.trained.argmax()) for row in rows), notes=tuple(notes))
    except TemplateError as error:
        return TokenCount(0, 0, f"{error.problem[:1].upper()}{error.problem[1:]} {error.hint}")
    except DataError:  # no trained tokens
        return None


def _combined(errors: Sequence[DataError | TemplateError], total: int) -> DataError | TemplateError:
    if len(errors) == 1:
        return errors[0]
    listed = [error.message for error in errors[:MAX_LISTED]]
    if len(errors) > MAX_LISTED:
        listed.append(f"and {plural(len(errors) - MAX_LISTED, 'more row')}")
    hint = errors[0].hint
    if any(isinstance(error, TooLongError) for error in errors):
        hint = 'Raise data.max_tokens, or skip such rows: too_long = "skip" in [data].'
    kind = TemplateError if all(isinstance(error, TemplateError) for error in errors) else DataError
    return kind(f"{len(errors)} of {plural(total, 'row')} cannot be used:\n  " + "\n  ".join(listed), hint=hint)


BATCH_SIZE = 96


@dataclass(frozen=True)
class ReplayAnswer:
    """The base's answer to a replay prompt, and whether it was truncated at the limit."""

    text: str
    cut: bool


def replay_rows(recipe: Recipe, loaded: LoadedModel, template: ChatTemplate, splits: Splits, worker: RunListener) -> list[Encoded]:
    """Return the training rows to mix in. Left out are empty answers, those with a phrase that the contract forbids, and loops,
    because an adapter that is trained on loops repeats itself in its task's answers, too.

    ``loaded`` has no adapter yet. Raise ``InputError`` for prompts that cannot be used.
    """
    prompts = replay_prompts(recipe, splits.train)
    if not prompts:
        return []
    file = _cache_file(recipe, loaded.source.fingerprint)
    keys = [_key(template, prompt) for prompt in prompts]
    answers = _read(file)
    missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in answers}
    if missing:
        new = _generate(missing, len(prompts), loaded, template, worker)
        answers |= new
        with disk_errors(str(file)):
            file.parent.mkdir(parents=True, exist_ok=True)
        with Journal(file) as journal:
            for key, answer in new.items():
                journal.append({"key": key, **asdict(answer)})
    usable = [(prompt, answers[key]) for key, prompt in zip(keys, prompts, strict=True) if _is_usable(answers[key], recipe)]
    rows = [prompt.row(answer.text) for prompt, answer in usable]
    splits.refuse_sealed(rows)
    return [_encoded(template, row, recipe, answer.cut) for row, (_, answer) in zip(rows, usable, strict=True)]


def planned_replay_rows(recipe: Recipe, fingerprint: str, template: ChatTemplate, splits: Splits) -> list[Encoded]:
    """Return the rows of :func:`replay_rows` that are cached; the other answers are assumed to have the maximum length."""
    answers = _read(_cache_file(recipe, fingerprint))
    rows = []
    for prompt in replay_prompts(recipe, splits.train):
        answer = answers.get(_key(template, prompt))
        if answer is None:
            tokens = np.array([*template.prompt(prompt.messages), *[0] * MAX_TOKENS], np.int32)
            trained = np.arange(len(tokens)) >= len(tokens) - MAX_TOKENS
            unprefixed = not recipe.data.replay_system
            rows.append(Encoded("", prompt.location, tokens, trained, len(tokens), replay=True, unprefixed=unprefixed))
        elif _is_usable(answer, recipe):
            rows.append(_encoded(template, prompt.row(answer.text), recipe, answer.cut))
    return rows


def _cache_file(recipe: Recipe, fingerprint: str) -> Path:
    return home() / "replay" / f"{sha256_json([1, fingerprint, recipe.model.quantize])[:32]}.jsonl"


def _key(template: ChatTemplate, prompt: ReplayPrompt) -> str:
    return sha256_json([template.prompt(prompt.messages), prompt.seed, MAX_TOKENS])[:32]


def _read(file: Path) -> dict[str, ReplayAnswer]:
    """Read cached answers; a damaged line is generated again."""
    return {
        key: ReplayAnswer(text, cut)
        for record in read(file)
        if isinstance(key := record.get("key"), str)
        and isinstance(text := record.get("text"), str)
        and isinstance(cut := record.get("cut"), bool)
    }


def _generate(
    prompts: Mapping[str, ReplayPrompt], total: int, loaded: LoadedModel, template: ChatTemplate, worker: RunListener
) -> dict[str, ReplayAnswer]:
    from mlxtune.models.generate import GenerationSettings, PromptGroup, generate

    cached, reported = total - len(prompts), -1

    def progress(done: int, _: int) -> None:
        nonlocal reported
        if worker.stopping:
            raise Interrupted(0)
        if done > reported:
            reported = done
            worker.emit("replay", done=cached + done, total=total)

    loaded.model.eval()
    progress(0, total)
    settings = GenerationSettings(max_tokens=MAX_TOKENS, stops=template.stop_tokens, batch_size=BATCH_SIZE)
    seeds = [int(key[:12], 16) if prompt.seed else 0 for key, prompt in prompts.items()]
    group = PromptGroup([template.prompt(prompt.messages) for prompt in prompts.values()], settings, seeds=seeds)
    outputs = generate(loaded.model, loaded.tokenizer, [group], progress=progress)
    return {key: ReplayAnswer(output.text, output.ended != "stop") for key, output in zip(prompts, outputs, strict=True)}


def _is_usable(answer: ReplayAnswer, recipe: Recipe) -> bool:
    text = answer.text.casefold()
    return bool(text.strip()) and not is_loop(text) and not any(phrase.casefold() in text for phrase in recipe.evaluation.forbid)


def _encoded(template: ChatTemplate, row: Conversation, recipe: Recipe, cut: bool) -> Encoded:
    """Encode an answer. A truncated answer is trained on without a stop token, because the base would have continued."""
    (encoded,) = template.encode(row, recipe.data.max_tokens)
    tokens, trained = encoded.tokens, encoded.trained
    if cut:
        ends = np.flatnonzero(trained & np.isin(tokens, list(template.stop_tokens)))
        length = int(ends[-1]) if ends.size else len(tokens)
        tokens, trained = tokens[:length], trained[:length]
    unprefixed = not recipe.data.replay_system
    return replace(encoded, tokens=tokens, trained=trained, full_length=len(tokens), replay=True, unprefixed=unprefixed)

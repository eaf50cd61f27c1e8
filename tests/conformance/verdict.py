"""Encode one row with one template and judge the result: accepted, refused, or wrong.

The judge does not know how rows are encoded. It checks that every trained span starts where an inference prompt ends and ends with
the first stop token after it, that each assistant turn trains exactly once unless its weight is 0, and that everything the row says
is in the tokens: what assistants say, in the trained ones. Special tokens in a row's content must not become control tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from row_shapes import SHAPES, Record, with_specials

from mlxtune.core.errors import MlxtuneError
from mlxtune.data.readers.formats import parse
from mlxtune.data.rows import Conversation, Location, Row, Unpaired
from mlxtune.models.template import ChatTemplate

WINDOW = 100_000
LOCATION = Location(Path("rows.jsonl"), 1)
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")


class Mistake(Exception):
    """What is wrong with an accepted row."""


@dataclass(frozen=True)
class Verdict:
    """``status`` is ``ok``, ``refused`` or ``WRONG``; ``reason`` is the refusal, with its ``hint``, or what is wrong.

    ``notes`` name what an accepted row changes. ``trained`` is the trained text of each turn, in order.
    """

    status: str
    reason: str = ""
    hint: str = ""
    notes: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingSequence:
    """One sequence: its tokens, which of them are trained, and the changes that are reported for it."""

    tokens: list[int]
    trained: list[bool]
    notes: frozenset[str]


def judge(chat: ChatTemplate, shape: str, specials: tuple[str, ...] = (), *, thoughts: bool = True) -> Verdict:
    """Return the verdict for the row ``shape``. With ``thoughts``, the row's thoughts must be trained, otherwise they must not."""
    record = with_specials(SHAPES[shape], " ".join(specials))
    try:
        encoded = encode(chat, parse(record, LOCATION))
    except MlxtuneError as error:
        return Verdict("refused", error.message.removeprefix(f"{LOCATION}: "), error.hint)
    except Exception as error:
        return Verdict("WRONG", f"crash: {type(error).__name__}: {error}")
    spans_ = [(one, start, end) for one in encoded for start, end in spans(one.trained)]
    texts = tuple(chat.tokenizer.decode(one.tokens[start:end]) for one, start, end in spans_)
    notes = frozenset(note for one in encoded for note in one.notes)
    try:
        for one, start, end in spans_:
            _check_stop(chat, one.tokens[start:end])
            if not specials or "{specials}" not in str(SHAPES[shape]):
                _check_markers(chat, one.tokens[start:end])
            _check_prompt(chat, record, one.tokens, start)
        unreported = set(_changes(record, texts, thoughts)) - notes
        answered = 0
        for one in encoded:
            answered += len(spans(one.trained))
            unreported |= set(_missing(record, answered, chat.tokenizer.decode(one.tokens))) - notes
        if unreported:
            raise Mistake(f"without a note: {', '.join(sorted(unreported))}")
        if "{specials}" in str(SHAPES[shape]):
            plain = encode(chat, parse(with_specials(SHAPES[shape], "nothing"), LOCATION))
            _check_control_tokens(set(chat.tokenizer.convert_tokens_to_ids(list(specials))), encoded, plain)
    except Mistake as mistake:
        return Verdict("WRONG", str(mistake), trained=texts)
    return Verdict("ok", notes=tuple(sorted(notes)), trained=texts)


def encode(chat: ChatTemplate, row: Row) -> list[TrainingSequence]:
    """Return the training sequences of ``row``: for a pair, one for each of its answers."""
    if isinstance(row, Conversation):
        encoded = chat.encode(row, WINDOW)
        parts = encoded if isinstance(encoded, list | tuple) else [encoded]
        return [TrainingSequence(one.tokens.tolist(), one.trained.tolist(), one.notes) for one in parts]
    if isinstance(row, Unpaired):
        question = replace(row.prompt[-1], content="Another question?")
        pair = chat.encode_unpaired(row, replace(row, prompt=(question,), completion="Another answer."), WINDOW)
        answers = [pair.chosen]
    else:
        pair = chat.encode_pair(row, WINDOW)
        answers = [pair.chosen, pair.rejected]
    prompt = pair.prompt.tolist()
    return [TrainingSequence([*prompt, *answer], [False] * len(prompt) + [True] * len(answer), pair.notes) for answer in answers]


def spans(trained: Sequence[Any]) -> list[tuple[int, int]]:
    """Return where each run of trained tokens starts and ends."""
    padded = [False, *map(bool, trained), False]
    edges = [index for index in range(len(padded) - 1) if padded[index] != padded[index + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def turns(record: Record) -> list[Record]:
    """Return the turns of a record in any format; a pair's chosen answer is its last turn."""
    if "messages" in record:
        return record["messages"]
    return [*record["prompt"], *(record.get("completion") or record["chosen"])]


def trained_turns(record: Record) -> list[Record]:
    """Return the turns that must be trained, in order."""
    if "messages" in record:
        return [turn for turn in record["messages"] if turn["role"] == "assistant" and turn.get("weight", 1)]
    return record.get("completion") or [*record["chosen"], *record["rejected"]]


def _check_stop(chat: ChatTemplate, span: Sequence[int]) -> None:
    stops = chat.stop_tokens
    if span[-1] not in stops:
        raise Mistake(f"the trained span does not end with a stop token: {chat.tokenizer.decode(span)[-60:]!r}")
    own = set(chat.tokenizer.eos_token_ids)  # Cohere's answers end with another token before it
    if early := [token for index, token in enumerate(span[:-1]) if token in stops and (token in own or index < len(span) - 2)]:
        raise Mistake(f"a trained span goes on after the stop token {chat.tokenizer.decode(early[:1])!r}")


def _check_markers(chat: ChatTemplate, span: Sequence[int]) -> None:
    """Raise ``Mistake`` if a thought is marked with text, although the vocabulary has tokens for that."""
    text = chat.tokenizer.decode(list(span))
    for marker in ("<think>", "</think>"):
        id = chat.tokenizer.backend_tokenizer.token_to_id(marker)
        if id is not None and text.count(marker) != list(span).count(id):
            raise Mistake(f"{marker} is text in the trained span {text!r}")


def _check_prompt(chat: ChatTemplate, record: Record, tokens: list[int], start: int) -> None:
    """Raise ``Mistake`` unless the tokens before ``start`` are the inference prompt of some turn."""
    row = parse(record, LOCATION)
    messages = row.messages if isinstance(row, Conversation) else (*row.prompt, None)
    ends = [index for index, turn in enumerate(messages) if turn is None or turn.role == "assistant"]
    try:
        prompts = [chat.prompt(messages[:end], row.tools) for end in ends if end]
    except MlxtuneError as error:
        raise Mistake(f"the row is accepted, but its prompt is refused: {error.message}") from error
    if tokens[:start] not in prompts:
        nearest = max(prompts, key=lambda prompt: _shared(prompt, tokens))
        common = max(0, _shared(nearest, tokens) - 4)
        ours, theirs = (chat.tokenizer.decode(part) for part in (tokens[common:start], nearest[common:]))
        raise Mistake(f"before a trained span stands {ours!r}, but the prompt is {theirs!r}")


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _changes(record: Record, texts: Sequence[str], thoughts: bool) -> Iterator[str]:
    """Yield how the trained texts differ from the turns; raise ``Mistake`` unless each turn is trained with all its parts."""
    expected = trained_turns(record)
    if len(texts) != len(expected):
        raise Mistake(f"{len(texts)} trained spans for {len(expected)} trained turns: {list(texts)}")
    for text, turn in zip(texts, expected, strict=True):
        thought, content = thought_and_content(turn)
        if content and content not in text:
            if not _contains(text, content.strip()):
                raise Mistake(f"the trained tokens {text!r} lack the answer {content!r}")
            yield "trimmed" if content != content.strip() else "composed"
        for part in _call_parts(turn):
            if not _contains(text, part):
                raise Mistake(f"the trained tokens {text!r} lack {part!r} of the call")
        if thought and (thought in text) != thoughts:
            raise Mistake(f"the trained tokens {text!r} {'lack' if thoughts else 'have'} the thought")
        if re.search(r"""["']type["']: ["'](thinking|text)""", text):
            raise Mistake(f"the trained tokens {text!r} print the parts of the answer as an object")
        if thought and not thoughts:
            yield "reasoning-left-out"


def _missing(record: Record, answered: int, text: str) -> Iterator[str]:
    """Yield what ``text`` may leave out; raise ``Mistake`` unless it has the tools and the turns before the answer it trains last."""
    rows = turns(record)
    last = trained_turns(record)[answered - 1]
    for turn in rows[: rows.index(last)] if last in rows else rows[:-1]:
        content = turn.get("content") or ""
        parts = [content] if isinstance(content, str) else [part["text"] for part in content]
        if turn["role"] == "assistant":
            parts = [thought_and_content(turn)[1], *_call_parts(turn)]
        for part in parts:
            if not _contains(text, part.strip()):
                raise Mistake(f"the tokens lack {part!r}")
        if turn["role"] == "user" and not _contains(text, turn.get("name", "")):
            yield "name-left-out"
    for tool in (tool["function"] for tool in record.get("tools", ())):
        for part in (tool["name"], tool["description"], *tool["parameters"]["properties"]):
            if not _contains(text, part):
                raise Mistake(f"the tokens lack {part!r} of the tools")


def thought_and_content(turn: Record) -> tuple[str, str]:
    """Return the thought and the answer of an assistant turn."""
    content = turn.get("content") or ""
    if "</think>" in content:
        thought, content = (part.strip() for part in content.removeprefix("<think>").split("</think>"))
        return thought, content
    return next((turn[key] for key in THOUGHT_KEYS if key in turn), ""), content


def _call_parts(turn: Record) -> Iterator[str]:
    for call in turn.get("tool_calls", ()):
        yield call["function"]["name"]
        yield from _strings(call["function"]["arguments"])


def _check_control_tokens(special: set[int], encoded: Sequence[TrainingSequence], plain: Sequence[TrainingSequence]) -> None:
    count, usual = (sum(token in special for one in each for token in one.tokens) for each in (encoded, plain))
    if count != usual:
        raise Mistake(f"special tokens in the content became {count - usual} control tokens")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _contains(text: str, part: str) -> bool:
    """Return whether ``text`` contains ``part``, perhaps with JSON's escapes or in another Unicode composition."""
    text, part = (unicodedata.normalize("NFC", one).replace("\\", "") for one in (text, part))
    return part in text

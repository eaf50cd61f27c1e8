"""Compute training masks of rows for review. Runs as the child process of ``planning.masks``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import astuple
from functools import cache
from pathlib import Path

from mlxtune.core.child_process import Request, serve
from mlxtune.core.errors import DataError
from mlxtune.data.readers.formats import parse
from mlxtune.data.rows import Conversation, Location, Message, Preference, Row, Text, Unpaired
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template
from mlxtune.planning.masks import TrainingMask, TurnTokens

_NO_LIMIT = 2**31 - 1  # tokens


def mask(template: ChatTemplate, row: Row, max_tokens: int) -> TrainingMask:
    """Return the tokens of each part of ``row``, and which of them are trained. The last two parts of a pair are its answers.

    Raises ``DataError`` for a row that cannot be encoded.
    """
    match row:
        case Text():
            encoded = template.encode(row, _NO_LIMIT)
            parts = [(row.text, False)]
            turns = _turns(template, row.text, parts, encoded.tokens.tolist(), encoded.trained.tolist(), max_tokens)
        case Conversation():
            encoded = template.encode(row, _NO_LIMIT)
            text = template.render(row.messages, row.tools, generation_prompt=False, location=row.location)
            parts = [(message.content, message.role == "assistant") for message in row.messages]
            turns = _turns(template, text, parts, encoded.tokens.tolist(), encoded.trained.tolist(), max_tokens)
        case Preference():
            turns, rejected = (_completion_turns(template, row, answer, max_tokens) for answer in (row.chosen, row.rejected))
            turns.append(rejected[-1])
        case _:
            turns = _completion_turns(template, row, row.completion, max_tokens)
    return TrainingMask(tuple(turns), sum(turn.tokens for turn in turns), sum(turn.trained for turn in turns))


def _completion_turns(template: ChatTemplate, row: Preference | Unpaired, answer: str, max_tokens: int) -> list[TurnTokens]:
    messages = (*row.prompt, Message("assistant", answer))
    prompt, completion = template.split_completion(messages, row.tools, row.location)
    text = template.render(messages, row.tools, generation_prompt=False, location=row.location)
    parts = [*((message.content, False) for message in row.prompt), (answer, True)]
    trained = [False] * len(prompt) + [True] * len(completion)
    return _turns(template, text, parts, [*prompt, *completion], trained, max_tokens)


def _turns(
    template: ChatTemplate, text: str, parts: Sequence[tuple[str, bool]], tokens: Sequence[int], trained: Sequence[bool], max_tokens: int
) -> list[TurnTokens]:  # fmt: skip
    """Divide the tokens of ``text`` among its ``parts``: (content, is an answer). Header tokens belong to the part after them."""
    spans = _spans(template, text, tokens)
    turns: list[TurnTokens] = []
    offset, first = 0, 0  # end of the previous part in the text, and the first token of this one
    for number, (content, is_answer) in enumerate(parts):
        shown, stop = content.strip(), ""
        begin = next((index for index in range(first, len(tokens)) if trained[index]), first) if is_answer else first
        start = text.find(shown, spans[begin][0] if is_answer and begin < len(spans) else offset)
        if start < 0:  # the template rewrites the content: count its tokens, but show none
            start, shown = offset, ""
        end = start + len(shown)
        if is_answer:
            last = next((index for index in range(begin, len(tokens)) if not trained[index]), len(tokens))
            stop = text[end : max(spans[last - 1][1], end)]
        else:
            last = next((index for index in range(first, len(tokens)) if spans[index][0] >= end), len(tokens))
            last += last < len(tokens) and tokens[last] in template.stop_tokens
        if number == len(parts) - 1:
            last = len(tokens)
        lead = len(content) - len(content.lstrip())
        inside = [index for index in range(first, last) if spans[index][1] > start and spans[index][0] < end]
        cuts = sorted({lead + min(max(spans[index][1] - start, 0), len(shown)) for index in inside})
        truncated_at = next((max(spans[index][0] - start, 0) + lead for index in inside if index >= max_tokens), None)
        trained_count = sum(trained[index] for index in range(first, min(last, max_tokens)))
        turns.append(TurnTokens(last - first, trained_count, tuple(cuts), stop, truncated_at))
        offset, first = end, last
    return turns


def _spans(template: ChatTemplate, text: str, tokens: Sequence[int]) -> list[tuple[int, int]]:
    """Return the start and end of each token in ``text``. The tokens may be truncated, or have an extra stop token."""
    encoding = template.tokenizer._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = [(int(start), int(end)) for start, end in encoding["offset_mapping"]]
    if list(encoding["input_ids"])[: len(tokens)] != list(tokens)[: len(spans)]:
        raise DataError("The tokens of this row cannot be aligned with its text.", hint="Only the token counts are available.")
    return [*spans, *[(len(text), len(text))] * (len(tokens) - len(spans))][: len(tokens)]


@cache
def _template(base: str, settings: TemplateSettings) -> ChatTemplate:
    return load_template(resolve(base, fetch=False), settings)


def _answer(request: Request) -> tuple[object, ...]:
    params = request.params
    template = _template(params["base"], TemplateSettings(params["thinking"], params["date"], params["template"]))
    return astuple(mask(template, parse(params["record"], Location(Path("row"), 1), params["format"]), params["max_tokens"]))


if __name__ == "__main__":
    sys.exit(serve({"mask": _answer}))

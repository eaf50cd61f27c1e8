"""Compute training masks of rows for review. Runs as the child process of ``planning.masks``."""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mlxtune.core.child_process import Request, serve
from mlxtune.core.errors import DataError
from mlxtune.core.json_fields import to_json
from mlxtune.data.readers.formats import parse
from mlxtune.data.rows import Conversation, Location, Message, Preference, Row, TextRow, Unpaired, assistant_message
from mlxtune.models.answer_span import AnswerSpan
from mlxtune.models.control_tokens import Span
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template
from mlxtune.planning.masks import TrainingMask, TurnTokens
from mlxtune.recipe import parse as parse_recipe

_NO_LIMIT = 2**31 - 1  # tokens
_NOT_ALIGNED = "The tokens of this row cannot be aligned with its text."
_COUNTS_ONLY = "Only the token counts are available."


def mask(template: ChatTemplate, row: Row, max_tokens: int) -> TrainingMask:
    """Return the tokens of each part of ``row``, and which of them are trained. The last two parts of a pair are its answers.

    If each answer is trained in a separate row, the tokens of a turn are those of the row that trains it, or of the last row.
    Raises ``DataError`` for a row that cannot be encoded.
    """
    match row:
        case TextRow():
            (encoded,) = template.encode(row, _NO_LIMIT)
            inside, spans = template.control.encode_with_spans(row.text)
            tokens, end = encoded.tokens.tolist(), len(row.text)
            start = next((index for index in (0, 1) if tokens[index : index + len(inside)] == inside), None)
            if start is None:
                raise DataError(_NOT_ALIGNED, hint=_COUNTS_ONLY)
            # bos and eos are not in the text
            spans = [*[(0, 0)] * start, *spans, *[(end, end)] * (len(tokens) - start - len(inside))]
            trained = encoded.trained.tolist()
            turns = _turns(template, row.text, [(row.text, False)], tokens, spans, trained, max_tokens)
            return TrainingMask(tuple(turns), len(tokens), sum(trained[:max_tokens]))
        case Conversation():
            answers, separate = template.answers(row)
            last = max(answers)
            trained = [answers[turn] for turn in ([last] if separate else answers)]
            turns = _answer_turns(template, row.messages[:last], answers[last], trained, max_tokens)
            rows = [answers[last]]
            if separate:
                for turn in [*answers][:-1]:
                    turns[turn - 1] = _answer_turns(template, row.messages[:turn], answers[turn], [answers[turn]], max_tokens)[-1]
                rows = list(answers.values())
            turns += [TurnTokens(0, 0)] * (len(row.messages) - last)
            return TrainingMask(tuple(turns), sum(len(one.tokens) for one in rows), sum(turn.trained for turn in turns))
        case Preference():
            turns, rejected = (_completion_turns(template, row, answer, max_tokens) for answer in (row.chosen, row.rejected))
            turns.append(rejected[-1])
        case _:
            turns = _completion_turns(template, row, row.completion, max_tokens)
    return TrainingMask(tuple(turns), sum(turn.tokens for turn in turns), sum(turn.trained for turn in turns))


def _completion_turns(template: ChatTemplate, row: Preference | Unpaired, text: str, max_tokens: int) -> list[TurnTokens]:
    messages = (*row.prompt, assistant_message(text))
    answer = template.answer(messages, row.tools, row.location)
    whole = (*row.prompt, Message("assistant", text))
    return _answer_turns(template, whole, answer, [answer], max_tokens, end=answer.end)


def _answer_turns(
    template: ChatTemplate, messages: Sequence[Message], sequence: AnswerSpan, trained_spans: Sequence[AnswerSpan], max_tokens: int,
    end: int | None = None,
) -> list[TurnTokens]:  # fmt: skip
    """Divide the tokens of ``sequence`` before index ``end`` among the turns. The tokens in ``trained_spans`` are trained."""
    tokens, spans = template.control.encode_with_spans(sequence.text)
    if tokens != sequence.tokens:
        raise DataError(_NOT_ALIGNED, hint=_COUNTS_ONLY)
    trained = [any(span.start <= index < span.end for span in trained_spans) for index in range(len(tokens))]
    first = len(messages) - 1 if len(trained_spans) == 1 else 0  # turn that may be trained
    parts = [(turn.content, number >= first and turn.role == "assistant" and turn.trained) for number, turn in enumerate(messages)]
    text = template.control.plain(sequence.text)
    return _turns(template, text, parts, tokens[:end], spans[:end], trained[:end], max_tokens)


def _turns(
    template: ChatTemplate, text: str, parts: Sequence[tuple[str, bool]], tokens: Sequence[int], spans: Sequence[Span],
    trained: Sequence[bool], max_tokens: int,
) -> list[TurnTokens]:  # fmt: skip
    """Divide the tokens of ``text`` among its ``parts``: (content, is an answer). Header tokens belong to the part after them."""
    turns: list[TurnTokens] = []
    offset, first = 0, 0  # end of the previous part in the text, and the first token of this one
    for number, (content, is_answer) in enumerate(parts):
        shown, lead, stop = content.strip(), "", ""
        begin = next((index for index in range(first, len(tokens)) if trained[index]), first) if is_answer else first
        head = spans[begin][0] if is_answer and begin < len(spans) else offset
        start = text.find(shown, head)
        if start < 0:  # the template rewrites the content: count its tokens, but show none
            start, shown = offset, ""
        end = start + len(shown)
        if is_answer:
            last = next((index for index in range(begin, len(tokens)) if not trained[index]), len(tokens))
            lead, stop = text[head:start], text[end : max(spans[last - 1][1], end)]
        else:
            last = next((index for index in range(first, len(tokens)) if spans[index][0] >= end), len(tokens))
            last += last < len(tokens) and tokens[last] in template.stop_tokens
        if number == len(parts) - 1:
            last = len(tokens)
        indent = len(content) - len(content.lstrip())
        inside = [index for index in range(first, last) if spans[index][1] > start and spans[index][0] < end]
        cuts = sorted({indent + min(max(spans[index][1] - start, 0), len(shown)) for index in inside})
        truncated_at = next((max(spans[index][0] - start, 0) + indent for index in inside if index >= max_tokens), None)
        trained_count = sum(trained[index] for index in range(first, min(last, max_tokens)))
        turns.append(TurnTokens(last - first, trained_count, tuple(cuts), stop, truncated_at, lead))
        offset, first = end, last
    return turns


@cache
def _template(recipe: str) -> tuple[ChatTemplate, int]:
    parsed = parse_recipe(recipe)
    template = load_template(resolve(parsed.model.base, fetch=False), TemplateSettings.from_recipe(parsed))
    return template, parsed.data.max_tokens


def _answer(request: Request) -> Any:
    params = request.params
    template, max_tokens = _template(params["recipe"])
    return to_json(mask(template, parse(params["record"], Location(Path("row"), 1), params["format"]), max_tokens))


if __name__ == "__main__":
    sys.exit(serve({"mask": _answer}))

"""A row as the pieces that its tokens are, with those marked that train: what a reviewer sees. Asked by ``planning.masks``.

    python -m mlxtune.models.masks BASE < requests.jsonl

A request is ``{"kind", "record", "max_tokens"}``, a row's format and content. The answers are one JSON line each: first ``{}`` once the
tokenizer is there (no model is fetched for it), then for each request the fields of ``planning.masks.Mask``; or ``{"error", "mend", "kind"}``. It ends with its stdin.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlxtune.core.errors import DataError, MlxtuneError
from mlxtune.data.formats import parse
from mlxtune.data.rows import Conversation, Message, Place, Preference, Row, Text
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate

_ENDLESS = 2**31 - 1

Turn = dict[str, Any]
Span = tuple[int, int]


def mask(template: ChatTemplate, row: Row, max_tokens: int) -> dict[str, Any]:
    """The row's parts in order, each with its tokens: ``turns`` has for each part ``tokens``, how many of them are ``trained``, where in its
    text a token ends (``cuts``), the ``stop`` that trains behind it, and from which character on it is beyond the window (``lost``).

    Of a pair the last two parts are the answers. Raises ``DataError`` for a row that cannot be encoded.
    """
    match row:
        case Text():
            encoded = template.encode(row, _ENDLESS)
            text, marks = [(row.text, False)], encoded.trained.tolist()
            turns = _turns(template, row.text, text, encoded.tokens.tolist(), marks, max_tokens)
        case Conversation():
            encoded = template.encode(row, _ENDLESS)
            rendered = template.text(row.messages, row.tools, ask=False, place=row.place)
            said = [(message.content, message.role == "assistant") for message in row.messages]
            turns = _turns(template, rendered, said, encoded.tokens.tolist(), encoded.trained.tolist(), max_tokens)
        case Preference():
            turns, other = (_answered(template, row, answer, max_tokens) for answer in (row.chosen, row.rejected))
            turns.append(other[-1])
        case _:
            turns = _answered(template, row, row.completion, max_tokens)
    return {"turns": turns, "tokens": sum(turn["tokens"] for turn in turns), "trained": sum(turn["trained"] for turn in turns)}


def _answered(template: ChatTemplate, row: Any, answer: str, max_tokens: int) -> list[Turn]:
    """The turns of a prompt and one answer to it, of which the answer trains."""
    messages = (*row.prompt, Message("assistant", answer))
    asked, completion = template.completion(messages, row.tools, row.place)
    text = template.text(messages, row.tools, ask=False, place=row.place)
    said = [*((message.content, False) for message in row.prompt), (answer, True)]
    marks = [False] * len(asked) + [True] * len(completion)
    return _turns(template, text, said, [*asked, *completion], marks, max_tokens)


def _turns(
    template: ChatTemplate,
    text: str,
    said: Sequence[tuple[str, bool]],
    tokens: Sequence[int],
    trained: Sequence[bool],
    max_tokens: int,
) -> list[Turn]:
    """The tokens of ``text`` divided among what is ``said`` in it, an answer or not; those of a header go to the turn behind it."""
    spans = _spans(template, text, tokens)
    turns: list[Turn] = []
    at, first = 0, 0  # the character behind the turn before, and the first token of this one
    for number, (content, answers) in enumerate(said):
        shown, stop = content.strip(), ""
        begin = next((index for index in range(first, len(tokens)) if trained[index]), first) if answers else first
        start = text.find(shown, spans[begin][0] if answers and begin < len(spans) else at)
        if start < 0:  # the template says it in other words: its tokens are counted, but not shown
            start, shown = at, ""
        end = start + len(shown)
        if answers:
            last = next((index for index in range(begin, len(tokens)) if not trained[index]), len(tokens))
            stop = text[end : max(spans[last - 1][1], end)]
        else:
            last = next((index for index in range(first, len(tokens)) if spans[index][0] >= end), len(tokens))
            last += last < len(tokens) and tokens[last] in template.stops
        if number == len(said) - 1:
            last = len(tokens)
        lead = len(content) - len(content.lstrip())
        inside = [index for index in range(first, last) if spans[index][1] > start and spans[index][0] < end]
        cuts = sorted({lead + min(max(spans[index][1] - start, 0), len(shown)) for index in inside})
        beyond = next((max(spans[index][0] - start, 0) + lead for index in inside if index >= max_tokens), None)
        kept = sum(trained[index] for index in range(first, min(last, max_tokens)))
        turns.append({"tokens": last - first, "trained": kept, "cuts": cuts, "stop": stop, "lost": beyond})
        at, first = end, last
    return turns


def _spans(template: ChatTemplate, text: str, tokens: Sequence[int]) -> list[Span]:
    """Where in ``text`` each of ``tokens`` stands: they may be fewer than the text has, or have a stop more."""
    found = template.tokenizer._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = [(int(start), int(end)) for start, end in found["offset_mapping"]]
    if list(found["input_ids"])[: len(tokens)] != list(tokens)[: len(spans)]:
        raise DataError("The tokens of this row cannot be told apart.", mend="They are counted by turn.")
    return [*spans, *[(len(text), len(text))] * (len(tokens) - len(spans))][: len(tokens)]


def main() -> int:
    """Entry point: one answer a line, until stdin ends."""
    try:
        from mlx_lm.utils import load_tokenizer

        source = resolve(sys.argv[1], fetch=False)
        template = ChatTemplate(load_tokenizer(source.folder, eos_token_ids=source.config.get("eos_token_id")))
    except MlxtuneError as error:
        print(json.dumps(_sorry(error)), flush=True)
        return 0
    print("{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            row = parse(asked["record"], Place(Path("row"), 1), asked["kind"])
            answer = mask(template, row, asked["max_tokens"])
        except MlxtuneError as error:
            answer = _sorry(error)
        print(json.dumps(answer), flush=True)
    return 0


def _sorry(error: MlxtuneError) -> dict[str, str]:
    return {"error": error.message, "mend": error.mend, "kind": type(error).__name__}


if __name__ == "__main__":
    sys.exit(main())

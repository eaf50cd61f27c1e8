"""Find where an answer starts and ends in a rendered conversation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlxtune.data.readers.formats import BREAK
from mlxtune.models.control_tokens import ControlTokens
from mlxtune.models.dialect import Dialect, common_length
from mlxtune.models.thoughts import THOUGHTS


@dataclass(frozen=True)
class AnswerSpan:
    """The ``tokens`` of a conversation and of its last answer, which ``start`` and ``end`` delimit; its stop token is included.

    ``text`` is the rendered conversation with its breaks, ``answer`` the text of the answer without them and without stop token.
    """

    tokens: list[int]
    start: int
    end: int
    text: str
    answer: str


class RewrittenAnswerError(Exception):
    """The rendered conversation does not begin with the prompt that the model gets at inference."""


class OpenThoughtError(RewrittenAnswerError):
    """The inference prompt begins a thought that the rendered conversation does not have."""


class EndlessAnswerError(Exception):
    """No stop token follows the prompt."""


def locate_answer(prompt: str, text: str, dialect: Dialect, control: ControlTokens, stops: Mapping[int, str]) -> AnswerSpan:
    """Return the answer in ``text``, a conversation whose inference prompt is ``prompt``; both contain breaks.

    ``stops`` maps the ids of stop tokens to their texts. If the tokenizer merges the end of the prompt and the start of the answer
    into one token, as it may if the answer begins with whitespace, both are encoded separately, because the model generates its
    answer
    after the prompt's own tokens. Raises ``RewrittenAnswerError`` or ``EndlessAnswerError``.
    """
    if not text.startswith(prompt):
        text = prompt + _after_header(prompt, text, dialect)
    before, tokens = control.encode(prompt), control.encode(text)
    if tokens[: len(before)] != before:
        text = prompt + BREAK + text[len(prompt) :]
        tokens = control.encode(text)
    stop = next((index for index in range(len(before), len(tokens)) if tokens[index] in stops), None)
    if stop is None:
        raise EndlessAnswerError
    rest = text[len(prompt) :]
    opened = next((start for start in THOUGHTS if prompt.rstrip().endswith(start)), "")
    if opened and THOUGHTS[opened] not in rest:
        raise OpenThoughtError
    ends = [place for word in stops.values() if (place := rest.find(word)) >= 0]
    return AnswerSpan(tokens, len(before), stop + 1, text, control.plain(rest[: min(ends, default=len(rest))]))


def _after_header(prompt: str, text: str, dialect: Dialect) -> str:
    """Return the last turn of ``text`` without its header, for a ``text`` whose earlier turns or header differ from ``prompt``.

    Some templates render earlier turns differently once the answer is there (gpt-oss drops the reasoning before a call), or have a
    generation prompt with an empty thought (Gemma 4). The answer then follows the prompt, as it does at inference.
    """
    if any(prompt.rfind(start) > prompt.rfind(end) for start, end in THOUGHTS.items()):
        raise OpenThoughtError
    header, extra = dialect.header.removesuffix(dialect.extra), dialect.extra
    if extra and prompt.endswith(extra) and text.startswith(bare := prompt.removesuffix(extra)):
        return text[len(bare) :]
    if not header or not prompt.endswith(header + extra):
        raise RewrittenAnswerError
    head = prompt.removesuffix(extra)
    places = [match.end() for match in re.finditer(re.escape(header), text)]
    common = {place: common_length(head[::-1], text[:place][::-1]) for place in places}
    best = max(common, key=lambda place: common[place], default=0)
    if not best or common[best] <= len(header):
        raise RewrittenAnswerError
    return text[best:]

"""A trained answer, generated, is divided into its reasoning and the answer as evaluations and the server do it."""

import pytest
import verdict as judging
from exhaustive import cases
from row_shapes import SHAPES, THOUGHT
from table import AVAILABLE, REPRESENTATIVE, open_chat

from mlxtune.core.errors import InputError
from mlxtune.data.readers.formats import parse
from mlxtune.models.template import ChatTemplate
from mlxtune.models.thoughts import AnswerBuilder, GeneratedAnswer

ANSWER = "Yes, every hour."
MODES = ("off", "on", "keep")


def _generate(chat: ChatTemplate, shape: str) -> GeneratedAnswer:
    """Return the answer of a model that repeats the trained tokens of a row."""
    (row,) = judging.encode(chat, parse(SHAPES[shape], judging.LOCATION))
    start, end = judging.spans(row.trained)[-1]
    builder = AnswerBuilder(chat.tokenizer.decode, row.tokens[:start], max_tokens=200, thinking_tokens=200)
    stop = next(index for index in range(start, end) if row.tokens[index] in chat.stop_tokens)
    assert stop in (end - 2, end - 1), "at most one token follows, such as Cohere's end of the turn"
    assert not any(builder.add(token) for token in row.tokens[start:stop])
    return builder.finish("stop")


@pytest.mark.parametrize("base", cases(AVAILABLE, *REPRESENTATIVE, name=lambda base: base.name))
def test_what_trains_is_what_is_read(base):
    for shape in ("one turn", "reasoning_content"):
        for mode in MODES:
            chat = open_chat(base, mode)
            try:
                answer = _generate(chat, shape)
            except InputError:  # refused, for reasons that other tests check
                continue
            reasons = shape == "reasoning_content" and mode != "off"
            assert (answer.text.strip(), answer.thought) == (SHAPES[shape]["messages"][-1]["content"], THOUGHT if reasons else "")
            assert bool(answer.thought_tokens) == reasons

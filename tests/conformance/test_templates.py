"""The trained text of every turn beside the marked one, and prompts beside the template's own rendering."""

from collections.abc import Callable
from datetime import datetime

import pytest
from bases import SHIPPED, Base
from exhaustive import cases
from jinja2 import TemplateError
from oracle import difference, expected_text, rendered_text
from row_shapes import GROUPS, SHAPES
from table import AVAILABLE, DATE, REPRESENTATIVE, UNTRAINABLE, open_chat, verdict_of
from transformers.utils import chat_template_utils
from verdict import trained_turns, turns

from mlxtune.data.rows import Message

OFF = {  # what thinking "off" means, besides enable_thinking = False
    "gptoss": {"reasoning_effort": "low"},
    "muse_glimmer": {"reasoning_strength": "low"},
}
OWN_TEXT = ("special in question", "special in answer", *GROUPS["pairs"])  # TRL masks no pairs, and encodes control tokens


def compare_trained_texts(base: Base, render: Callable[..., str], compare: Callable[[str, str, str], object]) -> None:
    """Compare every trained text with what ``render`` returns for the turns up to it, with the shape of its row."""
    tokenizer = open_chat(base, "off").tokenizer._tokenizer
    compared = 0
    for shape, record in SHAPES.items():
        verdict, thinking = verdict_of(base, shape), shape in GROUPS["thinking"]
        if verdict.status != "ok" or shape in OWN_TEXT or (thinking and not base.thinking):
            continue
        row = turns(record)
        for text, turn in zip(verdict.trained, trained_turns(record), strict=True):
            try:
                theirs = render(tokenizer, base, row[: row.index(turn) + 1], record.get("tools"), thinking)
            except TemplateError:
                assert shape in GROUPS["system"]  # the template raises, and we fold the system turn
            else:
                compare(text, theirs, shape)
                compared += 1
    assert compared >= 10 or base.name in UNTRAINABLE


@pytest.mark.slow
@pytest.mark.parametrize("base", cases([base for base in AVAILABLE if base.twin], *REPRESENTATIVE, name=lambda base: base.name))
def test_trained_text_equals_the_text_that_is_marked(base):
    compare_trained_texts(base, lambda *row: expected_text(*row[:-1]), lambda text, theirs, _: difference(base, text, theirs))


@pytest.mark.slow
@pytest.mark.parametrize(
    "base", cases([base for base in AVAILABLE if base not in SHIPPED], *REPRESENTATIVE, name=lambda base: base.name)
)
def test_trained_text_equals_what_transformers_renders_after_the_prompt(base):
    def equal(text: str, theirs: str, shape: str) -> None:
        assert text == theirs, shape

    compare_trained_texts(base, lambda *row: rendered_text(*row[:-1], thinking=row[-1]), equal)


class Clock:
    """The day on which the conversations of the table take place, for templates that print the date."""

    @staticmethod
    def now() -> datetime:
        return datetime.fromisoformat(DATE)


@pytest.mark.parametrize("base", cases(AVAILABLE, *REPRESENTATIVE, name=lambda base: base.name))
def test_the_prompt_is_the_templates_own_rendering(base, monkeypatch):
    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    messages = [Message("user", "Is the ferry running?"), Message("assistant", "Yes."), Message("user", "Always?")]
    chat = open_chat(base, "off")
    expected = chat.tokenizer._tokenizer.apply_chat_template(
        [message.as_dict() for message in messages],
        tokenize=True,
        return_dict=False,
        add_generation_prompt=True,
        enable_thinking=False,
        **OFF.get(base.template, {}),
    )
    assert chat.prompt(messages) == expected

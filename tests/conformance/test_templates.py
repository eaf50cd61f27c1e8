"""Rows of many shapes with the chat templates of the models that people fine-tune: what trains, and what is refused and why."""

from __future__ import annotations

import jinja2
import pytest
from bases import Base
from oracle import DIFFERENCES, difference, expected_texts
from row_shapes import GROUPS, SHAPES
from table import AVAILABLE, open_chat, verdict_of

from mlxtune.data.rows import Message

by_name = pytest.mark.parametrize("base", AVAILABLE, ids=lambda base: base.name)
REWRITTEN = ("thinking, two turns", "thinking and a call", "call with content")  # TRL trains an earlier turn without its thoughts


@pytest.mark.parametrize("base", [base for base in AVAILABLE if base.twin], ids=lambda base: base.name)
def test_trained_text_equals_the_text_that_trl_trains(base: Base) -> None:
    tokenizer = open_chat(base, "off").tokenizer._tokenizer
    for shape, record in SHAPES.items():
        verdict = verdict_of(base, shape)
        if verdict.status != "ok" or shape in GROUPS["pairs"] or "special" in shape:
            continue
        try:
            theirs = expected_texts(tokenizer, base, record)
        except jinja2.TemplateError:
            assert shape in GROUPS["system"]  # TRL's template rejects the system turn, and we fold it
            continue
        if skipped := len(theirs) - len(verdict.trained):  # TRL trains turns with weight 0, and the answers in a prompt
            assert shape in ("weight 0", "prompt with answers")
            theirs = theirs[skipped:]
        last = -1 if shape in REWRITTEN else 0
        for one, other in list(zip(verdict.trained, theirs, strict=True))[last:]:
            difference(base, one, other)


def test_every_listed_difference_has_a_reason() -> None:
    assert all(known.reason.endswith(".") for known in DIFFERENCES)


@by_name
def test_the_prompt_is_the_templates_own_rendering(base: Base) -> None:
    turns = [Message("user", "Is the ferry running?"), Message("assistant", "Yes."), Message("user", "Always?")]
    chat = open_chat(base, "off")
    expected = chat.tokenizer._tokenizer.apply_chat_template(
        [turn.as_dict() for turn in turns],
        tokenize=True,
        return_dict=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    assert chat.prompt(turns) == expected

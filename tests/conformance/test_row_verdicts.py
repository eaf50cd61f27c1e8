"""What each base accepts: no accepted row trains anything else than it says, every refusal helps, and ordinary rows are accepted."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
import verdict as judging
from bases import BASES, SHIPPED
from exhaustive import cases
from row_shapes import GROUPS, SHAPES, THINKING
from table import AVAILABLE, REPRESENTATIVE, UNTRAINABLE, open_chat, verdict_of, verdicts

from mlxtune.data.readers.formats import parse
from mlxtune.models.mask_worker import mask
from mlxtune.models.template import ChatTemplate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
by_name = pytest.mark.parametrize("base", cases(AVAILABLE, *REPRESENTATIVE, name=lambda base: base.name))


@by_name
def test_an_accepted_row_trains_what_it_says(base):
    results = {(shape, ""): verdict for shape, verdict in verdicts(base).items()}
    results |= {(shape, mode): verdict_of(base, shape, thinking=mode) for shape in THINKING for mode in ("off", "on")}
    assert not {cell: verdict.reason for cell, verdict in results.items() if verdict.status == "WRONG"}


@by_name
def test_every_refusal_has_a_hint(base):
    refused = {shape: verdict for shape, verdict in verdicts(base).items() if verdict.status == "refused"}
    assert not [verdict.reason for verdict in refused.values() if not verdict.hint]
    without_thinking = [shape for shape, verdict in refused.items() if verdict.hint.startswith('Set model.thinking to "off"')]
    assert not [shape for shape in without_thinking if verdict_of(base, shape, thinking="off").hint == refused[shape].hint]
    for shipped in SHIPPED:  # a shipped template with tools that a hint names
        shapes = [
            shape for shape, verdict in refused.items() if verdict.hint.startswith(f'Set model.template to "{shipped.template}"')
        ]
        chat = open_chat(base, "off", replaced_by=shipped)
        assert not [shape for shape in shapes if judging.judge(chat, shape, base.specials, thoughts=False).status != "ok"]


@by_name
def test_ordinary_rows_are_accepted(base):
    groups = ("one turn", "multi-turn", "system", "pairs")
    refused = {shape: verdict_of(base, shape).reason for group in groups for shape in GROUPS[group]}
    assert base.name in UNTRAINABLE or not {shape: reason for shape, reason in refused.items() if reason}


@by_name
def test_tool_calls_and_thoughts_are_accepted_where_the_template_has_them(base):
    if base.name not in UNTRAINABLE:
        assert {verdict_of(base, shape).status for shape in ("tool round", "final call")} == {"ok" if base.tools else "refused"}
    if base.thinking and (base.name not in UNTRAINABLE or base.name == "OLMo 3 Think"):
        assert {verdict_of(base, shape).status for shape in ("reasoning_content", "thinking, two turns")} == {"ok"}


@by_name
def test_review_highlights_what_trains(base):
    for shape in ("multi-turn", "system", *GROUPS["tools"], "thinking, two turns"):
        if verdict_of(base, shape).status == "ok":
            chat = open_chat(base, "keep" if shape in THINKING else "off")
            row = parse(SHAPES[shape], judging.LOCATION)
            review = mask(chat, row, judging.WINDOW)
            shown = zip(row.messages, review.turns, strict=True)
            texts = [turn.lead + message.content + turn.stop for message, turn in shown if turn.trained]
            assert texts == list(verdict_of(base, shape).trained)
            assert review.trained == sum(sum(one.trained) for one in judging.encode(chat, row))


@by_name
def test_the_calls_that_a_template_trains_are_read_back(base):
    for shape in ("final call", "several calls", "nested arguments"):
        verdict = verdict_of(base, shape)
        if verdict.status == "ok" and base.template != "muse_glimmer":  # mlx-lm reads its calls, but not their recipient
            row = parse(SHAPES[shape], judging.LOCATION)
            chat = open_chat(base, "off")
            stops = "|".join(re.escape(chat.tokenizer.decode([stop])) for stop in chat.stop_tokens)
            output = re.sub(f"({stops})$", "", verdict.trained[0])
            calls = [{"function": vars(call)} for call in chat.calls.split(output, row.tools)[1]]
            assert calls == [{"function": call["function"]} for call in row.messages[1].extra["tool_calls"]]


@pytest.mark.parametrize(
    "base", cases([base for base in AVAILABLE if base.name in REPRESENTATIVE], "Phi-3", name=lambda base: base.name)
)
def test_a_real_vocabulary_changes_no_verdict(base, vocabularies):
    real, bytewise = (
        {shape: (one.status, one.trained) for shape, one in verdicts(base, real=flag).items()} for flag in (True, False)
    )
    if base.vocabulary == "qwen3":  # its tokenizer composes characters
        real["NFD"] = bytewise["NFD"] = ("ok", ())
    assert real == bytewise


@pytest.mark.exhaustive
def test_the_page_about_models_is_current():
    spec = importlib.util.spec_from_file_location("models_page", ROOT / "tools" / "models.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    page = generator.PAGE.read_text()
    assert generator.rendered(page) == page, "run: python tools/models.py"


DEFECTS = {  # what an encoder could do wrong, and what the judge says
    "trains the header": lambda tokens, start, end: (tokens, start - 1, end),
    "trains no stop token": lambda tokens, start, end: (tokens, start, end - 1),
    "trains the newline after it": lambda tokens, start, end: (tokens, start, end + 1),
    "loses the question": lambda tokens, start, end: (tokens[start - 4 :], 4, end - start + 4),
    "loses the answer": lambda tokens, start, end: (tokens[:start] + tokens[end - 1 :], start, start + 1),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_judge_finds_a_defect(defect, monkeypatch):
    chat = open_chat(next(base for base in BASES if base.name == "Qwen3-2507"), "off")
    encode = judging.encode

    def broken(chat: ChatTemplate, row: judging.Row) -> list[judging.TrainingSequence]:
        (one,) = encode(chat, row)
        ((start, end),) = judging.spans(one.trained)
        tokens, start, end = DEFECTS[defect](one.tokens, start, end)
        return [replace(one, tokens=tokens, trained=[start <= index < end for index in range(len(tokens))])]

    assert judging.judge(chat, "one turn", (), thoughts=False).status == "ok"
    monkeypatch.setattr(judging, "encode", broken)
    assert judging.judge(chat, "one turn", (), thoughts=False).status == "WRONG"

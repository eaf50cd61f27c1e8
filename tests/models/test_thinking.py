"""Thinking modes and dates of chat templates. The templates below copy the control lines of real ones."""

from __future__ import annotations

import pytest
from tiny_model import CHATML, make_tiny

from mlxtune.data.rows import Message
from mlxtune.models.resolve import resolve
from mlxtune.models.template import TemplateSettings, load_template
from mlxtune.models.thinking import freeze_date, prints_date, template_variables, thinking_controls

QWEN3 = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
)
QWEN36 = (
    QWEN3
    + "{% for m in messages %}{% if preserve_thinking is defined and preserve_thinking %}{{ m.reasoning_content }}{% endif %}{% endfor %}"
)
QWEN38 = (
    "{% if enable_thinking is undefined or enable_thinking %}{% set level = reasoning_effort|default('xhigh') %}"
    "{% if level not in ('xhigh', 'medium', 'low') %}{{ raise_exception('Unexpected effort') }}{% endif %}{{ level }}{% endif %}"
) + QWEN3  # fmt: skip
GRANITE = "{% if thinking %}Write your thoughts first.{% endif %}" + CHATML
SEED = "{% if thinking_budget is defined %}Think at most {{ thinking_budget }} tokens.{% endif %}" + CHATML
GPT_OSS = (
    "Current date: {{ strftime_now('%Y-%m-%d') }}\n{% if reasoning_effort is not defined %}{% set reasoning_effort = \"medium\" %}"
    "{% endif %}Reasoning: {{ reasoning_effort }}\n" + CHATML
)
MISTRAL_4 = "{% set reasoning_effort = reasoning_effort|default('none') %}[{{ reasoning_effort }}]" + CHATML
NEMOTRON = QWEN3 + "{% if truncate_history_thinking is not defined or truncate_history_thinking %}{% endif %}"
LLAMA_3_1 = (
    "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}Today Date: {{ date_string }}\n" + CHATML
)
R1 = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
SHADOWED = CHATML + "{% for m in messages %}{% if 1 %}{% set thinking = thinking if thinking is string %}{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "off", "on", "keep", "sentence"),
    [
        (CHATML, {}, {}, {}, ""),
        (QWEN3, {}, {}, {}, "off"),
        (QWEN36, {}, {}, {"preserve_thinking": True}, "off"),
        (QWEN38, {}, {}, {}, "off"),
        (GRANITE, {"thinking": False}, {"thinking": True}, {"thinking": True}, "off"),
        (SEED, {"thinking_budget": 0}, {}, {}, "off"),
        (GPT_OSS, {"reasoning_effort": "low"}, {}, {}, "lowest_effort"),
        (MISTRAL_4, {"reasoning_effort": "none"}, {"reasoning_effort": "high"}, {"reasoning_effort": "high"}, "off"),
        (NEMOTRON, {}, {}, {"truncate_history_thinking": False}, "off"),
        (R1, {}, {}, {}, "model_decides"),
        (SHADOWED, {}, {}, {}, "model_decides"),
    ],
)  # fmt: skip
def test_each_mode_sets_the_variables_that_the_template_reads(template, off, on, keep, sentence):
    controls = thinking_controls(template)
    assert controls.variables("off") == {"enable_thinking": False} | off
    assert controls.variables("on") == {"enable_thinking": True} | on
    assert controls.variables("keep") == {"enable_thinking": True} | keep
    assert controls.effect("off") == sentence


def test_an_openai_effort_sets_the_switch_and_the_level():
    assert thinking_controls(QWEN38).effort_variables("low") == {"enable_thinking": True, "reasoning_effort": "low"}
    assert thinking_controls(QWEN38).effort_variables("none") == {"enable_thinking": False}
    assert thinking_controls(GPT_OSS).effort_variables("high") == {"enable_thinking": True, "reasoning_effort": "high"}
    assert thinking_controls(QWEN3).effort_variables("high") == {"enable_thinking": True}


def test_the_mode_follows_from_variables():
    controls = thinking_controls(QWEN36)
    modes = [
        ({}, "keep"),
        ({"enable_thinking": True}, "off"),
        ({"enable_thinking": False}, "on"),
        ({"preserve_thinking": True}, "on"),
    ]
    assert [controls.mode(variables, default) for variables, default in modes] == ["keep", "on", "off", "keep"]
    assert controls.mode({"preserve_thinking": False}, "keep") == "on"


def test_thoughts_of_earlier_turns_stay_by_default_where_the_template_keeps_them():
    keeping = QWEN36.replace(
        "preserve_thinking is defined and preserve_thinking", "preserve_thinking is undefined or preserve_thinking"
    )
    assert [thinking_controls(QWEN36).keeps(mode) for mode in ("off", "on", "keep")] == [False, False, True]
    controls = thinking_controls(keeping)
    assert [controls.keeps(mode) for mode in ("off", "on", "keep")] == [False, True, True]
    assert (controls.effect("on"), controls.variables("on")) == ("on_and_kept", {"enable_thinking": True})
    assert [one.history_variables("on") for one in (controls, thinking_controls(QWEN36))] == [
        {"preserve_thinking": True}, {"preserve_thinking": False},
    ]  # fmt: skip


def test_the_variables_and_the_clock_of_a_template():
    assert {"preserve_thinking", "enable_thinking", "messages"} <= template_variables(QWEN36)
    assert template_variables("{% if %}") == frozenset()
    assert [prints_date(template) for template in (GPT_OSS, QWEN36, "{% if %}")] == [True, False, False]


def test_a_model_with_thinking_tokens_does_not_think_unless_the_settings_say_so(tmp_path):
    source = resolve(str(make_tiny(tmp_path / "model", template=QWEN3, specials=("<think>", "</think>"))))
    question = [Message("user", "Hello")]
    prompts = {}
    for mode in ("off", "on", "keep"):
        template = load_template(source, TemplateSettings(mode))
        assert template.tokenizer.has_thinking
        prompts[mode] = template.tokenizer.decode(template.prompt(question))
    assert prompts["off"].endswith("assistant\n<think>\n\n</think>\n\n")
    assert prompts["on"] == prompts["keep"] == prompts["off"].removesuffix("<think>\n\n</think>\n\n")


def test_a_constant_date_stays_whatever_the_settings_say(tmp_path):
    source = resolve(str(make_tiny(tmp_path / "model", template=LLAMA_3_1)))
    texts = {
        load_template(source, TemplateSettings(date=date)).render([Message("user", "Hi")], (), generation_prompt=True)
        for date in ("", "2024-02-29", "2026-11-26")
    }
    assert [text.splitlines()[0] for text in texts] == ["Today Date: 26 Jul 2024"]
    assert not prints_date(LLAMA_3_1)


def test_the_date_is_the_one_in_the_settings(tmp_path):
    source = resolve(str(make_tiny(tmp_path / "model", template=GPT_OSS)))
    text = load_template(source, TemplateSettings(date="2024-02-29")).render([Message("user", "Hi")], (), generation_prompt=True)
    assert text.startswith("Current date: 2024-02-29\nReasoning: low\n")
    assert freeze_date("""{{ strftime_now('%d %b "%Y"') }}""", "2024-02-29") == """{{ "29 Feb \\"2024\\"" }}"""

"""The grammar of a row's tools, in the syntax of the chat template."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_template import template as make_template

from mlxtune.models.call_grammar import CallSyntax, call_syntax, calls_grammar
from mlxtune.models.generate import GenerationSettings
from mlxtune.models.grammar import Grammar
from mlxtune.models.template import ChatTemplate, TemplateSettings
from mlxtune.recipe.schema import SHIPPED_TEMPLATES

LOCK = {"name": "lock", "parameters": {"type": "object", "properties": {"door": {"enum": ["front", "back"]}}, "required": ["door"]}}
HEAT = {
    "type": "function",
    "function": {"name": "heat", "parameters": {"type": "object", "properties": {"to": {"type": "integer"}}}},
}
STRICT = {
    "oneOf": [{"$ref": "#/$defs/heat"}],
    "$defs": {
        "heat": {
            "properties": {"name": {"const": "heat"}, "arguments": {"type": "object", "properties": {"to": {"$ref": "#/$defs/to"}}}}
        },
        "to": {"type": "integer", "maximum": 9},
    },
}
SEVERAL = {"anyOf": [{}, {"type": "array"}]}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    settings = TemplateSettings(source=SHIPPED_TEMPLATES["chatml-tools"].read_text())
    return make_template(tmp_path_factory.mktemp("tokenizer"), specials=("<tool_call>",), settings=settings)


def accepts(chat: ChatTemplate, schema: Any, *calls: Any) -> bool:
    syntax = call_syntax(chat)
    pytest.importorskip("llguidance")
    grammar = Grammar(chat.tokenizer, None, chat.stop_tokens, calls_grammar(chat, syntax, [LOCK, HEAT], schema))
    settings = GenerationSettings(max_tokens=9, stops=chat.stop_tokens, batch_size=1, grammar=grammar, grammars={(1,): grammar})
    assert settings.matcher((1,))
    assert settings.matcher((2,))
    text = "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)
    matcher, tokens = grammar.matcher(), chat.tokenizer.encode(text, add_special_tokens=False)
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def test_the_syntax_of_calls_is_found_by_rendering_them(chat: ChatTemplate, tmp_path: Path) -> None:
    head, tail = '<tool_call>\n{"name": "', "}\n</tool_call>"
    assert call_syntax(chat) == CallSyntax(head, '", "arguments": ', tail, f"{tail}\n{head}")
    assert call_syntax(make_template(tmp_path)) is None  # it drops calls


def test_only_calls_of_the_declared_tools_are_accepted(chat: ChatTemplate) -> None:
    door = {"name": "lock", "arguments": {"door": "back"}}
    assert accepts(chat, None, door)
    assert accepts(chat, None, {"name": "heat", "arguments": {"to": 70}})
    for wrong in (
        {"name": "lock", "arguments": {"door": "side"}},
        {"name": "lock", "arguments": {"to": 7}},
        {"name": "open", "arguments": {}},
    ):
        assert not accepts(chat, None, wrong)
    assert not accepts(chat, None, door, door)
    assert accepts(chat, SEVERAL, door, door)


def test_the_contract_narrows_the_arguments(chat: ChatTemplate) -> None:
    assert [accepts(chat, STRICT, {"name": "heat", "arguments": {"to": to}}) for to in (9, 70)] == [True, False]
    assert accepts(chat, STRICT, {"name": "lock", "arguments": {"door": "front"}})

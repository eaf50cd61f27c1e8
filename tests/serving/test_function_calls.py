"""Tool calls over the OpenAI API: a scripted model that calls a function, with and without text and reasoning before the call."""

import json
from typing import Any

import openai
import pytest
from served import CALL, TOOLS

pytestmark = pytest.mark.slow

QUESTION = [{"role": "user", "content": "Where is LF-7?"}]
ASK: dict[str, Any] = {"model": "model", "messages": QUESTION, "tools": TOOLS}


def test_a_call_is_apart_from_the_text_and_the_reasoning_before_it(calling_ai: openai.OpenAI) -> None:
    answer = calling_ai.chat.completions.create(**ASK, reasoning_effort="high", parallel_tool_calls=True)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert (choice.message.content, choice.message.reasoning_content) == ("Sure:", "Hm.")
    (call,) = choice.message.tool_calls
    assert call.id.startswith("call_")
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == ("function", "track", {"order": "LF-7"})


def test_a_stream_has_the_same_parts(calling_ai: openai.OpenAI) -> None:
    chunks = list(calling_ai.chat.completions.create(**ASK, reasoning_effort="high", stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Hm."
    assert "".join(delta.content or "" for delta in deltas) == "Sure:"
    (call,) = (call for delta in deltas for call in delta.tool_calls or ())
    assert (call.index, call.type, call.function.name) == (0, "function", "track")
    assert json.loads(call.function.arguments) == {"order": "LF-7"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_call_and_its_result_are_sent_back_as_they_came(calling_ai: openai.OpenAI) -> None:
    message = calling_ai.chat.completions.create(**ASK).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "in Lindau"}
    second = calling_ai.chat.completions.create(**ASK | {"messages": [*QUESTION, message.model_dump(), result]})
    assert second.choices[0].finish_reason == "tool_calls"
    assert second.usage.prompt_tokens > 100


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        ({"tools": None}, f"Sure: <tool_call>{CALL}</tool_call>", "stop"),
        ({"tool_choice": "none"}, f"Sure: <tool_call>{CALL}</tool_call>", "stop"),
        ({"max_tokens": 3}, f"Sure: <tool_call>{CALL}", "length"),
    ],
)
def test_without_tools_or_when_cut_off_there_is_only_text(
    calling_ai: openai.OpenAI, options: dict[str, Any], text: str, reason: str
) -> None:
    choice = calling_ai.chat.completions.create(**{name: value for name, value in (ASK | options).items() if value}).choices[0]
    assert (choice.message.content, choice.finish_reason, choice.message.tool_calls) == (text, reason, None)

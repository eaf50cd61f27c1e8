"""Tool calls over the OpenAI API: a scripted model that calls a function, with and without text and reasoning before the call."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from scripted_model import make_scripted
from served import openai_client

pytestmark = pytest.mark.slow

CALL = '{"name": "track", "arguments": {"order": "LF-7"}}'
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for tool_call in message.tool_calls or [] %}{% set tool_call = tool_call.function %}"
    "<tool_call>{{ tool_call.name }}: {{ tool_call.arguments | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>{% endif %}{% endif %}"
)
SCRIPT = {
    "\n": "<think>", "<think>": "Hm.", "Hm.": "</think>", "</think>": "Sure: ", "Sure: ": "<tool_call>",
    "<tool_call>": CALL, CALL: "</tool_call>", "</tool_call>": "<|im_end|>",
}  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "track", "parameters": {"type": "object", "properties": {"order": {}}}}}]
QUESTION = [{"role": "user", "content": "Where is LF-7?"}]
ASK: dict[str, Any] = {"model": "model", "messages": QUESTION, "tools": TOOLS}


@pytest.fixture(scope="module")
def ai(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    workspace = tmp_path_factory.mktemp("calls")
    make_scripted(workspace / "model", TEMPLATE, SCRIPT)
    with openai_client(workspace, "model") as api:
        yield api


def test_a_call_is_apart_from_the_text_and_the_reasoning_before_it(ai: openai.OpenAI) -> None:
    answer = ai.chat.completions.create(**ASK, reasoning_effort="high", parallel_tool_calls=True)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert (choice.message.content, choice.message.reasoning_content) == ("Sure:", "Hm.")
    (call,) = choice.message.tool_calls
    assert call.id.startswith("call_")
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == ("function", "track", {"order": "LF-7"})


def test_a_stream_has_the_same_parts(ai: openai.OpenAI) -> None:
    chunks = list(ai.chat.completions.create(**ASK, reasoning_effort="high", stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Hm."
    assert "".join(delta.content or "" for delta in deltas) == "Sure:"
    (call,) = (call for delta in deltas for call in delta.tool_calls or ())
    assert (call.index, call.type, call.function.name) == (0, "function", "track")
    assert json.loads(call.function.arguments) == {"order": "LF-7"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_call_and_its_result_are_sent_back_as_they_came(ai: openai.OpenAI) -> None:
    message = ai.chat.completions.create(**ASK).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "in Lindau"}
    second = ai.chat.completions.create(**ASK | {"messages": [*QUESTION, message.model_dump(), result]})
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
    ai: openai.OpenAI, options: dict[str, Any], text: str, reason: str
) -> None:
    choice = ai.chat.completions.create(**{name: value for name, value in (ASK | options).items() if value}).choices[0]
    assert (choice.message.content, choice.finish_reason, choice.message.tool_calls) == (text, reason, None)

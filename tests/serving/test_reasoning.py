"""Reasoning over the OpenAI API: a scripted model that thinks on request, and its adapter, which was trained to think."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from scripted_model import make_scripted, make_scripted_adapter
from served import openai_api, serve_model

from mlxtune.serving.chat_session import ChatSession
from mlxtune.serving.protocol import Done, Piece

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if preserve_thinking and message.reasoning_content %}{{ message.reasoning_content }}{% endif %}{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>{% endif %}{% endif %}"
)
SCRIPT = {
    "\n": "<think>", "<think>": "Hm,", "Hm,": "well.", "well.": "</think>", "</think>": "Fine.", "Fine.": "<|im_end|>",
}  # fmt: skip
THOUGHT, ANSWER = "Hm,well.", "Fine."
ASK: dict[str, Any] = {"model": "model", "messages": [{"role": "user", "content": "How are you?"}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A server with the scripted model and the adapter ``thinker``."""
    workspace = tmp_path_factory.mktemp("reasoning")
    model = make_scripted(workspace / "model", TEMPLATE, SCRIPT)
    adapter = make_scripted_adapter(workspace / "adapters" / "thinker", model, {"</think>": "Fine."})
    (adapter / "mlxtune.json").write_text(
        json.dumps({"v": 1, "base": str(model), "thinking": "on", "date": "2026-11-26", "template": ""})
    )
    with serve_model(workspace, "model") as server:
        yield server


@pytest.fixture(scope="module")
def ai(served: SimpleNamespace) -> Iterator[openai.OpenAI]:
    with openai_api(served.url) as api:
        yield api


def _answer(ai: openai.OpenAI, **options: Any) -> tuple[str, str | None]:
    """Return the answer and its reasoning."""
    message = ai.chat.completions.create(**ASK | options).choices[0].message
    return message.content, getattr(message, "reasoning_content", None)


def test_the_base_does_not_think_unless_a_request_says_so(ai: openai.OpenAI) -> None:
    assert _answer(ai) == (ANSWER, None)
    assert _answer(ai, reasoning_effort="none") == (ANSWER, None)
    assert _answer(ai, reasoning_effort="high") == (ANSWER, THOUGHT)
    assert _answer(ai, extra_body={"chat_template_kwargs": {"enable_thinking": True}}) == (ANSWER, THOUGHT)


def test_an_adapter_thinks_as_in_its_training_unless_a_request_says_otherwise(ai: openai.OpenAI) -> None:
    assert _answer(ai, model="thinker") == (ANSWER, THOUGHT)
    assert _answer(ai, model="thinker", extra_body={"chat_template_kwargs": {"enable_thinking": False}}) == (ANSWER, None)


def test_a_stream_has_the_reasoning_apart_and_usage_counts_it(ai: openai.OpenAI) -> None:
    chunks = list(ai.chat.completions.create(**ASK, reasoning_effort="low", stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == THOUGHT
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    usage = chunks[-1].usage
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (5, 4)


def test_an_answer_that_must_fit_a_schema_may_follow_a_thought(ai: openai.OpenAI) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "yes", "schema": {"const": "y"}}}
    content, reasoning = _answer(ai, reasoning_effort="low", response_format=schema)
    assert (json.loads(content), reasoning) == ("y", THOUGHT)
    assert json.loads(_answer(ai, response_format=schema)[0]) == "y"


def test_earlier_reasoning_reaches_the_template(ai: openai.OpenAI) -> None:
    turns = [*ASK["messages"], {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}, *ASK["messages"]]
    tokens = [
        ai.chat.completions.create(
            model="thinker", messages=turns, extra_body={"chat_template_kwargs": {"preserve_thinking": keep}}
        ).usage.prompt_tokens
        for keep in (False, True)
    ]
    assert tokens[1] > tokens[0]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"extra_body": {"chat_template_kwargs": {"thinkng": True}}}, "no variable named thinkng"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "no variable named messages"),
        ({"extra_body": {"chat_template_kwargs": [1]}}, "chat_template_kwargs must be an object"),
        ({"messages": [{"role": "assistant", "content": "a", "reasoning_content": 1}]}, "reasoning_content must be text"),
    ],
)
def test_bad_requests_are_refused_by_name(ai: openai.OpenAI, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(openai.BadRequestError, match=problem):
        ai.chat.completions.create(**ASK | options)


def test_a_chat_keeps_the_reasoning_of_a_turn(served: SimpleNamespace) -> None:
    session = ChatSession(adapter="thinker")
    events = list(session.ask(served.client, "How are you?"))
    assert [(piece.reasoning, piece.text) for piece in events if isinstance(piece, Piece)][-1] == (False, ANSWER)
    assert isinstance(events[-1], Done)
    assert events[-1].reasoning_tokens == 4
    session.add("How are you?", ANSWER, THOUGHT)
    assert session.training_row()["messages"][-1] == {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}

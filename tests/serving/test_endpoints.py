from __future__ import annotations

import json
import os
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from served import SURE, TOOLS, listen_to, make_request, openai_client, run_requests
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from waiting import wait_until

from mlxtune.models import text_vectors
from mlxtune.models.generate import GenerationSettings, PromptGroup, generate
from mlxtune.models.load import LoadedModel
from mlxtune.serving.access_guard import guarded
from mlxtune.serving.protocol import Embedded, EmbedRequest, Failed, GenerateRequest, Sampling

pytestmark = pytest.mark.slow

TEXTS = ["Where is my parcel?", "The tent leaks.", "Where is my other parcel, which I paid for last week?"]


def get(ai: openai.OpenAI, path: str) -> str:
    return urllib.request.urlopen(str(ai.base_url).removesuffix("v1/") + path, timeout=30).read().decode()


def test_a_raw_prompt_is_continued_without_the_template(ai: openai.OpenAI, tiny_loaded: LoadedModel) -> None:
    prompt = "The tent"
    answer = ai.completions.create(model="tiny", prompt=prompt, max_tokens=12)
    tokens = tiny_loaded.tokenizer.encode(prompt)
    stops = frozenset(tiny_loaded.tokenizer.eos_token_ids)
    settings = GenerationSettings(max_tokens=12, stops=stops, batch_size=1)
    (expected,) = generate(tiny_loaded.model, tiny_loaded.tokenizer, [PromptGroup([tokens], settings)])
    assert answer.choices[0].text == expected.text
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(tokens), 12)
    assert ai.completions.create(model="tiny", prompt=tokens, max_tokens=12).choices[0].text == expected.text
    assert ai.completions.create(model="tiny", prompt=[tokens], max_tokens=12).choices[0].text == expected.text
    assert ai.completions.create(model="wide", prompt=prompt, max_tokens=12).choices[0].text != expected.text
    chunks = list(
        ai.completions.create(model="tiny", prompt=prompt, max_tokens=12, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == expected.text
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 12


def test_a_raw_completion_has_openais_default_length(ai: openai.OpenAI) -> None:
    assert ai.completions.create(model="tiny", prompt=["Once"]).usage.completion_tokens == 16


def test_a_prompt_that_opens_a_thought_is_not_split(make_engine) -> None:
    log = run_requests(make_engine(), [GenerateRequest("1", (), sampling=Sampling(4), prompt="So <think>")])
    assert log.last("1").reasoning_tokens == 0


def test_a_response_has_items_of_reasoning_text_and_calls(calling_ai: openai.OpenAI) -> None:
    tools = [{"type": "function", "strict": True, **tool["function"]} for tool in TOOLS]
    options: dict[str, Any] = {"model": "model", "input": "Where is LF-7?", "instructions": "Be brief.", "store": False}
    options |= {"tools": tools, "reasoning": {"effort": "high"}}
    response = calling_ai.responses.create(**options)
    assert (response.status, response.output_text) == ("completed", "Sure:")
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    reasoning, _, call = response.output
    assert reasoning.content[0].text == "Hm."
    assert (call.name, json.loads(call.arguments)) == ("track", {"order": "LF-7"})
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    events = list(calling_ai.responses.create(**options, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    texts = {
        kind: "".join(e.delta for e in events if e.type == f"response.{kind}.delta") for kind in ("output_text", "reasoning_text")
    }
    assert texts == {"output_text": "Sure:", "reasoning_text": "Hm."}
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert [event.item for event in events if event.type == "response.output_item.done"] == final.output
    with calling_ai.responses.stream(**options) as stream:  # the client assembles the events
        assembled = stream.get_final_response()
    assert assembled.output_text == "Sure:"
    # the next turn contains the items and the call's result, like the same conversation in chat completions
    items = [{"role": "user", "content": "Where is LF-7?"}, *response.output]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "in Lindau"}
    second = calling_ai.responses.create(**options | {"input": [*items, result]})
    messages = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is LF-7?"},
        {
            "role": "assistant", "content": "Sure:", "reasoning_content": "Hm.",
            "tool_calls": [{"id": call.call_id, "type": "function", "function": {"name": "track", "arguments": call.arguments}}],
        },
        {"role": "tool", "tool_call_id": call.call_id, "content": "in Lindau"},
    ]  # fmt: skip
    chat = calling_ai.chat.completions.create(model="model", messages=messages, tools=TOOLS, reasoning_effort="high")
    assert second.usage.input_tokens == chat.usage.prompt_tokens
    assert chat.usage.prompt_tokens > response.usage.input_tokens


def test_an_answer_that_is_cut_off_is_incomplete(ai: openai.OpenAI) -> None:
    response = ai.responses.create(model="tiny", input="Hello?", max_output_tokens=5)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    *_, last = ai.responses.create(model="tiny", input="Hello?", max_output_tokens=5, stream=True)
    assert last.type == "response.incomplete"
    assert last.response.output_text == response.output_text
    chat = ai.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello?"}], max_tokens=5)
    assert chat.choices[0].message.content == response.output_text


def test_a_response_honors_a_json_schema(ai: openai.OpenAI) -> None:
    text = {"format": {"type": "json_schema", "name": "answer", "schema": SURE}}
    response = ai.responses.create(model="tiny", input="Hello?", max_output_tokens=60, text=text)
    assert isinstance(json.loads(response.output_text)["sure"], bool)
    assert response.text.format.type == "json_schema"


def test_embeddings_are_unit_vectors_of_the_base(ai: openai.OpenAI, tiny_loaded: LoadedModel, tmp_path: Path) -> None:
    reply = ai.embeddings.create(model="tiny", input=TEXTS)  # the client asks for base64
    vectors = np.array([row.embedding for row in reply.data])
    means = text_vectors.text_vectors(tiny_loaded, TEXTS, tmp_path)
    assert vectors == pytest.approx(means / np.linalg.norm(means, axis=1, keepdims=True), abs=1e-5)
    numbers = ai.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="float").data[0].embedding
    assert numbers == pytest.approx(vectors[0], abs=1e-5)
    tokens = tiny_loaded.tokenizer.encode(TEXTS[0])
    assert ai.embeddings.create(model="tiny", input=tokens).data[0].embedding == pytest.approx(vectors[0], abs=1e-5)
    assert reply.usage.prompt_tokens == sum(len(tiny_loaded.tokenizer.encode(text)) for text in TEXTS)


BAD_REQUESTS: dict[str, list[tuple[dict[str, Any], str]]] = {
    "completions": [
        ({"prompt": ""}, "not empty"), ({"prompt": ["a", "b"]}, "one prompt per request"), ({"prompt": [True]}, "token IDs"),
        ({"prompt": [10**9]}, "Token IDs must be from 0 to"), ({"prompt": [-1]}, "Token IDs must be"), ({"n": 2}, "n is not supported"),
        ({"logprobs": 3}, "logprobs is not supported"), ({"echo": True}, "echo is not supported"), ({"messages": []}, "no parameter named messages"),
    ],
    "responses": [
        ({"input": []}, "input must not be empty"), ({"input": [{"type": "item_reference", "id": "x"}]}, "type is not supported"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "content must be text"),
        ({"input": [{"role": "root", "content": "x"}]}, "role must be one of"), ({"store": True}, "store is not supported"),
        ({"previous_response_id": "resp_1"}, "previous_response_id is not supported"), ({"tools": [{"type": "web_search"}]}, "A tool must have"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary is not supported"), ({"max_output_tokens": 0}, "max_output_tokens must be"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{"}]}, "JSON arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "1"}]}, r"input\[0\].output must be text"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type must be"), ({"input": [5]}, r"input\[0\] must be an object"),
    ],
    "embeddings": [
        ({"model": "wide"}, "Only the base model, tiny, computes embeddings"), ({"input": []}, "not empty"), ({"input": ["a", ""]}, "not empty"),
        ({"input": "x " * 5000}, "context is 2,048 tokens"), ({"dimensions": 8}, "no parameter named dimensions"), ({"input": ["a"] * 2049}, "at most 2,048"),
        ({"encoding_format": "int8"}, "encoding_format must be"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("path", "change", "message"), [(path, *case) for path, cases in BAD_REQUESTS.items() for case in cases])
def test_bad_requests_are_refused(ai: openai.OpenAI, path: str, change: dict[str, Any], message: str) -> None:
    text = {"prompt" if path == "completions" else "input": "Hi"}
    with pytest.raises(openai.BadRequestError, match=message):
        ai.post(f"/{path}", body={"model": "tiny", **text, **change}, cast_to=object)


def test_embeddings_between_answers_change_neither(make_engine) -> None:
    requests = [make_request(str(number), f"Question {number}?", "wide" if number % 2 else "") for number in range(3)]
    expected = run_requests(make_engine(), requests)
    engine = make_engine(queue=2)
    log = listen_to(engine, 5)
    for request in requests:
        engine.submit(request)
    engine.submit_embedding(EmbedRequest("e", tuple(f"{'word ' * size}?" for size in (1, 300, 2, 200, 3, 150))))
    engine.submit_embedding(EmbedRequest("gone", ("Hello",)))
    with pytest.raises(Exception, match="Too many requests"):
        engine.submit_embedding(EmbedRequest("full", ("Hello",)))
    engine.cancel("gone")
    engine.run()
    assert [log.text(request.id) for request in requests] == [expected.text(request.id) for request in requests]
    assert isinstance(log.last("gone"), Failed)
    assert len(log.last("e").vectors) == 6


def test_without_a_queue_one_embedding_request_is_computed_at_a_time(make_engine) -> None:
    engine = make_engine(queue=0)
    log = listen_to(engine, 1)
    engine.submit_embedding(EmbedRequest("only", ("Hello",)))
    with pytest.raises(Exception, match="Too many requests"):
        engine.submit_embedding(EmbedRequest("full", ("Hello",)))
    engine.run()
    assert isinstance(log.last("only"), Embedded)


def test_health_and_metrics_tell_what_was_served(ai: openai.OpenAI) -> None:
    ai.completions.create(model="wide", prompt="Once", max_tokens=3)
    assert json.loads(get(ai, "health"))["loaded"] is True
    text = get(ai, "metrics")
    assert 'mlxtune_generated_tokens_total{model="wide"}' in text
    assert 'mlxtune_http_requests_total{path="/v1/completions",status="200"}' in text
    assert "mlxtune_model_loaded 1" in text
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(samples["mlxtune_answer_seconds_count"]) == float(samples['mlxtune_answer_seconds_bucket{le="+Inf"}']) > 0


def test_failed_embeddings_are_not_counted_as_answers(ai: openai.OpenAI) -> None:
    def answers() -> list[str]:
        return [line for line in get(ai, "metrics").splitlines() if line.startswith("mlxtune_answers_total")]

    before = answers()
    with pytest.raises(openai.BadRequestError, match="context is"):
        ai.embeddings.create(model="tiny", input="x " * 5000)
    assert answers() == before


def test_an_adapter_that_is_added_or_replaced_is_served_immediately(ai: openai.OpenAI, workspace: Path, tiny_adapters) -> None:
    def answer(model: str) -> str:
        return ai.completions.create(model=model, prompt="Once", max_tokens=12).choices[0].text

    with pytest.raises(openai.NotFoundError):
        answer("new")
    target = workspace / "adapters" / "new"
    shutil.copytree(tiny_adapters["all"], target)
    assert "new" in [model.id for model in ai.models.list()]
    first = answer("new")
    assert first != answer("tiny")
    replacement = workspace / "replacement"
    shutil.copytree(tiny_adapters["dora"], replacement)
    target.rename(workspace / "old")
    replacement.rename(target)
    second = answer("new")
    assert second != first
    shutil.rmtree(target)
    with pytest.raises(openai.NotFoundError):
        answer("new")
    os.rename(workspace / "old", target)
    assert answer("new") == first
    shutil.rmtree(target)


def test_the_model_is_unloaded_after_keep_alive_and_loaded_by_the_next_request(workspace: Path) -> None:
    with openai_client(workspace, "tiny", keep_alive=0.2) as api:

        def answer() -> str:
            return api.completions.create(model="tiny", prompt="Once", max_tokens=8).choices[0].text

        def loaded() -> bool:
            return json.loads(get(api, "health"))["loaded"]

        first = answer()
        wait_until(lambda: not loaded())
        assert "tiny" in [model.id for model in api.models.list()]  # does not load it
        assert not loaded()
        assert answer() == first


def test_pages_of_allowed_origins_can_use_the_server() -> None:
    async def app(scope, receive, send) -> None:
        await PlainTextResponse("ok")(scope, receive, send)

    def reply(origins: list[str], **options: Any) -> Any:
        client = TestClient(guarded(app, "127.0.0.1", "secret", origins), base_url="http://127.0.0.1")
        return client.request(**{"method": "POST", "url": "/v1/chat/completions", **options})

    page = {"Origin": "https://chat.example", "Authorization": "Bearer secret"}
    assert reply([], headers=page).status_code == 403
    assert "--allow-origin" in reply([], headers=page).json()["error"]["message"]
    for origin in ("https://chat.example", "https://Chat.Example", "HTTPS://chat.example:443", "*"):
        got = reply([origin], headers=page)
        allowed = "*" if origin == "*" else "https://chat.example"  # as a browser sends it
        assert (got.status_code, got.headers["access-control-allow-origin"]) == (200, allowed)
    preflight = {
        "Origin": "https://chat.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    assert reply(["https://chat.example"], method="OPTIONS", headers=preflight).status_code == 200
    assert reply(["https://chat.example"], headers=page | {"Origin": "https://evil.example"}).status_code == 403
    assert reply(["https://chat.example"], headers={"Origin": "https://chat.example"}).status_code == 401

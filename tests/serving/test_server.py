import concurrent.futures
import http.client
import json
import re
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from served import NAMES, QUEUE, SLOTS, SURE, listening
from waiting import wait_until

from mlxtune.core.errors import InputError
from mlxtune.data.rows import Conversation, Location, Message
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.endpoint_answers import endpoint_answers
from mlxtune.evaluation.outputs import AnswerOptions, generate_answers
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import TemplateSettings
from mlxtune.recipe import Endpoint
from mlxtune.serving import server as servers
from mlxtune.serving.http_server import listen

pytestmark = pytest.mark.slow

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 8}


def post(
    served, body: Any, *, raw: bytes | None = None, path: str = "/v1/chat/completions", **headers: str
) -> tuple[int, Any, Any]:
    """Return the status, JSON and headers of the response."""
    line = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    data = json.dumps(body).encode() if raw is None else raw
    line.request("POST", path, data, {"Content-Type": "application/json", **headers})
    reply = line.getresponse()
    text = reply.read()
    line.close()
    return reply.status, json.loads(text) if text else None, reply.headers


def alive(served) -> None:
    """Check that the server answers and no request is open."""
    assert post(served, ASK)[0] == 200
    wait_until(lambda: not served.server._open and not served.client._child._listeners)


@pytest.mark.parametrize(
    ("path", "body", "least"),
    [
        ("completions", {"prompt": [1] * 99_999}, "99,999"),
        ("completions", {"prompt": "word " * 200_000}, r"\d\d,\d{3}"),
        ("chat/completions", {"messages": ASK["messages"] * 99_999}, "99,999"),
        ("chat/completions", {"messages": [{"role": "user", "content": "word " * 200_000}]}, r"\d\d,\d{3}"),
    ],
)
def test_more_text_or_tokens_than_the_context_never_reaches_the_model(
    served, monkeypatch, path: str, body: Any, least: str
) -> None:
    monkeypatch.setattr(served.client, "send", lambda *_, **__: pytest.fail("sent"))
    status, answer, _ = post(served, {"model": "tiny", "max_tokens": 1, **body}, path=f"/v1/{path}")
    assert status == 400
    assert re.match(f"The prompt has at least {least} tokens", answer["error"]["message"])


def test_models_lists_the_base_and_every_adapter(ai: openai.OpenAI) -> None:
    base, *adapters = [model.id for model in ai.models.list()]
    assert (base, set(adapters)) == ("tiny", {"all", "dora", "wide"})
    assert ai.models.retrieve("wide").id == "wide"
    with pytest.raises(openai.NotFoundError):
        ai.models.retrieve("nobody")


def test_a_stream_joins_to_the_whole_answer(ai: openai.OpenAI) -> None:
    full_answer = ai.chat.completions.create(**ASK)
    assert full_answer.choices[0].finish_reason == "length"
    assert full_answer.usage.completion_tokens == 8
    assert full_answer.usage.prompt_tokens + 8 == full_answer.usage.total_tokens
    assert full_answer.timing["total_s"] > 0
    chunks = list(ai.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == full_answer.choices[0].message.content
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.total_tokens == full_answer.usage.total_tokens
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert not any(chunk.usage for chunk in ai.chat.completions.create(**ASK, stream=True))


def test_concurrent_requests_over_three_adapters_equal_single_ones(ai: openai.OpenAI, served) -> None:
    def answer(number: int) -> str:
        body = {
            "model": NAMES[number % 4], "max_tokens": 16, "temperature": 0,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Question {number}: {'x' * (number % 9)}?"}],
        }  # fmt: skip
        if number % 2:
            parts = ai.chat.completions.create(**body, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in parts)
        return ai.chat.completions.create(**body).choices[0].message.content or ""

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        together = list(pool.map(answer, range(32)))
    assert [answer(number) for number in range(32)] == together
    alive(served)


def test_seed_stop_and_turns_are_honored(ai: openai.OpenAI) -> None:
    options = {**ASK, "temperature": 1.0, "top_p": 0.95, "max_tokens": 24}
    texts = [ai.chat.completions.create(**options, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    unseeded = ai.chat.completions.create(**options)
    assert ai.chat.completions.create(**options, seed=unseeded.seed).choices[0].message == unseeded.choices[0].message
    full_answer = ai.chat.completions.create(**{**ASK, "max_tokens": 24}).choices[0].message.content
    stopped = ai.chat.completions.create(**{**ASK, "max_tokens": 24}, stop=[full_answer[5:8], "never"])
    assert stopped.choices[0].message.content == full_answer[: full_answer.index(full_answer[5:8])]
    assert stopped.choices[0].finish_reason == "stop"
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo?"}]
    assert ai.chat.completions.create(**{**ASK, "messages": [{"role": "user", "content": parts}]}).choices[0].message.content == (
        ai.chat.completions.create(**ASK).choices[0].message.content
    )


def test_a_json_schema_is_honored(ai: openai.OpenAI) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SURE}}
    answer = ai.chat.completions.create(**{**ASK, "max_tokens": 60}, response_format=response_format)
    assert isinstance(json.loads(answer.choices[0].message.content)["sure"], bool)
    bad = {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"not": {"type": "string"}, "unevaluatedProperties": False}},
    }
    with pytest.raises(openai.BadRequestError, match="cannot be converted to a grammar"):
        ai.chat.completions.create(**ASK, response_format=bad)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "tyni"}, 404, "Did you mean tiny?"),
        ({"model": 5}, 400, "model must be a string"),
        ({"model": None}, 400, "model is missing"),
        ({"messages": []}, 400, "messages must not be empty"),
        ({"messages": "Hello"}, 400, "messages must be a list"),
        ({"messages": [{"role": "root", "content": "x"}]}, 400, r"messages\[0\].role must be one of"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "content must be text"),
        ({"messages": [{"role": "user"}]}, 400, "content must be text"),
        ({"messages": [{"role": "user", "content": "x", "audio": {"id": 1}}]}, 400, "audio is not supported"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "an incomplete character"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, 400, "context is 2,048 tokens"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]}, 400, "must be function calls with JSON"),
        ({"temprature": 1}, 400, "did you mean temperature?"),
        ({"\u001b[31m": 1}, 400, "no parameter named"),
        ({"temperature": 9}, 400, "temperature must be from 0 to 5, but is 9"),
        ({"temperature": "hot"}, 400, "temperature must be a number"),
        ({"top_p": 0}, 400, "top_p must be above 0 and at most 1, but is 0"),
        ({"max_tokens": 0}, 400, "max_tokens must be at least 1, but is 0"),
        ({"max_tokens": True}, 400, "max_tokens must be an integer"),
        ({"max_completion_tokens": 3}, 400, "use only one"),
        ({"seed": 2**80}, 400, "seed must be a 64-bit integer"),
        ({"stop": [""]}, 400, "stop must not contain an empty string"),
        ({"stop": 5}, 400, "stop must be a string"),
        ({"n": 2}, 400, "n is not supported"),
        ({"logprobs": True}, 400, "logprobs is not supported"),
        ({"logit_bias": {"5": 100}}, 400, "logit_bias is not supported"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty is not supported"),
        ({"tools": [{"type": "web_search"}]}, 400, "A tool must have the form"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "does not support tools"),
        ({"tool_choice": "required"}, 400, "tool_choice must be"),
        ({"response_format": {"type": "xml"}}, 400, "response_format.type must be"),
        ({"response_format": {"type": "json_schema"}}, 400, "must be a valid JSON Schema"),
        ({"stream_options": {"include_obfuscation": True}}, 400, "include_obfuscation is not supported"),
        ({"stream": "yes"}, 400, "stream must be true or false"),
    ],
)  # fmt: skip
def test_unsupported_parameters_are_refused_by_name(served, change: dict[str, Any], status: int, message: str) -> None:
    status_code, reply, _ = post(served, {**ASK, **change})
    assert status_code == status
    assert re.search(message, reply["error"]["message"]), reply
    assert reply["error"]["type"] == "invalid_request_error"
    status_code, streamed, _ = post(served, {**ASK, **change, **({} if "stream" in change else {"stream": True})})
    assert (status_code, streamed) == (status, reply)


def test_default_values_and_metadata_are_accepted(served) -> None:
    neutral = {"n": 1, "presence_penalty": 0, "logprobs": False, "logit_bias": {}, "user": "me", "tools": []}
    assert post(served, {**ASK, **neutral, "response_format": {"type": "text"}, "stop": None, "seed": None})[0] == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"model": NaN}', b"[]", b'"x"', b"\x00" * 1000])
def test_malformed_requests_are_bad_input(served, raw: bytes) -> None:
    status, reply, _ = post(served, None, raw=raw)
    assert status == 400
    assert reply["error"]["message"]
    alive(served)


def test_a_body_of_10_mb_is_too_large(served) -> None:
    status, reply, _ = post(served, {**ASK, "messages": [{"role": "user", "content": "x" * 10_000_000}]})
    assert status == 413
    assert "4 MB" in reply["error"]["message"]
    alive(served)


def test_a_body_that_never_arrives_times_out(served, monkeypatch) -> None:
    monkeypatch.setattr(servers, "BODY_TIMEOUT", 0.1)
    with socket.create_connection(("127.0.0.1", served.port)) as line:
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        assert b" 408 " in line.recv(4096)
    alive(served)


def test_other_paths_and_methods_get_the_same_error_format(served) -> None:
    assert post(served, ASK, path="/v1/images")[0] == 404
    status, reply, headers = post(served, ASK, path="/v1/models")
    assert (status, set(headers["Allow"].split(", "))) == (405, {"GET", "HEAD"})
    assert reply["error"]["message"] == "Method Not Allowed"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_disconnects_frees_its_slot(served, stream: bool) -> None:
    finished = []
    served.server.on_finish = lambda model, ended: finished.append(ended)
    body = json.dumps({**ASK, "max_tokens": 1900, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(SLOTS + 2):
        with socket.create_connection(("127.0.0.1", served.port)) as line:
            line.sendall(head + body)
            if stream:
                line.recv(100)
    start = time.monotonic()
    alive(served)
    assert len(finished) == 1  # no other answer was completed
    assert time.monotonic() - start < 60
    served.server.on_finish = lambda model, ended: None


def test_a_full_queue_sets_retry_after(served) -> None:
    body = {**ASK, "max_tokens": 120}
    with concurrent.futures.ThreadPoolExecutor(90) as pool:
        replies = list(pool.map(lambda _: post(served, body), range(90)))
    statuses = [status for status, _, _ in replies]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= SLOTS + QUEUE
    for status, reply, headers in replies:
        if status == 429:
            assert int(headers["Retry-After"]) >= 1
            assert reply["error"]["code"] == "rate_limit_exceeded"
    alive(served)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:5"}, 200), ({"Host": "[::1]"}, 200), ({"Host": "192.168.1.5:8080"}, 200), ({"Host": "evil.example"}, 403),
        ({"Host": ""}, 403), ({"Host": "127.0.0.1.evil.example"}, 403), ({"Host": "localhost.evil.example:80"}, 403), ({"Host": "[::1"}, 403),
        ({"Origin": "http://localhost:3000"}, 200), ({"Origin": "http://127.0.0.1"}, 200), ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403), ({"Origin": "http://10.0.0.1"}, 403),
    ],
)  # fmt: skip
def test_foreign_web_pages_are_refused(served, headers: dict[str, str], status: int) -> None:
    assert post(served, {**ASK, "max_tokens": 1}, **headers)[0] == status


def test_a_token_is_required_if_set(served) -> None:
    with listening(served.server, "secret") as port:
        keys = ({}, {"Authorization": "Bearer no"}, {"Authorization": "Bearer secret"})
        statuses = [post(SimpleNamespace(port=port), {**ASK, "max_tokens": 1}, **key)[0] for key in keys]
    assert statuses == [401, 401, 200]


def test_a_port_in_use_is_bad_input(served) -> None:
    with pytest.raises(InputError, match="Cannot listen on"):
        listen("127.0.0.1", served.port)


@pytest.mark.exhaustive
def test_500_requests_leak_nothing(served) -> None:
    def memory() -> int:
        text = Path(f"/proc/{served.client._child.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) * 1024

    if not Path("/proc").is_dir():
        pytest.skip("needs /proc to see another process's memory")

    def many(count: int) -> None:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for status, _, _ in pool.map(lambda n: post(served, {**ASK, "model": NAMES[n % 4], "max_tokens": 3}), range(count)):
                assert status == 200

    many(150)
    before = memory()
    many(350)
    assert memory() - before < 30 * 2**20
    alive(served)
    assert threading.active_count() < 30


def test_served_model_is_an_arm_of_an_evaluation(served, tiny_loaded: LoadedModel, tmp_path: Path) -> None:
    rows = [
        Conversation(Location(Path("d.jsonl"), at), {}, (Message("user", f"Question {at}?"), Message("assistant", "Yes.")))
        for at in range(6)
    ]
    endpoint = Endpoint("tiny", served.url)
    arm = Arm("endpoint:tiny", endpoint=endpoint)
    answers, spent = endpoint_answers(
        arm, endpoint, rows, count_tokens=len, max_tokens=8, cache=tmp_path, tell=lambda of: lambda done, total: None
    )
    options = AnswerOptions(TemplateSettings(), 8, 8, 6, tmp_path)
    base = generate_answers(Arm("base"), tiny_loaded, rows, options, lambda of: lambda done, total: None).answers  # the same model
    assert spent == 0
    assert [(out.id, out.output, out.ended, out.answer_tokens) for out in answers.answers] == [
        (out.id, out.output, out.ended, out.answer_tokens) for out in base
    ]

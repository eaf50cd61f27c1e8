import contextlib
import gzip
import json
import logging
import sys
import threading
import traceback

import pytest
from judge_stub import serve

from mlxtune.core.errors import InputError, MachineError, MlxtuneError
from mlxtune.data.rows import Message
from mlxtune.evaluation.judge import endpoint
from mlxtune.evaluation.judge.endpoint import REPLY_TOKENS, CostMeter, EndpointClient, ReplyLost
from mlxtune.evaluation.judge.rubric import grading_messages, load_rubric

CANARY = "sk-canary-7f3a9d"
MESSAGES = grading_messages(load_rubric().questions[0], (Message("user", "Where?"),), "Thank you, dear", "m1")


@pytest.fixture
def stub():
    with serve() as running:
        yield running


@pytest.fixture
def waits():
    return []


@pytest.fixture
def judge(stub, waits):
    meter = CostMeter(2.0, 8.0)
    judge = EndpointClient(stub.url, "judge-1", CANARY, meter, sleep=waits.append)
    judge.meter = meter
    return judge


def test_reply_is_returned_and_usage_charged(stub, judge):
    assert '"verdict": "yes"' in judge.ask(MESSAGES)
    assert judge.meter.spent == pytest.approx((100 * 2 + 10 * 8) / 1e6)
    assert stub.headers[0]["authorization"] == f"Bearer {CANARY}"
    assert stub.bodies[0]["max_tokens"] == REPLY_TOKENS
    assert stub.bodies[0]["messages"] == MESSAGES


def test_missing_usage_charges_worst_case(stub, judge):
    stub.usage = None
    judge.ask(MESSAGES)
    assert judge.meter.spent == pytest.approx(judge.meter.worst_case(MESSAGES))


@pytest.mark.parametrize("status", [429, 503])
def test_rejected_request_is_retried_with_one_key_and_billed_once(stub, judge, waits, status):
    stub.script = [status, status]
    assert "yes" in judge.ask(MESSAGES)
    assert judge.meter.spent == pytest.approx((100 * 2 + 10 * 8) / 1e6)
    assert waits == [1.0, 2.0]
    assert len(stub.bodies) == 3
    assert len({headers["idempotency-key"] for headers in stub.headers}) == 1


def test_retry_after_is_respected_up_to_limit(stub, judge, waits):
    stub.script, stub.retry_after = [429, 429], "7"
    judge.ask(MESSAGES)
    assert waits == [7.0, 7.0]
    stub.script, stub.retry_after = [429], "86400"
    judge.ask(MESSAGES)
    assert waits[-1] == endpoint.WAIT


@pytest.mark.parametrize("step", [500, 502, 504, 408, "drop", "garbage", "page"])
def test_possibly_billed_request_is_charged_and_not_retried(stub, judge, waits, step):
    stub.script = [step]
    with pytest.raises(ReplyLost):
        judge.ask(MESSAGES)
    assert len(stub.bodies) == 1
    assert waits == []
    assert judge.meter.spent == pytest.approx(judge.meter.worst_case(MESSAGES))


def _choice(**message: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x", **message}}]}


NOT_COMPLETIONS = (
    {"choices": [None]}, {"choices": {}}, {"choices": {"a": 1}}, {"choices": "x"}, {"choices": [[]]}, {"choices": 5}, {"choices": [{"message": []}]},
    {"choices": [{"message": {"content": [1]}}]}, _choice(content={"a": 1}), _choice(tool_calls=[None]), _choice(tool_calls="x"),
    _choice(tool_calls=[{"id": 5}]), _choice(tool_calls={"a": 1}), _choice() | {"usage": []}, _choice() | {"usage": {"prompt_tokens": "x"}},
    _choice() | {"usage": {"completion_tokens_details": [1]}}, [], 5, None, "x", {"choices": [{}]},
)  # fmt: skip


@pytest.mark.parametrize("reply", NOT_COMPLETIONS, ids=str)
def test_a_malformed_reply_is_lost_or_has_no_text_but_breaks_nothing(stub, judge, reply):
    stub.script = [({}, json.dumps(reply).encode())]
    with contextlib.suppress(ReplyLost):
        assert isinstance(judge.ask(MESSAGES), str)
    assert len(stub.bodies) == 1
    assert judge.meter.spent == pytest.approx(judge.meter.worst_case(MESSAGES))


def test_an_oversized_reply_is_abandoned(stub, judge, monkeypatch):
    monkeypatch.setattr(endpoint, "MAX_REPLY_BYTES", 2**20)
    large = json.dumps(_choice(content="x" * 2**21)).encode()
    stub.script = [({}, large), ({"Content-Encoding": "gzip"}, gzip.compress(bytes(10**7)))]
    for reason in ("is larger than 1 MB", "is compressed"):
        with pytest.raises(ReplyLost, match=reason):
            judge.ask(MESSAGES)
    assert all(headers["accept-encoding"] == "identity" for headers in stub.headers)
    assert judge.meter.spent == pytest.approx(2 * judge.meter.worst_case(MESSAGES))


def test_timeout_is_not_retried(stub, monkeypatch, waits):
    monkeypatch.setattr(endpoint, "TIMEOUT", 0.2)
    free = threading.Event()
    stub.behavior = lambda *_: (free.wait(5), {})[1]
    judge = EndpointClient(stub.url, "judge-1", CANARY, CostMeter(), sleep=waits.append)
    with pytest.raises(ReplyLost):
        judge.ask(MESSAGES)
    free.set()
    assert len(stub.bodies) == 1
    assert waits == []


@pytest.mark.parametrize("status", [307, 400, 401, 403, 404])
def test_refusal_stops_at_once_without_charge(stub, judge, status):
    stub.script = [status]
    with pytest.raises(InputError, match=f"rejected the request with status {status}"):
        judge.ask(MESSAGES)
    assert len(stub.bodies) == 1
    assert judge.meter.spent == 0


def test_exhausted_quota_is_not_waited_for(stub, judge, waits):
    stub.script, stub.retry_after = [429], "never"
    with pytest.raises(InputError, match="429"):
        judge.ask(MESSAGES)
    assert waits == []


def test_unresponsive_endpoint_is_abandoned(stub, judge, waits):
    stub.script = [503] * 9
    with pytest.raises(MachineError, match="Cannot reach"):
        judge.ask(MESSAGES)
    assert len(waits) == endpoint.TRIES - 1
    nobody = EndpointClient("http://127.0.0.1:9/v1", "m", CANARY, CostMeter(), sleep=waits.append)
    with pytest.raises(MachineError, match="Cannot reach"):
        nobody.ask(MESSAGES)


def test_worst_case_is_never_below_actual_charge():
    text = "日本語 and ümläut"
    messages = [{"role": "user", "content": text}]
    assert CostMeter(1.0, 0.0).worst_case(messages) * 1e6 >= len(text.encode())


@pytest.mark.parametrize("step", [400, 401, 429, 500, 503, "drop", "garbage", 200])
def test_key_is_absent_from_errors_tracebacks_logs_and_replies(stub, judge, step, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    stub.behavior = lambda *_: "KEY"
    stub.script, stub.retry_after = [step] * 5, "never"
    try:
        text = judge.ask(MESSAGES)
    except (ReplyLost, MlxtuneError) as error:
        text = "".join(traceback.format_exception(error)) + repr(error) + getattr(error, "hint", "")
    assert CANARY not in text
    assert CANARY not in caplog.text
    assert CANARY not in repr(judge)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://x/v1", "must start"),
        ("api.openai.com/v1", "must start"),
        ("https://user:pass@x/v1", "must not contain"),
        ("https://x/v1?key=1", "must not contain"),
        ("http://judge.example/v1", "unencrypted"),
    ],
)
def test_insecure_urls_are_refused(url, message):
    with pytest.raises(InputError, match=message) as refused:
        endpoint.host(url)
    assert "pass" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.0.0.1.evil.example", False), ("10.0.0.2", False), ("0.0.0.0", False)],
)  # fmt: skip
def test_only_loopback_is_local(name, local):
    assert endpoint.is_local(name) is local


def test_keys_come_from_environment_and_go_only_to_their_endpoint():
    both = {"OPENAI_API_KEY": "a", "MLXTUNE_ENDPOINT_KEY": "b", "OTHER": "c"}
    assert endpoint.api_key(endpoint.OFFICIAL, environment=both) == "a"
    assert endpoint.api_key("https://judge.example/v1", environment=both) == "b"
    assert endpoint.api_key("https://judge.example/v1", "OTHER", both) == "c"
    assert endpoint.api_key("http://localhost:8080/v1", environment={"OPENAI_API_KEY": "a"}) == ""
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set"):
        endpoint.api_key(endpoint.OFFICIAL, environment={})
    with pytest.raises(InputError, match="OTHER is not set"):
        endpoint.api_key("http://localhost/v1", "OTHER", {})


def test_key_given_as_variable_name_is_not_echoed():
    with pytest.raises(InputError, match="name of an environment variable") as refused:
        endpoint.api_key("http://localhost/v1", CANARY, {})
    assert CANARY not in refused.value.message + refused.value.hint


def test_loopback_bypasses_proxy(stub, judge, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    judge = EndpointClient(stub.url, "judge-1", CANARY, CostMeter())
    assert "yes" in judge.ask(MESSAGES)


def test_missing_extra_is_named(monkeypatch, stub):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match="needs the openai package"):
        EndpointClient(stub.url, "judge-1", CANARY, CostMeter())

from __future__ import annotations

import logging
import sys
import threading
import traceback

import pytest
from judge_stub import serve

from mlxtune.core.errors import InputError, MachineError, MlxtuneError
from mlxtune.data.rows import Message
from mlxtune.evaluation.judge import Lost, endpoint
from mlxtune.evaluation.judge.endpoint import REPLY_TOKENS, CapReached, Endpoint, Meter
from mlxtune.evaluation.judge.rubric import DEFAULT, grading

CANARY = "sk-canary-7f3a9d"
MESSAGES = grading(DEFAULT.questions[0], (Message("user", "Where?"),), "Thank you, dear", "m1")


@pytest.fixture
def stub():
    with serve() as running:
        yield running


@pytest.fixture
def waits():
    return []


@pytest.fixture
def ask(stub, waits):
    meter = Meter(2.0, 8.0)
    made = Endpoint(stub.url, "judge-1", CANARY, meter, sleep=waits.append)
    made.meter = meter
    return made


def test_the_reply_comes_back_and_usage_is_charged(stub, ask):
    assert '"verdict": "yes"' in ask(MESSAGES)
    assert ask.meter.spent == pytest.approx((100 * 2 + 10 * 8) / 1e6)
    assert stub.headers[0]["authorization"] == f"Bearer {CANARY}"
    assert stub.bodies[0]["max_tokens"] == REPLY_TOKENS
    assert stub.bodies[0]["messages"] == MESSAGES


def test_without_usage_the_worst_is_charged(stub, ask):
    stub.usage = None
    ask(MESSAGES)
    assert ask.meter.spent == pytest.approx(ask.meter.worst(MESSAGES))


@pytest.mark.parametrize("status", [429, 503])
def test_what_did_no_work_is_asked_again_under_one_key_and_billed_once(stub, ask, waits, status):
    stub.script = [status, status]
    assert "yes" in ask(MESSAGES)
    assert ask.meter.spent == pytest.approx((100 * 2 + 10 * 8) / 1e6)
    assert waits == [1.0, 2.0]
    assert len(stub.bodies) == 3
    assert len({headers["idempotency-key"] for headers in stub.headers}) == 1


def test_the_endpoints_own_wait_is_respected_within_reason(stub, ask, waits):
    stub.script, stub.retry_after = [429, 429], "7"
    ask(MESSAGES)
    assert waits == [7.0, 7.0]
    stub.script, stub.retry_after = [429], "86400"
    ask(MESSAGES)
    assert waits[-1] == endpoint.WAIT


@pytest.mark.parametrize("step", [500, 502, 504, 408, "drop", "garbage"])
def test_what_may_be_on_the_bill_is_charged_and_not_asked_again(stub, ask, waits, step):
    stub.script = [step]
    with pytest.raises(Lost):
        ask(MESSAGES)
    assert len(stub.bodies) == 1
    assert waits == []
    assert ask.meter.spent == pytest.approx(ask.meter.worst(MESSAGES))


def test_a_slow_endpoint_is_not_asked_again(stub, monkeypatch, waits):
    monkeypatch.setattr(endpoint, "TIMEOUT", 0.2)
    free = threading.Event()
    stub.mind = lambda *_: (free.wait(5), {})[1]
    made = Endpoint(stub.url, "judge-1", CANARY, Meter(), sleep=waits.append)
    with pytest.raises(Lost):
        made(MESSAGES)
    free.set()
    assert len(stub.bodies) == 1
    assert waits == []


@pytest.mark.parametrize("status", [307, 400, 401, 403, 404])
def test_a_refusal_ends_it_at_once_and_costs_nothing(stub, ask, status):
    stub.script = [status]
    with pytest.raises(InputError, match=f"refused with {status}"):
        ask(MESSAGES)
    assert len(stub.bodies) == 1
    assert ask.meter.spent == 0


def test_an_empty_purse_is_no_reason_to_wait(stub, ask, waits):
    stub.script, stub.retry_after = [429], "never"
    with pytest.raises(InputError, match="429"):
        ask(MESSAGES)
    assert waits == []


def test_who_never_answers_is_given_up(stub, ask, waits):
    stub.script = [503] * 9
    with pytest.raises(MachineError, match="cannot be reached"):
        ask(MESSAGES)
    assert len(waits) == endpoint.TRIES - 1
    nobody = Endpoint("http://127.0.0.1:9/v1", "m", CANARY, Meter(), sleep=waits.append)
    with pytest.raises(MachineError, match="cannot be reached"):
        nobody(MESSAGES)


def test_the_cap_holds_before_a_question_is_sent(stub, waits):
    worst = Meter(2.0, 8.0).worst(MESSAGES)
    meter = Meter(2.0, 8.0, cap=2.5 * worst)
    stub.usage = None
    made = Endpoint(stub.url, "judge-1", CANARY, meter, sleep=waits.append)
    made(MESSAGES)
    made(MESSAGES)
    with pytest.raises(CapReached, match="could cost"):
        made(MESSAGES)
    assert len(stub.bodies) == 2
    assert meter.spent <= meter.cap


def test_the_worst_is_never_less_than_any_bill():
    text = "日本語 and ümläut"
    messages = [{"role": "user", "content": text}]
    assert Meter(1.0, 0.0).worst(messages) * 1e6 >= len(text.encode())


@pytest.mark.parametrize("step", [400, 401, 429, 500, 503, "drop", "garbage", 200])
def test_the_key_is_in_no_error_no_traceback_no_log_and_no_reply(stub, ask, step, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    stub.mind = lambda *_: "KEY"
    stub.script, stub.retry_after = [step] * 5, "never"
    try:
        told = ask(MESSAGES)
    except (Lost, MlxtuneError) as error:
        told = "".join(traceback.format_exception(error)) + repr(error) + getattr(error, "mend", "")
    assert CANARY not in told
    assert CANARY not in caplog.text
    assert CANARY not in repr(ask)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://x/v1", "must begin"),
        ("api.openai.com/v1", "must begin"),
        ("https://user:pass@x/v1", "more than an address"),
        ("https://x/v1?key=1", "more than an address"),
        ("http://judge.example/v1", "in the clear"),
    ],
)
def test_urls_that_leak_are_refused(url, said):
    with pytest.raises(InputError, match=said) as refused:
        endpoint.host(url)
    assert "pass" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.0.0.1.evil.example", False), ("10.0.0.2", False), ("0.0.0.0", False)],
)  # fmt: skip
def test_only_this_machine_is_local(name, local):
    assert endpoint.is_local(name) is local


def test_keys_come_from_the_environment_and_go_only_where_they_belong():
    both = {"OPENAI_API_KEY": "a", "MLXTUNE_JUDGE_KEY": "b", "OTHER": "c"}
    assert endpoint.key(endpoint.OFFICIAL, environment=both) == "a"
    assert endpoint.key("https://judge.example/v1", environment=both) == "b"
    assert endpoint.key("https://judge.example/v1", "OTHER", both) == "c"
    assert endpoint.key("http://localhost:8080/v1", environment={"OPENAI_API_KEY": "a"}) == ""
    with pytest.raises(InputError, match="has no OPENAI_API_KEY"):
        endpoint.key(endpoint.OFFICIAL, environment={})
    with pytest.raises(InputError, match="has no OTHER"):
        endpoint.key("http://localhost/v1", "OTHER", {})


def test_a_key_in_place_of_a_variables_name_is_not_repeated():
    with pytest.raises(InputError, match="not a key") as refused:
        endpoint.key("http://localhost/v1", CANARY, {})
    assert CANARY not in refused.value.message + refused.value.mend


def test_no_proxy_stands_between_us_and_this_machine(stub, ask, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    made = Endpoint(stub.url, "judge-1", CANARY, Meter())
    assert "yes" in made(MESSAGES)


def test_a_missing_extra_is_named(monkeypatch, stub):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match="needs openai"):
        Endpoint(stub.url, "judge-1", CANARY, Meter())

"""A model at an endpoint as an arm: consent, cap, key, interruptions, and a cache like that of any other arm."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from judge_stub import JudgeStub, serve

from mlxtune.cli.evaluate import what_is_sent
from mlxtune.core.errors import InputError, Interrupted, MachineError, RecipeError
from mlxtune.data.rows import Conversation, Location, Message
from mlxtune.evaluation import endpoint_answers as module
from mlxtune.evaluation.answers import ArmAnswers
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.endpoint_answers import endpoint_answers
from mlxtune.evaluation.judge.endpoint import CostCapReached, CostMeter, EndpointClient, require_endpoints
from mlxtune.recipe import Endpoint, Recipe, dump, parse

KEY = "sk-canary-51d0c2"
ROWS = [
    Conversation(
        Location(Path("d.jsonl"), at),
        {},
        (Message("system", "Be brief."), Message("user", f"Question {at}?"), Message("assistant", "Yes.")),
    )
    for at in range(8)
]


@pytest.fixture
def stub() -> Iterator[JudgeStub]:
    with serve() as running:
        running.answer = lambda messages: f"Answer to {messages[-1]['content']}"
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(module, "EndpointClient", partial(EndpointClient, sleep=waits.append))
    monkeypatch.setenv("MLXTUNE_ENDPOINT_KEY", KEY)
    return waits


def _ask(
    stub: JudgeStub, cache: Path, cap: float = 0.0, max_tokens: int = 40, progress=lambda done, total: None
) -> tuple[ArmAnswers, float]:
    endpoint = Endpoint("small-1", stub.url, price_in=2.0, price_out=8.0, cap=cap)
    return endpoint_answers(
        Arm("endpoint:small"), endpoint, ROWS, max_tokens=max_tokens, cache=cache, tell=lambda of: progress,
        count_tokens=lambda text: len(text.split()), workers=1,
    )  # fmt: skip


@pytest.mark.slow
def test_rows_are_asked_like_the_base_and_answers_cached(stub, waits, tmp_path):
    answers, spent = _ask(stub, tmp_path)
    assert [(out.id, out.output, out.ended, out.answer_tokens) for out in answers.answers] == [
        (row.id, f"Answer to Question {at}?", "stop", 10) for at, row in enumerate(ROWS)
    ]
    assert all(out.seconds and out.seconds > 0 for out in answers.answers)
    assert (answers.name, answers.cached) == ("endpoint:small", False)
    assert spent == pytest.approx(8 * (100 * 2 + 10 * 8) / 1e6)
    body = stub.bodies[0]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Question 0?"}]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("small-1", 40, 0.0)
    again, same = _ask(stub, tmp_path)
    assert (again.cached, again.answers, same, len(stub.bodies)) == (True, answers.answers, spent, 8)
    _ask(stub, tmp_path, max_tokens=41)
    assert len(stub.bodies) == 16


def test_endpoint_that_dies_is_continued_without_asking_again(stub, waits, tmp_path):
    stub.script = [200, 200, 429, 200, "drop", "drop", "drop"]
    with pytest.raises(MachineError, match="3 replies in a row were lost"):
        _ask(stub, tmp_path)
    stub.script = [500]
    with pytest.raises(MachineError, match="to 1 row were lost"):
        _ask(stub, tmp_path)
    answers, spent = _ask(stub, tmp_path)
    assert len(answers.answers) == 8
    assert [stub.request_count(f"Question {at}?") for at in range(8)] == [1, 1, 2, 3, 2, 2, 1, 1]
    worst = CostMeter(2.0, 8.0, None, 40).worst_case(stub.bodies[0]["messages"])
    assert spent == pytest.approx(
        4 * worst + 8 * (100 * 2 + 10 * 8) / 1e6
    )  # lost replies may have been billed, a rejected request not
    keys = {str(body): headers["idempotency-key"] for body, headers in zip(stub.bodies, stub.headers, strict=True)}
    assert len(set(keys.values())) == 8  # an endpoint that supports it bills a question once, however often it is asked


def test_a_refusal_stops_at_once(stub, waits, tmp_path):
    stub.script = [200, 401]
    with pytest.raises(InputError, match="rejected the request with status 401"):
        _ask(stub, tmp_path)
    assert len(stub.bodies) == 2


def test_cap_holds_over_all_evaluations(stub, waits, tmp_path):
    worst = CostMeter(2.0, 8.0, None, 40).worst_case([turn.as_dict() for turn in ROWS[0].prompt])
    stub.usage = None  # every reply costs the worst case
    for count in (3, 3, 5):
        cap = (count + 0.5) * worst
        with pytest.raises(CostCapReached, match="has been spent"):
            _ask(stub, tmp_path, cap)
        assert len(stub.bodies) == count
    assert len(_ask(stub, tmp_path, 8.5 * worst)[0].answers) == 8
    assert len(stub.bodies) == 8


def test_stop_request_keeps_replies(stub, waits, tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Interrupted(0)

    with pytest.raises(Interrupted):
        _ask(stub, tmp_path, progress=stop)
    assert len(stub.bodies) == 2
    _ask(stub, tmp_path)
    assert len(stub.bodies) == 8


def test_endings_reasoning_and_calls_are_read(stub, waits, tmp_path):
    stub.answer, stub.finish_reason, stub.usage = lambda _: "<think>Well, well.</think>Yes it", "length", None
    (out, *_), _ = _ask(stub, tmp_path)[0].answers, None
    assert (out.output, out.ended, out.thought, out.thought_tokens, out.answer_tokens) == ("Yes it", "length", "Well, well.", 2, 2)
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"order": 7}'}}
    stub.answer, stub.finish_reason, stub.message = (lambda _: ""), "tool_calls", {"tool_calls": [call]}
    (out, *_), _ = _ask(stub, tmp_path, max_tokens=41)[0].answers, None
    assert (out.output, out.ended) == ('{"name": "find", "arguments": {"order": 7}}', "stop")


def test_key_is_in_no_file(stub, waits, tmp_path):
    stub.answer, stub.script = (lambda _: "My key is KEY"), [200, 500, 200]
    with pytest.raises(MachineError):
        _ask(stub, tmp_path)
    answers, _ = _ask(stub, tmp_path)
    assert stub.headers[0]["authorization"] == f"Bearer {KEY}"
    assert answers.answers[0].output == "My key is Bearer [key]"
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def _recipe(section: str, arms: str = '["base", "endpoint:big"]', kind: str = "sft") -> Recipe:
    return parse(
        f'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[method]\nkind = "{kind}"\n[evaluation]\narms = {arms}\n{section}'
    )


HOSTED = '[evaluation.endpoints.big]\nmodel = "big-1"\nurl = "https://models.example/v1"\n'
PRICES = "price_in = 1.0\nprice_out = 2.0\ncap = 3.0\n"


def test_each_host_is_named_with_its_own_key():
    two = HOSTED + PRICES + 'key_env = "A_KEY"\n' + (HOSTED + PRICES).replace("big]", "two]").replace("models.", "two.")
    recipe = _recipe(two, '["base", "endpoint:big", "endpoint:two"]')
    assert what_is_sent(recipe) == (
        "Rows will be sent to models.example, with the key in A_KEY; two.example, for at most $6.00 in total"
    )


@pytest.mark.parametrize(
    ("section", "consent", "problem"),
    [
        (HOSTED, "--send", "needs prices and a cap"),
        (HOSTED + PRICES, "", "will be sent to models.example, which needs your consent"),
        (HOSTED + PRICES + 'key_env = "MLXTUNE_ENDPOINT_KEY"\n', "", "to models.example, with the key in MLXTUNE_ENDPOINT_KEY,"),
        (HOSTED.replace("https", "http") + PRICES, "--send", "unencrypted"),
        (HOSTED + PRICES + 'key_env = "NO_SUCH_KEY"\n', "--send", "NO_SUCH_KEY is not set"),
        (HOSTED + PRICES, "--send", ""),
        ('[evaluation.endpoints.big]\nmodel = "m"\nurl = "http://localhost:8080/v1"\n', "", ""),
    ],
)
def test_remote_endpoint_needs_cap_key_and_consent(monkeypatch, section, consent, problem):
    monkeypatch.setenv("MLXTUNE_ENDPOINT_KEY", KEY)
    recipe = _recipe(section)
    assert parse(dump(recipe)).evaluation.endpoints == recipe.evaluation.endpoints
    if not problem:
        require_endpoints(recipe, consent)
    else:
        with pytest.raises(InputError, match=problem):
            require_endpoints(recipe, consent)


@pytest.mark.parametrize(
    ("section", "arms", "kind", "problem"),
    [
        ("", '["base", "endpoint:big"]', "sft", "requires evaluation.endpoints.big"),
        (HOSTED, '["base", "endpoint:big"]', "dpo", "has no likelihoods"),
        (HOSTED, '["base", "endpoint:"]', "sft", "endpoint:NAME"),
        (HOSTED.replace("model =", "name ="), '["base", "endpoint:big"]', "sft", "unknown key name"),
        ('[evaluation.endpoints.big]\nurl = "http://localhost/v1"\n', '["base", "endpoint:big"]', "sft", "endpoints.big.model is missing"),
    ],
)  # fmt: skip
def test_recipe_names_what_is_wrong_with_an_endpoint(section, arms, kind, problem):
    with pytest.raises(RecipeError, match=problem):
        _recipe(section, arms, kind)

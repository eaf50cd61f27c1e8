import json
import threading
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache
from served import SURE, EventLog, listen_to, make_request, run_requests
from tiny_architectures import make

from mlxtune.adapters.entry import AdapterEntry
from mlxtune.core.errors import GpuError, InputError
from mlxtune.models import lora
from mlxtune.models.generate import GenerationSettings, PromptGroup, generate
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate
from mlxtune.serving import engine as engines
from mlxtune.serving.engine import Engine
from mlxtune.serving.protocol import Done, Failed, GenerateRequest, Piece
from mlxtune.serving.request import ActiveRequest

pytestmark = pytest.mark.slow

NAMES = ("", "all", "dora", "wide")


def questions(count: int) -> list[str]:
    return [f"Question {number}: {'why ' * (number % 7)}is it so, {chr(97 + number % 26)}?" for number in range(count)]


def test_answers_in_a_mixed_batch_equal_single_answers(make_engine, tiny_loaded: LoadedModel, tiny_adapters) -> None:
    requests = [make_request(str(number), text, NAMES[number % 4]) for number, text in enumerate(questions(32))]
    together = run_requests(make_engine(slots=32), requests)
    for number in (0, 1, 2, 3, 13):
        alone = run_requests(make_engine(slots=1), [requests[number]])
        assert together.text(str(number)) == alone.text(str(number))
    template = ChatTemplate(tiny_loaded.tokenizer)
    model = load(tiny_loaded.source).model
    lora.load(model, tiny_adapters["wide"])
    settings = GenerationSettings(max_tokens=24, stops=template.stop_tokens, batch_size=1)
    plain = generate(model, tiny_loaded.tokenizer, [PromptGroup([template.prompt(requests[3].messages)], settings)])
    assert together.text("3") == plain[0].text
    assert len({together.text(str(number)) for number in range(32)}) > 16


def test_requests_beyond_the_slots_wait(make_engine) -> None:
    requests = [make_request(str(number), text, NAMES[number % 4]) for number, text in enumerate(questions(12))]
    few, many = run_requests(make_engine(slots=2), requests), run_requests(make_engine(slots=12), requests)
    assert [few.text(request.id) for request in requests] == [many.text(request.id) for request in requests]
    assert [few.accepted(request.id).ahead for request in requests] == list(range(12))


def test_ties_are_decided_outside_the_batch(make_engine, monkeypatch) -> None:
    requests = [make_request(str(number), text) for number, text in enumerate(questions(4))]
    expected = run_requests(make_engine(), requests)
    monkeypatch.setattr(engines, "SAFETY", 1e9)  # every choice is made outside the batch
    engine = make_engine()
    log = run_requests(engine, requests)
    assert engine.deviation > 0
    for request in requests:
        assert log.text(request.id) == expected.text(request.id)
        assert log.last(request.id).alone == log.last(request.id).tokens + (log.last(request.id).ended == "stop")


def test_a_later_turn_reuses_the_prompt_cache(make_engine) -> None:
    stock, rome = (f"Tell me about the tents you have in {place}." for place in ("stock", "Rome"))
    prompts = [make_request("1", stock), make_request("2", rome)]
    both = run_requests(make_engine(slots=1), [*prompts, make_request("3", stock, "all")])
    assert both.text("1") == run_requests(make_engine(), prompts[:1]).text("1")
    assert both.last("1").cached == 0
    assert both.last("2").cached > 30
    assert both.last("3").cached == 0  # another adapter has different keys and values
    assert both.text("2") == run_requests(make_engine(), prompts[1:]).text("2")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the engine compute ahead as on a GPU. Returns a list with an element for each step that it began ahead."""
    begun: list[int] = []
    async_eval = mx.async_eval
    monkeypatch.setattr(engines, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: (begun.append(len(arrays)), async_eval(*arrays)))
    return begun


def test_computing_ahead_changes_no_answer(make_engine, gpu) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
    requests = [
        make_request(
            str(number), text, NAMES[number % 3], max_tokens=6 + 3 * (number % 5), stop=("zz",),
            **({"temperature": 0.9, "top_p": 0.9 if number % 4 else 1.0, "seed": number} if number % 2 else {}),
        )
        for number, text in enumerate(questions(14))
    ]  # fmt: skip
    requests.insert(7, make_request("grammar", "Which?", max_tokens=12, schema=schema))
    ahead = run_requests(make_engine(slots=5, exact=False), requests)
    assert len(gpu) > 20
    steps = len(gpu)
    exact = run_requests(make_engine(slots=5), requests)
    assert len(gpu) == steps  # exact answers may need a token to be computed again, so nothing is computed ahead
    for request in requests:
        assert ahead.text(request.id) == exact.text(request.id)
        assert ahead.last(request.id).tokens == exact.last(request.id).tokens


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "qwen3_5", "lfm2", "qwen3_moe"])
def test_other_architectures_give_the_same_answers_in_a_batch_and_computed_ahead(tmp_path: Path, gpu, name: str) -> None:
    loaded = load(resolve(str(make(tmp_path / name, name))))
    requests = [make_request(str(number), text, max_tokens=9 + 4 * number) for number, text in enumerate(questions(4))]

    def run(*requests: GenerateRequest, **options) -> list[str]:
        engine = Engine(loaded, lambda name: AdapterEntry(name, name, Path(name)), lambda event: None, **options)
        log = run_requests(engine, requests)
        assert all(isinstance(log.last(request.id), Done) for request in requests)
        return [log.text(request.id) for request in requests]

    together = run(*requests)
    assert not gpu
    assert run(*requests, exact=False) == together
    assert gpu
    assert [text for request in requests for text in run(request, slots=1)] == together


def test_tokens_computed_ahead_are_reused_by_the_next_turn(make_engine, gpu) -> None:
    engine = make_engine(exact=False)

    def cancel(event, log: EventLog) -> None:
        if isinstance(event, Piece) and event.id == "1" and len(log.text("1")) > 3:
            engine.cancel("1")

    requests = [("Go on and on.", 30), ("And you, too: go on.", 200)]
    run_requests(engine, [make_request(str(id), text, max_tokens=most) for id, (text, most) in enumerate(requests)], cancel)
    assert gpu
    for entry in engine.prompt_cache._entries:  # what was stored is what its tokens compute
        caches = make_prompt_cache(engine.loaded.model)
        engine.loaded.model(mx.array([entry.tokens]), cache=caches)
        assert len(entry.tokens) == entry.caches[0].offset
        for stored, expected in zip(entry.caches, caches, strict=True):
            assert mx.allclose(stored.keys[..., : stored.offset, :], expected.keys[..., : expected.offset, :], atol=1e-3)


def test_nans_computed_ahead_fail_only_their_request(make_engine, gpu, monkeypatch) -> None:
    choose = engines.choose_lazily

    def spoiled(logits, draws):
        rows = mx.array([sampling.max_tokens == 7 for sampling, *_ in draws])
        return choose(mx.where(rows[:, None], mx.nan, logits), draws)

    monkeypatch.setattr(engines, "choose_lazily", spoiled)
    log = run_requests(make_engine(exact=False), [make_request("1", "Hi.", max_tokens=7), make_request("2", "Hi.", max_tokens=8)])
    assert "NaN" in log.last("1").error.message
    assert isinstance(log.last("2"), Done)


def test_a_seed_reproduces_an_answer_in_any_batch(make_engine) -> None:
    requests = [
        make_request(str(seed), "Say something.", NAMES[seed % 2], temperature=1.0, top_p=0.9, seed=seed) for seed in range(6)
    ]
    together, apart = run_requests(make_engine(slots=6), requests), run_requests(make_engine(slots=1), requests)
    assert [together.text(request.id) for request in requests] == [apart.text(request.id) for request in requests]
    assert len({together.text(request.id) for request in requests}) > 3
    unseeded = run_requests(
        make_engine(), [make_request("a", "Say something.", temperature=1.0), make_request("b", "Say something.", temperature=1.0)]
    )
    assert unseeded.accepted("a").seed != unseeded.accepted("b").seed
    seed = unseeded.accepted("a").seed
    assert run_requests(make_engine(), [make_request("c", "Say something.", temperature=1.0, seed=seed)]).text(
        "c"
    ) == unseeded.text("a")


def test_an_answer_is_truncated_at_max_tokens_and_at_the_context(make_engine) -> None:
    done = run_requests(make_engine(), [make_request("1", "Go on.", max_tokens=3)]).last("1")
    assert (done.ended, done.tokens) == ("length", 3)
    engine = make_engine()
    engine.context = done.prompt_tokens + 2
    assert run_requests(engine, [make_request("1", "Go on.", max_tokens=9)]).last("1").tokens == 2
    engine.context = 5
    with pytest.raises(InputError, match=r"context is 5 tokens"):
        engine.submit(make_request("1", "Go on."))


def test_a_long_prompt_is_prefilled_in_blocks_while_others_decode(make_engine, monkeypatch) -> None:
    monkeypatch.setattr(engines, "PREFILL_BLOCK", 8)
    order: list[str] = []
    requests = [make_request("short", "Hi."), make_request("long", "word " * 60)]
    log = run_requests(make_engine(), requests, lambda event, log: isinstance(event, Piece) and order.append(event.id))
    assert order.index("long") > order.count("short") // 2
    assert log.text("long") == run_requests(make_engine(), requests[1:]).text("long")


def test_an_idle_engine_releases_memory(make_engine, monkeypatch) -> None:
    active = []
    engine = make_engine()
    monkeypatch.setattr(engines, "release_memory", lambda: active.append(engine._active))
    run_requests(engine, [make_request("0", "Go on.", max_tokens=8)])
    assert active
    assert not any(active)


def test_the_only_request_of_a_batch_can_be_canceled(make_engine, capsys) -> None:
    engine = make_engine()
    request = make_request("0", "Go on and on.", max_tokens=200)
    log = run_requests(engine, [request], lambda event, log: isinstance(event, Piece) and engine.cancel("0"))
    assert log.last("0").ended == "cancelled"
    assert "Traceback" not in capsys.readouterr().err


def test_canceled_requests_free_their_slots_and_stay_in_the_prompt_cache(make_engine, tiny_loaded) -> None:
    engine = make_engine(slots=2)

    def cancel(event, log: EventLog) -> None:
        if isinstance(event, Piece) and event.id == "0":
            engine.cancel("0")  # decoding
            engine.cancel("2")  # waiting

    engine.cancel("nobody")
    log = run_requests(
        engine, [make_request(str(number), "Go on and on.", max_tokens=8 if number else 200) for number in range(4)], cancel
    )
    assert [log.last(str(number)).ended == "cancelled" for number in range(4)] == [True, False, True, False]
    assert log.last("0").tokens < 10
    assert log.last("2").tokens == 0
    assert engine._active == 0
    prompt = ChatTemplate(tiny_loaded.tokenizer).prompt(make_request("0", "Go on and on.").messages)
    answer = tiny_loaded.tokenizer.encode(log.text("0"), add_special_tokens=False)
    assert engine.prompt_cache.lookup(None, [*prompt, *answer, 0])[1] >= log.last("0").prompt_tokens


def test_an_error_fails_only_the_requests_of_its_adapter(make_engine) -> None:
    engine = make_engine()
    step = engine._step

    def failing_step(batch) -> None:
        if batch.requests[0].adapter:
            raise RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008:k…OutOfMemory).")
        step(batch)

    engine._step = failing_step
    log = run_requests(engine, [make_request("1", "Hi."), make_request("2", "Hi.", "all")])
    assert isinstance(log.last("1"), Done)
    assert isinstance(log.last("2").error, GpuError)
    assert log.last("2").error.message == "The GPU ran out of memory."
    assert engine._active == 0


def test_a_schema_constrains_only_its_own_request(make_engine) -> None:
    requests = [make_request("1", "Which?", max_tokens=60, schema=SURE), make_request("2", "Which?", max_tokens=20)]
    log = run_requests(make_engine(), requests)
    assert isinstance(json.loads(log.text("1"))["sure"], bool)
    assert log.last("1").ended == "stop"
    assert log.text("2") == run_requests(make_engine(), requests[1:]).text("2")


@pytest.mark.exhaustive
def test_memory_is_flat_over_many_requests(make_engine, monkeypatch) -> None:
    monkeypatch.setattr(engines, "PROMPT_CACHE_BYTES", 200_000)
    engine = make_engine(slots=4, queue=500)
    requests = [make_request(str(number), text, NAMES[number % 4], max_tokens=4) for number, text in enumerate(questions(120))]
    sizes: list[int] = []
    run_requests(engine, requests, lambda event, log: isinstance(event, Done) and sizes.append(mx.get_active_memory()))
    assert engine.prompt_cache.nbytes <= 200_000
    assert max(sizes[60:]) < min(sizes[20:60]) + 500_000


def test_other_threads_submit_while_it_runs(make_engine) -> None:
    engine = make_engine()
    log = listen_to(engine, 6)
    threads = [
        threading.Thread(target=engine.submit, args=(make_request(str(number), "Hi.", NAMES[number % 4]),)) for number in range(6)
    ]
    threading.Timer(0.05, lambda: [thread.start() for thread in threads]).start()
    engine.run()
    assert sorted(log.events) == [str(number) for number in range(6)]


HOSTILE = {
    "temperature": {"temperature": 1e-40, "seed": 1},
    "temperature and nucleus": {"temperature": 1e-40, "top_p": 1e-40, "seed": 1},
    "grammar": {"schema": {"type": "string", "pattern": "^a{1000000}$"}},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_request_does_not_affect_its_neighbors(make_engine, case: str) -> None:
    requests = [make_request(str(number), text) for number, text in enumerate(questions(3))]
    expected = run_requests(make_engine(), requests)
    log = run_requests(make_engine(), [requests[0], make_request("hostile", "Hello.", **HOSTILE[case]), *requests[1:]])
    assert [log.text(request.id) for request in requests] == [expected.text(request.id) for request in requests]
    assert all(isinstance(log.last(request.id), Done) for request in requests)
    last = log.last("hostile")
    if case == "grammar":
        assert isinstance(last, Failed)
        assert (type(last.error), last.error.hint) == (InputError, "Simplify the schema.")
    else:
        assert isinstance(last, Done)


def test_a_fault_of_one_row_ends_only_that_request(make_engine, monkeypatch) -> None:
    requests = [make_request(str(number), text) for number, text in enumerate(questions(3))]
    expected = run_requests(make_engine(), requests)
    append = ActiveRequest.append

    def broken(request: ActiveRequest, token: int):
        if request.id == "1" and len(request.output) == 3:
            raise RuntimeError("odd")
        return append(request, token)

    monkeypatch.setattr(ActiveRequest, "append", broken)
    log = run_requests(make_engine(), requests)
    assert isinstance(log.last("1"), Failed)
    for id in ("0", "2"):
        assert log.text(id) == expected.text(id)
        assert isinstance(log.last(id), Done)

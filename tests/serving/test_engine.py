"""The engine: the same answer whoever else asks, rows that join and leave, places that become free, one fault that hits one question."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import mlx.core as mx
import pytest
from architectures import make
from served import Heard, answered, ask

from mlxtune.core.errors import InputError
from mlxtune.models import lora
from mlxtune.models.generate import generate
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate
from mlxtune.serving import engine as engines
from mlxtune.serving.engine import Engine, Full
from mlxtune.serving.protocol import Done, Failed, Piece

NAMES = ("", "all", "dora", "wide")


def questions(count: int) -> list[str]:
    return [f"Question {number}: {'why ' * (number % 7)}is it so, {chr(97 + number % 26)}?" for number in range(count)]


def test_every_answer_of_a_mixed_batch_is_that_of_its_question_alone(make_engine, tiny_loaded: LoadedModel, tiny_adapters) -> None:
    asks = [ask(str(number), text, NAMES[number % 4]) for number, text in enumerate(questions(32))]
    together = answered(make_engine(slots=32), asks)
    for number in (0, 1, 2, 3, 13, 30):
        alone = answered(make_engine(slots=1), [asks[number]])
        assert together.text(str(number)) == alone.text(str(number))
    template = ChatTemplate(tiny_loaded.tokenizer)
    model = load(tiny_loaded.source).model
    lora.load(model, tiny_adapters["wide"])
    plain = generate(
        model, tiny_loaded.tokenizer, [template.prompt(asks[3].messages)], max_tokens=24, stops=template.stops, batch_size=1
    )
    assert together.text("3") == plain[0][0]
    assert len({together.text(str(number)) for number in range(32)}) > 16


def test_more_questions_than_places_wait_their_turn(make_engine) -> None:
    asks = [ask(str(number), text, NAMES[number % 4]) for number, text in enumerate(questions(12))]
    few, many = answered(make_engine(slots=2), asks), answered(make_engine(slots=12), asks)
    assert [few.text(one.id) for one in asks] == [many.text(one.id) for one in asks]
    assert [few.accepted(one.id).ahead for one in asks] == list(range(12))


def test_ties_are_decided_by_the_row_alone(make_engine, monkeypatch) -> None:
    asks = [ask(str(number), text) for number, text in enumerate(questions(4))]
    expected = answered(make_engine(), asks)
    monkeypatch.setattr(engines, "SAFETY", 1e9)  # everything is too close to call
    engine = make_engine()
    found = answered(engine, asks)
    assert engine.moved > 0
    for one in asks:
        assert found.text(one.id) == expected.text(one.id)
        assert found.last(one.id).alone == found.last(one.id).tokens + (found.last(one.id).ended == "stop")


def test_a_later_turn_goes_on_from_what_is_known(make_engine) -> None:
    engine = make_engine()
    first = answered(engine, [ask("1", "Tell me about the tents you have in stock.")])
    again = make_engine()
    prompts = [ask("1", "Tell me about the tents you have in stock."), ask("2", "Tell me about the tents you have in Rome.")]
    engine2 = make_engine(slots=1)
    both = answered(engine2, [*prompts, ask("3", "Tell me about the tents you have in stock.", "all")])
    assert both.text("1") == first.text("1")
    assert both.last("1").cached == 0
    assert both.last("2").cached > 30
    assert both.last("3").cached == 0  # another adapter has other keys and values
    assert both.text("2") == answered(again, [prompts[1]]).text("2")


def test_a_seed_draws_the_same_answer_in_any_company(make_engine) -> None:
    drawn = [ask(str(seed), "Say something.", NAMES[seed % 2], temperature=1.0, top_p=0.9, seed=seed) for seed in range(6)]
    together, apart = answered(make_engine(slots=6), drawn), answered(make_engine(slots=1), drawn)
    assert [together.text(one.id) for one in drawn] == [apart.text(one.id) for one in drawn]
    assert len({together.text(one.id) for one in drawn}) > 3
    unseeded = answered(make_engine(), [ask("a", "Say something.", temperature=1.0), ask("b", "Say something.", temperature=1.0)])
    assert unseeded.accepted("a").seed != unseeded.accepted("b").seed
    seed = unseeded.accepted("a").seed
    assert answered(make_engine(), [ask("c", "Say something.", temperature=1.0, seed=seed)]).text("c") == unseeded.text("a")


def test_a_stop_string_ends_an_answer_and_is_no_part_of_it(make_engine) -> None:
    whole = answered(make_engine(), [ask("1", "Go on.", max_tokens=40)]).text("1")
    stop = whole[10:13]
    heard = answered(make_engine(), [ask("1", "Go on.", max_tokens=40, stop=(stop,))])
    assert heard.text("1") == whole[: whole.index(stop)]
    assert heard.last("1").ended == "stop"


def test_an_answer_is_cut_at_its_length_and_at_the_window(make_engine) -> None:
    done = answered(make_engine(), [ask("1", "Go on.", max_tokens=3)]).last("1")
    assert (done.ended, done.tokens) == ("length", 3)
    engine = make_engine(context=done.prompt_tokens + 2)
    assert answered(engine, [ask("1", "Go on.", max_tokens=9)]).last("1").tokens == 2
    with pytest.raises(InputError, match=r"sees 5 in all"):
        make_engine(context=5).submit(ask("1", "Go on."))


def test_a_long_prompt_is_read_in_blocks_while_others_go_on(make_engine, monkeypatch) -> None:
    monkeypatch.setattr(engines, "BLOCK", 8)
    order: list[str] = []
    heard = Heard(lambda ended: engine.close() if ended == 2 else None)
    engine = make_engine()

    def tell(event) -> None:
        if isinstance(event, Piece):
            order.append(event.id)
        heard(event)

    engine._tell = tell
    engine.submit(ask("short", "Hi."))
    engine.submit(ask("long", "word " * 60))
    engine.run()
    assert order.index("long") > order.count("short") // 2
    assert heard.text("long") == answered(make_engine(), [ask("long", "word " * 60)]).text("long")


def test_a_full_queue_refuses(make_engine) -> None:
    engine = make_engine(slots=1, queue=2)
    for number in range(3):
        engine.submit(ask(str(number), "Hi."))
    with pytest.raises(Full):
        engine.submit(ask("3", "Hi."))


def test_cancelled_questions_free_their_places_wherever_they_are_and_what_was_read_is_kept(make_engine, tiny_loaded) -> None:
    engine = make_engine(slots=2)
    heard = Heard()

    def tell(event) -> None:
        heard(event)
        if isinstance(event, Piece) and event.id == "0":
            engine.cancel("0")  # being written
            engine.cancel("2")  # waiting
        if heard.ended == 4:
            engine.close()

    engine._tell = tell
    for number in range(4):
        engine.submit(ask(str(number), "Go on and on.", max_tokens=200 if number == 0 else 8))
    engine.cancel("nobody")
    engine.run()
    assert [heard.last(str(number)).ended == "cancelled" for number in range(4)] == [True, False, True, False]
    assert heard.last("0").tokens < 10
    assert heard.last("2").tokens == 0
    assert engine._taken == 0
    said = tiny_loaded.tokenizer.encode(heard.text("0"), add_special_tokens=False)
    assert engine.kept.take(None, [*engine._prompt(ask("0", "Go on and on.")), *said, 0])[1] >= heard.last("0").prompt_tokens


def test_an_adapter_that_cannot_be_had_fails_its_question_alone(make_engine) -> None:
    heard = answered(make_engine(), [ask("1", "Hi."), ask("2", "Hi.", "broken"), ask("3", "Hi.", "all")])
    assert isinstance(heard.last("2"), Failed)
    assert isinstance(heard.last("1"), Done)
    assert isinstance(heard.last("3"), Done)


def test_numbers_that_are_none_fail_the_questions_of_that_adapter_and_no_others(make_engine) -> None:
    engine = make_engine()
    step = engine._step

    def harmed(batch) -> None:
        if batch.rows[0].adapter:
            raise RuntimeError("[metal] out of memory")
        step(batch)

    engine._step = harmed
    heard = answered(engine, [ask("1", "Hi."), ask("2", "Hi.", "all")])
    assert isinstance(heard.last("1"), Done)
    assert (heard.last("2").kind, heard.last("2").code) == ("fault", 4)
    assert "out of memory" in heard.last("2").error
    assert engine._taken == 0


def test_half_a_character_is_bad_input(make_engine) -> None:
    with pytest.raises(InputError, match="half a character"):
        make_engine().submit(ask("1", "\ud800"))


def test_a_schema_holds_one_answer_and_leaves_the_others_free(make_engine) -> None:
    schema = {
        "type": "object", "properties": {"kind": {"enum": ["order", "other"]}}, "required": ["kind"], "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},
    }  # fmt: skip
    asks = [ask("1", "Which?", max_tokens=60, schema=schema), ask("2", "Which?", max_tokens=20)]
    heard = answered(make_engine(), asks)
    assert json.loads(heard.text("1"))["kind"] in ("order", "other")
    assert heard.last("1").ended == "stop"
    assert heard.text("2") == answered(make_engine(), asks[1:]).text("2")


def test_tools_reach_the_template_and_one_without_a_place_for_them_refuses(make_engine, monkeypatch) -> None:
    engine, tools = make_engine(), ({"type": "function", "function": {"name": "find"}},)
    with pytest.raises(InputError, match="no place for tools"):
        engine.submit(ask("1", "Hi.", tools=tools))
    template = engine._template.tokenizer.chat_template
    monkeypatch.setattr(engine._template.tokenizer._tokenizer, "chat_template", "{{ tools | tojson }}" + template)
    engine.submit(ask("1", "Hi.", tools=tools))
    assert '"find"' in engine.loaded.tokenizer.decode(engine._waiting[0].prompt)


def test_memory_is_flat_over_many_questions(make_engine, monkeypatch) -> None:
    monkeypatch.setattr(engines, "KEPT", 200_000)
    engine = make_engine(slots=4, queue=500)
    asks = [ask(str(number), text, NAMES[number % 4], max_tokens=4) for number, text in enumerate(questions(120))]
    sizes: list[int] = []
    heard = Heard(lambda ended: (sizes.append(mx.get_active_memory()), engine.close() if ended == len(asks) else None))
    engine._tell = heard
    for one in asks:
        engine.submit(one)
    engine.run()
    assert engine.kept.nbytes <= 200_000
    assert max(sizes[60:]) < min(sizes[20:60]) + 500_000


def test_other_threads_ask_while_it_runs(make_engine) -> None:
    engine = make_engine()
    heard = Heard(lambda ended: engine.close() if ended == 6 else None)
    engine._tell = heard
    threads = [threading.Thread(target=engine.submit, args=(ask(str(number), "Hi.", NAMES[number % 4]),)) for number in range(6)]
    threading.Timer(0.05, lambda: [thread.start() for thread in threads]).start()
    engine.run()
    assert sorted(heard.events) == [str(number) for number in range(6)]


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "qwen3_5", "lfm2", "qwen3_moe"])
def test_other_architectures_answer_together_what_they_answer_alone(tmp_path: Path, name: str) -> None:
    loaded = load(resolve(str(make(tmp_path / name, name))))
    asks = [ask(str(number), text, max_tokens=20) for number, text in enumerate(questions(4))]

    def engine(slots: int) -> Engine:
        return Engine(loaded, lambda name: Path(name), lambda event: None, slots=slots)

    together = answered(engine(4), asks)
    for one in asks:
        assert together.text(one.id) == answered(engine(1), [one]).text(one.id)
        assert isinstance(together.last(one.id), Done)

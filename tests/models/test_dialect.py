"""What chat templates expect of messages, found by probes, and rows rendered in that form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer
from test_template import template as make_template
from tiny_model import CHATML
from tokenizers import Tokenizer, normalizers
from tokenizers.processors import TemplateProcessing

from mlxtune.core.errors import TemplateError
from mlxtune.data.readers.formats import parse
from mlxtune.data.rows import Conversation, Location, TextRow
from mlxtune.data.template_notes import TemplateNote
from mlxtune.models.template import ChatTemplate, TemplateSettings

START = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
END = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TOOLS = "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
CALLS = "{% for c in m.tool_calls or [] %}CALL {{ c.id }} {{ c.function.name }} ARGUMENTS{% endfor %}"
OBJECTS = TOOLS + START + "{{ m.content }}" + CALLS.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}") + END
STRINGS = TOOLS + START + "{{ m.content }}" + CALLS.replace("ARGUMENTS", "{{ '' + c.function.arguments }}") + END
FIRST_CALL = OBJECTS.replace("{% for c in m.tool_calls or [] %}", "{% for c in (m.tool_calls or [])[:1] %}")
NINE = OBJECTS.replace("CALL", "{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}CALL")
NO_SYSTEM = START + "{% if m.role == 'system' %}{{ raise_exception('none') }}{% endif %}{{ m.content }}" + END
LATE_SYSTEM = (  # as Mistral Nemo: before the last user turn, and only if that is the last turn
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and system is defined %}{{ system }}\n\n{% endif %}{{ m.content }}"
    + END
)
ONE_SYSTEM = START + "{% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}{{ m.content }}" + END
THINKING = START + "{% if m.thinking %}<think>{{ m.thinking }}</think>{% endif %}{{ m.content }}" + END
INLINE = "{# <think></think> #}" + START + "{{ m.content }}" + END
EMPTY_THOUGHT = START + "{{ m.content }}" + END.replace("assistant\n", "assistant\n<think>\n\n</think>\n\n")
CONTINUED = (  # as Gemma 4 31B: an answer continues the turn of its call, and every prompt ends with an empty thought
    TOOLS + "{% for m in messages %}{% set continues = loop.previtem and loop.previtem.role == 'tool' %}"
    "{% if m.role != 'tool' and not continues %}<|im_start|>{{ m.role }}\n{% endif %}{{ m.content }}"
    + CALLS.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}")
    + "{% if m.role != 'tool' %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "{% if messages[-1].role != 'tool' %}<|im_start|>assistant\n{% endif %}<think></think>{% endif %}"
)
BEFORE_CALLS = OBJECTS.replace("{{ m.content }}", "{% if m.tool_calls %}[{{ m.reasoning }}]{% endif %}{{ m.content }}")
TOOLS_IN_SYSTEM = START + "{{ m.content }}{% if m.tools is defined %}TOOLS {{ m.tools }} END{% endif %}" + END  # as Phi-4-mini's
SWITCHED = (  # as Nemotron Nano v2's: the last switch in the text counts, and a thought is always opened
    "{% set ns = namespace(think=true) %}{% for m in messages %}{% if m.role in ('user', 'system') %}"
    "{% if '/think' in m.content %}{% set ns.think = true %}{% elif '/no_think' in m.content %}{% set ns.think = false %}{% endif %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1].strip() }}"
    "{% elif m.role == 'assistant' %}{{ '<think>\n' if ns.think else '<think></think>' }}{{ m.content }}"
    "{% else %}{{ m.content.replace('/think', '').replace('/no_think', '').strip() }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ '<think>\n' if ns.think else '<think></think>' }}{% endif %}"
)
PARTS = START + "{% for part in m.content %}{{ part.text }}{% endfor %}" + END

LOCATION = Location(Path("rows.jsonl"), 1)
TOOL = {"type": "function", "function": {"name": "find", "description": "Find it.", "parameters": {"properties": {"q": {}}}}}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Any:
    tokenizer = make_template(tmp_path_factory.mktemp("tokenizer")).tokenizer
    return lambda source, thinking="off": ChatTemplate(tokenizer, TemplateSettings(thinking=thinking, source=source), "tiny")


def row(*turns: dict[str, Any] | tuple[str, str], tools: list[Any] | None = None) -> Conversation:
    messages = [turn if isinstance(turn, dict) else {"role": turn[0], "content": turn[1]} for turn in turns]
    return parse({"messages": messages, "tools": tools}, LOCATION)


def call(name: str = "find", arguments: Any = None, id: str = "call_1234567890", **extra: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": {"q": 'a "b"', "n": 3} if arguments is None else arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": id, "type": "function", "function": function}], **extra}


def trained(chat: ChatTemplate, conversation: Conversation) -> list[str]:
    return [chat.tokenizer.decode(one.tokens[one.trained].tolist()) for one in chat.encode(conversation, 5000)]


@pytest.mark.parametrize(
    ("source", "systems"), [(CHATML, "all"), (ONE_SYSTEM, "first"), (NO_SYSTEM, "none")], ids=["all", "first", "none"]
)
def test_system_turns_that_a_template_drops_or_rejects_are_folded(chat: Any, source: str, systems: str) -> None:
    template = chat(source)
    assert template.dialect.systems == systems
    before = [("developer", "Be kind."), ("user", "Hi"), ("assistant", "Yes?")]
    late = row(*before, ("system", "Be brief."), ("user", "Rope?"), ("assistant", "60 m."))
    (encoded,) = template.encode(late, 1000)
    text = template.tokenizer.decode(encoded.tokens.tolist())
    assert ("<|im_start|>system\nBe kind." in text) == (systems != "none")
    assert ("<|im_start|>user\nBe brief.\n\nRope?" in text) == (systems != "all")
    assert (TemplateNote.SYSTEM in encoded.notes) == (systems != "all")
    assert text.index("Be kind.") < text.index("Hi") < text.index("Yes?") < text.index("Be brief.") < text.index("Rope?")
    start = int(encoded.trained.argmax())
    assert encoded.tokens[:start].tolist() == template.prompt(late.messages[:2])


@pytest.mark.parametrize("system", ["Be kind.", ""])
def test_a_system_turn_stands_where_the_template_puts_it(chat: Any, system: str) -> None:
    template = chat(LATE_SYSTEM)
    conversation = row(("system", system), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Rope?"), ("assistant", "60 m."))
    assert template.dialect.systems == "last"
    for turns in (2, 4):
        own = [turn.as_dict() for turn in conversation.messages[:turns]]
        expected = template.tokenizer.apply_chat_template(own, chat_template=LATE_SYSTEM, add_generation_prompt=True)
        assert template.prompt(conversation.messages[:turns]) == expected
    first, second = template.encode(conversation, 1000)
    assert f"user\n{system}\n\nRope?" in template.tokenizer.decode(second.tokens.tolist())
    assert first.notes == second.notes == {TemplateNote.TURNS}


def test_a_conversation_that_begins_with_the_assistant_trains_the_answers_that_have_a_prompt(chat: Any) -> None:
    turns = [{"role": "assistant", "content": "Ahoy!"}, ("user", "Hi"), ("assistant", "Yes?")]
    with pytest.raises(TemplateError, match="begins with the assistant, so this turn has no prompt") as caught:
        chat(CHATML).encode(row(*turns), 1000)
    assert '"weight" of the turn to 0' in caught.value.hint
    turns[0]["weight"] = 0
    assert trained(chat(CHATML), row(*turns)) == ["Yes?<|im_end|>"]


def test_the_end_of_the_turn_is_trained_behind_the_end_of_the_answer(tmp_path: Path) -> None:
    ended = (START + "{{ m.content }}" + END).replace("<|im_end|>", "<|END_RESPONSE|><|im_end|>")  # as Cohere's templates
    template = make_template(tmp_path, ended, specials=("<|END_RESPONSE|>",))
    conversation = row(("user", "Hi"), ("assistant", "Yes?"), ("user", "Rope?"), ("assistant", "60 m."))
    assert trained(template, conversation) == ["Yes?<|END_RESPONSE|><|im_end|>60 m.<|END_RESPONSE|><|im_end|>"]
    assert template.answer(conversation.messages, (), LOCATION).answer == "60 m."


def test_a_thought_that_the_prompt_opens_may_be_written_in_the_answer(chat: Any) -> None:
    olmo = INLINE.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")  # as OLMo 3 Think
    template = chat(olmo, "on")
    conversation = row(("user", "Wet?"), {"role": "assistant", "content": "Yes.", "thinking": "Rain."})
    assert template.dialect.reasoning == "inline"
    assert trained(template, conversation) == ["\nRain.\n</think>\n\nYes.<|im_end|>"]


def test_the_answer_follows_its_prompt_although_the_context_is_rewritten(chat: Any) -> None:
    """Bielik does not close a result behind a system turn once the answer is there."""
    bielik = OBJECTS.replace("<|im_end|>\n{% endfor", "{% if m.role != 'tool' or loop.last %}<|im_end|>\n{% endif %}{% endfor")
    conversation = row(("system", "Be kind."), ("user", "Find it"), call(), ("tool", "here"), ("assistant", "Found."), tools=[TOOL])
    (text,) = trained(chat(bielik), conversation)
    assert text.startswith("CALL call_1234567890 find")
    assert text.endswith("<|im_end|>Found.<|im_end|>")


@pytest.mark.parametrize(("source", "form"), [(OBJECTS, "object"), (STRINGS, "string")])
def test_arguments_are_rendered_in_the_form_that_the_template_takes(chat: Any, source: str, form: str) -> None:
    template = chat(source)
    assert template.dialect.arguments == form
    for arguments in ({"q": 'a "b"', "n": 3}, '{"q": "a \\"b\\"", "n": 3}'):
        conversation = row(("user", "Find it"), call(arguments=arguments), tools=[TOOL])
        assert trained(template, conversation) == ['CALL call_1234567890 find {"q": "a \\"b\\"", "n": 3}<|im_end|>']


def test_call_ids_are_made_up_or_shortened_and_results_name_their_call(chat: Any) -> None:
    template = chat(NINE.replace("{{ m.content }}", "{{ m.content }}{{ m.tool_call_id }}{{ m.name }}"))
    result = {"role": "tool", "content": "here", "tool_call_id": "call_1234567890"}
    turns = [("user", "Find it"), call(), result, ("assistant", "Found.")]
    calling, answer = template.encode(row(*turns), 5000)[0].tokens, trained(template, row(*turns))
    text = template.tokenizer.decode(calling.tolist())
    id = text.split("CALL ")[1].split()[0]
    assert (len(id), text.count(id)) == (9, 2)
    assert f"here{id}find" in text
    assert answer == [f'CALL {id} find {{"q": "a \\"b\\"", "n": 3}}<|im_end|>Found.<|im_end|>']
    missing = [("user", "Find it"), call(id=""), ("tool", "here"), ("assistant", "Found.")]
    assert "herecall00001find" in template.tokenizer.decode(template.encode(row(*missing), 5000)[0].tokens.tolist())


@pytest.mark.parametrize(
    ("source", "turns", "tools", "reason"),
    [
        (CHATML, [("user", "Find it"), call()], None, "chat template of tiny does not render calls"),
        (CHATML, [("user", "Hi"), ("assistant", "Yes?")], [TOOL], "does not render the list of tools"),
        (FIRST_CALL, [("user", "Find it"), {**call(), "tool_calls": [*call()["tool_calls"], *call("look", {})["tool_calls"]]}], None,
         "drops or changes “look” in the call to look in turn 2"),
        (OBJECTS.replace("| tojson }}{% endfor", "| length }}{% endfor"), [("user", "Find it"), call()], None, "does not render calls"),
        (START + "{{ m.content if m.role != 'tool' else 'result' }}" + CALLS.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}") + END,
         [("user", "Find it"), call(), ("tool", "here"), ("assistant", "Found.")], None, "drops or changes the text of turn 3 (tool)"),
        (START + "{{ m.content | upper }}" + END, [("user", "Hi"), ("assistant", "Yes?")], None, "drops or changes its text in turn 2"),
    ],
)  # fmt: skip
def test_a_row_whose_content_is_not_rendered_is_refused(chat: Any, source: str, turns: Any, tools: Any, reason: str) -> None:
    with pytest.raises(TemplateError) as caught:
        chat(source).encode(row(*turns, tools=tools), 5000)
    assert reason in caught.value.message
    assert "model.template" in caught.value.hint


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", ""])
@pytest.mark.parametrize(
    ("source", "expected"), [(THINKING, "<think>It is wet.</think>Yes."), (INLINE, "<think>\nIt is wet.\n</think>\n\nYes.")]
)
def test_reasoning_is_trained_or_left_out(chat: Any, source: str, expected: str, key: str) -> None:
    parts = {"content": "Yes.", key: "It is wet."} if key else {"content": "<think>\nIt is wet.\n</think>\n\nYes."}
    answer = {"role": "assistant", **parts}
    conversation = row(("user", "Is it wet?"), answer)
    assert trained(chat(source, "on"), conversation) == [f"{expected}<|im_end|>"]
    off = chat(source)
    assert trained(off, conversation) == ["Yes.<|im_end|>"]
    assert off.encode(conversation, 1000)[0].notes == {TemplateNote.REASONING}


def test_a_thought_in_the_content_is_marked_with_the_tokens_of_the_vocabulary(tmp_path: Path) -> None:
    template = make_template(tmp_path, INLINE, plain=("<think>", "</think>"), settings=TemplateSettings(thinking="on"))
    conversation = row(("user", "Write <think>"), {"role": "assistant", "content": "</think>?", "reasoning": "Why <think>?"})
    (encoded,) = template.encode(conversation, 1000)
    start, end = template.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert [token for token in encoded.tokens.tolist() if token in (start, end)] == [start, end]
    assert trained(template, conversation) == ["<think>\nWhy <think>?\n</think>\n\n</think>?<|im_end|>"]


def test_reasoning_of_earlier_turns_is_in_the_prompt_only_if_it_is_kept(chat: Any) -> None:
    turns = [("user", "Wet?"), {"role": "assistant", "content": "Yes.", "thinking": "Rain."}] * 2
    on, keep = (chat(THINKING, mode).encode(row(*turns), 1000) for mode in ("on", "keep"))
    assert [one.turn for one in on] == [2, 4]
    assert [one.turn for one in keep] == [0]
    tokenizer = chat(THINKING).tokenizer
    assert tokenizer.decode(on[1].tokens.tolist()).count("Rain.") == 1
    assert tokenizer.decode(keep[0].tokens[keep[0].trained].tolist()) == "<think>Rain.</think>Yes.<|im_end|>" * 2


def test_reasoning_without_a_place_in_the_template_is_refused(chat: Any) -> None:
    conversation = row(("user", "Wet?"), {"role": "assistant", "content": "Yes.", "thinking": "Rain."})
    for source in (CHATML, START + "{{ m.content | string }}" + END):
        with pytest.raises(TemplateError, match="turn 2 has reasoning, but the chat template of tiny does not render it") as caught:
            chat(source, "on").encode(conversation, 1000)
        assert 'model.thinking to "off"' in caught.value.hint


def test_an_answer_follows_a_generation_prompt_that_conversations_do_not_have(chat: Any) -> None:
    template = chat(EMPTY_THOUGHT)
    conversation = row(("user", "Hi"), ("assistant", "<b>Yes?</b>"))
    (encoded,) = template.encode(conversation, 1000)
    prompt = template.prompt(conversation.messages[:1])
    assert encoded.tokens[: len(prompt)].tolist() == prompt
    assert trained(template, conversation) == ["<b>Yes?</b><|im_end|>"]


def test_an_answer_after_a_tool_result_follows_its_prompt(chat: Any) -> None:
    template = chat(CONTINUED)
    conversation = row(("user", "Find it"), call(), ("tool", "here"), ("assistant", "Found."), tools=[TOOL])
    encoded = template.encode(conversation, 5000)
    calling = 'CALL call_1234567890 find {"q": "a \\"b\\"", "n": 3}<|im_end|>'
    assert trained(template, conversation) == [calling, "Found.<|im_end|>"]
    for one, turn in zip(encoded, (1, 3), strict=True):
        assert one.tokens[: int(one.trained.argmax())].tolist() == template.prompt(conversation.messages[:turn], conversation.tools)


def test_reasoning_may_have_a_place_before_calls_only(chat: Any) -> None:
    template = chat(BEFORE_CALLS, "on")
    assert trained(template, row(("user", "Find it"), call(reasoning="Look."), tools=[TOOL]))[0].startswith("[Look.]CALL")
    with pytest.raises(TemplateError, match=r"turn 2 has reasoning, but .* renders it only in turns that call a tool") as caught:
        template.encode(row(("user", "Hi"), {"role": "assistant", "content": "Yes.", "reasoning": "Rain."}), 5000)
    assert 'model.thinking to "off"' in caught.value.hint


@pytest.mark.parametrize("turns", [[], [("system", "Be kind.")]])
def test_tools_are_in_the_system_turn_where_the_template_reads_them_there(chat: Any, turns: list[Any]) -> None:
    template = chat(TOOLS_IN_SYSTEM)
    conversation = row(*turns, ("user", "Hi"), ("assistant", "Yes?"), tools=[TOOL])
    (encoded,) = template.encode(conversation, 5000)
    text = template.tokenizer.decode(encoded.tokens.tolist())
    listed = text.split("TOOLS ")[1].split(" END")[0]
    assert json.loads(listed) == [TOOL["function"]]
    assert text.startswith(f"<|im_start|>system\n{turns[0][1] if turns else ''}TOOLS [")
    assert encoded.tokens[: int(encoded.trained.argmax())].tolist() == template.prompt(
        conversation.messages[:-1], conversation.tools
    )
    with pytest.raises(TemplateError, match="does not render calls"):
        template.encode(row(("user", "Find it"), call(), tools=[TOOL]), 5000)


def test_a_switch_in_the_text_of_the_system_turn_turns_reasoning_off_and_on(chat: Any) -> None:
    answer = {"role": "assistant", "content": "Yes.", "reasoning": "Rain."}
    turns = [("system", "Be kind."), ("user", "Wet?"), answer, ("user", "Still?"), answer]
    for mode, lead, expected in (("off", "<think></think>", "Yes."), ("on", "<think>\n", "Rain.\n</think>\n\nYes.")):
        template = chat(SWITCHED, mode)
        assert trained(template, row(*turns)) == [f"{expected}<|im_end|>"] * 2
        prompt = template.tokenizer.decode(template.prompt(row(*turns).messages[:-1]))
        assert prompt.startswith("<|im_start|>system\nBe kind.<|im_end|>")
        assert prompt.endswith(
            f"<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nStill?<|im_end|>\n<|im_start|>assistant\n{lead}"
        )
        assert template.thinking.effect(mode).startswith(mode)
    with pytest.raises(TemplateError, match="opens a thinking block, but the turn has no reasoning"):
        chat(SWITCHED, "on").encode(row(("user", "Wet?"), ("assistant", "Yes.")), 5000)
    for mode, word in (("off", "/think"), ("off", "/no_think"), ("on", "/no_think")):
        with pytest.raises(TemplateError) as caught:
            chat(SWITCHED, mode).encode(row(("system", f"Be kind. {word}"), ("user", "Wet?"), answer), 5000)
        assert caught.value.hint.startswith("Remove /think and /no_think")


def test_content_is_given_in_parts_where_the_template_reads_parts(chat: Any) -> None:
    assert trained(chat(PARTS), row(("user", "Hi"), ("assistant", "Yes?"))) == ["Yes?<|im_end|>"]


def test_names_and_trimmed_or_composed_answers_are_noted(chat: Any, tmp_path: Path) -> None:
    named = row({"role": "user", "content": "Hi", "name": "Annika"}, ("assistant", "Yes?"))
    assert chat(CHATML).encode(named, 1000)[0].notes == {TemplateNote.NAME}
    assert chat(START + "{{ m.name }}{{ m.content }}" + END).encode(named, 1000)[0].notes == frozenset()
    padded = row(("user", "Hi"), ("assistant", "Yes?\n "))
    assert chat(CHATML).encode(padded, 1000)[0].notes == frozenset()
    assert chat(START + "{{ m.content | trim }}" + END).encode(padded, 1000)[0].notes == {TemplateNote.TRIMMED}
    make_template(tmp_path)
    composing = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    composing.normalizer = normalizers.NFC()
    composing.save(str(tmp_path / "tokenizer.json"))
    (encoded,) = ChatTemplate(load_tokenizer(tmp_path)).encode(row(("user", "Hi"), ("assistant", "Zu\u0308rich")), 1000)
    assert encoded.notes == {TemplateNote.COMPOSED}


def test_text_that_begins_with_the_bos_token_gets_no_second_one(tmp_path: Path) -> None:
    make_template(tmp_path, specials=("<s>",))
    adding = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    bos = adding.token_to_id("<s>")
    adding.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)])
    adding.save(str(tmp_path / "tokenizer.json"))
    settings = (tmp_path / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(settings.replace('"eos_token"', '"bos_token": "<s>", "eos_token"'))
    chat = ChatTemplate(load_tokenizer(tmp_path))
    tokens = [chat.encode(TextRow(LOCATION, {}, text), 100)[0].tokens.tolist() for text in ("abc", "<s>abc", "abc<|im_end|>")]
    assert tokens[0] == tokens[1] == tokens[2]
    assert tokens[0].count(bos) == 1

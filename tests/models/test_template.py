"""Which tokens are trained: hand-written expected values for three chat templates, and rejected templates."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer
from tiny_model import CHATML, make_tiny, write_tokenizer

from mlxtune.core.errors import DataError, TemplateError
from mlxtune.data.rows import Conversation, Location, Message, Preference, TextRow
from mlxtune.data.template_notes import TemplateNote
from mlxtune.models import load
from mlxtune.models.encoded import common_prefix
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template

LLAMA3 = (
    "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n{{ message.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
REWRITES = (  # keeps thinking only in the last turn, as some reasoning models do
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENED = REWRITES.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}").replace("<think></think>", "")
ENDLESS = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"

TURNS = [
    ("user", "Hi"),
    ("assistant", "Yes?"),
    ("user", "Rope?"),
    ("assistant", "60 m."),
    ("user", "Thanks"),
    ("assistant", "Sure."),
]

# The rendered conversation in pieces; True marks trained pieces.
EXPECTED = {
    "chatml": (CHATML, "<|im_end|>", (), [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False), ("Yes?<|im_end|>", True),
        ("\n<|im_start|>user\nRope?<|im_end|>\n<|im_start|>assistant\n", False), ("60 m.<|im_end|>", True),
        ("\n<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n", False), ("Sure.<|im_end|>", True), ("\n", False),
    ]),
    "llama3": (LLAMA3, "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>"), [
        ("<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", False),
        ("Yes?<|eot_id|>", True),
        ("<|start_header_id|>user<|end_header_id|>\n\nRope?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", False),
        ("60 m.<|eot_id|>", True),
        ("<|start_header_id|>user<|end_header_id|>\n\nThanks<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", False),
        ("Sure.<|eot_id|>", True),
    ]),
    "gemma": (GEMMA, "<end_of_turn>", ("<start_of_turn>",), [
        ("<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", False), ("Yes?<end_of_turn>", True),
        ("\n<start_of_turn>user\nRope?<end_of_turn>\n<start_of_turn>model\n", False), ("60 m.<end_of_turn>", True),
        ("\n<start_of_turn>user\nThanks<end_of_turn>\n<start_of_turn>model\n", False), ("Sure.<end_of_turn>", True), ("\n", False),
    ]),
}  # fmt: skip


def template(
    folder: Path, text: str = CHATML, stop: str = "<|im_end|>", specials: tuple[str, ...] = (), plain: tuple[str, ...] = (), **options: Any
) -> ChatTemplate:  # fmt: skip
    write_tokenizer(folder, template=text, stop=stop, specials=specials, plain=plain)
    return ChatTemplate(load_tokenizer(folder), **options)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return template(tmp_path_factory.mktemp("chatml"))


@pytest.fixture(scope="module")
def rewriting(chat: ChatTemplate) -> ChatTemplate:
    return ChatTemplate(chat.tokenizer, TemplateSettings(source=REWRITES))


def conversation(*turns: tuple[str, str]) -> Conversation:
    return Conversation(Location(Path("rows.jsonl"), 7), {}, tuple(Message(role, text) for role, text in turns))


@pytest.mark.parametrize("name", EXPECTED)
def test_only_assistant_turns_train_with_their_stop_token(tmp_path: Path, name: str) -> None:
    text, stop, specials, pieces = EXPECTED[name]
    chat = template(tmp_path, text, stop, specials)
    tokens, trained = [], []
    for piece, trains in pieces:
        ids = chat.tokenizer.encode(piece, add_special_tokens=False)
        tokens += ids
        trained += [trains] * len(ids)
    (encoded,) = chat.encode(conversation(*TURNS), 1000)
    assert encoded.tokens.tolist() == tokens
    assert encoded.trained.tolist() == trained


def test_a_template_that_rewrites_earlier_turns_trains_each_answer_in_a_row_of_its_own(rewriting: ChatTemplate) -> None:
    row = conversation(*TURNS[:4])
    encoded = rewriting.encode(row, 1000)
    assert [one.turn for one in encoded] == [2, 4]
    for one, answer in zip(encoded, ("Yes?", "60 m."), strict=True):
        start = int(one.trained.argmax())
        assert one.tokens[:start].tolist() == rewriting.prompt(row.messages[: one.turn - 1])
        assert rewriting.tokenizer.decode(one.tokens[one.trained].tolist()) == f"<think></think>{answer}<|im_end|>"
        assert (one.id, one.notes) == (row.id, {TemplateNote.TURNS})
    assert "<think>" not in rewriting.tokenizer.decode(encoded[1].tokens[: int(encoded[1].trained.argmax())].tolist())


def test_data_turns_chooses_which_answers_are_trained_and_how(chat: ChatTemplate) -> None:
    tokenizer, row = chat.tokenizer, conversation(*TURNS)
    spans = {
        mode: [(one.turn, tokenizer.decode(one.tokens[one.trained].tolist())) for one in ChatTemplate(tokenizer, TemplateSettings(turns=mode)).encode(row, 1000)]
        for mode in ("auto", "all", "each", "last")
    }  # fmt: skip
    assert spans["auto"] == spans["all"] == [(0, "Yes?<|im_end|>60 m.<|im_end|>Sure.<|im_end|>")]
    assert spans["each"] == [(2, "Yes?<|im_end|>"), (4, "60 m.<|im_end|>"), (6, "Sure.<|im_end|>")]
    assert spans["last"] == [(0, "Sure.<|im_end|>")]
    rewriting = ChatTemplate(tokenizer, TemplateSettings(turns="all", source=REWRITES))
    with pytest.raises(TemplateError, match=r"rows\.jsonl, line 7: turn 2 renders differently inside") as caught:
        rewriting.encode(row, 1000)
    assert 'data.turns to "auto"' in caught.value.hint


def test_a_turn_with_weight_0_is_only_read(chat: ChatTemplate) -> None:
    turns = [Message(role, text, trained=text != "Yes?") for role, text in TURNS]
    row = Conversation(Location(Path("rows.jsonl"), 7), {}, tuple(turns))
    (encoded,) = chat.encode(row, 1000)
    assert chat.tokenizer.decode(encoded.tokens[encoded.trained].tolist()) == "60 m.<|im_end|>Sure.<|im_end|>"
    assert row.id == conversation(*TURNS).id


def test_later_answers_that_do_not_fit_are_left_out_and_noted(rewriting: ChatTemplate) -> None:
    row = conversation(*TURNS)
    whole = rewriting.encode(row, 1000)
    encoded = rewriting.encode(row, len(whole[0].tokens))
    assert [one.turn for one in encoded] == [2]
    assert TemplateNote.CUT in encoded[0].notes


def test_a_system_turn_is_merged_for_templates_without_one(tmp_path: Path) -> None:
    chat = template(tmp_path, GEMMA, "<end_of_turn>", ("<start_of_turn>",))
    (merged,) = chat.encode(conversation(("system", "Be kind."), *TURNS), 1000)
    (same,) = chat.encode(conversation(("user", "Be kind.\n\nHi"), *TURNS[1:]), 1000)
    assert merged.tokens.tolist() == same.tokens.tolist()
    assert merged.trained.tolist() == same.trained.tolist()
    prompt = chat.prompt([Message("system", "Be kind."), Message("user", "Hi")])
    assert merged.tokens.tolist()[: len(prompt)] == prompt


@pytest.mark.parametrize(
    "turns", [[("system", "Be kind.")], [("system", "Be kind."), ("assistant", "Yes?")], [("system", "A"), ("system", "B")]]
)
def test_a_template_that_refuses_a_role_raises_its_message(tmp_path: Path, turns: list[tuple[str, str]]) -> None:
    chat = template(tmp_path, GEMMA, "<end_of_turn>", ("<start_of_turn>",))
    with pytest.raises(TemplateError, match="no system role"):
        chat.prompt([Message(role, text) for role, text in turns])


def test_a_prompt_that_fills_the_window_is_refused_and_a_long_answer_is_truncated(chat: ChatTemplate) -> None:
    row = conversation(("user", "x" * 50), ("assistant", "y" * 50))
    with pytest.raises(DataError, match="the prompt fills the window of 40 tokens"):
        chat.encode(row, 40)
    (encoded,) = chat.encode(row, 100)
    assert encoded.truncated
    assert len(encoded.tokens) == 100


def test_text_trains_from_its_second_token_to_its_stop(chat: ChatTemplate) -> None:
    (encoded,) = chat.encode(TextRow(Location(Path("a"), 1), {}, "abc"), 100)
    assert encoded.trained.tolist() == [False, True, True, True]
    assert encoded.tokens[-1] == chat.tokenizer.eos_token_id


def test_a_long_text_is_divided_into_windows_that_train_each_token_once(chat: ChatTemplate) -> None:
    row = TextRow(Location(Path("a"), 1), {}, "".join(chr(97 + index % 26) for index in range(100)))
    (whole,) = chat.encode(row, 1000)
    windows = chat.encode(row, 16)
    assert [len(one.tokens) for one in windows] == [16] * 7 + [3]
    assert sum(int(one.trained.sum()) for one in windows) == int(whole.trained.sum()) == 100
    taught = [token for one in windows for token in one.tokens[one.trained]]
    assert taught == whole.tokens[1:].tolist()
    assert all(one.tokens[:2].tolist() == before.tokens[-2:].tolist() for before, one in pairwise(windows))
    assert not any(one.truncated for one in windows)
    assert windows[0].notes == {TemplateNote.WINDOWS}
    assert [len(one.tokens) for one in chat.encode(row, 101)] == [101]  # with its stop token


def test_common_prefix_of_rows() -> None:
    assert common_prefix([[1, 2, 3, 4], [1, 2, 9], [1, 2, 3]]) == 2
    assert common_prefix([[1, 2]]) == 2
    assert common_prefix([]) == 0


def preference(prompt: str | list[tuple[str, str]], chosen: str, rejected: str) -> Preference:
    turns = [("user", prompt)] if isinstance(prompt, str) else prompt
    return Preference(Location(Path("pairs.jsonl"), 3), {}, tuple(Message(role, text) for role, text in turns), chosen, rejected)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_pair_is_its_prompt_and_two_answers_with_stop_tokens(tmp_path: Path, name: str) -> None:
    text, stop, specials, _ = EXPECTED[name]
    chat = template(tmp_path, text, stop, specials)
    row = preference(TURNS[:3], "60 m.", "Ask someone.")
    pair = chat.encode_pair(row, 1000)

    def tokens(words: str) -> list[int]:
        return chat.tokenizer.encode(words, add_special_tokens=False)

    assert pair.prompt.tolist() == chat.prompt(row.prompt)
    assert pair.chosen.tolist() == tokens(f"60 m.{stop}")
    assert pair.rejected.tolist() == tokens(f"Ask someone.{stop}")
    assert not pair.truncated
    assert pair.tokens.tolist() == [*chat.prompt(row.prompt), *tokens(f"60 m.{stop}Ask someone.{stop}")]
    assert pair.tokens[pair.trained].tolist() == tokens(f"60 m.{stop}Ask someone.{stop}")
    assert (pair.id, pair.location.line, pair.full_length) == (row.id, 3, len(pair.tokens))


def test_earlier_turns_of_a_pair_may_be_rewritten(rewriting: ChatTemplate) -> None:
    row = preference(TURNS[:3], "60 m.", "No.")
    pair = rewriting.encode_pair(row, 1000)
    assert pair.prompt.tolist() == rewriting.prompt(row.prompt)
    assert rewriting.tokenizer.decode(pair.chosen.tolist()) == "<think></think>60 m.<|im_end|>"


def test_a_pair_whose_prompt_is_not_a_prefix_is_refused(tmp_path: Path) -> None:
    chat = template(tmp_path, OPENED)
    with pytest.raises(TemplateError, match=r"pairs\.jsonl, line 3: the generation prompt of turn 2 opens a thinking block"):
        chat.encode_pair(preference("Hi", "Yes?", "No."), 1000)


def test_only_completions_are_truncated(chat: ChatTemplate) -> None:
    row = preference("x" * 50, "y" * 9, "z" * 90)
    prompt = chat.prompt(row.prompt)
    untruncated = chat.encode_pair(row, 1000)
    pair = chat.encode_pair(row, len(prompt) + 20)
    assert pair.prompt.tolist() == prompt
    assert pair.chosen.tolist() == untruncated.chosen.tolist()
    assert pair.rejected.tolist() == untruncated.rejected.tolist()[:20]
    assert (pair.full_lengths, pair.full_length, pair.truncated) == ((10, 91), len(untruncated.tokens), True)
    shortest = chat.encode_pair(row, len(prompt) + 1)
    assert (len(shortest.chosen), len(shortest.rejected)) == (1, 1)


@pytest.mark.parametrize(
    ("chosen", "rejected", "window", "words"),
    [
        ("Yes.", " \n", 1000, "rejected is empty"),
        ("", "No.", 1000, "chosen is empty"),
        ("Yes.", "Yes.", 1000, "are identical"),
        ("Yes,  it is.\n\nTwo.", " Yes, it is. \nTwo.\n", 1000, "are identical"),
        ("caf\u00e9", "cafe\u0301", 1000, "are identical"),
        ("y" * 40 + "a", "y" * 40 + "b", 69, "identical within 69 tokens"),
        ("Yes.", "No.", 20, "the prompt fills the window of 20 tokens"),
    ],
)  # fmt: skip
def test_a_pair_without_a_difference_is_refused_with_its_location(
    chat: ChatTemplate, chosen: str, rejected: str, window: int, words: str
) -> None:
    with pytest.raises(DataError, match=rf"^pairs\.jsonl, line 3: .*{words}"):
        chat.encode_pair(preference("Is it wet?", chosen, rejected), window)


def test_line_breaks_and_case_count_as_differences(chat: ChatTemplate) -> None:
    assert not chat.encode_pair(preference("List", "- a\n- b", "- a - b"), 1000).truncated
    assert not chat.encode_pair(preference("Shout", "YES", "yes"), 1000).truncated


PHI = (  # a turn ends with <|end|>, the conversation with the eos token
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}"
)
SPECIALS = ("<|user|>", "<|assistant|>", "<|end|>", "<|tool_call|>")


def ids(chat: ChatTemplate, *tokens: str) -> set[int]:
    return {chat.tokenizer.convert_tokens_to_ids(token) for token in tokens}


def test_the_first_stop_token_ends_an_answer(tmp_path: Path) -> None:
    chat = template(tmp_path, PHI, "<|endoftext|>", SPECIALS)
    assert chat.stop_tokens == ids(chat, "<|endoftext|>", "<|end|>")  # <|tool_call|> is special, but ends nothing
    row = conversation(("user", "Hi"), ("assistant", "Yes?"), ("user", "Rope?"), ("assistant", "60 m."))
    (encoded,) = chat.encode(row, 1000)
    assert chat.tokenizer.decode(encoded.tokens[encoded.trained].tolist()) == "Yes?<|end|>60 m.<|end|>"
    assert chat.tokenizer.decode(encoded.tokens.tolist()).endswith("<|end|><|endoftext|>")


def test_eos_tokens_come_from_both_configs(tmp_path: Path) -> None:
    make_tiny(tmp_path, template=CHATML, stop="<|im_end|>", specials=("<|a|>", "<|b|>", "<|c|>", "<|d|>"))
    tokenizer = load_tokenizer(tmp_path)
    a, b, c = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in "abc")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": a, "text_config": {"eos_token_id": [a, c]}}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [a, b]}))
    source = resolve(str(tmp_path))
    assert source.eos_token_ids == (a, b, c)
    expected = {a, b, c, tokenizer.eos_token_id}
    loaded = load.load(source)
    assert load_template(source, TemplateSettings()).stop_tokens == expected
    assert load_template(source, TemplateSettings(), loaded.tokenizer).stop_tokens == expected


def test_a_template_without_an_end_is_refused_with_the_models_name(tmp_path: Path) -> None:
    chat = template(tmp_path, ENDLESS, name="glm-4-9b")
    with pytest.raises(TemplateError, match="chat template of glm-4-9b ends turn 2 without a stop token") as caught:
        chat.encode(conversation(("user", "Hi"), ("assistant", "Yes?")), 1000)
    assert "model.template" in str(caught.value.hint)

"""The pieces of a row and which of them train, against what the templates' tests write out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer
from test_template import EXPECTED, REWRITES, TURNS
from tiny_model import CHATML, write_tokenizer

from mlxtune.core.errors import TemplateError
from mlxtune.data.rows import Conversation, Message, Place, Preference, Row, Text, Unpaired
from mlxtune.models.masks import mask
from mlxtune.models.template import ChatTemplate
from mlxtune.planning.masks import Turn

HERE = Place(Path("d.jsonl"), 1)
ENDLESS = 10_000


def template(folder: Path, name: str = "chatml") -> ChatTemplate:
    text, stop, specials, _ = EXPECTED.get(name, (REWRITES, "<|im_end|>", (), []))
    write_tokenizer(folder, template=text, stop=stop, specials=specials)
    return ChatTemplate(load_tokenizer(folder))


def turns(found: dict[str, Any]) -> list[Turn]:
    return [Turn(**{**turn, "cuts": tuple(turn["cuts"])}) for turn in found["turns"]]


def chat(*said: tuple[str, str]) -> Conversation:
    return Conversation(HERE, {}, tuple(Message(role, text) for role, text in said))


@pytest.mark.parametrize("name", EXPECTED)
def test_each_answer_and_its_stop_train_and_the_sums_are_those_of_the_row(tmp_path: Path, name: str) -> None:
    _, stop, _, pieces = EXPECTED[name]
    made = template(tmp_path, name)
    found = mask(made, chat(*TURNS), ENDLESS)
    whole = made.encode(chat(*TURNS), ENDLESS)
    assert found["tokens"] == len(whole.tokens)
    assert found["trained"] == int(whole.trained.sum())
    answers = iter(text for text, trains in pieces if trains)
    for (role, said), turn in zip(TURNS, turns(found), strict=True):
        if role == "assistant":
            assert said + stop == next(answers)
            assert (turn.trained, turn.stop, turn.pieces(said)) == (len(said) + 1, stop, list(said))
        else:
            assert (turn.trained, turn.stop) == (0, "")
            assert turn.tokens > len(said)


def test_pieces_are_whole_characters_and_together_the_text(tmp_path: Path) -> None:
    said = " Ça va? 日本 👩‍👩‍👧 "
    made = template(tmp_path)
    last = turns(mask(made, chat(("user", "Hi"), ("assistant", said)), ENDLESS))[-1]
    assert "".join(last.pieces(said)) == said
    assert [piece for piece in last.pieces(said) if "日" in piece] == ["日"]
    assert last.trained == len(said.encode()) + 1


def test_what_is_beyond_the_window_does_not_train_and_is_marked(tmp_path: Path) -> None:
    made = template(tmp_path)
    row = chat(("user", "Hi"), ("assistant", "abcdef"))
    first = made.encode(row, ENDLESS).trained.argmax()
    last = turns(mask(made, row, int(first) + 4))[-1]
    assert (last.trained, last.lost) == (4, 4)
    assert turns(mask(made, row, ENDLESS))[-1].lost is None


@pytest.mark.parametrize(
    ("row", "trained"),
    [
        (Preference(HERE, {}, (Message("user", "Hi"),), "good", "worse"), [0, 5, 6]),
        (Unpaired(HERE, {}, (Message("system", "Be kind."), Message("user", "Hi")), "good", False), [0, 0, 5]),
        (Text(HERE, {}, "Once"), [4]),
    ],
)
def test_pairs_answers_and_texts_have_their_parts_in_order(tmp_path: Path, row: Row, trained: list[int]) -> None:
    found = mask(template(tmp_path), row, ENDLESS)
    assert [turn.trained for turn in turns(found)] == trained
    assert found["trained"] == sum(trained)


def test_a_call_of_a_tool_is_shown_as_what_the_template_makes_of_it(tmp_path: Path) -> None:
    call = Message("assistant", "", {"tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"n": 1}}}]})
    calling = CHATML.replace("{{ message.content }}", "{{ message.content }}{% if message.tool_calls %}CALL{% endif %}")
    write_tokenizer(tmp_path, template=calling, stop="<|im_end|>", specials=())
    row = Conversation(HERE, {}, (Message("user", "Hi"), call, Message("tool", "3"), Message("assistant", "Three.")))
    user, calls, tool, last = turns(mask(ChatTemplate(load_tokenizer(tmp_path)), row, ENDLESS))
    assert (calls.trained, calls.stop) == (5, "CALL<|im_end|>")
    assert (user.trained, tool.trained, last.trained) == (0, 0, len("Three.") + 1)


def test_a_row_whose_mask_cannot_be_proved_has_none(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="cannot be proved"):
        mask(template(tmp_path, "rewrites"), chat(*TURNS), ENDLESS)


def test_chatml_is_the_template_of_the_tiny_model() -> None:
    assert EXPECTED["chatml"][0] == CHATML

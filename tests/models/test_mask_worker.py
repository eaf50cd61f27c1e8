"""The pieces of a row and which of them are trained, compared with the expected values in test_template."""

from pathlib import Path

import pytest
from test_template import EXPECTED, OPENED, REWRITES, TURNS, conversation, template
from tiny_model import CHATML

from mlxtune.core.errors import TemplateError
from mlxtune.data.rows import Conversation, Location, Message, Preference, Row, TextRow, Unpaired
from mlxtune.models.mask_worker import mask

LOCATION = Location(Path("d.jsonl"), 1)
ENDLESS = 10_000


@pytest.mark.parametrize("name", EXPECTED)
def test_each_answer_and_its_stop_token_train(tmp_path: Path, name: str) -> None:
    *parts, pieces = EXPECTED[name]
    stop, chat = parts[1], template(tmp_path, *parts)
    result = mask(chat, conversation(*TURNS), ENDLESS)
    (encoded,) = chat.encode(conversation(*TURNS), ENDLESS)
    assert result.tokens == len(encoded.tokens)
    assert result.trained == int(encoded.trained.sum())
    answers = iter(text for text, trains in pieces if trains)
    for (role, content), turn in zip(TURNS, result.turns, strict=True):
        if role == "assistant":
            assert content + stop == next(answers)
            assert (turn.trained, turn.stop, turn.pieces(content)) == (len(content) + 1, stop, list(content))
        else:
            assert (turn.trained, turn.stop) == (0, "")
            assert turn.tokens > len(content)


def test_pieces_are_whole_characters_and_join_to_the_text(tmp_path: Path) -> None:
    text = " Ça va? 日本 👩‍👩‍👧 "
    chat = template(tmp_path)
    last = mask(chat, conversation(("user", "Hi"), ("assistant", text)), ENDLESS).turns[-1]
    assert "".join(last.pieces(text)) == text
    assert [piece for piece in last.pieces(text) if "日" in piece] == ["日"]
    assert last.trained == len(text.encode()) + 1


def test_tokens_beyond_the_window_do_not_train(tmp_path: Path) -> None:
    chat = template(tmp_path)
    row = conversation(("user", "Hi"), ("assistant", "abcdef"))
    first = chat.encode(row, ENDLESS)[0].trained.argmax()
    last = mask(chat, row, int(first) + 4).turns[-1]
    assert (last.trained, last.truncated_at) == (4, 4)
    assert mask(chat, row, ENDLESS).turns[-1].truncated_at is None


@pytest.mark.parametrize(
    ("row", "trained"),
    [
        (Preference(LOCATION, {}, (Message("user", "Hi"),), "good", "worse"), [0, 5, 6]),
        (Unpaired(LOCATION, {}, (Message("system", "Be kind."), Message("user", "Hi")), "good", False), [0, 0, 5]),
        (TextRow(LOCATION, {}, "Once"), [4]),
    ],
)
def test_parts_of_pairs_answers_and_texts(tmp_path: Path, row: Row, trained: list[int]) -> None:
    result = mask(template(tmp_path), row, ENDLESS)
    assert [turn.trained for turn in result.turns] == trained
    assert result.trained == sum(trained)


def test_a_tool_call_trains_as_rendered(tmp_path: Path) -> None:
    call = Message("assistant", "", {"tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"n": 1}}}]})
    rendered = "{{ message.tool_calls[0].function.name }}({{ message.tool_calls[0].function.arguments | tojson }})"
    calling = CHATML.replace(
        "{{ message.content }}", f"{{{{ message.content }}}}{{% if message.tool_calls %}}{rendered}{{% endif %}}"
    )
    row = Conversation(LOCATION, {}, (Message("user", "Hi"), call, Message("tool", "3"), Message("assistant", "Three.")))
    user, calls, tool, last = mask(template(tmp_path, calling), row, ENDLESS).turns
    assert (calls.trained, calls.stop) == (len('find({"n": 1})') + 1, 'find({"n": 1})<|im_end|>')
    assert (user.trained, tool.trained, last.trained) == (0, 0, len("Three.") + 1)


def test_answers_in_rows_of_their_own_are_shown_as_each_is_trained(tmp_path: Path) -> None:
    chat = template(tmp_path, REWRITES)
    result = mask(chat, conversation(*TURNS), ENDLESS)
    encoded = chat.encode(conversation(*TURNS), ENDLESS)
    assert result.tokens == sum(len(one.tokens) for one in encoded)
    assert result.trained == sum(int(one.trained.sum()) for one in encoded)
    for (role, content), turn in zip(TURNS, result.turns, strict=True):
        if role == "assistant":
            assert (turn.lead, turn.stop, turn.pieces(content)) == ("<think></think>", "<|im_end|>", list(content))
        else:
            assert turn.trained == 0


def test_a_mask_that_cannot_be_verified_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="opens a thinking block"):
        mask(template(tmp_path, OPENED), conversation(*TURNS), ENDLESS)

from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.errors import InputError
from mlxtune.data.rows import Conversation, Message, Preference
from mlxtune.data.source import read_source
from mlxtune.serving.chat_session import ChatSession
from mlxtune.serving.protocol import FinishReason, Sampling


class Recorder:
    """A client that records requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def ask(self, messages, **options) -> None:
        self.requests.append({"messages": messages, **options})


def test_a_question_follows_the_conversation_with_the_current_adapter() -> None:
    session, client = ChatSession(system="Be brief.", adapter="first", sampling=Sampling(temperature=0.5)), Recorder()
    session.add("One?", "1")
    session.adapter = "second"
    session.ask(client, "Two?")
    (request,) = client.requests
    assert request["messages"] == [
        Message("system", "Be brief."), Message("user", "One?"), Message("assistant", "1"), Message("user", "Two?"),
    ]  # fmt: skip
    assert (request["adapter"], request["sampling"].temperature) == ("second", 0.5)
    session.ask(client, "Two?", adapter="")
    assert client.requests[-1]["adapter"] == ""
    assert len(session.turns) == 2


def test_a_conversation_can_be_undone_reset_and_saved() -> None:
    session = ChatSession(system="Be brief.")
    session.add("One?", "1")
    session.add("Two?", "2")
    assert session.undo() == "Two?"
    assert session.training_row() == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}]
    }  # fmt: skip
    session.reset()
    assert session.messages == [Message("system", "Be brief.")]
    assert session.undo() == ""
    with pytest.raises(InputError, match="conversation is empty"):
        session.training_row()
    session.add("Three?", " ")
    with pytest.raises(InputError, match="An answer is empty"):
        session.training_row()


def conversation() -> ChatSession:
    session = ChatSession(system="Be brief.")
    session.add("Where is it?", "On its way.")
    return session


def test_a_conversation_is_appended_as_a_training_row(tmp_path: Path) -> None:
    for _ in range(2):
        conversation().save_row(tmp_path / "data" / "chat.jsonl")
    rows = read_source(tmp_path / "data" / "chat.jsonl").rows
    assert len(rows) == 2
    assert isinstance(rows[0], Conversation)
    assert [turn.role for turn in rows[0].messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize("ended", ["length", "cancelled"])
def test_saving_an_answer_that_was_cut_off_gives_a_warning(tmp_path: Path, ended: FinishReason) -> None:
    session, files = conversation(), (tmp_path / "rows.jsonl", tmp_path / "pairs.jsonl")
    session.add("And when?", "It will", ended=ended)
    assert session.save_row(files[0])
    assert not session.save_correction("Tomorrow.", *files)
    session.add("Where?", "Here.")
    assert session.save_correction("There.", *files)
    session.undo()
    session.undo()
    assert not session.save_row(files[0])


def test_a_corrected_answer_is_a_row_and_a_pair(tmp_path: Path) -> None:
    conversation().save_correction("It left Hamburg.", tmp_path / "rows.jsonl", tmp_path / "pairs.jsonl")
    (row,), (pair,) = (read_source(tmp_path / name).rows for name in ("rows.jsonl", "pairs.jsonl"))
    assert isinstance(row, Conversation)
    assert row.messages[-1].content == "It left Hamburg."
    assert isinstance(pair, Preference)
    assert (pair.chosen, pair.rejected) == ("It left Hamburg.", "On its way.")


@pytest.mark.parametrize("session", [ChatSession(), conversation()], ids=["empty", "unchanged"])
def test_what_would_teach_nothing_is_not_saved(tmp_path: Path, session: ChatSession) -> None:
    with pytest.raises(InputError):
        session.save_correction("On its way.", tmp_path / "rows.jsonl", tmp_path / "pairs.jsonl")
    assert not any(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write to"):
        conversation().save_row(tmp_path / "file" / "chat.jsonl")

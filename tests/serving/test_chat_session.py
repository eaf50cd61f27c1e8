"""A conversation: what is asked, what is remembered, what is saved."""

from __future__ import annotations

from typing import Any

import pytest

from mlxtune.core.errors import InputError
from mlxtune.data.rows import Message
from mlxtune.serving.protocol import Sampling
from mlxtune.serving.session import Session


class Recorder:
    """Stands for a client."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def ask(self, messages, **how) -> None:
        self.asked.append({"messages": messages, **how})


def test_a_question_is_asked_behind_what_was_said_with_the_adapter_of_now() -> None:
    session, client = Session(system="Be brief.", adapter="first", sampling=Sampling(temperature=0.5)), Recorder()
    session.add("One?", "1")
    session.adapter = "second"
    session.ask(client, "Two?")
    (asked,) = client.asked
    assert asked["messages"] == [
        Message("system", "Be brief."), Message("user", "One?"), Message("assistant", "1"), Message("user", "Two?"),
    ]  # fmt: skip
    assert (asked["adapter"], asked["sampling"].temperature) == ("second", 0.5)
    session.ask(client, "Two?", adapter="")
    assert client.asked[-1]["adapter"] == ""
    assert len(session.turns) == 2


def test_a_conversation_can_be_taken_back_forgotten_and_saved() -> None:
    session = Session(system="Be brief.")
    session.add("One?", "1")
    session.add("Two?", "2")
    assert session.undo() == "Two?"
    assert session.row() == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}]
    }  # fmt: skip
    session.reset()
    assert session.messages == [Message("system", "Be brief.")]
    assert session.undo() == ""
    with pytest.raises(InputError, match="Nothing was said"):
        session.row()
    session.add("Three?", " ")
    with pytest.raises(InputError, match="An answer is empty"):
        session.row()

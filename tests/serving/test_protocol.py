"""Lines between faces and the process that computes."""

from __future__ import annotations

import json

import pytest

from mlxtune.core.errors import InputError, MachineError
from mlxtune.data.rows import Message
from mlxtune.serving.protocol import (
    Accepted,
    Ask,
    Done,
    Failed,
    Piece,
    Ready,
    Sampling,
    ask_line,
    event_line,
    parse_ask,
    parse_event,
)


@pytest.mark.parametrize(
    "event",
    [
        Ready("base", "f", "on the CPU", 2048, 1.5), Accepted("1", 5, 2, 7), Piece("1", "é\u2028\n\ud83d"), Failed("", "gone", "It ended.", "", 4),
        Done("1", "length", 5, 2, 3, 1, 0.5, 0.25, 2.75),
    ],
)  # fmt: skip
def test_an_event_comes_back_from_its_line(event) -> None:
    line = event_line(event)
    assert line.count("\n") == 1
    assert parse_event(line) == event


def test_a_question_comes_back_from_its_line() -> None:
    turns = (Message("user", "a\nb"), Message("assistant", "", {"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}))
    ask = Ask("1", turns, "mine", Sampling(5, 0.5, 0.9, 3, ("\n",)), ({"type": "function"},), {"type": "object"})
    assert parse_ask(json.loads(ask_line(ask))) == ask


@pytest.mark.parametrize("line", ["", "{", "[]", '{"event": "nothing"}', '{"event": "piece"}', '{"event": "piece", "id": "1"}'])
def test_what_is_no_event_is_none(line: str) -> None:
    assert parse_event(line) is None


def test_what_is_no_question_is_said() -> None:
    for told in ({}, {"messages": [1]}, {"messages": [], "sampling": {"top": 1, "stop": []}}):
        with pytest.raises(InputError):
            parse_ask(told)


def test_speed_counts_what_follows_the_first_token() -> None:
    assert Done("1", "stop", 5, 0, 11, 0, 1.0, 1.0, 4.0).speed == 5.0
    assert Done("1", "stop", 5, 0, 1, 0, 0.0, 1.0, 1.0).speed == 0.0


def test_an_error_survives_the_way() -> None:
    for error in (InputError("wrong", mend="mend it"), MachineError("full")):
        back = Failed.of("1", error).as_error()
        assert (type(back), back.message, back.mend) == (type(error), error.message, error.mend)

import json

import pytest

from mlxtune.core.json_fields import from_json, to_json
from mlxtune.data.rows import Message
from mlxtune.serving.protocol import Accepted, Done, GenerateRequest, Piece, Ready, Sampling, event_from_json, event_to_json


@pytest.mark.parametrize(
    "event",
    [
        Ready("base", "f", "on the CPU", 2048, 1.5, 16), Accepted("1", 5, 2, 7), Piece("1", "é\u2028\n\ud83d"),
        Done("1", "length", 5, 2, 3, 1, 0.5, 0.25, 2.75),
    ],
)  # fmt: skip
def test_events_round_trip_through_json(event) -> None:
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event


def test_requests_round_trip_through_json() -> None:
    turns = (Message("user", "a\nb"), Message("assistant", "", {"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}))
    request = GenerateRequest("1", turns, "mine", Sampling(5, 0.5, 0.9, 3, ("\n",)), ({"type": "function"},), {"type": "object"})
    assert from_json(GenerateRequest, json.loads(json.dumps(to_json(request)))) == request


def test_speed_excludes_the_first_token() -> None:
    assert Done("1", "stop", 5, 0, 11, 0, 1.0, 1.0, 4.0).speed == 5.0
    assert Done("1", "stop", 5, 0, 1, 0, 0.0, 1.0, 1.0).speed == 0.0

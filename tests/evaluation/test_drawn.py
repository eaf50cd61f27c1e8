"""A sample of the held-out rows: the same ones each time, whatever their order."""

from __future__ import annotations

import random
from pathlib import Path

from mlxtune.data.rows import Conversation, Message, Place
from mlxtune.evaluation.preference import METRIC as PREFERENCE
from mlxtune.evaluation.scorers import Score
from mlxtune.evaluation.worker import drawn, unmarked

ROWS = [
    Conversation(Place(Path("d.jsonl"), at + 1), {}, (Message("user", f"Question {at}?"), Message("assistant", "ok")))
    for at in range(40)
]


def test_a_sample_keeps_the_order_of_its_rows() -> None:
    found = drawn(ROWS, 12)
    assert len(found) == 12
    assert [row.place.line for row in found] == sorted(row.place.line for row in found)


def test_which_rows_are_drawn_depends_on_nothing_but_what_they_say() -> None:
    mixed = random.Random(5).sample(ROWS, len(ROWS))
    assert {row.hash for row in drawn(mixed, 12)} == {row.hash for row in drawn(ROWS, 12)}


def test_a_larger_sample_holds_the_smaller_one() -> None:
    assert {row.hash for row in drawn(ROWS, 12)} < {row.hash for row in drawn(ROWS, 20)}


def test_nought_and_more_than_there_are_mean_all() -> None:
    assert drawn(ROWS, 0) == drawn(ROWS, 41) == ROWS


def test_preferences_are_taken_out_of_the_scores_of_every_arm() -> None:
    scored = [[{"contract": Score(True), PREFERENCE: Score(False)}], [{"contract": Score(False)}]]
    unmarked(scored)
    assert scored == [[{"contract": Score(True)}], [{"contract": Score(False)}]]

"""Choosing the held-out rows to evaluate: those with a prompt, or a sample that does not depend on their order."""

import random
from pathlib import Path

import pytest

from mlxtune.core.errors import DataError
from mlxtune.data.rows import Conversation, Location, Message, Preference, TextRow
from mlxtune.data.split import prompt_rows, sample_rows
from mlxtune.evaluation.answers import Answer, without_pairs
from mlxtune.evaluation.scorers import PREFERENCE, Score

ROWS = [
    Conversation(Location(Path("d.jsonl"), at + 1), {}, (Message("user", f"Question {at}?"), Message("assistant", "ok")))
    for at in range(40)
]


def test_sample_keeps_row_order():
    sampled = sample_rows(ROWS, 12)
    assert len(sampled) == 12
    assert [row.location.line for row in sampled] == sorted(row.location.line for row in sampled)


def test_sample_depends_only_on_row_content():
    mixed = random.Random(5).sample(ROWS, len(ROWS))
    assert {row.hash for row in sample_rows(mixed, 12)} == {row.hash for row in sample_rows(ROWS, 12)}


def test_larger_sample_contains_smaller_one():
    assert {row.hash for row in sample_rows(ROWS, 12)} < {row.hash for row in sample_rows(ROWS, 20)}


def test_zero_or_too_large_size_means_all_rows():
    assert sample_rows(ROWS, 0) == sample_rows(ROWS, 41) == ROWS


def test_only_rows_with_prompt_are_evaluated():
    pair = Preference(ROWS[0].location, {}, (Message("user", "Where?"),), "here", "there")
    assert prompt_rows([TextRow(ROWS[0].location, {}, "words"), pair, *ROWS]) == [pair, *ROWS]
    with pytest.raises(DataError, match="no held-out conversations"):
        prompt_rows([TextRow(ROWS[0].location, {}, "words")])


def test_preferences_are_dropped_with_their_likelihoods():
    answer = Answer(
        "a", "here", "stop", 1, nats=1.0, tokens=2, rejected=(3.0, 4), scores={"contract": Score(True), PREFERENCE: Score(False)}
    )
    (dropped,) = without_pairs([answer])
    assert (dropped.scores, dropped.margin, dropped.nats) == ({"contract": Score(True)}, None, 1.0)

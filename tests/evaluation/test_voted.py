from __future__ import annotations

import json
import os

import pytest

from mlxtune.core.errors import InputError
from mlxtune.data.rows import Message
from mlxtune.evaluation.answered import Pair
from mlxtune.evaluation.ballot import QUESTIONS
from mlxtune.evaluation.blind import Session
from mlxtune.evaluation.ledger import ledger, seen
from mlxtune.evaluation.voted import Standing, export, standing, uneven

PAIRS = [Pair(f"r{at}", (Message("user", "Where?"),), "ref", f"g{at}", f"base {at}", f"tuned {at}") for at in range(12)]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def evaluation(tmp_path):
    folder = tmp_path / "evals" / "20261124-1412-shop"
    folder.mkdir(parents=True)
    return folder


def test_a_session_stands_where_its_journal_says_without_its_lock(evaluation):
    assert standing(evaluation, "base", "tuned") is None
    with Session(evaluation, "base", "tuned", PAIRS, 6, seed=1) as session:
        due = session.due
        assert standing(evaluation, "base", "tuned") == Standing(6, 0, due, False)
        session.undo()
        for vote in ("a", "b", "tie"):
            session.vote(vote)
        session.undo()
        assert standing(evaluation, "base", "tuned") == Standing(6, session.votes, due, False)
        while session.now() is not None:
            session.vote("a")
        session.reveal()
    assert standing(evaluation, "base", "tuned") == Standing(6, due, due, True)


def test_a_broken_header_is_an_input_error(evaluation):
    with Session(evaluation, "base", "tuned", PAIRS, 6, seed=1) as session:
        header = session.folder / "session.json"
    header.write_text("{}")
    with pytest.raises(InputError, match="not a blind session"):
        standing(evaluation, "base", "tuned")


def test_the_votes_on_what_is_shown_are_known(evaluation):
    with Session(evaluation, "base", "tuned", PAIRS, 3, seed=1) as session:
        assert session.given == ()
        session.vote("a")
        session.vote("tie")
        assert session.given == ("a", "tie")
        session.vote("b")
        assert session.given == ()
    with Session(evaluation, "base", "tuned", PAIRS) as session:
        session.vote("b")
        assert session.given == ("b",)


def test_rows_with_one_answer_cannot_be_shown():
    assert uneven([*PAIRS, Pair("s", (), "", "g", "same", "same")]) == len(PAIRS)


def test_votes_leave_as_pairs_and_the_ledger_keeps_note(evaluation, tmp_path):
    with Session(evaluation, "base", "tuned", PAIRS, 4, seed=1) as session:
        with pytest.raises(InputError, match="sealed until the last vote"):
            export(session, tmp_path / "pairs.jsonl")
        while (now := session.now()) is not None:
            tie = now.question != "send" or now.at == 0
            session.vote("tie" if tie else "a" if now.a.startswith("tuned") else "b")
        session.reveal()
        ties = sum(choice == "tie" for _, asked, choice in session.choices() if asked == "send")
        count = export(session, tmp_path / "pairs.jsonl")
        assert count == 4 - ties
        with pytest.raises(InputError, match="makes a pair"):
            export(session, tmp_path / "none.jsonl", "format")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == count
    assert all(row["chosen"].startswith("tuned") and row["rejected"].startswith("base") for row in rows)
    assert not (tmp_path / "none.jsonl").exists()
    assert seen(ledger(evaluation), [pair.id for pair in PAIRS]).exported == count
    assert set(QUESTIONS) == {"format", "voice", "send"}

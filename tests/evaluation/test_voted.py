import json

import pytest

from mlxtune.core.errors import InputError
from mlxtune.data.rows import Message
from mlxtune.evaluation.blind.blind_session import BlindSession, BlindStatus, blind_status, count_differing, export_votes
from mlxtune.evaluation.evidence import AnswerPair
from mlxtune.evaluation.holdout.ledger import history, ledger_path, read

PAIRS = [AnswerPair(f"r{at}", (Message("user", "Where?"),), "ref", f"g{at}", f"base {at}", f"tuned {at}") for at in range(12)]


def test_status_is_read_from_journal_without_lock(evaluation):
    assert blind_status(evaluation, "base", "tuned") is None
    with BlindSession(evaluation, "base", "tuned", PAIRS, 6, seed=1) as session:
        due = session.votes_needed
        assert blind_status(evaluation, "base", "tuned") == BlindStatus(6, 0, due, False)
        session.undo()
        for vote in ("a", "b", "tie"):
            session.vote(vote)
        session.undo()
        assert blind_status(evaluation, "base", "tuned") == BlindStatus(6, session.votes, due, False)
        while session.current is not None:
            session.vote("a")
        session.reveal()
    assert blind_status(evaluation, "base", "tuned") == BlindStatus(6, due, due, True)


def test_malformed_header_is_input_error(evaluation):
    with BlindSession(evaluation, "base", "tuned", PAIRS, 6, seed=1) as session:
        header = session.folder / "session.json"
    header.write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        blind_status(evaluation, "base", "tuned")


def test_pending_votes_belong_to_shown_pair(evaluation):
    with BlindSession(evaluation, "base", "tuned", PAIRS, 3, seed=1) as session:
        assert session.pending_votes == ()
        session.vote("a")
        session.vote("tie")
        assert session.pending_votes == ("a", "tie")
        session.vote("b")
        assert session.pending_votes == ()
    with BlindSession(evaluation, "base", "tuned", PAIRS) as session:
        session.vote("b")
        assert session.pending_votes == ("b",)


def test_identical_answers_are_not_counted():
    assert count_differing([*PAIRS, AnswerPair("s", (), "", "g", "same", "same")]) == len(PAIRS)


def test_votes_export_as_pairs_and_are_recorded_in_ledger(evaluation, tmp_path):
    with BlindSession(evaluation, "base", "tuned", PAIRS, 4, seed=1) as session:
        with pytest.raises(InputError, match="hidden until the last vote"):
            export_votes(session, tmp_path / "pairs.jsonl")
        while (now := session.current) is not None:
            tie = now.question != "send" or now.index == 0
            session.vote("tie" if tie else "a" if now.a.startswith("tuned") else "b")
        session.reveal()
        ties = sum(choice == "tie" for _, question, choice in session.choices() if question == "send")
        count = export_votes(session, tmp_path / "pairs.jsonl")
        assert count == 4 - ties
        with pytest.raises(InputError, match="yields a preference pair"):
            export_votes(session, tmp_path / "none.jsonl", "format")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == count
    assert all(row["chosen"].startswith("tuned") and row["rejected"].startswith("base") for row in rows)
    assert not (tmp_path / "none.jsonl").exists()
    assert history(read(ledger_path(evaluation)), [pair.id for pair in PAIRS]).exported == count

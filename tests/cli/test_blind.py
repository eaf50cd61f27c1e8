from __future__ import annotations

import json
import os
import pty
import sys

import pytest
from evaluated import ID, evaluated

from mlxtune.data.rows import Preference
from mlxtune.data.source import read_file
from mlxtune.evaluation.ledger import ledger, seen


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def folder(place):
    return evaluated(place)


def _session(folder):
    return next((folder / "blind").glob("*/session.json")).parent


def _votes_for_tuned(folder) -> str:
    """Keys that choose the tuned arm in every showing that is left."""
    sides = json.loads((_session(folder) / "key.json").read_text())["first_is_a"]
    return "".join(("b" if first_is_a else "a") * 3 for first_is_a in sides)


def test_a_session_is_voted_resumed_and_exported(cli, folder, place):
    ended = cli("blind", ID, "--n", "8", "--seed", "3", stdin="abt\nau")
    assert ended.code == 3
    assert "3 of 30 votes are in" in ended.err
    ended = cli("blind", ID, stdin=_votes_for_tuned(folder)[3:])
    assert ended.code == 0, ended.err
    assert "tuned won" in ended.out
    assert "planted repeats" in ended.out
    ended = cli("blind", ID, "--export", "pairs.jsonl", "--question", "voice")
    assert ended.code == 0, ended.err
    rows = read_file(place / "pairs.jsonl")
    assert len(rows) == 8
    assert all(isinstance(row, Preference) for row in rows)
    assert [message.role for message in rows[1].prompt] == ["system", "user"]
    line = json.loads((place / "pairs.jsonl").read_text().splitlines()[1])
    assert set(line) == {"prompt", "chosen", "rejected"}
    assert line["chosen"].startswith("Thank you")
    assert line["rejected"].startswith("plain")
    checked = cli("data", "check", "pairs.jsonl", "--json")
    assert checked.code == 0, checked.err
    told = json.loads(checked.out)
    assert (told["read"], told["kept"]) == (8, 8)
    book = seen(ledger(folder), [json.loads(text)["id"] for text in (folder / "outputs.jsonl").read_text().splitlines()])
    assert (book.looks, book.exported) == (1, 8)


def test_votes_and_export_in_one_go(cli, folder, place):
    cli("blind", ID, "--n", "6", "--seed", "1")
    ended = cli("blind", ID, "--export", "pairs.jsonl", "--json", stdin=_votes_for_tuned(folder))
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert [tally["wins"] for tally in found["tallies"]] == [6, 6, 6]
    assert found["verdict"].startswith("Better. tuned won 6 of 6")
    assert "held-out rows" in ended.err
    assert len((place / "pairs.jsonl").read_text().splitlines()) == 6


def test_no_arm_is_named_before_the_last_vote(cli, folder):
    ended = cli("blind", ID, "--n", "6", "--seed", "1", stdin="a" * 23)
    assert ended.code == 3
    assert ended.out == ""
    shown = ended.err[: ended.err.index("votes are in")]
    assert "tuned" not in shown
    assert "base" not in shown
    assert "characters" not in shown
    assert "Where is parcel" in shown
    assert "Pair 8 of 8" in shown


def test_the_last_vote_can_be_taken_back_before_the_seal_opens(cli, folder):
    cli("blind", ID, "--n", "6", "--seed", "1", stdin="a" * 23)
    ended = cli("blind", ID, stdin="auq")
    assert ended.code == 3
    assert "23 of 24 votes are in" in ended.err
    ended = cli("blind", ID, stdin="aaq")
    assert ended.code == 3
    assert "a is no key here" in ended.err
    assert "24 of 24" in ended.err
    assert cli("blind", ID, stdin="o").code == 0
    assert cli("blind", ID, stdin="u").code == 0


def test_unknown_keys_are_named_and_cost_nothing(cli, folder):
    ended = cli("blind", ID, "--n", "6", stdin="xuq")
    assert "x is no key here" in ended.err
    assert "no vote to take back" in ended.err
    assert "0 of 24 votes" in ended.err


def test_export_of_a_session_that_is_not_done_exports_nothing(cli, folder, place):
    cli("blind", ID, "--n", "6", stdin="aaa")
    assert cli("blind", ID, "--export", "pairs.jsonl").code == 3
    assert not (place / "pairs.jsonl").exists()


def test_ties_leave_nothing_to_export(cli, folder):
    ended = cli("blind", ID, "--n", "6", "--export", "pairs.jsonl", stdin="t" * 24)
    assert ended.code == 2
    assert "makes a pair" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "There is no evaluation nothing"),
        ((ID, "base", "tunde"), "has no arm tunde"),
        ((ID, "base", "base"), "compared with itself"),
        ((ID, "--n", "99"), "the arms differ on 16 rows"),
        ((ID, "--n", "0"), "greater than or equal to 1"),
        ((ID, "--question", "taste"), "taste"),
    ],
)
def test_what_cannot_be_is_one_message(cli, folder, arguments, said):
    ended = cli("blind", *arguments)
    assert ended.code == 2, ended.err
    assert said in ended.err
    assert ended.out == ""


def test_n_stays_fixed(cli, folder):
    cli("blind", ID, "--n", "6")
    ended = cli("blind", ID, "--n", "7")
    assert ended.code == 2
    assert "fixed at 6 pairs before its first vote" in ended.err


def test_what_was_asked_is_read_from_the_evaluation_and_not_from_its_source(cli, folder, place):
    (place / "d.jsonl").unlink()
    ended = cli("blind", ID, "--n", "6", stdin="q")
    assert ended.code == 3
    assert "Where is parcel" in ended.err
    (folder / "questions.jsonl").unlink()
    ended = cli("blind", ID)
    assert ended.code == 2
    assert "keeps no questions.jsonl" in ended.err


def test_answers_cannot_command_the_terminal(cli, place):
    evaluated(place, base="\x1b]0;owned\x07 {at} [bold]x[/bold]", tuned="ok {at}\u202e")
    ended = cli("blind", ID, "--n", "6", stdin="q")
    assert "\x1b" not in ended.err
    assert "\u202e" not in ended.err
    assert "[bold]x[/bold]" in ended.err


def test_single_keys_are_read_from_a_terminal_and_arrows_are_none(cli, folder, monkeypatch):
    from mlxtune.cli import blind

    main, side = pty.openpty()
    with os.fdopen(side, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        keys = blind._keys()
        found = []
        for typed in (b"a", b"\x1b[A", b"T"):
            monkeypatch.setattr(blind.tty, "setcbreak", _typing(main, typed, blind.tty.setcbreak))
            found.append(next(keys))
            monkeypatch.undo()
            monkeypatch.setattr(sys, "stdin", terminal)
        assert found == ["a", "\x1b[a", "t"]
    os.close(main)


def _typing(main, typed, setcbreak):
    def enter(handle):
        setcbreak(handle)
        os.write(main, typed)

    return enter

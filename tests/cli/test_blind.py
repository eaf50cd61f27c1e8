import json
import os
import pty
import sys
import tty

import pytest
from unscored_evaluation import ID, write_unscored_evaluation

from mlxtune.data.rows import Preference
from mlxtune.data.source import read_file
from mlxtune.evaluation.holdout.ledger import history, ledger_path, read


@pytest.fixture
def folder(cwd):
    return write_unscored_evaluation(cwd)


def _session(folder):
    return next((folder / "blind").glob("*/session.json")).parent


def _votes_for_tuned(folder) -> str:
    """Return the keys that vote for the tuned arm in every pair."""
    sides = json.loads((_session(folder) / "key.json").read_text())["first_is_a"]
    return "".join(("b" if first_is_a else "a") * 3 for first_is_a in sides)


def test_a_session_is_voted_resumed_and_exported(ok, cli, folder, cwd):
    result = cli("blind", ID, "--n", "8", "--seed", "3", stdin="abt\nau")
    assert result.code == 3
    assert "3 of 30 votes have been cast" in result.err
    result = ok("blind", ID, stdin=_votes_for_tuned(folder)[3:])
    assert "tuned won" in result.out
    assert "repeated" in result.out
    result = ok("blind", ID, "--export", "pairs.jsonl", "--question", "voice")
    rows = read_file(cwd / "pairs.jsonl")
    assert len(rows) == 8
    assert all(isinstance(row, Preference) for row in rows)
    assert [message.role for message in rows[1].prompt] == ["system", "user"]
    line = json.loads((cwd / "pairs.jsonl").read_text().splitlines()[1])
    assert set(line) == {"prompt", "chosen", "rejected"}
    assert line["chosen"].startswith("Thank you")
    assert line["rejected"].startswith("plain")
    report = ok("data", "check", "pairs.jsonl", "--json").json
    assert (report["read"], report["kept"]) == (8, 8)
    ledger = history(
        read(ledger_path(folder)), [json.loads(text)["id"] for text in (folder / "outputs.jsonl").read_text().splitlines()]
    )
    assert (ledger.evaluations, ledger.exported) == (1, 8)


def test_votes_and_export_in_one_command(ok, cli, folder, cwd):
    cli("blind", ID, "--n", "6", "--seed", "1")
    result = ok("blind", ID, "--export", "pairs.jsonl", "--json", stdin=_votes_for_tuned(folder))
    document = result.json
    assert [tally["wins"] for tally in document["tallies"]] == [6, 6, 6]
    assert "held-out rows" in result.err
    assert len((cwd / "pairs.jsonl").read_text().splitlines()) == 6


def test_no_arm_is_named_before_the_last_vote(cli, folder):
    result = cli("blind", ID, "--n", "6", "--seed", "1", stdin="a" * 23)
    assert result.code == 3
    assert result.out == ""
    shown = result.err[: result.err.index("votes have been cast")]
    assert "tuned" not in shown
    assert "base" not in shown
    assert "characters" not in shown
    assert "Where is parcel" in shown
    assert "Pair 8 of 8" in shown


def test_the_last_vote_can_be_undone_before_the_result_opens(cli, folder):
    cli("blind", ID, "--n", "6", "--seed", "1", stdin="a" * 23)
    result = cli("blind", ID, stdin="auq")
    assert result.code == 3
    assert "23 of 24 votes have been cast" in result.err
    result = cli("blind", ID, stdin="aaq")
    assert result.code == 3
    assert "a is not a valid key here" in result.err
    assert "24 of 24" in result.err
    assert cli("blind", ID, stdin="o").code == 0
    assert cli("blind", ID, stdin="u").code == 0


def test_unknown_keys_are_reported_and_ignored(cli, folder):
    result = cli("blind", ID, "--n", "6", stdin="xuq")
    assert "x is not a valid key here" in result.err
    assert "no vote to undo" in result.err
    assert "0 of 24 votes" in result.err


def test_an_unfinished_session_exports_nothing(cli, folder, cwd):
    cli("blind", ID, "--n", "6", stdin="aaa")
    assert cli("blind", ID, "--export", "pairs.jsonl").code == 3
    assert not (cwd / "pairs.jsonl").exists()


def test_ties_leave_nothing_to_export(cli, folder):
    result = cli("blind", ID, "--n", "6", "--export", "pairs.jsonl", stdin="t" * 24)
    assert result.code == 2
    assert "yields a preference pair" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "There is no evaluation named nothing"),
        ((ID, "base", "tunde"), "has no arm named tunde"),
        ((ID, "base", "base"), "compared with itself"),
        ((ID, "--n", "99"), "The arms differ on only 16 rows"),
        ((ID, "--n", "0"), "greater than or equal to 1"),
        ((ID, "--question", "taste"), "taste"),
    ],
)
def test_bad_input_is_one_message(refused, folder, arguments, words):
    refused(("blind", *arguments), words)


def test_n_cannot_be_changed(cli, refused, folder):
    cli("blind", ID, "--n", "6")
    refused(("blind", ID, "--n", "7"), "created with 6 pairs")


def test_prompts_are_read_from_the_evaluation(refused, cli, folder, cwd):
    (cwd / "d.jsonl").unlink()
    result = cli("blind", ID, "--n", "6", stdin="q")
    assert result.code == 3
    assert "Where is parcel" in result.err
    (folder / "questions.jsonl").unlink()
    refused(("blind", ID), "has no questions.jsonl")


def test_escape_sequences_in_answers_do_not_reach_the_terminal(cli, cwd):
    write_unscored_evaluation(cwd, base="\x1b]0;owned\x07 {at} [bold]x[/bold]", tuned="ok {at}\u202e")
    result = cli("blind", ID, "--n", "6", stdin="q")
    assert "\x1b" not in result.err
    assert "\u202e" not in result.err
    assert "[bold]x[/bold]" in result.err


def test_single_keys_are_read_from_a_terminal(folder, monkeypatch):
    from mlxtune.cli import blind

    main, side = pty.openpty()
    with os.fdopen(side, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        keys = blind._keys()
        keys_read = []
        for data in (b"a", b"\x1b[A", b"T"):
            monkeypatch.setattr(tty, "setraw", _typing(main, data, tty.setraw))
            keys_read.append(next(keys))
            monkeypatch.undo()
            monkeypatch.setattr(sys, "stdin", terminal)
        assert keys_read == ["a", "\x1b[a", "t"]
    os.close(main)


def _typing(main, data, setraw):
    def enter(handle):
        setraw(handle)
        os.write(main, data)

    return enter

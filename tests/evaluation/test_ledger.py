from __future__ import annotations

import json
import os

import pytest

from mlxtune.evaluation.ledger import Seen, ledger, record, seen, sentence

ROWS = ["a1", "b2", "c3"]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def book(tmp_path):
    return ledger(tmp_path / "evals" / "20261124-1412-shop")


def test_ledger_stands_beside_the_evaluations(book, tmp_path):
    assert book == tmp_path / "evals" / "ledger.jsonl"


def test_looks_are_counted_for_the_rows_they_met(book):
    assert seen(book, ROWS) == Seen(0, 0, 0, 0, 0)
    for kind in ("eval", "blind", "judge"):
        record(book, kind, "one", ROWS)
    record(book, "eval", "elsewhere", ["z9"])
    assert seen(book, ROWS).looks == 3
    assert seen(book, ["z9"]).looks == 1
    assert seen(book, ["never"]).looks == 0


@pytest.mark.parametrize(
    ("looks", "text"),
    [(0, "Never seen."), (1, "First look at these rows."), (2, "Seen 2 times."), (7, "Seen 7 times; expect optimism.")],
)
def test_words_warn_from_the_third_look_on(book, looks, text):
    for _ in range(looks):
        record(book, "eval", "one", ROWS)
    assert sentence(seen(book, ROWS)) == text


def test_a_changed_hold_out_is_told(book):
    record(book, "eval", "one", ROWS)
    record(book, "blind", "one", ROWS[:1])
    found = seen(book, ["a1", "d4", "e5"])
    assert (found.new, found.gone) == (2, 2)
    assert "changed since the last look: 2 rows new, 2 gone" in sentence(found)


def test_exported_rows_are_no_test_of_what_trains_on_them(book):
    record(book, "export", "one", ["a1", "b2"])
    found = seen(book, ROWS)
    assert (found.looks, found.exported) == (0, 2)
    assert "2 rows exported for training" in sentence(found)


@pytest.mark.parametrize("line", [0, 1])
def test_an_edited_line_is_seen(book, line):
    for _ in range(3):
        record(book, "eval", "one", ROWS)
    lines = book.read_text().splitlines()
    lines[line] = json.dumps({**json.loads(lines[line]), "by": "another"})
    book.write_text("\n".join(lines) + "\n")
    assert seen(book, ROWS).edited == line + 2
    assert f"edited at line {line + 2}" in sentence(seen(book, ROWS))


def test_a_removed_line_and_a_line_of_nonsense_are_seen(book):
    for _ in range(3):
        record(book, "eval", "one", ROWS)
    lines = book.read_text().splitlines()
    book.write_text("\n".join(lines[1:]) + "\n")
    assert seen(book, ROWS).edited == 1
    book.write_text("\n".join([lines[0], "nonsense", lines[1]]) + "\n")
    assert seen(book, ROWS).edited == 2
    assert seen(book, ROWS).looks == 2


def test_a_torn_last_line_is_written_over(book):
    record(book, "eval", "one", ROWS)
    with book.open("a") as file:
        file.write('{"v": 1, "prev"')
    assert seen(book, ROWS) == Seen(1, 0, 0, 0, 0)
    record(book, "eval", "two", ROWS)
    assert seen(book, ROWS) == Seen(2, 0, 0, 0, 0)

from __future__ import annotations

import json

import pytest

from mlxtune.evaluation.holdout.ledger import HoldoutHistory, history, ledger_path, record
from mlxtune.present.blocks import Fact
from mlxtune.present.verdict import history_facts

ROWS = ["a1", "b2", "c3"]


@pytest.fixture
def book(tmp_path):
    return ledger_path(tmp_path / "evals" / "20261124-1412-shop")


def test_ledger_is_next_to_evaluations(book, tmp_path):
    assert book == tmp_path / "evals" / "ledger.jsonl"


def test_evaluations_are_counted_for_their_rows(book):
    assert history(book, ROWS) == HoldoutHistory(0, 0, 0, 0, 0)
    for kind in ("eval", "blind", "judge"):
        record(book, kind, "one", ROWS)
    record(book, "eval", "elsewhere", ["z9"])
    assert history(book, ROWS) == HoldoutHistory(3, 0, 0, 0, 0, judged=2)
    assert history(book, ["z9"]).evaluations == 1
    assert history(book, ["never"]).evaluations == 0


@pytest.mark.parametrize(
    ("known", "fact"),
    [
        (HoldoutHistory(0, 0, 0, 0, 0), Fact("evaluated", "0 times")),
        (HoldoutHistory(1, 0, 0, 0, 0), Fact("evaluated", "1 time")),
        (
            HoldoutHistory(3, 0, 0, 0, 0, judged=2),
            Fact("evaluated", "3 times", "2 in blind sessions or by a judge; expect optimistic results", "warning"),
        ),
        (HoldoutHistory(1, 0, 2, 1, 0), Fact("rows changed", "2 rows new, 1 removed", "since the last evaluation", "warning")),
        (HoldoutHistory(1, 2, 0, 0, 0), Fact("exported", "2 rows", "for training", "warning")),
        (HoldoutHistory(1, 0, 0, 0, 4), Fact("ledger", "edited at line 4", "its count is unreliable", "error")),
    ],
)
def test_history_is_described(known, fact):
    assert history_facts(known)[-1] == fact


def test_resumed_evaluation_is_counted_once(book):
    for _ in range(2):
        record(book, "eval", "one", ROWS)
    assert history(book, ROWS).evaluations == 1
    record(book, "eval", "one", ["z9", *ROWS])
    assert history(book, ROWS).evaluations == 2


def test_repeated_evaluation_with_the_same_result_is_counted_once(book):
    for by, result in (("one", "same"), ("two", "same"), ("three", "other"), ("four", "")):
        record(book, "eval", by, ROWS, result=result)
    assert history(book, ROWS).evaluations == 3


def test_changed_holdout_is_reported(book):
    record(book, "eval", "one", ROWS)
    record(book, "blind", "one", ROWS[:1])
    summary = history(book, ["a1", "d4", "e5"])
    assert (summary.new, summary.missing) == (2, 2)


def test_exported_rows_are_counted(book):
    record(book, "export", "one", ["a1", "b2"])
    summary = history(book, ROWS)
    assert (summary.evaluations, summary.exported) == (0, 2)


@pytest.mark.parametrize("line", [0, 1])
def test_edited_line_is_detected(book, line):
    for by in ("one", "two", "three"):
        record(book, "eval", by, ROWS)
    lines = book.read_text().splitlines()
    lines[line] = json.dumps({**json.loads(lines[line]), "by": "another"})
    book.write_text("\n".join(lines) + "\n")
    assert history(book, ROWS).edited_line == line + 2


def test_removed_or_malformed_line_is_detected(book):
    for by in ("one", "two", "three"):
        record(book, "eval", by, ROWS)
    lines = book.read_text().splitlines()
    book.write_text("\n".join(lines[1:]) + "\n")
    assert history(book, ROWS).edited_line == 1
    book.write_text("\n".join([lines[0], "nonsense", lines[1]]) + "\n")
    assert history(book, ROWS).edited_line == 2
    assert history(book, ROWS).evaluations == 2


def test_torn_last_line_is_overwritten(book):
    record(book, "eval", "one", ROWS)
    with book.open("a") as file:
        file.write('{"v": 1, "prev"')
    assert history(book, ROWS) == HoldoutHistory(1, 0, 0, 0, 0)
    record(book, "eval", "two", ROWS)
    assert history(book, ROWS) == HoldoutHistory(2, 0, 0, 0, 0)

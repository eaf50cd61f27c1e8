"""The review journal equals a stack of states under random decisions, undo, redo, restarts and crashes at any byte."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyed_rows import with_keys

from mlxtune.core import journal
from mlxtune.core.errors import DataError, InputError, MachineError
from mlxtune.data import review
from mlxtune.data.readers.formats import parse
from mlxtune.data.review import ReviewSession, ReviewState, apply_decision, apply_events
from mlxtune.data.rows import Location, Row
from mlxtune.data.source import read_file, read_source

HERE = Path("shop.jsonl")


def _chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


ROWS: list[Row] = [parse(_chat(f"q{i}", f"a{i}"), Location(HERE, i + 1)) for i in range(4)]
ROWS += [parse({"prompt": f"q{i}", "chosen": "good", "rejected": "bad", "tag": "old"}, Location(HERE, i + 1)) for i in range(4, 7)]
ROWS += [parse(_chat("q0", "a0"), Location(HERE, 8))]  # a copy of the first
PAIRS = range(4, 7)
KEYED = list(with_keys(ROWS))


@contextmanager
def _folder() -> Iterator[Path]:
    """Provide a fresh source for each example of a property test."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "shop.jsonl"
        source.write_text("".join(json.dumps(row.content) + "\n" for row in ROWS))
        yield source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The path of a source; sessions that are given rows do not read it."""
    return tmp_path / "shop.jsonl"


@pytest.fixture
def path(source: Path) -> Path:
    return review.journal_path(source)


SOME = st.sets(st.sampled_from(range(len(ROWS))), min_size=1, max_size=4).map(sorted)
PAIR = st.sets(st.sampled_from(PAIRS), min_size=1, max_size=2).map(sorted)
MOVES = st.one_of(
    st.tuples(st.sampled_from(["accept", "reject", "skip"]), SOME, st.just({})),
    st.tuples(st.sampled_from(["swap", "tie", "bad"]), PAIR, st.just({})),
    st.tuples(
        st.just("tag"),
        SOME,
        st.fixed_dictionaries(
            {"add": st.lists(st.sampled_from("xyz"), max_size=2), "remove": st.lists(st.sampled_from(["x", "old"]))}
        ),
    ),
    st.tuples(st.just("note"), SOME, st.fixed_dictionaries({"note": st.text(max_size=5)})),
    st.tuples(st.just("edit"), st.integers(0, 3).map(lambda index: [index]), st.sampled_from(["a0", "b", "c\n\u2028"])),
    st.tuples(st.sampled_from(["undo", "undo", "redo"]), st.just([]), st.just({})),
    st.tuples(st.just("restart"), st.just([]), st.just({})),
)

Expected = dict[int, dict[str, Any]]  # the expected state of each row


def _initial() -> Expected:
    return {
        index: {"status": "pending", "tags": ["old"] if index in PAIRS else [], "note": "", "content": row.content}
        for index, row in enumerate(ROWS)
    }


def _apply(state: Expected, action: str, indexes: list[int], value: Any) -> Expected:
    after = {index: dict(row_state) for index, row_state in state.items()}
    status = {"accept": "accepted", "reject": "rejected", "skip": "skipped", "swap": "accepted", "tie": "tied", "bad": "bad"}
    for index in indexes:
        row_state = after[index]
        row_state["status"] = status.get(action, row_state["status"])
        if action == "swap":
            row_state["content"] = row_state["content"] | {
                "chosen": row_state["content"]["rejected"],
                "rejected": row_state["content"]["chosen"],
            }
        if action == "edit":
            row_state["content"] = parse(_chat(f"q{index}", value), ROWS[index].location).content
        if action == "tag":
            row_state["tags"] = [tag for tag in row_state["tags"] if tag not in value["remove"]]
            row_state["tags"] += [tag for tag in dict.fromkeys(value["add"]) if tag not in row_state["tags"]]
        if action == "note":
            row_state["note"] = value["note"]
    return after


def _actual(state: ReviewState) -> Expected:
    """Return the same for a review state."""
    rows = {}
    for index, (key, row) in enumerate(KEYED):
        decision = state.decision(key)
        current = apply_decision(row, decision)
        assert current.hash == decision.after
        tags = list(decision.tags) if decision.tags is not None else (["old"] if index in PAIRS else [])
        rows[index] = {"status": decision.status, "tags": tags, "note": decision.note, "content": current.content}
    return rows


@given(st.lists(MOVES, max_size=14), st.lists(st.floats(0, 1), max_size=4))
def test_a_review_survives_undo_restarts_and_crashes(moves, crashes):
    with _folder() as source:
        path = review.journal_path(source)
        session = ReviewSession(source, who="ada")
        states, undone = [_initial()], []
        written = [session.state]
        for action, indexes, value in moves:
            if action == "restart":
                before = session.state
                session.close()
                session = ReviewSession(source, who="ada")
                assert session.state == before
                continue
            if action == "undo":
                assert (session.undo() is not None) == (len(states) > 1)
                if len(states) > 1:
                    undone.append(states.pop())
            elif action == "redo":
                assert (session.redo() is not None) == bool(undone)
                if undone:
                    states.append(undone.pop())
            else:
                arguments = {"record": _chat(f"q{indexes[0]}", value)} if action == "edit" else value
                step = session.decide(action, [KEYED[index] for index in indexes], **arguments)
                after = _apply(states[-1], action, indexes, value)
                assert (step is None) == (after == states[-1])
                if step:
                    states.append(after)
                    undone = []
            assert _actual(session.state) == states[-1]
            if session.state != written[-1]:
                written.append(session.state)
        session.close()
        data = path.read_bytes() if path.exists() else b""  # an empty one is removed
        assert data.count(b"\n") == len(written) - 1
        for cut in (round(fraction * len(data)) for fraction in crashes):
            path.write_bytes(data[:cut])
            expected = written[data[:cut].count(b"\n")]
            assert review.load(source) == expected
            with ReviewSession(source, who="ada") as reopened:  # and it continues from there
                assert reopened.state == expected
                reopened.decide("note", [KEYED[0]], note="after the crash")
                assert review.load(source) == reopened.state
                assert reopened.state.steps[:-1] == expected.steps


def test_every_event_records_who_when_what_and_why(source):
    with ReviewSession(source, who="ada") as session:
        session.decide("edit", KEYED[:1], record=_chat("q0", "better"), reason="a typo")
        session.undo()
    edit, undo = journal.read(review.journal_path(source))
    better = parse(_chat("q0", "better"), ROWS[0].location)
    assert edit["rows"] == [{"row": ROWS[0].hash, "before": ROWS[0].hash, "after": better.hash, "record": better.content}]
    assert {key: edit[key] for key in ("v", "seq", "who", "action", "reason")} == {
        "v": 1, "seq": 0, "who": "ada", "action": "edit", "reason": "a typo",
    }  # fmt: skip
    assert abs(edit["t"] - undo["t"]) < 60
    assert (undo["seq"], undo["action"], undo["undoes"]) == (1, "undo", 0)


def test_a_second_session_can_only_read(source):
    with ReviewSession(source) as session:
        session.decide("accept", KEYED[:1])
        with pytest.raises(InputError, match=r"shop\.jsonl is under review in another window"):
            ReviewSession(source)
        assert review.load(source) == session.state
        session.decide("reject", KEYED[1:2])
    with ReviewSession(source) as later:
        assert len(later.state.steps) == 2


def _replace(path: Path, data: bytes) -> None:
    """Save ``data`` to ``path`` the way git, sync tools and editors do: write another file, and rename it."""
    temporary = path.with_name("other.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


@pytest.mark.parametrize("save", ["rename", "rename to older", "truncate", "delete", "rewrite"])
def test_decisions_survive_a_journal_that_another_program_saves(source, path, save):
    with ReviewSession(source, who="ada") as session:
        session.decide("accept", KEYED[:1])
        session.decide("reject", KEYED[1:2])
        session.undo()
        data = path.read_bytes()
        if save == "rename":
            _replace(path, data)
        elif save == "rename to older":
            _replace(path, data[: data.index(b"\n") + 1])
        elif save == "truncate":
            os.truncate(path, 0)
        elif save == "delete":
            path.unlink()
        else:
            path.write_bytes(data[: data.index(b"\n") + 1])
        session.decide("accept", KEYED[2:4])
        session.decide("tag", KEYED[4:5], add=["late"])
        statuses = [session.state.decision(key).status for key, _ in KEYED]
        assert statuses == ["accepted", "pending", "accepted", "accepted", "pending", "pending", "pending", "pending"]
        assert review.load(source) == session.state
        session.undo()
        assert review.load(source) == session.state


def test_decisions_of_another_program_are_adopted(source, path):
    """Another machine's decisions arrive, numbered like this session's own, which the arriving file lacks."""
    with ReviewSession(source, who="ada") as session:
        session.decide("reject", KEYED[:1])
        other = path.read_bytes().replace(b"ada", b"bob")
    with ReviewSession(source, who="ada") as session:
        session.decide("accept", KEYED[1:2])
        session.decide("accept", KEYED[2:3])
        session.undo()
        _replace(path, other + other.replace(ROWS[0].hash.encode(), ROWS[3].hash.encode()).replace(b'"seq":0', b'"seq":1'))
        assert session.synchronize()
        assert not session.synchronize()
        assert [session.state.decision(KEYED[index][0]).status for index in range(4)] == [
            "rejected",
            "accepted",
            "pending",
            "rejected",
        ]
        assert [(step.seq, step.who) for step in session.state.steps] == [(0, "bob"), (1, "bob"), (2, "ada")]
        assert review.load(source) == session.state
        assert session.redo()
        assert review.load(source) == session.state


def test_decisions_are_restored_when_the_session_closes(source):
    with ReviewSession(source) as session:
        session.decide("accept", KEYED[:3])
        _replace(review.journal_path(source), b"")
    assert len(review.load(source).decisions) == 3


def test_the_lock_outlives_a_replaced_journal(source, path, tmp_path, monkeypatch):
    with ReviewSession(source) as session:
        session.decide("accept", KEYED[:1])
        _replace(path, path.read_bytes())
        with pytest.raises(InputError, match="under review in another window"):  # before this session has noticed
            ReviewSession(source)
        session.decide("accept", KEYED[1:2])
        monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home of another machine"))
        with pytest.raises(InputError, match="under review in another window"):
            ReviewSession(source)
    ReviewSession(source).close()


def test_a_session_that_lost_its_lock_says_so(source, path, tmp_path, monkeypatch):
    """A machine that shares the disk opened the replaced journal first."""
    with ReviewSession(source) as session:
        session.decide("accept", KEYED[:1])
        _replace(path, path.read_bytes())
        with monkeypatch.context() as patch:
            patch.setenv("MLXTUNE_HOME", str(tmp_path / "home of another machine"))
            other = ReviewSession(source)
        before = session.state
        with pytest.raises(InputError, match="under review in another window"):
            session.decide("accept", KEYED[1:2])
        assert session.state == before == review.load(source)
        other.decide("reject", KEYED[2:3])
        other.close()
        session.decide("accept", KEYED[1:2])
        assert len(session.state.steps) == 3
        assert review.load(source) == session.state


def test_a_home_that_is_not_writable_does_not_prevent_a_review(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "file" / "home"))
    with ReviewSession(source) as session:
        assert session.decide("accept", KEYED[:1])


def test_killing_a_session_frees_the_lock_and_keeps_every_decision(source):
    code = (
        "import sys, time; from pathlib import Path; from mlxtune.data.readers.formats import parse; from mlxtune.data.rows import Location\n"
        "from mlxtune.data.review import ReviewSession\n"
        "window = ReviewSession(Path(sys.argv[1]))\n"
        "for i in range(9):\n"
        "    row = parse({'text': str(i)}, Location(Path('x'), 1))\n"
        "    window.decide('accept', [(row.hash, row)]); print(i, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(source)], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(9):
            process.stdout.readline()
        with pytest.raises(InputError, match="another window"):
            ReviewSession(source)
        os.kill(process.pid, signal.SIGKILL)
    with ReviewSession(source) as session:
        assert [item.status for item in session.state.decisions.values()] == ["accepted"] * 9


def test_a_decision_must_fit_the_row(source):
    with ReviewSession(source) as session:
        with pytest.raises(DataError, match=r"shop\.jsonl, line 1: tie applies only to pairs"):
            session.decide("tie", KEYED[:1])
        with pytest.raises(DataError, match=r"shop\.jsonl, line 1: messages must be a non-empty list"):
            session.decide("edit", KEYED[:1], record={"text": "no"})
        with pytest.raises(DataError, match=r"shop\.jsonl, line 1: there is no assistant turn"):
            session.decide("edit", KEYED[:1], record={"messages": [{"role": "user", "content": "q"}]})
        assert session.state == ReviewState()


def test_rejected_rows_are_left_out_and_edits_keep_their_place():
    with _folder() as source, ReviewSession(source) as session:
        for action, row in (("reject", 1), ("tie", 4), ("bad", 5), ("skip", 2)):
            session.decide(action, [KEYED[row]])
        session.decide("edit", KEYED[:1], record=_chat("q0", "better"))
        session.decide("tag", KEYED[:1], add=["kept"])
        reviewed = read_source(source)
    assert reviewed.left_out == 3
    assert [row.location.line for row in reviewed.rows] == [1, 3, 4, 7, 8]
    first = reviewed.rows[0]
    assert (first.reference, first.meta["tags"], first.location.line) == ("better", ["kept"], 1)
    assert reviewed.edited == {first.hash: ROWS[0].hash}


def test_reading_a_source_applies_its_review(source):
    source.write_text('{"instruction": "one", "input": "", "output": "1"}\n{"prompt": "two", "completion": "2"}\n')
    one, two = read_source(source).rows
    with ReviewSession(source) as session:
        session.decide("reject", with_keys([two]))
        session.decide("edit", with_keys([one]), record=_chat("one", "first"))
    read = read_source(source)
    (row,) = read.rows
    assert (row.reference, row.location.line, row.format) == ("first", 1, "alpaca")
    assert (read.left_out, read.edited) == (1, {row.hash: one.hash})
    assert [row.hash for row in read_file(source)] == [one.hash, two.hash]


def test_copies_are_decided_separately(source):
    source.write_text('{"text": "one"}\n{"text": "two"}\n{"text": "one"}\n{"text": "one"}\n')
    rows = list(with_keys(read_file(source)))
    assert [key for key, _ in rows] == [rows[0][1].hash, rows[1][1].hash, f"{rows[0][1].hash}#2", f"{rows[0][1].hash}#3"]
    with ReviewSession(source) as session:
        session.decide("accept", rows[:1])
        session.decide("reject", rows[2:3])
        session.decide("edit", rows[3:], record={"text": "three"})
    read = read_source(source)
    assert [(row.text, row.location.line) for row in read.rows] == [("one", 1), ("two", 2), ("three", 4)]
    assert [location.line for location in read.accepted] == [1]
    source.write_text('{"text": "one"}\n{"text": "new"}\n')  # one copy is left
    assert [row.text for row in read_source(source).rows] == ["one", "new"]


def test_a_changed_source_keeps_decisions_and_lists_orphans(source):
    with ReviewSession(source) as session:
        session.decide("accept", KEYED[:3])
        session.decide("edit", KEYED[2:3], record=_chat("q2", "better"))
        session.decide("tag", KEYED[2:3], add=["kept"])
    better = parse(_chat("q2", "better"), Location(HERE, 9))
    changed = [*ROWS[1:2], better, parse({"text": "new"}, Location(HERE, 10))]
    state = review.load(source)
    assert [item.row for item in state.orphans(row.hash for row in changed)] == [ROWS[0].hash]
    assert [state.decision(row.hash).status for row in changed] == ["accepted", "accepted", "pending"]
    assert apply_decision(better, state.decision(better.hash)).meta["tags"] == ["kept"]
    with ReviewSession(source) as session:  # inherited decisions survive a new one
        session.decide("note", with_keys([better]), note="seen")
        decision = session.state.decision(better.hash)
    assert (decision.row, decision.status, decision.tags, decision.note) == (better.hash, "accepted", ("kept",), "seen")


def test_invalid_events_are_skipped():
    good = {"v": 1, "seq": 3, "t": 1.0, "who": "a", "reason": "", "action": "accept"}
    row = {"row": "a" * 64, "before": "a" * 64, "after": "a" * 64, "status": "accepted"}
    bad = [
        {}, {"seq": "x"}, {"seq": 0, "action": "undo", "undoes": 7}, {"seq": 1, "action": "redo", "redoes": 7}, {"seq": 2, "action": "accept"},
        good | {"rows": [row | {"status": "great"}]}, good | {"rows": 5}, good | {"rows": [row | {"record": 5}]}, good | {"rows": [5]},
    ]  # fmt: skip
    assert apply_events(bad) == ReviewState(next_seq=4)
    state = apply_events([*bad, good | {"seq": 4, "rows": [row]}])
    assert state.decision("a" * 64).status == "accepted"
    assert state.next_seq == 5


def test_a_full_disk_and_a_failed_flush_keep_state_and_journal_equal(source, monkeypatch):
    with ReviewSession(source) as session:
        session.decide("accept", KEYED[:1])
        before = session.state
        with monkeypatch.context() as patch:
            patch.setattr(journal.os, "write", lambda *_: _raise_disk_full())
            with pytest.raises(MachineError, match="disk is full"):
                session.decide("reject", KEYED[:1])
        assert session.state == before == review.load(source)
        with monkeypatch.context() as patch:
            patch.setattr(journal.os, "fsync", lambda *_: _raise_disk_full())
            with pytest.raises(MachineError, match="disk is full"):
                session.decide("reject", KEYED[:1])
        assert session.state == review.load(source) != before
        session.decide("skip", KEYED[:1])
        assert session.state == review.load(source)


def _raise_disk_full() -> None:
    raise OSError(errno.ENOSPC, "full")


def test_a_newer_journal_version_is_refused(source):
    review.journal_path(source).write_text('{"v": 2, "seq": 0}\n')
    with pytest.raises(InputError, match="another version"):
        review.load(source)
    with pytest.raises(InputError, match="another version"):
        ReviewSession(source)


def test_rows_edited_together_are_one_decision() -> None:
    with _folder() as source, ReviewSession(source) as session:
        edits = {key: parse(_chat(f"q{index}", f"better {index}"), row.location) for index, (key, row) in enumerate(KEYED[:2])}
        session.decide("edit", KEYED[:2], edits=edits)
        assert [apply_decision(row, session.state.decision(key)).content["messages"][1]["content"] for key, row in KEYED[:2]] == [
            "better 0",
            "better 1",
        ]
        session.undo()
        assert session.state.decisions == {}

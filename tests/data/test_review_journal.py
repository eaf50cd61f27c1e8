"""The journal of a review against a stack of whole states, over random decisions, undo, redo, restarts and crashes at any byte."""

from __future__ import annotations

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
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxtune.core import journal
from mlxtune.core.errors import DataError, InputError, MachineError
from mlxtune.data import review
from mlxtune.data.decisions import Decision, State, apply, fold, keyed, now
from mlxtune.data.formats import parse
from mlxtune.data.review import Review
from mlxtune.data.rows import Conversation, Place, Preference, Row, Text
from mlxtune.data.source import read_file, read_source

HERE = Path("shop.jsonl")


def _chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


ROWS: list[Row] = [parse(_chat(f"q{at}", f"a{at}"), Place(HERE, at + 1)) for at in range(4)]
ROWS += [parse({"prompt": f"q{at}", "chosen": "good", "rejected": "bad", "tag": "old"}, Place(HERE, at + 1)) for at in range(4, 7)]
ROWS += [parse(_chat("q0", "a0"), Place(HERE, 8))]  # a copy of the first
PAIRS = range(4, 7)
KEYED = list(keyed(ROWS))


@contextmanager
def _folder() -> Iterator[Path]:
    """A place of its own for each example of a property."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "shop.jsonl"
        source.write_text("".join(json.dumps(row.content) + "\n" for row in ROWS))
        yield source


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
    st.tuples(st.just("edit"), st.integers(0, 3).map(lambda at: [at]), st.sampled_from(["a0", "b", "c\n\u2028"])),
    st.tuples(st.sampled_from(["undo", "undo", "redo"]), st.just([]), st.just({})),
    st.tuples(st.just("restart"), st.just([]), st.just({})),
)

Told = dict[int, dict[str, Any]]  # what is true of each row, as a reader of the manual would keep it


def _fresh() -> Told:
    return {
        at: {"status": "pending", "tags": ["old"] if at in PAIRS else [], "note": "", "content": row.content}
        for at, row in enumerate(ROWS)
    }


def _after(told: Told, action: str, which: list[int], more: Any) -> Told:
    after = {at: dict(facts) for at, facts in told.items()}
    status = {"accept": "accepted", "reject": "rejected", "skip": "skipped", "swap": "accepted", "tie": "tied", "bad": "bad"}
    for at in which:
        facts = after[at]
        facts["status"] = status.get(action, facts["status"])
        if action == "swap":
            facts["content"] = facts["content"] | {"chosen": facts["content"]["rejected"], "rejected": facts["content"]["chosen"]}
        if action == "edit":
            facts["content"] = parse(_chat(f"q{at}", more), ROWS[at].place).content
        if action == "tag":
            facts["tags"] = [tag for tag in facts["tags"] if tag not in more["remove"]]
            facts["tags"] += [tag for tag in dict.fromkeys(more["add"]) if tag not in facts["tags"]]
        if action == "note":
            facts["note"] = more["note"]
    return after


def _seen(state: State) -> Told:
    """The same, as the state tells it."""
    found = {}
    for at, (key, row) in enumerate(KEYED):
        held = state.of(key)
        current = now(row, held)
        assert current.hash == held.after
        tags = list(held.tags) if held.tags is not None else (["old"] if at in PAIRS else [])
        found[at] = {"status": held.status, "tags": tags, "note": held.note, "content": current.content}
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(MOVES, max_size=14), st.lists(st.floats(0, 1), max_size=4))
def test_a_review_is_what_its_decisions_say_whatever_is_undone_restarted_or_cut_off(moves, crashes):
    with _folder() as source:
        path = review.journal_path(source)
        window = Review(source, who="ada")
        done, undone = [_fresh()], []
        written = [window.state]
        for action, which, more in moves:
            if action == "restart":
                before = window.state
                window.close()
                window = Review(source, who="ada")
                assert window.state == before
                continue
            if action == "undo":
                assert (window.undo() is not None) == (len(done) > 1)
                if len(done) > 1:
                    undone.append(done.pop())
            elif action == "redo":
                assert (window.redo() is not None) == bool(undone)
                if undone:
                    done.append(undone.pop())
            else:
                told = {"record": _chat(f"q{which[0]}", more)} if action == "edit" else more
                step = window.decide(action, [KEYED[at] for at in which], **told)
                after = _after(done[-1], action, which, more)
                assert (step is None) == (after == done[-1])
                if step:
                    done.append(after)
                    undone = []
            assert _seen(window.state) == done[-1]
            if window.state != written[-1]:
                written.append(window.state)
        window.close()
        whole = path.read_bytes()
        assert whole.count(b"\n") == len(written) - 1
        for cut in (round(share * len(whole)) for share in crashes):
            path.write_bytes(whole[:cut])
            there = written[whole[:cut].count(b"\n")]
            assert review.load(source) == there
            with Review(source, who="ada") as again:  # and it goes on from there
                assert again.state == there
                again.decide("note", [KEYED[0]], note="after the crash")
                assert review.load(source) == again.state
                assert again.state.done[:-1] == there.done


def test_a_crash_at_any_byte_loses_at_most_the_decision_that_was_being_written(tmp_path):
    source = tmp_path / "shop.jsonl"
    with Review(source, who="ada") as window:
        states = [window.state]
        for act in (
            lambda: window.decide("accept", KEYED[:2], reason="é"),
            lambda: window.decide("edit", KEYED[:1], record=_chat("q0", "better")),
            window.undo,
            window.redo,
        ):
            act()
            states.append(window.state)
    path = review.journal_path(source)
    whole = path.read_bytes()
    for cut in range(len(whole), -1, -1):
        os.truncate(path, cut)
        assert review.load(source) == states[whole[:cut].count(b"\n")]


def test_every_event_says_who_when_what_and_why(tmp_path):
    with Review(tmp_path / "shop.jsonl", who="ada") as window:
        window.decide("edit", KEYED[:1], record=_chat("q0", "better"), reason="a typo")
        window.undo()
    edit, undo = journal.read(tmp_path / "shop.review.jsonl")
    better = parse(_chat("q0", "better"), ROWS[0].place)
    assert edit["rows"] == [{"row": ROWS[0].hash, "before": ROWS[0].hash, "after": better.hash, "record": better.content}]
    assert {key: edit[key] for key in ("v", "seq", "who", "action", "reason")} == {
        "v": 1, "seq": 0, "who": "ada", "action": "edit", "reason": "a typo",
    }  # fmt: skip
    assert abs(edit["t"] - undo["t"]) < 60
    assert (undo["seq"], undo["action"], undo["undoes"]) == (1, "undo", 0)


def test_a_bulk_decision_is_undone_in_one_piece(tmp_path):
    with Review(tmp_path / "shop.jsonl") as window:
        window.decide("accept", KEYED[:1])
        assert len(window.decide("reject", KEYED).changes) == len(ROWS)
        window.undo()
        assert [window.state.of(key).status for key, _ in KEYED] == ["accepted", *["pending"] * (len(ROWS) - 1)]
        window.undo()
        assert window.state.decisions == {}


def test_nothing_is_written_for_what_changes_nothing(tmp_path):
    with Review(tmp_path / "shop.jsonl") as window:
        window.decide("accept", KEYED[:1])
        assert window.decide("accept", KEYED[:1]) is None
        assert window.decide("tag", KEYED[4:5], add=["old"]) is None
        assert window.undo()
        assert window.undo() is None
    assert len(journal.read(tmp_path / "shop.review.jsonl")) == 2


def test_a_second_window_may_look_and_not_decide(tmp_path):
    source = tmp_path / "shop.jsonl"
    with Review(source) as window:
        window.decide("accept", KEYED[:1])
        with pytest.raises(InputError, match=r"shop\.jsonl is under review in another window"):
            Review(source)
        assert review.load(source) == window.state
        window.decide("reject", KEYED[1:2])
    with Review(source) as later:
        assert len(later.state.done) == 2


def test_killing_a_window_lets_go_of_the_lock_and_keeps_every_decision(tmp_path):
    source = tmp_path / "shop.jsonl"
    code = (
        "import sys, time; from pathlib import Path; from mlxtune.data.formats import parse; from mlxtune.data.rows import Place\n"
        "from mlxtune.data.review import Review; from mlxtune.data.decisions import keyed\n"
        "window = Review(Path(sys.argv[1]))\n"
        "for at in range(9): window.decide('accept', keyed([parse({'text': str(at)}, Place(Path('x'), 1))])); print(at, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(source)], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(9):
            process.stdout.readline()
        with pytest.raises(InputError, match="another window"):
            Review(source)
        os.kill(process.pid, signal.SIGKILL)
    with Review(source) as window:
        assert [item.status for item in window.state.decisions.values()] == ["accepted"] * 9


def test_a_pairs_verdict_and_an_edit_must_fit_the_row(tmp_path):
    with Review(tmp_path / "shop.jsonl") as window:
        with pytest.raises(DataError, match=r"shop\.jsonl, line 1: only a pair can be called tie"):
            window.decide("tie", KEYED[:1])
        with pytest.raises(DataError, match=r"shop\.jsonl, line 1: messages must be a list"):
            window.decide("edit", KEYED[:1], record={"text": "no"})
        with pytest.raises(DataError, match=r"shop\.jsonl, line 1: no assistant turn"):
            window.decide("edit", KEYED[:1], record={"messages": [{"role": "user", "content": "q"}]})
        assert window.state == State()


def test_swapping_twice_is_the_sources_own_pair_again(tmp_path):
    with Review(tmp_path / "shop.jsonl") as window:
        window.decide("swap", KEYED[4:5])
        swapped = now(ROWS[4], window.state.of(ROWS[4].hash))
        assert isinstance(swapped, Preference)
        assert (swapped.chosen, swapped.rejected) == ("bad", "good")
        window.decide("swap", KEYED[4:5])
        assert window.state.of(ROWS[4].hash) == Decision(ROWS[4].hash, ROWS[4].hash, "accepted")


def test_rejected_tied_and_bad_rows_are_left_out_and_edits_stand_in_place(tmp_path):
    with Review(tmp_path / "shop.jsonl") as window:
        for action, row in (("reject", 1), ("tie", 4), ("bad", 5), ("skip", 2)):
            window.decide(action, [KEYED[row]])
        window.decide("edit", KEYED[:1], record=_chat("q0", "better"))
        window.decide("tag", KEYED[:1], add=["kept"])
        reviewed = apply(ROWS, window.state)
    assert reviewed.left_out == 3
    assert [row.place.line for row in reviewed.rows] == [1, 3, 4, 7, 8]
    first = reviewed.rows[0]
    assert isinstance(first, Conversation)
    assert (first.reference, first.meta["tags"], first.place) == ("better", ["kept"], ROWS[0].place)
    assert reviewed.edited == {first.hash: ROWS[0].hash}


def test_whoever_reads_a_source_reads_it_as_it_was_reviewed(tmp_path):
    source = tmp_path / "shop.jsonl"
    source.write_text('{"instruction": "one", "input": "", "output": "1"}\n{"prompt": "two", "completion": "2"}\n')
    one, two = read_source(source).rows
    with Review(source) as window:
        window.decide("reject", keyed([two]))
        window.decide("edit", keyed([one]), record=_chat("one", "first"))
    read = read_source(source)
    (row,) = read.rows
    assert (row.reference, row.place.line, row.format) == ("first", 1, "alpaca")
    assert (read.left_out, read.edited) == (1, {row.hash: one.hash})
    assert [row.hash for row in read_file(source)] == [one.hash, two.hash]


def test_of_several_copies_each_is_decided_on_by_itself(tmp_path):
    source = tmp_path / "shop.jsonl"
    source.write_text('{"text": "one"}\n{"text": "two"}\n{"text": "one"}\n{"text": "one"}\n')
    rows = list(keyed(read_file(source)))
    assert [key for key, _ in rows] == [rows[0][1].hash, rows[1][1].hash, f"{rows[0][1].hash}#2", f"{rows[0][1].hash}#3"]
    with Review(source) as window:
        window.decide("accept", rows[:1])
        window.decide("reject", rows[2:3])
        window.decide("edit", rows[3:], record={"text": "three"})
    read = read_source(source)
    assert [(row.text, row.place.line) for row in read.rows] == [("one", 1), ("two", 2), ("three", 4)]
    assert [place.line for place in read.accepted] == [1]
    source.write_text('{"text": "one"}\n{"text": "new"}\n')  # one copy is left, and it does not matter which
    assert [row.text for row in read_source(source).rows] == ["one", "new"]


def test_a_changed_source_keeps_decisions_and_lists_those_that_lost_their_row(tmp_path):
    with Review(tmp_path / "shop.jsonl") as window:
        window.decide("accept", KEYED[:3])
        window.decide("edit", KEYED[2:3], record=_chat("q2", "better"))
        window.decide("tag", KEYED[2:3], add=["kept"])
    better = parse(_chat("q2", "better"), Place(HERE, 9))
    changed = [*ROWS[1:2], better, parse({"text": "new"}, Place(HERE, 10))]
    state = review.load(tmp_path / "shop.jsonl")
    assert [item.row for item in state.orphans(row.hash for row in changed)] == [ROWS[0].hash]
    assert [state.of(row.hash).status for row in changed] == ["accepted", "accepted", "pending"]
    assert now(better, state.of(better.hash)).meta["tags"] == ["kept"]
    with Review(tmp_path / "shop.jsonl") as window:  # what it inherits stays when it is decided on
        window.decide("note", keyed([better]), note="seen")
        held = window.state.of(better.hash)
    assert (held.row, held.status, held.tags, held.note) == (better.hash, "accepted", ("kept",), "seen")


def test_events_that_make_no_sense_are_passed_over():
    good = {"v": 1, "seq": 3, "t": 1.0, "who": "a", "reason": "", "action": "accept"}
    row = {"row": "a" * 64, "before": "a" * 64, "after": "a" * 64, "status": "accepted"}
    bad = [
        {}, {"seq": "x"}, {"seq": 0, "action": "undo", "undoes": 7}, {"seq": 1, "action": "redo", "redoes": 7}, {"seq": 2, "action": "accept"},
        good | {"rows": [row | {"status": "great"}]}, good | {"rows": 5}, good | {"rows": [row | {"record": 5}]}, good | {"rows": [5]},
    ]  # fmt: skip
    assert fold(bad) == State(next=4)
    state = fold([*bad, good | {"seq": 4, "rows": [row]}])
    assert state.of("a" * 64).status == "accepted"
    assert state.next == 5


def test_a_full_disk_decides_nothing_and_a_flush_that_fails_forgets_nothing(tmp_path, monkeypatch):
    with Review(tmp_path / "shop.jsonl") as window:
        window.decide("accept", KEYED[:1])
        before = window.state
        with monkeypatch.context() as patch:
            patch.setattr(journal.os, "write", lambda *_: _full())
            with pytest.raises(MachineError, match="disk is full"):
                window.decide("reject", KEYED[:1])
        assert window.state == before == review.load(tmp_path / "shop.jsonl")
        with monkeypatch.context() as patch:
            patch.setattr(journal.os, "fsync", lambda *_: _full())
            with pytest.raises(MachineError, match="disk is full"):
                window.decide("reject", KEYED[:1])
        assert window.state == review.load(tmp_path / "shop.jsonl") != before
        window.decide("skip", KEYED[:1])
        assert window.state == review.load(tmp_path / "shop.jsonl")


def _full() -> None:
    raise OSError(errno.ENOSPC, "full")


def test_the_journal_of_a_newer_version_is_refused(tmp_path):
    (tmp_path / "shop.review.jsonl").write_text('{"v": 2, "seq": 0}\n')
    with pytest.raises(DataError, match="another version"):
        review.load(tmp_path / "shop.jsonl")
    with pytest.raises(DataError, match="another version"):
        Review(tmp_path / "shop.jsonl")


def test_the_source_is_never_written(tmp_path):
    source = tmp_path / "shop.jsonl"
    source.write_text('{"text": "one"}\n')
    before = source.stat()
    with Review(source) as window:
        window.decide("edit", keyed([Text(Place(source, 1), {}, "one")]), record={"text": "two"})
    after = source.stat()
    assert (source.read_text(), before.st_mtime_ns, before.st_ino) == ('{"text": "one"}\n', after.st_mtime_ns, after.st_ino)


def test_rows_that_are_edited_together_are_one_decision() -> None:
    with _folder() as source, Review(source) as window:
        records = {KEYED[at][0]: _chat(f"q{at}", f"better {at}") for at in (0, 1)}
        step = window.decide("edit", KEYED[:2], records=records)
        assert step is not None
        assert [now(row, window.state.of(key)).content["messages"][1]["content"] for key, row in KEYED[:2]] == [
            "better 0",
            "better 1",
        ]
        window.undo()
        assert window.state.decisions == {}

"""Browsing a source against reading all of it: keys, decisions, filters, findings and orders are the same by either way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.errors import DataError
from mlxtune.data import filters
from mlxtune.data.browse import ORDERS, Browse
from mlxtune.data.checks import Tokens, check
from mlxtune.data.checks.checked import Checked
from mlxtune.data.decisions import Decision, State, keyed
from mlxtune.data.filters import Subject
from mlxtune.data.hashes import Hashes
from mlxtune.data.review import Review
from mlxtune.data.source import files
from mlxtune.data.store import open_store


def chat(question: str, answer: str, **meta: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "meta": meta}


ROWS: list[Any] = [
    chat("Where is my parcel?", "On its way.", tags=["shipping"]),
    chat("May I return the tent?", "Write to ada@example.com and send it back."),
    "no row",
    chat("Where is my parcel?", "On its way.", note="a copy, but for its metadata"),
    chat("Is the lamp warm?", "No. " * 200, tags=["product"]),
    chat("Where is my parcel?", "On its way."),
]


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "shop.jsonl", ROWS)


def learned(path: Path) -> Browse:
    browse = Browse(path)
    for _ in browse.learn():
        pass
    return browse


def whole(path: Path) -> dict[int, Any]:
    """Every row of ``path`` with its key, read as the command line does, by its number."""
    found, start = {}, 0
    for file in files(path).values():
        with open_store(file) as store:
            records = list(store)
        there = [at for at, record in enumerate(records) if not isinstance(record, DataError)]
        rows = keyed(record for record in records if not isinstance(record, DataError))
        found |= {start + at: pair for at, pair in zip(there, rows, strict=True)}
        start += len(records)
    return found


def test_rows_have_the_keys_that_the_review_gives_them(source: Path) -> None:
    browse, every = learned(source), whole(source)
    assert len(browse) == 6
    assert browse.bad == 1
    assert {at: browse.keyed(at) for at in every} == every
    assert [key.partition("#")[2] for key, _ in every.values()] == ["", "", "2", "", "3"]
    with pytest.raises(DataError, match="must be a JSON object"):
        browse.keyed(2)


def test_copies_in_different_files_of_a_folder_share_one_key(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    write(folder / "train.jsonl", ROWS)
    write(folder / "test.jsonl", [ROWS[0]])
    browse, every = learned(folder), whole(folder)
    assert {at: browse.keyed(at) for at in every} == every
    with Review(folder) as review:
        step = review.decide("reject", [browse.keyed(6)])
        browse.hold(review.state, step)
    assert [browse.decision(at).status for at in (0, 3, 6)] == ["rejected", "pending", "rejected"]
    assert step is not None
    assert browse.rows_of([after.row for _, after in step.changes]) == [0, 6]


def test_a_row_that_was_not_come_to_can_be_seen_but_not_decided_upon(source: Path) -> None:
    browse = Browse(source)
    assert browse.known == 0
    assert browse.seen(5).row.question[0]["content"] == "Where is my parcel?"
    with pytest.raises(DataError, match="Row 6 was not read yet"):
        browse.keyed(5)
    assert list(browse.learn())[-1] == 6
    assert browse.keyed(5)[0].endswith("#3")


def test_what_holds_is_what_the_journal_says_however_it_came_about(source: Path) -> None:
    browse, every = learned(source), whole(source)

    def same(state: State) -> None:
        fresh = learned(source)
        fresh.hold(state)
        early = Browse(source)
        early.hold(state)
        assert list(early.learn())[-1] == 6
        for at, (key, _) in every.items():
            held = state.of(key)
            for one in (browse, fresh, early):
                seen = one.decision(at)
                assert (seen.status, seen.tags, seen.note, seen.record) == (held.status, held.tags, held.note, held.record), at

    with Review(source) as review:
        moves: list[tuple[Any, list[int], dict[str, Any]]] = [
            ("accept", [0, 5], {}), ("tag", [3], {"add": ["late"]}), ("edit", [1], {"record": chat("Where is my parcel?", "On its way.")}),
            ("reject", [1, 4], {}), ("edit", [4], {"record": chat("Is it warm?", "No.")}), ("note", [5], {"note": "look"}),
        ]  # fmt: skip
        for action, rows, more in moves:
            step = review.decide(action, [browse.keyed(at) for at in rows], **more)
            assert step is not None
            browse.hold(review.state, step)
            same(review.state)
        while step := review.undo():
            browse.hold(review.state, step)
            same(review.state)
        assert not browse.decided
        while step := review.redo():
            browse.hold(review.state, step)
        same(review.state)


def test_what_was_decided_can_be_walked_over_while_more_is(source: Path) -> None:
    browse = learned(source)
    with Review(source) as review:
        step = review.decide("accept", [browse.keyed(0), browse.keyed(1)])
        browse.hold(review.state, step)
        walk = iter(browse.decided.items())
        assert next(walk)[0] == 0
        step = review.decide("skip", [browse.keyed(4)])
        browse.hold(review.state, step)
    assert [at for at, _ in walk] == [1]
    assert (len(browse.decided), browse.settled) == (3, 2)
    known = browse.tags
    assert known == {"shipping": 1, "product": 1}
    known["late"] += 1
    assert "late" not in browse.tags


def test_keys_are_found_among_sorted_rows_as_among_those_that_come_after_them(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxtune.data.hashes._TAIL", 2)
    write(source, [*ROWS, *ROWS, *ROWS])
    browse, every = learned(source), whole(source)
    assert {at: browse.keyed(at) for at in every} == every
    assert browse.rows_of(key for key, _ in every.values()) == list(every)
    hashes = Hashes(18)
    for at, (_, row) in every.items():
        hashes.put(at, row.hash)
        assert [*hashes.rows(row.hash, at + 1)] == [one for one in every if one <= at and every[one][1].hash == row.hash]


def standing(browse: Browse) -> dict[str, list[int]]:
    found = browse.standing
    assert found is not None
    return {check: list(rows) for check, rows in found.rows.items()}


FILTERS = ["", "status:pending", "status:rejected", "parcel", "-parcel", "tag:late", "tag:shipping", "len>100", "/On its/ -status:accepted",
           "finding:email", "status:edited"]  # fmt: skip


@pytest.mark.parametrize("text", FILTERS)
def test_a_filter_shows_the_rows_that_it_shows_where_all_are_read(source: Path, text: str) -> None:
    browse, every = learned(source), whole(source)
    browse.checked = Checked.of(check(source))
    with Review(source) as review:
        review.decide("reject", [browse.keyed(3)])
        review.decide("tag", [browse.keyed(5)], add=["late"])
        review.decide("edit", [browse.keyed(4)], record=chat("Is it warm?", "No."))
        browse.hold(review.state)
    holds = filters.parse(text)
    found = {at: frozenset(one.check for one in browse.checked.by_row.get(at, ())) for at in every}
    expected = [at for at, pair in every.items() if holds(Subject.of(pair, browse.state, found[at]))]
    assert [at for _, some in browse.matching(holds) for at in some] == expected


def test_a_filter_follows_the_reading(source: Path) -> None:
    browse = Browse(source)
    reading, matching = browse.learn(), browse.matching(filters.parse("parcel"))
    assert next(matching) == (0, []), "it waits for the first row"
    assert list(reading)[-1] == 6
    assert [at for _, some in matching for at in some] == [0, 3, 5]


def test_an_edit_is_looked_at_again_and_a_row_left_out_counts_no_more(source: Path) -> None:
    browse = learned(source)
    assert browse.findings(1) == ()
    browse.checked = Checked.of(check(source))
    assert [one.check for one in browse.findings(1)] == ["email"]
    assert standing(browse)["email"] == [1]
    assert standing(browse)["duplicate"] == [3, 5]
    with Review(source) as review:
        step = review.decide("edit", [browse.keyed(1)], record=chat("May I return the tent?", "Call +49 30 901820."))
        browse.hold(review.state, step)
        assert [one.check for one in browse.findings(1)] == ["phone"]
        step = review.decide("reject", [browse.keyed(3)])
        browse.hold(review.state, step)
    assert standing(browse)["phone"] == [1]
    assert "email" not in standing(browse)
    assert standing(browse)["duplicate"] == [5]
    assert [one.check for one in browse.findings(3)] == ["duplicate"], "that it is a copy stays true"
    found = browse.standing
    assert found is not None
    assert (found.word, found.left_out, found.edited, found.flagged) == ("blocked", 1, 1, 4)
    assert found.sentence.startswith("Not ready. 1 row of 5 ")


def test_rows_are_sorted_by_number_gravity_and_length(source: Path) -> None:
    browse = learned(source)
    browse.checked = Checked.of(check(source))
    rows = [0, 1, 3, 4, 5]
    by = {order: list(browse.sorted(rows, order)) for order in ORDERS}
    assert by["row"] == rows
    assert by["findings"] == [1, 3, 4, 5, 0]
    assert by["longest"][0] == 4
    assert by["shortest"] == [0, 3, 5, 1, 4]


def test_tokens_of_an_edited_row_are_unknown(source: Path) -> None:
    browse = learned(source)
    tokens = [Tokens(10 + at, 3) if at != 2 else None for at in range(6)]
    browse.checked = Checked.of(check(source, tokens=tokens, max_tokens=12))
    assert [browse.tokens(at) for at in range(6)] == [10, 11, -1, 13, 14, 15]
    with Review(source) as review:
        step = review.decide("edit", [browse.keyed(4)], record=chat("Is it warm?", "No."))
        browse.hold(review.state, step)
    assert browse.tokens(4) == -1
    assert [one.check for one in browse.findings(4)] == [], "it may fit now"
    assert browse.decision(0) == Decision("", "")


def test_what_a_check_found_survives_being_written(source: Path) -> None:
    found = Checked.of(check(source, share=lambda row: "test" if "the tent" in str(row.content) else "train"))
    again = Checked.read(json.loads(json.dumps(found.write())))
    assert again.write() == found.write()
    assert again.findings == found.findings
    assert [again.share(at) for at in range(7)] == ["train", "test", None, "train", "train", "train", None]
    assert again.shares == {"train": 4, "valid": 0, "test": 1}


def test_rows_are_found_by_the_beginning_of_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{at}", "completion": "a"}) + "\n" for at in range(20)))
    browse = Browse(path)
    for _ in browse.learn():
        pass
    hash = browse.seen(7).row.hash
    assert browse.starting(hash[:12]) == browse.starting(hash) == [7]
    assert browse.starting("") == list(range(20))

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxtune.core.errors import DataError
from mlxtune.data import split as splits
from mlxtune.data.rows import Conversation, Message, Place, Row
from mlxtune.data.source import Source
from mlxtune.data.split import Split, group, split
from mlxtune.recipe import DataSection

DATA = DataSection("d", holdout=0.2, validation=0.1)


def _row(question: str, answer: str = "a", **meta: object) -> Conversation:
    return Conversation(Place(Path("d.jsonl"), 1), dict(meta), (Message("user", question), Message("assistant", answer)))


def _source(rows: list[Row], **parts: list[Row]) -> Source:
    return Source(Path("d"), {"all": tuple(rows)} if not parts else {name: tuple(items) for name, items in parts.items()})


def _where(shares: Split) -> dict[str, str]:
    return {row.hash: name for name in ("train", "valid", "test") for row in getattr(shares, name)}


BASE = [_row(f"question {number}") for number in range(60)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=10), max_size=15, unique=True), st.randoms(use_true_random=False))
def test_adding_or_shuffling_rows_never_moves_old_ones(texts, random):
    before = _where(split(_source(list(BASE)), DATA))
    rows = [*BASE, *(_row("new " + text) for text in texts)]
    random.shuffle(rows)
    after = _where(split(_source(rows), DATA))
    assert {key: after[key] for key in before} == before
    assert len(after) == len({row.hash for row in rows})


def test_removing_rows_never_moves_the_rest():
    before = _where(split(_source(list(BASE)), DATA))
    after = _where(split(_source(list(BASE[10:])), DATA))
    assert after == {row.hash: before[row.hash] for row in BASE[10:]}


def test_shares_are_about_what_was_asked_for():
    shares = split(_source([_row(str(number)) for number in range(4000)]), DATA)
    assert abs(len(shares.test) - 800) < 130  # five standard deviations
    assert abs(len(shares.valid) - 400) < 95
    assert len(shares.train) + len(shares.valid) + len(shares.test) == 4000


def test_held_out_rows_do_not_depend_on_the_validation_share():
    one = split(_source(list(BASE)), DATA)
    two = split(_source(list(BASE)), dataclasses.replace(DATA, validation=0.4))
    assert one.test == two.test


def test_another_seed_is_another_split():
    assert _where(split(_source(list(BASE)), DATA)) != _where(split(_source(list(BASE)), dataclasses.replace(DATA, seed=8)))


def test_rows_with_one_question_stay_together_whatever_case_space_and_answer():
    rows = [
        _row(text, str(number)) for number in range(50) for text in (f"Where is order {number}?", f"  where IS\norder {number}? ")
    ]
    where = _where(split(_source(rows), DATA))
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert where[one.hash] == where[two.hash]


def test_group_by_keeps_a_value_of_the_metadata_together():
    rows = [_row(f"question {number}", customer=number // 5) for number in range(200)]
    shares = split(_source(rows), dataclasses.replace(DATA, group_by="customer"))
    sides = [{row.meta["customer"] for row in share} for share in (shares.train, shares.valid, shares.test)]
    assert sides[0] | sides[1] | sides[2] == set(range(40))
    assert sum(map(len, sides)) == 40


def test_rows_without_the_group_key_go_by_their_question():
    assert group(_row("q"), "customer") == group(_row(" Q "), "") != group(_row("q", customer=1), "customer")


def test_parts_that_files_decide_are_kept():
    train, test = [_row(f"t{number}") for number in range(40)], [_row("held")]
    shares = split(_source([], train=train, test=test), DATA)
    assert shares.test == tuple(test)
    assert {row.hash for row in (*shares.train, *shares.valid)} == {row.hash for row in train}
    assert shares.valid


def test_held_out_question_in_a_train_file_is_refused_and_named():
    train = [*(_row(f"t{number}") for number in range(40)), _row("HELD  out?")]
    with pytest.raises(DataError, match=r"1 row about to train stands in the held-out share too: d\.jsonl, line 1"):
        split(_source([], train=train, valid=[_row("v")], test=[_row("held out?", "other")]), DATA)


def test_sealed_rows_are_refused_later_too():
    shares = split(_source(list(BASE)), DATA)
    shares.refuse_sealed(shares.train)
    with pytest.raises(DataError, match="2 rows about to train stand"):
        shares.refuse_sealed([*shares.train, *shares.test[:2]])


def test_too_few_rows_name_the_empty_share():
    with pytest.raises(DataError, match=r"too few: the (train|valid|test) share is empty"):
        split(_source([_row("only")]), DATA)


def test_share_that_was_not_asked_for_may_be_empty():
    shares = split(_source([_row("only")]), DataSection("d", holdout=0.0, validation=0.0))
    assert (len(shares.train), shares.valid, shares.test) == (1, (), ())


def test_rows_are_hashed_a_few_times_each_and_not_once_per_pair(monkeypatch):
    calls = []
    real = splits.group
    monkeypatch.setattr(splits, "group", lambda row, key: calls.append(1) or real(row, key))
    split(_source([_row(str(number)) for number in range(300)]), DATA)
    assert len(calls) <= 3 * 300

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxtune.core.errors import DataError
from mlxtune.data import split as splits
from mlxtune.data.rows import Conversation, Message, Place, Row
from mlxtune.data.similar import jaccard
from mlxtune.data.source import Source
from mlxtune.data.split import Split, group, record, split
from mlxtune.recipe import DataSection

DATA = DataSection("d", holdout=0.2, validation=0.1)


def _row(question: str, answer: str = "a", **meta: object) -> Conversation:
    return Conversation(Place(Path("d.jsonl"), 1), dict(meta), (Message("user", question), Message("assistant", answer)))


def _source(rows: list[Row], **parts: list[Row]) -> Source:
    return Source(Path("d"), {"all": tuple(rows)} if not parts else {name: tuple(items) for name, items in parts.items()})


def _where(shares: Split) -> dict[str, str]:
    return {row.hash: name for name in ("train", "valid", "test") for row in getattr(shares, name)}


def _about(number: int) -> str:
    """A question that is like no other."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:30]


BASE = [_row(_about(number)) for number in range(60)]


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
    shares = split(_source([_row(_about(number)) for number in range(4000)]), DATA)
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
        _row(text, str(number))
        for number in range(50)
        for text in (f"Where {_about(number)}?", f"  where\n{_about(number).upper()}? ")
    ]
    where = _where(split(_source(rows), DATA))
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert where[one.hash] == where[two.hash]


def test_group_by_keeps_a_value_of_the_metadata_together():
    rows = [_row(_about(number), customer=number // 5) for number in range(200)]
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
    real = splits.question
    monkeypatch.setattr(splits, "question", lambda row: calls.append(1) or real(row))
    split(_source([_row(_about(number)) for number in range(300)]), DATA)
    assert len(calls) <= 3 * 300


LONG = "Please tell me where my parcel with the two blue tents and the stove is by now, it left the shop days ago"


def test_near_twins_stay_together():
    rows = [_row(f"{_about(number)} {LONG[number % 40 :]}{end}") for number in range(80) for end in ("", ".")]
    assert all(jaccard(str(one.question), str(two.question)) >= 0.8 for one, two in zip(rows[::2], rows[1::2], strict=True))
    where = _where(split(_source(rows), DATA))
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert where[one.hash] == where[two.hash]


def test_rows_made_from_one_template_are_no_twins_unless_they_are_nearly_the_same():
    rows = [_row(f"{LONG}. {LONG[::-1]}. My order is {_about(number)[:6]}") for number in range(60)]
    assert jaccard(str(rows[0].question), str(rows[1].question)) > 0.8
    shares = split(_source([*rows, _row(f"{LONG}. {LONG[::-1]}. My order is {_about(7)[:6]}!")]), DATA)
    assert len(shares.train) > 30
    where = _where(shares)
    assert where[rows[7].hash] == where[_row(f"{LONG}. {LONG[::-1]}. My order is {_about(7)[:6]}!").hash]


def test_a_big_group_is_not_held_out():
    rows = [_row(_about(number), customer="big") for number in range(80)] + [_row(_about(number)) for number in range(80, 180)]
    for seed in range(12):
        shares = split(_source(rows), dataclasses.replace(DATA, group_by="customer", seed=seed))
        assert {row.hash for row in rows[:80]} <= {row.hash for row in shares.train}


@pytest.mark.parametrize("number", [40, 400])
def test_tags_have_the_shares_that_were_asked_for(number):
    rows = [_row(_about(at), tags=["rare" if at % 10 == 0 else "often", "x"]) for at in range(number)]
    shares = split(_source(rows), DATA)
    for tag, of in (("rare", number // 10), ("often", number * 9 // 10)):
        held = [Counter(row.meta["tags"][0] for row in share)[tag] for share in (shares.train, shares.valid, shares.test)]
        assert sum(held) == of
        assert abs(held[2] - 0.2 * of) <= 1
        assert abs(held[1] - 0.1 * of) <= 1


def test_many_small_tags_add_up():
    shares = split(_source([_row(_about(at), tag=at // 2) for at in range(200)]), DATA)
    assert (len(shares.test), len(shares.valid)) == (40, 20)


def _kept(path: Path, rows: list[Row], data: DataSection = DATA, *, seal: bool = False) -> Split:
    """Split ``rows`` and write it down."""
    source = Source(path, {"all": tuple(rows)})
    shares = split(source, data)
    record(source, data, shares, seal=seal)
    return shares


TWINS = st.integers(0, 7).flatmap(
    lambda which: st.sampled_from([f"{_about(which)}{LONG}", f"{_about(which)}{LONG}!", f"{_about(which)}  {LONG.upper()}?"])
)
TEXTS = st.lists(TWINS | st.text(max_size=8), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from(["", "x", "y"]), st.randoms(use_true_random=False))
def test_recorded_rows_never_move_and_no_twins_are_parted(first, then, tag, random):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.jsonl"
        rows = [*BASE, *(_row(text, str(at), tag=tag) for at, text in enumerate(first))]
        before = _where(_kept(path, rows))
        more = [*rows, *(_row(text, f"new {at}", tag=random.choice("xyz")) for at, text in enumerate(then))]
        random.shuffle(more)
        shares = _kept(path, more, seal=True)
        after = _where(shares)
        assert {key: after[key] for key in before} == before
        assert len(after) + len(shares.set_aside) == len({row.hash for row in more})
        placed = [(row, where) for where in ("train", "valid", "test") for row in getattr(shares, where)]
        for one, here in placed:
            for two, there in placed:
                asked = [row.question[0]["content"] for row in (one, two)]
                assert here == there or jaccard(*asked) < 0.8
        again = split(Source(path, {"all": tuple(more)}), dataclasses.replace(DATA, seed=99))
        assert {row.hash for row in shares.test} <= {row.hash for row in again.test}


def test_a_new_row_between_two_shares_is_set_aside_and_moves_nothing(tmp_path):
    core = "".join(map(_about, range(100, 104)))
    heads = [_row(_about(number)[:16] + core) for number in range(20)]
    tails = [_row(core + _about(number)[:16]) for number in range(20)]
    where = _where(split(_source([*BASE, *heads, *tails]), DATA))
    path, twins = (
        tmp_path / "d.jsonl",
        [next(row for row in heads if where[row.hash] == "train"), next(row for row in tails if where[row.hash] == "test")],
    )
    bridge, rows = _row(core), [*BASE, *twins]
    texts = [row.question[0]["content"] for row in (*twins, bridge)]
    assert jaccard(texts[0], texts[1]) < 0.8 <= min(jaccard(texts[0], texts[2]), jaccard(texts[1], texts[2]))
    before = _where(_kept(path, rows))
    shares = _kept(path, [bridge, *rows])
    assert shares.set_aside == (bridge,)
    assert _where(shares) == before
    near = _row(texts[1] + "!")  # a new twin of the held-out one alone
    assert near in _kept(path, [near, *rows]).test


def test_what_was_held_out_and_looked_at_is_held_out_for_ever(tmp_path):
    path = tmp_path / "d.jsonl"
    held = _kept(path, BASE, seal=True).test
    other = dataclasses.replace(DATA, seed=8, holdout=0.1, group_by="customer")
    shares = split(Source(path, {"all": tuple(BASE)}), other)
    assert {row.hash for row in held} <= {row.hash for row in shares.test}
    asked_again = [_row(held[0].question[0]["content"].upper(), "another answer"), *BASE[:30]]
    assert asked_again[0] in split(Source(path, {"all": tuple(asked_again)}), other).test
    with pytest.raises(DataError, match="1 row about to train stands in the held-out share"):
        split(Source(path, {"train": (held[0], *BASE[:1]), "test": (_row("other"),)}), dataclasses.replace(DATA, validation=0.0))


def test_another_asking_is_another_split_and_takes_nothing_from_the_first(tmp_path):
    path = tmp_path / "d.jsonl"
    first = _kept(path, BASE)
    second = _kept(path, BASE, dataclasses.replace(DATA, seed=8))
    assert _where(first) != _where(second)
    assert split(Source(path, {"all": tuple(BASE)}), DATA) == first


def test_an_edited_row_stays_where_it_was(tmp_path):
    path = tmp_path / "d.jsonl"
    before = _where(_kept(path, BASE, seal=True))
    edited = [_row(_about(number + 500)) for number in range(60)]
    source = Source(path, {"all": tuple(edited)}, 0, {new.hash: old.hash for new, old in zip(edited, BASE, strict=True)})
    assert _where(split(source, DATA)) == {new.hash: before[old.hash] for new, old in zip(edited, BASE, strict=True)}


def test_twins_are_not_looked_for_where_every_row_has_its_place(tmp_path, monkeypatch):
    path = tmp_path / "d.jsonl"
    first = _kept(path, BASE)
    monkeypatch.setattr(splits, "together", lambda *_: pytest.fail("looked for"))
    assert split(Source(path, {"all": tuple(BASE)}), DATA) == first


def test_a_seal_is_not_lost_to_whoever_writes_beside_it(tmp_path):
    path = tmp_path / "d.jsonl"
    source = Source(path, {"all": tuple(BASE)})
    shares = split(source, DATA)
    with ThreadPoolExecutor(4) as pool:  # four runs and an evaluation
        jobs = [pool.submit(record, source, dataclasses.replace(DATA, seed=seed), shares, seal=seed == 9) for seed in range(7, 12)]
        assert [job.result() for job in jobs] == [None] * 5
    written = json.loads((tmp_path / "d.split.json").read_text())
    assert {made["asked"]["seed"] for made in written["splits"]} == {7, 8, 9, 10, 11}
    assert {row.hash for row in shares.test} <= set(written["sealed"])


def test_a_row_that_was_edited_to_ask_what_a_held_out_row_asks_is_held_out_too(tmp_path):
    path = tmp_path / "d.jsonl"
    before = _kept(path, BASE)
    new = _row(before.test[0].question[0]["content"], "another answer")
    rows = [row for row in BASE if row != before.train[0]]
    after = split(Source(path, {"all": (*rows, new)}, 0, {new.hash: before.train[0].hash}), DATA)
    assert new in after.test


def test_the_record_is_written_once_and_read_strictly(tmp_path):
    path, file = tmp_path / "d.jsonl", tmp_path / "d.split.json"
    _kept(path, BASE)
    first = file.stat().st_ino
    _kept(path, BASE)
    assert file.stat().st_ino == first
    written = json.loads(file.read_text())
    assert written["sealed"] == []
    assert written["splits"][0]["asked"] == {"seed": 7, "holdout": 0.2, "validation": 0.1, "group_by": ""}
    for text, words in (
        ("{", "not what mlxtune wrote"),
        ('{"v": 1}', "not what mlxtune wrote"),
        ('{"v": 2, "splits": [], "sealed": []}', "another version"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=words):
            split(Source(path, {"all": tuple(BASE)}), DATA)

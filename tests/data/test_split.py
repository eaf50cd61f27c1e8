from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import pytest
from exhaustive import EXHAUSTIVE
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxtune.core.errors import DataError, MlxtuneError
from mlxtune.data import split as split_module
from mlxtune.data.duplicates import jaccard
from mlxtune.data.rows import Conversation, Location, Message, Row, prompt_hash, prompt_hashes
from mlxtune.data.source import Source
from mlxtune.data.split import Splits, group_name, record_splits, split
from mlxtune.recipe import DataSection

DATA = DataSection("d", holdout=0.2, validation=0.1)


def _row(question: str, answer: str = "a", **meta: object) -> Conversation:
    return Conversation(Location(Path("d.jsonl"), 1), dict(meta), (Message("user", question), Message("assistant", answer)))


def _talk(*questions: str, trained: bool = True) -> Conversation:
    """Return a conversation with an answer to each question; ``trained`` says whether those before the last are."""
    answers = [Message("assistant", f"to {question}", trained=trained) for question in questions[:-1]] + [Message("assistant", "a")]
    turns = [turn for question, answer in zip(questions, answers, strict=True) for turn in (Message("user", question), answer)]
    return Conversation(Location(Path("d.jsonl"), 1), {}, (Message("system", "Be brief."), *turns))


def _source(rows: list[Row], **parts: list[Row]) -> Source:
    return Source(Path("d"), {"all": tuple(rows)} if not parts else {name: tuple(items) for name, items in parts.items()})


def _assignments(splits: Splits) -> dict[str, str]:
    return {row.hash: name for name in ("train", "valid", "test") for row in getattr(splits, name)}


def _unique_text(index: int) -> str:
    """Return a question unlike any other."""
    return hashlib.sha256(str(index).encode()).hexdigest()[:30]


BASE = [_row(_unique_text(number)) for number in range(60)]


@given(st.lists(st.text(max_size=10), max_size=15, unique=True), st.randoms(use_true_random=False))
def test_adding_or_shuffling_rows_never_moves_old_ones(texts, random):
    before = _assignments(split(_source(list(BASE)), DATA))
    rows = [*BASE, *(_row("new " + text) for text in texts)]
    random.shuffle(rows)
    after = _assignments(split(_source(rows), DATA))
    assert {key: after[key] for key in before} == before
    assert len(after) == len({row.hash for row in rows})


def test_removing_rows_never_moves_the_rest():
    before = _assignments(split(_source(list(BASE)), DATA))
    after = _assignments(split(_source(list(BASE[10:])), DATA))
    assert after == {row.hash: before[row.hash] for row in BASE[10:]}


def test_split_sizes_match_the_settings():
    splits = split(_source([_row(_unique_text(number)) for number in range(4000)]), DATA)
    assert abs(len(splits.test) - 800) < 130  # five standard deviations
    assert abs(len(splits.valid) - 400) < 95
    assert len(splits.train) + len(splits.valid) + len(splits.test) == 4000


def test_the_test_split_does_not_depend_on_the_validation_fraction():
    one = split(_source(list(BASE)), DATA)
    two = split(_source(list(BASE)), dataclasses.replace(DATA, validation=0.4))
    assert one.test == two.test


def test_a_row_trains_the_prompt_of_each_trained_turn():
    talk = _talk("one", "two", "three")
    own, first, second = prompt_hashes(talk)
    assert (own, first) == (prompt_hash(talk), prompt_hash(_row(" ONE ")))
    assert second == prompt_hash(_talk("one", "two"))
    assert prompt_hashes(talk, "last") == prompt_hashes(_talk("one", "two", "three", trained=False)) == (own,)


def test_a_conversation_stays_with_rows_whose_prompt_it_trains():
    first, second = ([_unique_text(index + 1000 * part) for index in range(40)] for part in (0, 1))
    rows = [*map(_row, first), *(_talk(*both) for both in zip(first, second, strict=True))]
    splits = split(_source(rows), DATA)
    trained = {hash for row in (*splits.train, *splits.valid) for hash in prompt_hashes(row)}
    assert splits.test
    assert not trained & {prompt_hash(row) for row in splits.test}


def test_a_conversation_stays_with_near_copies_of_the_prompts_it_trains():
    first, second = ([_unique_text(index + 1000 * part) for index in range(40)] for part in (0, 1))
    single = [_row(f"{text} {text[::-1]}?") for text in first]
    talks = [_talk(f"{text} {text[::-1]}!", more) for text, more in zip(first, second, strict=True)]
    source = _source([*single, *talks])
    splits = split(source, DATA)
    assigned = _assignments(splits)
    assert splits.test
    assert [assigned[row.hash] for row in single] == [assigned[row.hash] for row in talks]
    assert split(source, dataclasses.replace(DATA, turns="last")).test != splits.test, "only trained prompts count"


def test_prompts_before_the_last_one_tie_only_to_prompts_that_are_evaluated():
    talks = [_talk(f"{LONG}{end}", _unique_text(number)) for number, end in enumerate("!?. " * 10)]
    splits = split(_source(talks), DATA)
    assert (len(splits.test), len(splits.valid)) != (0, 0), "a common opening does not tie conversations"
    more = [*talks, _row(f"{LONG}!!")]
    assert split(_source(more), DATA).test, "nor does a row that repeats it, because then it is a template"


def test_rows_with_near_duplicates_stay_together_beside_a_template_of_openings():
    pairs = [_row(f"{_unique_text(number)} {LONG[number % 40 :]}{end}") for number in range(40) for end in ("", ".")]
    talks = [_talk(f"{_unique_text(number)[:4]} {LONG}", _unique_text(number + 500)) for number in range(60)]
    assigned = _assignments(split(_source([*pairs, *talks]), DATA))
    assert all(assigned[one.hash] == assigned[two.hash] for one, two in zip(pairs[::2], pairs[1::2], strict=True))


def test_an_earlier_turn_is_not_evaluated_if_a_near_copy_of_it_is_trained():
    opening, other = f"{_unique_text(1)}{LONG}", f"{_unique_text(2)}{LONG[::-1]}"
    trained, test = _talk(f"{opening}?", "Then?"), [_talk(f"{opening}!", "Else?"), _talk(other, "More?")]
    source = _source([], train=[trained, *map(_row, map(_unique_text, range(40)))], valid=[_row("v")], test=test)
    prompts = split(source, dataclasses.replace(DATA, turns="each")).prompts
    assert [row.prompt[-1].content for row in prompts] == ["Else?", other, "More?"]


@pytest.mark.parametrize("mark", ["?", "!"], ids=["copy", "near copy"])
def test_a_new_conversation_with_a_sealed_prompt_is_not_trained(tmp_path, mark):
    rows = [_row(f"{_unique_text(number)} {_unique_text(number)[::-1]}?") for number in range(60)]
    sealed = _split_and_record(tmp_path / "d.jsonl", rows, seal=True).test
    talks = [_talk(row.messages[0].content.replace("?", mark), _unique_text(index + 500)) for index, row in enumerate(sealed)]
    splits = split(Source(tmp_path / "d.jsonl", {"all": (*rows, *talks)}), DATA)
    assert {row.hash for row in talks} <= {row.hash for row in splits.test}


def test_group_by_keeps_a_value_of_the_metadata_together():
    rows = [_row(_unique_text(number), customer=number // 5) for number in range(200)]
    splits = split(_source(rows), dataclasses.replace(DATA, group_by="customer"))
    sides = [{row.meta["customer"] for row in rows} for rows in (splits.train, splits.valid, splits.test)]
    assert sides[0] | sides[1] | sides[2] == set(range(40))
    assert sum(map(len, sides)) == 40


def test_rows_without_the_group_key_are_grouped_by_prompt():
    assert group_name(_row("q"), "customer") == group_name(_row(" Q "), "") != group_name(_row("q", customer=1), "customer")


def test_splits_defined_by_files_are_kept():
    train, test = [_row(f"t{number}") for number in range(40)], [_row("test row")]
    splits = split(_source([], train=train, test=test), DATA)
    assert splits.test == tuple(test)
    assert {row.hash for row in (*splits.train, *splits.valid)} == {row.hash for row in train}
    assert splits.valid


@pytest.mark.parametrize("row", [_row("HELD  out?"), _talk("HELD  out?", "More?")], ids=["whole", "first turn"])
def test_a_test_prompt_in_a_train_file_is_refused(row):
    train = [*map(_row, map(_unique_text, range(40))), row]
    source = _source([], train=train, valid=[_row("v")], test=[_row("held out?", "other")])
    with pytest.raises(DataError, match=r"1 training row is also in the test split: d\.jsonl, line 1"):
        split(source, DATA)
    if len(row.messages) > 2:
        assert split(source, dataclasses.replace(DATA, turns="last")).test


def test_reserved_rows_are_groups_of_test_rows_that_never_move():
    rows = [_row(_unique_text(number)) for number in range(400)]
    reserve = dataclasses.replace(DATA, reserve=0.3)
    plain, splits = split(_source(rows), DATA), split(_source(rows), reserve)
    assert (splits.train, splits.test, plain.reserved) == (plain.train, plain.test, ())
    reserved, evaluated = ({row.hash for row in rows} for rows in (splits.reserved, splits.evaluated))
    assert (reserved | evaluated, reserved & evaluated) == ({row.hash for row in splits.test}, set())
    assert 10 < len(splits.reserved) < 40
    copies = [_row(row.messages[0].content, "another answer") for row in splits.test]
    later = split(_source([*rows, *copies, *(_row(_unique_text(number)) for number in range(400, 500))]), reserve)
    assert reserved <= {row.hash for row in later.reserved}
    assert not evaluated & {row.hash for row in later.reserved}
    assert not {prompt_hash(row) for row in later.reserved} & {prompt_hash(row) for row in later.evaluated}


def test_sealed_rows_are_refused_later():
    splits = split(_source(list(BASE)), DATA)
    splits.refuse_sealed(splits.train)
    with pytest.raises(DataError, match="2 training rows are"):
        splits.refuse_sealed([*splits.train, *splits.test[:2]])


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match=r"The (train|valid|test) split is empty"):
        split(_source([_row("only")]), DATA)


def test_a_split_with_fraction_zero_may_be_empty():
    splits = split(_source([_row("only")]), DataSection("d", holdout=0.0, validation=0.0))
    assert (len(splits.train), splits.valid, splits.test) == (1, (), ())


def test_rows_are_not_hashed_once_per_pair(monkeypatch):
    calls = []
    real = split_module.prompt_hash
    monkeypatch.setattr(split_module, "prompt_hash", lambda row: calls.append(1) or real(row))
    split(_source([_row(_unique_text(number)) for number in range(300)]), DATA)
    assert len(calls) <= 3 * 300


LONG = "Please tell me where my parcel with the two blue tents and the stove is by now, it left the shop days ago"


@pytest.mark.parametrize(
    "change", [lambda text: f"  {text.upper()}\n ", lambda text: f"{text}."], ids=["same prompt", "near-duplicate"]
)
def test_rows_with_nearly_one_prompt_stay_together(change):
    texts = [f"{_unique_text(number)} {LONG[number % 40 :]}" for number in range(80)]
    assert all(jaccard(text, change(text)) >= 0.8 for text in texts)
    assigned = _assignments(
        split(_source([_row(one, end) for text in texts for one, end in ((text, "a"), (change(text), "b"))]), DATA)
    )
    assert all(assigned[_row(text, "a").hash] == assigned[_row(change(text), "b").hash] for text in texts)


def test_rows_of_one_template_are_not_near_duplicates():
    rows = [_row(f"{LONG}. {LONG[::-1]}. My order is {_unique_text(number)[:6]}") for number in range(60)]
    assert jaccard(str(rows[0].prompt_content), str(rows[1].prompt_content)) > 0.8
    splits = split(_source([*rows, _row(f"{LONG}. {LONG[::-1]}. My order is {_unique_text(7)[:6]}!")]), DATA)
    assert len(splits.train) > 30
    assigned = _assignments(splits)
    assert assigned[rows[7].hash] == assigned[_row(f"{LONG}. {LONG[::-1]}. My order is {_unique_text(7)[:6]}!").hash]


def test_a_large_group_stays_in_train():
    rows = [_row(_unique_text(number), customer="big") for number in range(80)] + [
        _row(_unique_text(number)) for number in range(80, 180)
    ]
    for seed in range(12):
        splits = split(_source(rows), dataclasses.replace(DATA, group_by="customer", seed=seed))
        assert {row.hash for row in rows[:80]} <= {row.hash for row in splits.train}


@pytest.mark.parametrize("number", [40, 400])
def test_splits_are_stratified_by_tag(number):
    rows = [_row(_unique_text(index), tags=["rare" if index % 10 == 0 else "often", "x"]) for index in range(number)]
    splits = split(_source(rows), DATA)
    for tag, total in (("rare", number // 10), ("often", number * 9 // 10)):
        counts = [Counter(row.meta["tags"][0] for row in share)[tag] for share in (splits.train, splits.valid, splits.test)]
        assert sum(counts) == total
        assert abs(counts[2] - 0.2 * total) <= 1
        assert abs(counts[1] - 0.1 * total) <= 1


def test_small_tags_add_up_to_the_fractions():
    splits = split(_source([_row(_unique_text(index), tag=index // 2) for index in range(200)]), DATA)
    assert (len(splits.test), len(splits.valid)) == (40, 20)


def _split_and_record(path: Path, rows: list[Row], data: DataSection = DATA, *, seal: bool = False) -> Splits:
    """Split ``rows`` and record the split."""
    source = Source(path, {"all": tuple(rows)})
    splits = split(source, data)
    record_splits(source, data, splits, seal=seal)
    return splits


NEAR_DUPLICATES = st.integers(0, 7).flatmap(
    lambda which: st.sampled_from(
        [f"{_unique_text(which)}{LONG}", f"{_unique_text(which)}{LONG}!", f"{_unique_text(which)}  {LONG.upper()}?"]
    )
)
TEXTS = st.lists(NEAR_DUPLICATES | st.text(max_size=8), min_size=1, max_size=12)


@pytest.mark.slow
@settings(max_examples=25 if EXHAUSTIVE else 8)
@given(TEXTS, TEXTS, st.sampled_from(["", "x", "y"]), st.randoms(use_true_random=False))
def test_recorded_rows_never_move_and_near_duplicates_stay_together(first, then, tag, random):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.jsonl"
        rows = [*BASE, *(_row(text, str(index), tag=tag) for index, text in enumerate(first))]
        before = _assignments(_split_and_record(path, rows))
        more = [*rows, *(_row(text, f"new {index}", tag=random.choice("xyz")) for index, text in enumerate(then))]
        random.shuffle(more)
        splits = _split_and_record(path, more, seal=True)
        after = _assignments(splits)
        assert {key: after[key] for key in before} == before
        assert len(after) + len(splits.set_aside) == len({row.hash for row in more})
        placed = [(row, assigned) for assigned in ("train", "valid", "test") for row in getattr(splits, assigned)]
        for (one, here), (two, there) in combinations(placed, 2):
            assert here == there or jaccard(*(row.prompt_content[0]["content"] for row in (one, two))) < 0.8
        again = split(Source(path, {"all": tuple(more)}), dataclasses.replace(DATA, seed=99))
        assert {row.hash for row in splits.test} <= {row.hash for row in again.test}


def test_a_new_row_between_two_splits_is_set_aside(tmp_path):
    core = "".join(map(_unique_text, range(100, 104)))
    heads = [_row(_unique_text(number)[:16] + core) for number in range(20)]
    tails = [_row(core + _unique_text(number)[:16]) for number in range(20)]
    assigned = _assignments(split(_source([*BASE, *heads, *tails]), DATA))
    path, linked = (
        tmp_path / "d.jsonl",
        [next(row for row in heads if assigned[row.hash] == "train"), next(row for row in tails if assigned[row.hash] == "test")],
    )
    bridge, rows = _row(core), [*BASE, *linked]
    texts = [row.prompt_content[0]["content"] for row in (*linked, bridge)]
    assert jaccard(texts[0], texts[1]) < 0.8 <= min(jaccard(texts[0], texts[2]), jaccard(texts[1], texts[2]))
    before = _assignments(_split_and_record(path, rows))
    splits = _split_and_record(path, [bridge, *rows])
    assert splits.set_aside == (bridge,)
    assert _assignments(splits) == before
    near = _row(texts[1] + "!")  # a near-duplicate of the test row alone
    assert near in _split_and_record(path, [near, *rows]).test


def test_sealed_rows_stay_in_test_forever(tmp_path):
    path = tmp_path / "d.jsonl"
    sealed = _split_and_record(path, BASE, seal=True).test
    other = dataclasses.replace(DATA, seed=8, holdout=0.1, group_by="customer")
    splits = split(Source(path, {"all": tuple(BASE)}), other)
    assert {row.hash for row in sealed} <= {row.hash for row in splits.test}
    same_prompt = [_row(sealed[0].prompt_content[0]["content"].upper(), "another answer"), *BASE[:30]]
    assert same_prompt[0] in split(Source(path, {"all": tuple(same_prompt)}), other).test
    with pytest.raises(DataError, match="1 training row is also in the test split"):
        split(Source(path, {"train": (sealed[0], *BASE[:1]), "test": (_row("other"),)}), dataclasses.replace(DATA, validation=0.0))


def test_other_settings_give_another_split_and_keep_the_first(tmp_path):
    path = tmp_path / "d.jsonl"
    first = _split_and_record(path, BASE)
    second = _split_and_record(path, BASE, dataclasses.replace(DATA, seed=8))
    assert _assignments(first) != _assignments(second)
    assert split(Source(path, {"all": tuple(BASE)}), DATA) == first


def test_an_edited_row_stays_in_its_split(tmp_path):
    path = tmp_path / "d.jsonl"
    before = _assignments(_split_and_record(path, BASE, seal=True))
    edited = [_row(_unique_text(number + 500)) for number in range(60)]
    source = Source(path, {"all": tuple(edited)}, 0, {new.hash: old.hash for new, old in zip(edited, BASE, strict=True)})
    assert _assignments(split(source, DATA)) == {new.hash: before[old.hash] for new, old in zip(edited, BASE, strict=True)}


def test_near_duplicates_are_not_computed_for_recorded_rows(tmp_path, monkeypatch):
    path = tmp_path / "d.jsonl"
    first = _split_and_record(path, BASE)
    monkeypatch.setattr(split_module, "group_labels", lambda *_: pytest.fail("computed near-duplicates"))
    assert split(Source(path, {"all": tuple(BASE)}), DATA) == first


def test_a_seal_survives_concurrent_writes(tmp_path):
    path = tmp_path / "d.jsonl"
    source = Source(path, {"all": tuple(BASE)})
    splits = split(source, DATA)
    with ThreadPoolExecutor(4) as pool:  # four runs and an evaluation
        jobs = [
            pool.submit(record_splits, source, dataclasses.replace(DATA, seed=seed), splits, seal=seed == 9)
            for seed in range(7, 12)
        ]
        assert [job.result() for job in jobs] == [None] * 5
    written = json.loads((tmp_path / "d.split.json").read_text())
    assert {record["asked"]["seed"] for record in written["splits"]} == {7, 8, 9, 10, 11}
    assert {row.hash for row in splits.test} <= set(written["sealed"])


def test_a_row_edited_to_a_test_prompt_moves_to_test(tmp_path):
    path = tmp_path / "d.jsonl"
    before = _split_and_record(path, BASE)
    new = _row(before.test[0].prompt_content[0]["content"], "another answer")
    rows = [row for row in BASE if row != before.train[0]]
    after = split(Source(path, {"all": (*rows, new)}, 0, {new.hash: before.train[0].hash}), DATA)
    assert new in after.test


def test_the_split_file_is_written_once_and_validated(tmp_path):
    path, file = tmp_path / "d.jsonl", tmp_path / "d.split.json"
    _split_and_record(path, BASE)
    first = file.stat().st_ino
    _split_and_record(path, BASE)
    assert file.stat().st_ino == first
    written = json.loads(file.read_text())
    assert written["sealed"] == []
    assert written["splits"][0]["asked"] == {"seed": 7, "holdout": 0.2, "validation": 0.1, "group_by": ""}
    for text, words in (
        ("{", "is not an mlxtune split file"),
        ('{"v": 1}', "is not an mlxtune split file"),
        ('{"v": 2, "splits": [], "sealed": []}', "another version"),
    ):
        file.write_text(text)
        with pytest.raises(MlxtuneError, match=words):
            split(Source(path, {"all": tuple(BASE)}), DATA)

"""Checks that look at all rows, the counts that add up, and the fixes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from planted import SAMPLES, make

from mlxtune.core.errors import DataError, InputError
from mlxtune.data.checks import CHECKS, Records, Report, check
from mlxtune.data.checks.finding import Span
from mlxtune.data.checks.fixes import fix, replaced, wanted
from mlxtune.data.checks.lengths import bounds
from mlxtune.data.checks.notes import effective, tier
from mlxtune.data.checks.pairs import normalised
from mlxtune.data.source import read_file

SHARED = Path(__file__).parents[3] / "shared" / "data"
QUESTIONS = [json.loads(line)["messages"][1]["content"] for line in (SAMPLES / "support.jsonl").read_text().splitlines()[:60]]


def chat(question: str, answer: str, **meta: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **meta}


def write(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def found(report: Report, id: str) -> list[list[str]]:
    """For each finding of a check, where its rows stand: ``train:3``."""
    places = [[report.places[at][0] for at in one.rows] for one in report.findings if one.check == id]
    return [[f"{place.file.stem}:{place.line}" for place in rows] for rows in places]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Train, valid and test files; a test and a valid row are asked again in train."""
    rows = [chat(question, f"Answer {number} to it.") for number, question in enumerate(QUESTIONS)]
    again = [chat(QUESTIONS[50] + " please", "Other."), chat(QUESTIONS[55], "Answer 55 to it.")]
    source = tmp_path / "source"
    source.mkdir()
    write(source / "train.jsonl", [*rows[:40], *again])
    write(source / "valid.jsonl", rows[54:])
    write(source / "test.jsonl", rows[48:54])
    return source


def test_a_twin_of_a_held_out_row_blocks_and_one_of_a_validation_row_warns(folder: Path) -> None:
    report = check(folder)
    assert found(report, "leak") == [["train:41", "test:3"], ["train:42", "valid:2"]]
    assert [one.severity for one in report.findings if one.check == "leak"] == ["block", "warn"]
    assert found(report, "duplicate") == []


def test_fixing_a_leak_takes_the_row_out_of_train(folder: Path, tmp_path: Path) -> None:
    with Records(folder, "auto", {}) as records:
        done = fix(records, check(folder).findings, tmp_path / "fixed")
    assert [(change.place.file.name, change.place.line, change.checks) for change in done.changes] == [
        ("train.jsonl", 41, ("leak",)),
        ("train.jsonl", 42, ("leak",)),
    ]
    assert [file.read for file in check(tmp_path / "fixed").files] == [40, 6, 6]
    assert found(check(tmp_path / "fixed"), "leak") == []


def test_one_prompt_with_two_answers_is_a_conflict_but_not_with_other_numbers_or_another_system(tmp_path: Path) -> None:
    asked = "How many of the small tents are in the shop in Oslo today, and may I come and see them?"
    other = [{"role": "system", "content": "You are a pirate."}]
    pirate = {"messages": [*other, *chat(asked, "Arr, none be left, matey.")["messages"]]}
    rows = [
        chat(asked, "There are two left."),
        chat(asked.upper(), "None, we sold the last one."),
        chat(asked + " I need 5.", "Five would have to be ordered."),
        pirate,
    ]
    assert found(check(write(tmp_path / "rows.jsonl", rows)), "conflict") == [["rows:2", "rows:1"]]


def test_pairs_that_prefer_the_opposite_contradict_each_other(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Which flask keeps tea hot?", "chosen": one, "rejected": two}
        for one, two in (("Steel.", "Glass."), ("glass", "steel"))
    ]
    assert found(check(write(tmp_path / "rows.jsonl", rows)), "conflict") == [["rows:2", "rows:1"]]


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [("Yes.", "yes", True), ("a  b", "A\nb!", True), ("x > 0", "x < 0", False), ("-5", "5", False), ("1,5", "15", False)],
)
def test_answers_are_the_same_but_for_case_spacing_and_their_ends(one: str, two: str, same: bool) -> None:
    assert (normalised(one) == normalised(two)) is same


def test_labels_that_disagree_contradict_each_other(tmp_path: Path) -> None:
    rows = [{"prompt": "Is it waterproof?", "completion": "Yes, it is.", "label": label} for label in (True, False)]
    assert found(check(write(tmp_path / "rows.jsonl", rows)), "conflict") == [["rows:2", "rows:1"]]


def test_near_duplicates_need_twin_prompts_and_twin_answers(tmp_path: Path) -> None:
    answer = "Yes, the steel flask keeps tea hot for ten hours."
    rows = [chat(QUESTIONS[0], answer), chat(QUESTIONS[1], answer), chat(QUESTIONS[0] + " Thanks", answer.replace("Yes", "Oh yes"))]
    assert found(check(write(tmp_path / "rows.jsonl", rows)), "near-duplicate") == [["rows:3", "rows:1"]]


def test_the_same_question_by_a_shared_system_prompt_is_no_twin(tmp_path: Path) -> None:
    system = {"role": "system", "content": "You are the support desk of an outdoor shop. " * 30}
    rows = [{"messages": [system, *chat(question, f"Answer {number}.")["messages"]]} for number, question in enumerate(QUESTIONS)]
    report = check(write(tmp_path / "rows.jsonl", rows))
    assert report.facts.groups == len(QUESTIONS)
    assert not {"conflict", "near-duplicate"} & {one.check for one in report.findings}


def test_bounds_of_usual_lengths() -> None:
    low, middle, high = bounds([100] * 50)
    assert (round(low), round(middle), round(high)) == (25, 100, 400)
    low, _, high = bounds([50, 100, 200] * 30)  # quartiles 50 and 200, an interquartile range of a factor of four
    assert (round(low, 2), round(high)) == (0.78, 12800)


@pytest.mark.parametrize(
    ("groups", "name"),
    [
        (0, "too few"),
        (199, "too few"),
        (200, "minimum viable"),
        (999, "minimum viable"),
        (1000, "good"),
        (4999, "good"),
        (5000, "strong"),
    ],
)
def test_tiers_go_by_different_prompts(groups: int, name: str) -> None:
    assert tier(groups) == name


def test_a_thousand_copies_are_one_group(tmp_path: Path) -> None:
    report = check(write(tmp_path / "rows.jsonl", [chat(QUESTIONS[0], "Yes.")] * 1000))
    assert (report.facts.rows, report.facts.groups, report.facts.tier) == (1000, 1, "too few")
    assert len(found(report, "duplicate")) == 999


def test_what_is_rare_is_named_by_its_key_and_value(tmp_path: Path) -> None:
    rows = [
        chat(question, f"Answer {number}.", meta={"topic": "tents" if number else "stoves"})
        for number, question in enumerate(QUESTIONS)
    ]
    report = check(write(tmp_path / "rows.jsonl", rows))
    assert report.facts.tags["topic"] == {"tents": 59, "stoves": 1}
    assert "stoves 1" in next(one.why for one in report.findings if one.check == "coverage")


def test_the_effective_number_of_even_kinds_is_their_number() -> None:
    from collections import Counter

    assert effective(Counter("aabbccdd")) == pytest.approx(4)
    assert effective(Counter("aaaa")) == 1
    assert effective(Counter()) == 0


@pytest.mark.parametrize(
    ("name", "mapping", "formats", "read"),
    [
        ("peers/alpaca.json", {}, {"alpaca": 999}, 999),
        ("peers/dpo_sharegpt.json", {}, {"preference": 300}, 300),
        ("peers/gsm8k_test.jsonl", {"prompt": "question", "completion": "answer"}, {"completion": 1319}, 1319),
        ("wikisql", {}, {"text": 1200}, 1200),
    ],
)
def test_real_files_have_warnings_but_nothing_that_blocks(
    name: str, mapping: dict[str, str], formats: dict[str, int], read: int
) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is not here")
    report = check(SHARED / name, mapping=mapping)
    assert (report.formats, report.read, report.kept, report.refused) == (formats, read, read, 0)
    assert [one for one in report.findings if one.severity == "block"] == []
    assert sum(one.check == "bad-row" for one in report.findings) == 0


def test_without_a_map_every_row_of_unknown_keys_is_counted_as_refused(tmp_path: Path) -> None:
    report = check(write(tmp_path / "rows.jsonl", [{"question": "?", "answer": "!"}] * 3))
    assert (report.read, report.kept, report.refused, report.rows("block")) == (3, 0, 3, 3)
    assert report.facts.rows == 0


def test_an_empty_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        check(write(tmp_path / "rows.jsonl", []))


def test_safe_fixes_leave_a_file_that_blocks_no_more_and_the_source_as_it_was(tmp_path: Path) -> None:
    made = make(dirty=True)
    source = made.write(tmp_path / "dirty.jsonl")
    before = source.read_bytes()
    report = check(source)
    with Records(source, "auto", {}) as records:
        done = fix(records, report.findings, tmp_path / "fixed.jsonl")
    assert source.read_bytes() == before
    again = check(tmp_path / "fixed.jsonl")
    safe = {id for id, one in CHECKS.items() if one.fix.safe}
    assert not {one.check for one in again.findings} & safe
    assert again.read == again.kept == done.rows
    told = [json.loads(line) for line in (tmp_path / "fixed.fixes.jsonl").read_text().splitlines()]
    assert {(one["line"], *one["checks"]) for one in told} >= {
        (made.lines[id], id) for id in ("secret", "email", "card", "iban", "control", "mojibake", "bad-row")
    }
    text = (tmp_path / "fixed.jsonl").read_text()
    assert all(word in text for word in ("[SECRET]", "[EMAIL]", "[PHONE]", "[CARD]", "[IBAN]", "the café next door"))
    assert "ghp_" not in text


def test_a_fix_that_is_not_safe_is_applied_when_it_is_asked_for(tmp_path: Path) -> None:
    made = make(dirty=True)
    findings = check(made.write(tmp_path / "dirty.jsonl")).findings
    kept = {one.rows[0] for one in findings if one.check == "loop"}
    assert not kept & {at for at, asked in wanted(findings).items() if any(one.check == "loop" for one in asked)}
    assert kept <= set(wanted(findings, ["loop"]))
    with pytest.raises(InputError, match="no fix for conflict"):
        wanted(findings, ["conflict"])


def test_rows_that_need_nothing_are_written_as_they_were(tmp_path: Path) -> None:
    source = SAMPLES / "support-pairs.jsonl"
    with Records(source, "auto", {}) as records:
        done = fix(records, check(source).findings, tmp_path / "same.jsonl")
    assert done.changes == ()
    assert [row.hash for row in read_file(tmp_path / "same.jsonl")] == [row.hash for row in read_file(source)]
    with Records(source, "auto", {}) as records, pytest.raises(InputError, match="is there already"):
        fix(records, (), tmp_path / "same.jsonl")


def test_spans_that_overlap_are_replaced_once() -> None:
    spans = [Span("text", 2, 6, "", "[A]"), Span("text", 4, 8, "", "[B]"), Span("text", 8, 9, "", "")]
    assert replaced("0123456789", spans) == "01[A]679"

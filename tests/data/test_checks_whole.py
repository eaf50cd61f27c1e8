"""Checks across rows, statistics and fixes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from keyed_rows import with_keys
from planted import KEY, SAMPLES, make_planted
from tiny_model import write_rows as write

from mlxtune.core.errors import DataError, InputError
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.checks.base import Span
from mlxtune.data.checks.check_input import TokenCount
from mlxtune.data.checks.endings import ending
from mlxtune.data.checks.fixes import FixResult, record_fixes, replace_spans, select_fixes
from mlxtune.data.checks.lengths import length_bounds
from mlxtune.data.checks.pairs import normalize_answer
from mlxtune.data.checks.registry import CHECKS
from mlxtune.data.checks.report import CheckReport, Improvement, MutedCheck, improvement
from mlxtune.data.checks.run import CheckRules, check
from mlxtune.data.checks.statistics import Statistics, effective_number, tier
from mlxtune.data.export import native_record
from mlxtune.data.review import ReviewSession, journal_path, load
from mlxtune.data.source import read_file, read_source

SHARED = Path(__file__).parents[3] / "shared" / "data"
STEPS = (
    "She sold 48 / 2 = 24 clips in May. " * 2 + "Together, in April and in May, she therefore sold 48 + 24 clips to her friends."
)
QUESTIONS = [json.loads(line)["messages"][1]["content"] for line in (SAMPLES / "support.jsonl").read_text().splitlines()[:60]]


def chat(question: str, answer: str, **meta: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **meta}


def finding_locations(report: CheckReport, check_id: str) -> list[list[str]]:
    """Return the row locations of each finding of a check, such as ``train:3``."""
    locations = [[report.locations[index][0] for index in one.rows] for one in report.findings if one.check == check_id]
    return [[f"{location.file.stem}:{location.line}" for location in rows] for rows in locations]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Train, valid and test files; train repeats the prompts of one test row and one valid row."""
    rows = [chat(question, f"Answer {number} to it.") for number, question in enumerate(QUESTIONS)]
    repeated = [chat(QUESTIONS[50] + " please", "Other."), chat(QUESTIONS[55], "Answer 55 to it.")]
    source = tmp_path / "source"
    source.mkdir()
    write(source / "train.jsonl", [*rows[:40], *repeated])
    write(source / "valid.jsonl", rows[54:])
    write(source / "test.jsonl", rows[48:54])
    return source


def test_a_test_row_in_train_blocks_and_a_validation_row_warns(folder: Path) -> None:
    report = check(folder)
    assert finding_locations(report, "leak") == [["train:41", "test:3"], ["train:42", "valid:2"]]
    assert [one.severity for one in report.findings if one.check == "leak"] == ["block", "warn"]
    assert finding_locations(report, "duplicate") == []


def test_a_test_prompt_inside_a_training_conversation_blocks(folder: Path) -> None:
    talk = chat("And which of your shops are open on Sundays this winter, near the old harbor?", "None.")
    talk["messages"] = [*chat(QUESTIONS[49].upper(), "First.")["messages"], *talk["messages"]]
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    write(folder / "train.jsonl", [*rows[:40], talk])
    report = check(folder)
    assert finding_locations(report, "leak") == [["train:41", "test:2"]]
    assert [one.severity for one in report.findings if one.check == "leak"] == ["block"]
    assert finding_locations(check(folder, rules=CheckRules(turns="last")), "leak") == []


def record(path: Path, also: Sequence[str] = (), report: CheckReport | None = None) -> FixResult:
    """Record the fixes of the findings of ``report``, by default those of a check."""
    with SourceBrowser(path) as browser, ReviewSession(path) as session:
        assert list(browser.scan())
        browser.apply_review(session.state)
        return record_fixes(browser, session, (report or check(path, state=session.state)).findings, also)


def test_fixing_a_leak_removes_the_row_from_train(folder: Path) -> None:
    result = record(folder)
    assert [(change.location.file.name, change.location.line, change.checks) for change in result.changes] == [
        ("train.jsonl", 41, ("leak",)),
        ("train.jsonl", 42, ("leak",)),
    ]
    assert {part: len(rows) for part, rows in read_source(folder).parts.items()} == {"train": 40, "valid": 6, "test": 6}
    assert finding_locations(check(folder, state=load(folder)), "leak") == []


def test_the_rows_of_a_test_file_are_neither_counted_nor_fixed(folder: Path) -> None:
    secret = "My key is AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q."
    published = [
        chat(secret, "Revoke it.", topic="keys"),
        chat(secret, "Revoke it.", topic="keys"),
        chat(secret, "Keep it.", topic="keys"),
    ]
    write(folder / "test.jsonl", published)
    report = check(folder)
    assert (report.statistics.rows, report.statistics.groups, report.statistics.tags) == (48, 47, {})
    assert {report.locations[one.rows[0]][0].file.name for one in report.findings if one.rows} <= {"train.jsonl", "valid.jsonl"}
    record(folder, ["template"])
    assert [row.content["messages"] for row in read_source(folder).parts["test"]] == [row["messages"] for row in published]


def test_a_fix_that_leaves_no_row_is_neither_advised_nor_written(tmp_path: Path) -> None:
    rows = [chat(question, "It shipped.") for question in QUESTIONS[:3]]
    source = write(tmp_path / "rows.jsonl", rows)
    tokens = [TokenCount(0, 0, "the chat template does not render tools.")] * 3
    report = check(source, rules=CheckRules(tokens=tokens))
    assert report.improvement == Improvement("change_recipe", 3, "template")
    with pytest.raises(DataError, match="No row would be left"):
        record(source, ["template"], report)
    assert not journal_path(source).exists()
    partly = check(source, rules=CheckRules(tokens=[*tokens[:2], TokenCount(5, 2)], max_tokens=9))
    assert partly.improvement == Improvement("fix", 2, "template")


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ("billing", "shipping", True),
        ("Yes, it is waterproof, and it has been tested.", "No, it is only water-repellent, so take a cover with you.", True),
        ('{"category": "tent", "reply": "Yes."}', '{"category": "stove", "reply": "Yes."}', True),
        ('{"count": 1, "reply": "We have it in blue."}', '{"count": 1, "reply": "It is here in blue, and so is the bag."}', False),
        ("I am a model that was trained by Ada.", "Ada trained me; I am a language model.", False),
        ("It costs 20 dollars today, and shipping is free.", "That one is 25 dollars, with free shipping.", True),
        ("It costs less than £20 and is rated low by its guests.", "It is cheap. It is a one-star coffee shop.", False),
        ("The shop has a rating of 3 and is cheap.", "The shop is rated well, with a rating of 4 stars, and low prices.", True),
        (f"{STEPS} #### 72", f"{STEPS} #### 96", True),
        (f"{STEPS} It is $1,072.", f"{STEPS} So he pays 1072.00.", False),
        (
            "泰姬陵的建筑风格融合了印度和伊斯兰的建筑特点，是一座非常壮观的建筑。" * 2,
            "泰姬陵有波斯风格的元素，是印度古典建筑的代表作之一，吸引了游客。" * 2,
            False,
        ),
        ("A red moon rises over the hills tonight.", "The sea is calm and the boats are home.", False),
        (
            "Forms stronger bond → displaces O₂ → reduces oxygen transport.",
            "CO forms stronger bond with Fe²⁺ → reduces transport.",
            False,
        ),
        ("Use it so:\n```python\nstack = [10]\n```", "Use it so:\n```python\nstack = [1]\n```", False),
        ("She pays 300 / 2 euros, which is $150\n#### 150", "She pays 300 / 2 euros, which is $150\n#### 175", True),
        ("It takes 3 days and costs $20", "It costs $20 and takes 3", False),
        ("They were married on April 30, 1988.", "They were married on April 13, 1988.", True),
        ("The place by the river has a rating of 1", "The place has a rating of 1 out of 5", False),
        ("Output is 1.", "Output = 1", False),
        ("The energy of 3d and 4s electrons is similar.", "The ns and (n-1)d electrons have similar energy.", False),
        ("Who kills Lisa?", "What does Sam know?", False),
        ("Yes, it is waterproof. Anything else?", "No, it is not waterproof. Anything else?", True),
        ("Standard shipping costs $5 and express shipping $12", "Express shipping costs $12 and standard shipping $5", False),
        ("Output is -1.", "Output = 1", True),
        ("[ ]", "[]", False),
        ("An interface of Java <8 has only abstract methods.", "It has only abstract methods up to Java 7.", False),
        (
            "The mill is a pub where you can eat for under £25 by the river",
            "By the river, in a price range of 20£-25, is the mill",
            False,
        ),
        (f"{STEPS} The food is cheap, around £20.", f"{STEPS} The food has a rating of 1 out of 5.", False),
    ],
)
def test_only_what_can_be_compared_is_a_conflict(one: str, two: str, expected: bool, tmp_path: Path) -> None:
    report = check(write(tmp_path / "rows.jsonl", [chat("What about it?", one), chat("What about it?", two)]))
    assert bool(finding_locations(report, "conflict")) is expected


def test_contradictions_are_no_near_duplicates_and_no_fix_drops_one(tmp_path: Path) -> None:
    question = "How many clips did Natalia sell in April and May, if she sold half as many in May?"
    rows = [
        chat(question, f"{STEPS} #### 72"),
        chat(question, f"{STEPS} #### 96"),
        chat(question.replace("if", "when"), f"{STEPS} #### 96"),
        chat("There is a payment I don't recognize", "card_payment"),
        chat("There is a payment I don't recognise!", "direct_debit"),
        chat("How many miles can I drive before I need to change my oil", "oil_change"),
        chat("How many miles can I drive before I need to change my tires", "tire_change"),
        chat("What's the status of the refund for the tent and the bag that I sent back to you last week?", "refund_status"),
        chat("What is the status of the refund for the tent and the bag that I sent back to you last week", "order_status"),
        chat("What was the combined ratio for the insurance segment in the first nine months", "It was 91%."),
        chat("What was the combined ratio for the reinsurance segment in the first nine months", "It was 93%."),
        chat("update my address please", "track_order"),
        chat("How do I update the address? Thank you", "order_status"),
        chat("hi, how do i update my address", "track_order"),
        chat("Do you have this red shirt of cotton in size S?", "Yes, it is here."),
        chat("Do you have this red shirt of cotton in size M?", "No, it is sold."),
    ]
    report = check(write(tmp_path / "rows.jsonl", rows))
    expected = [["rows:14", "rows:13"], ["rows:2", "rows:1"], ["rows:5", "rows:4"], ["rows:9", "rows:8"]]
    assert sorted(finding_locations(report, "conflict")) == expected
    assert finding_locations(report, "near-duplicate") == [["rows:3", "rows:2"]]
    assert select_fixes(report.findings, ["near-duplicate"]).keys() == {2}


TEA = "Which flask keeps tea hot?"
CALLS = [{"role": "assistant", "tool_calls": [{"name": "book", "arguments": {"city": city}}]} for city in ("Oslo", "Rome")]


TENTS = "How many of the small tents are in the shop in Oslo today, and may I come and see them?"
PIRATE = [{"role": "system", "content": "You are a pirate."}, *chat(TENTS, "Arr, none be left, matey.")["messages"]]


def pair(chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": TEA, "chosen": chosen, "rejected": rejected}


@pytest.mark.parametrize(
    ("rows", "conflicts"),
    [
        (
            [
                chat(TENTS, "There are two left."),
                chat(TENTS.upper(), "None, we sold the last one."),
                chat(TENTS + " I need 5.", "Five would have to be ordered."),
                chat(TENTS, "None, we sold the last one.", tools=[{"type": "function", "function": {"name": "stock"}}]),
                {"messages": PIRATE},
            ],
            [["rows:2", "rows:1"]],
        ),
        ([{"messages": [{"role": "user", "content": "Book it."}, call]} for call in CALLS], [["rows:2", "rows:1"]]),
        ([pair("Best of all.", "Good."), pair("Good.", "Bad."), pair("Best of all.", "Bad.")], []),
        ([pair("Steel.", "Glass."), pair("glass", "steel")], [["rows:2", "rows:1"]]),
        ([{"prompt": TEA, "completion": "Steel.", "label": label} for label in (True, False)], [["rows:2", "rows:1"]]),
    ],
    ids=["same prompt and tools", "different calls", "ranked answers", "opposite preferences", "opposite labels"],
)
def test_contradictory_answers_to_the_same_prompt_conflict(
    rows: list[dict[str, Any]], conflicts: list[list[str]], tmp_path: Path
) -> None:
    assert finding_locations(check(write(tmp_path / "rows.jsonl", rows)), "conflict") == conflicts


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [("Yes.", "yes", True), ("a  b", "A\nb!", True), ("x > 0", "x < 0", False), ("-5", "5", False), ("1,5", "15", False)],
)
def test_answers_are_compared_without_case_spacing_and_final_punctuation(one: str, two: str, same: bool) -> None:
    assert (normalize_answer(one) == normalize_answer(two)) is same


def test_a_shared_system_prompt_makes_no_near_duplicates(tmp_path: Path) -> None:
    system = {"role": "system", "content": "You are the support desk of an outdoor shop. " * 30}
    rows = [{"messages": [system, *chat(question, f"Answer {number}.")["messages"]]} for number, question in enumerate(QUESTIONS)]
    report = check(write(tmp_path / "rows.jsonl", rows))
    assert report.statistics.groups == len(QUESTIONS)
    assert not {"conflict", "near-duplicate"} & {one.check for one in report.findings}


HEADER = "table: standings\ncolumns: rank, english title, chinese title, average, peak, premiere, finale, viewers, comments, awards"


HOT = "Yes, the steel flask keeps tea hot for ten hours."
RACE = "What is the name of the race that was held on the long circuit in {} in that year?"
SHARED_TEXT = ("Which peak had the worst average?", "Which finale had the best average?", "What was the premiere of the last one?")
PEAK = f"{HEADER}\nWhich of the two peaks had the worst average in that year?"


def texts(*own: str) -> list[dict[str, Any]]:
    return [{"text": text} for text in own]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([chat(QUESTIONS[0], HOT), chat(QUESTIONS[1], HOT), chat(QUESTIONS[0] + " Thanks", f"Oh {HOT}")], [["rows:3", "rows:1"]]),
        ([chat(RACE.format(place), "It was the Grand Prix.") for place in ("Monza", "Modena", "1999", "2001")], []),
        (
            texts(*(f"{HEADER}\n{one}" for one in (*SHARED_TEXT, f"{SHARED_TEXT[1][:-1]} then?", SHARED_TEXT[0]))),
            [["rows:4", "rows:2"]],
        ),
        (texts(PEAK, PEAK, PEAK, PEAK.replace("worst", "lowest")), [["rows:4", "rows:1"]]),
    ],
    ids=["similar prompts and answers", "different things", "text that three rows share", "copies are no shared text"],
)
def test_near_duplicates(rows: list[dict[str, Any]], expected: list[list[str]], tmp_path: Path) -> None:
    assert finding_locations(check(write(tmp_path / "rows.jsonl", rows)), "near-duplicate") == expected


def test_the_length_of_a_pair_is_that_of_its_chosen_answer(tmp_path: Path) -> None:
    pairs = [{"prompt": f"Question {number}?", "chosen": "a" * 40, "rejected": "b" * 4000} for number in range(20)]
    pairs[7]["chosen"] = "yes"
    report = check(write(tmp_path / "pairs.jsonl", pairs))
    assert [(finding.rows, finding.values) for finding in report.findings if finding.check == "length-outlier"] == [
        ((7,), {"length": 3, "median": 40})
    ]


def test_length_bounds() -> None:
    low, middle, high = length_bounds([100] * 50)
    assert (round(low), round(middle), round(high)) == (25, 100, 400)
    low, _, high = length_bounds([50, 100, 200] * 30)  # quartiles 50 and 200, an interquartile range of a factor of four
    assert (round(low, 2), round(high)) == (0.78, 12800)


@pytest.mark.parametrize(
    ("groups", "name"),
    [
        (0, "too_few"),
        (199, "too_few"),
        (200, "minimum_viable"),
        (999, "minimum_viable"),
        (1000, "good"),
        (4999, "good"),
        (5000, "strong"),
    ],
)
def test_the_tier_depends_on_distinct_prompts(groups: int, name: str) -> None:
    assert tier(groups) == name


def test_a_thousand_copies_are_one_group(tmp_path: Path) -> None:
    report = check(write(tmp_path / "rows.jsonl", [chat(QUESTIONS[0], "Yes.")] * 1000))
    assert (report.statistics.rows, report.statistics.groups, report.statistics.tier) == (1000, 1, "too_few")
    assert len(finding_locations(report, "duplicate")) == 999


def test_rare_tag_values_are_reported(tmp_path: Path) -> None:
    rows = [
        chat(question, f"Answer {number}.", meta={"topic": "tents" if number else "stoves"})
        for number, question in enumerate(QUESTIONS)
    ]
    report = check(write(tmp_path / "rows.jsonl", rows))
    assert report.statistics.tags["topic"] == {"tents": 59, "stoves": 1}
    assert next(one.values for one in report.findings if one.check == "coverage") == {
        "key": "topic",
        "total": 60,
        "values": {"stoves": 1},
    }


def test_the_effective_number_of_equal_classes_is_their_count() -> None:
    from collections import Counter

    assert effective_number(Counter("aabbccdd")) == pytest.approx(4)
    assert effective_number(Counter("aaaa")) == 1
    assert effective_number(Counter()) == 0


@pytest.mark.parametrize(
    ("name", "mapping", "formats", "read"),
    [
        ("peers/alpaca.json", {}, {"alpaca": 999}, 999),
        ("peers/dpo_sharegpt.json", {}, {"preference": 300}, 300),
        pytest.param(
            "peers/gsm8k_test.jsonl", {"prompt": "question", "completion": "answer"}, {"completion": 1319}, 1319,
            marks=pytest.mark.exhaustive,
        ),
        ("wikisql", {}, {"text": 1200}, 1200),
    ],
)  # fmt: skip
def test_real_files_have_no_blocking_findings(name: str, mapping: dict[str, str], formats: dict[str, int], read: int) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is missing")
    report = check(SHARED / name, mapping=mapping)
    assert (report.formats, report.read, report.kept, report.refused) == (formats, read, read, 0)
    assert [one for one in report.findings if one.severity == "block"] == []
    assert sum(one.check == "bad-row" for one in report.findings) == 0


def test_rows_with_unknown_keys_are_refused(tmp_path: Path) -> None:
    report = check(write(tmp_path / "rows.jsonl", [{"question": "?", "answer": "!"}] * 3))
    assert (report.read, report.kept, report.refused, report.rows("block")) == (3, 0, 3, 3)
    assert report.statistics.rows == 0


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_an_empty_file_is_bad_input(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        check(write(tmp_path / name, []))


def test_safe_fixes_write_a_clean_file_and_keep_the_source(tmp_path: Path) -> None:
    planted = make_planted(dirty=True)
    source = planted.write(tmp_path / "dirty.jsonl")
    before = source.read_bytes()
    result = record(source)
    assert source.read_bytes() == before
    safe = {id for id, one in CHECKS.items() if one.fix.safe}
    assert not {one.check for one in check(source, state=load(source)).findings} & safe
    assert {(one.location.line, *one.checks) for one in result.changes} >= {
        (planted.lines[id], id) for id in ("secret", "email", "card", "iban", "control", "mojibake", "bad-row")
    }
    text = json.dumps([row.content for row in read_source(source).rows], ensure_ascii=False)
    assert all(word in text for word in ("[SECRET]", "[EMAIL]", "[PHONE]", "[CARD]", "[IBAN]", "the café next door"))
    assert "ghp_" not in text


@pytest.mark.parametrize(
    ("prompt", "answer", "checks"),
    [
        ("Write a program to print people with Gmail accounts: Bob,bob@gmail.com", "It prints bob@gmail.com.", {"email"}),
        ("Send it to bob@northpeak.com, please. My number is +44 20 7946 0958.", "We will.", set()),
        ("Extract the phone numbers.\nCall +44 20 7946 0958 today.", "+44 20 7946 0958", {"phone"}),
        ("How do I log in?", "Like this:\n```\nlogin('bob@gmail.com', password='q8W2x!rT5z')\n```", {"email", "secret"}),
        ("How do I log in?", "server.login('bob@gmail.com')", {"email"}),
        ("How is it repaired?", "```js\ntext.replace(/Ã¥/g, 'å')\n```", {"mojibake"}),
        ("Which address do I enter?", "Yours, for example bob@gmail.com.", {"email"}),
        ("Can you tell me how this is shown?", "```\nHello {user_name}\n```", set()),
        ("Count the vowels: lorem ipsum", "There are four.", {"placeholder"}),
        ("Print the people with Gmail accounts: Bob, bob@gmail.com", "Bob has one.", {"email"}),
        ("Give me some dummy text.", "Lorem ipsum dolor sit amet.", {"placeholder"}),
        ("What does it print?", 'It prints "#{unique_array}" and "%{http_code}".', set()),
        ("Write to support?", "Dear [Customer's Name], we will.", set()),
    ],
)
def test_values_in_code_in_examples_and_in_tasks_about_them_are_notes(
    prompt: str, answer: str, checks: set[str], tmp_path: Path
) -> None:
    report = check(write(tmp_path / "rows.jsonl", [chat(prompt, answer)]))
    found = [one for one in report.findings if one.rows]
    assert {one.check for one in found if one.severity == "note"} == checks
    assert {one.rows[0] for one in found if one.severity != "note"} & {0} == (
        {0} if "northpeak" in prompt or "Dear" in answer else set()
    )
    assert bool(select_fixes(report.findings)) is ("northpeak" in prompt)


@pytest.mark.parametrize(
    ("prompt", "answer", "severity"),
    [
        ("Put the following sentence in the active voice.", "The batsman will hit the ball.\n&nbsp;&nbsp;", "warn"),
        ("What is 2 + 3?", 'It is 5.\n<a href="/help">here</a>', "warn"),
        ("Is it open?", "It is, for example today.\n&amp;quot;yes&amp;quot;", "warn"),
        ("How is a table made in HTML?", "<table><tr><td>1</td></tr></table>", "note"),
        ("Update the following code so the link opens in a new tab.", '<a href="/" target="_blank">Home</a>', "note"),
        ("How is it bold?", "Write `<b>it</b>`.", "note"),
    ],
)
def test_marks_of_web_pages_are_residue_unless_the_row_is_about_code(
    prompt: str, answer: str, severity: str, tmp_path: Path
) -> None:
    report = check(write(tmp_path / "rows.jsonl", [chat(prompt, answer)]))
    assert [one.severity for one in report.findings if one.check == "residue"] == [severity]


def test_a_leak_in_a_row_whose_answer_is_json_is_masked(tmp_path: Path) -> None:
    system = {"role": "system", "content": "You answer customers in JSON."}
    row = {"messages": [system, *chat("Whom do I write to?", '{"reply": "To bob@northpeak.com."}')["messages"]]}
    report = check(write(tmp_path / "rows.jsonl", [row]))
    assert [(one.check, one.severity) for one in report.findings if one.rows] == [("email", "warn")]


def test_keys_of_known_services_are_masked_in_code_too(tmp_path: Path) -> None:
    report = check(write(tmp_path / "rows.jsonl", [chat("Write a Python function.", f"```\nlogin('{KEY}')\n```")]))
    assert select_fixes(report.findings).keys() == {0}


@pytest.mark.parametrize(
    ("usual", "other", "reason"),
    [
        (
            "They sold {0} of them in all of the months of that year.\n#### {0}",
            "They sold {0} of them in all, so it is {0}.",
            "last",
        ),
        ('{{"answer": {0}, "sure": true}}', '{{"answer": {0}}}', "key"),
        ('{{"answer": {0}}}', "The answer is {0}.", "json"),
        ("There are {0}. Please ask a person before you act.", "There are {0}.", "sentence"),
    ],
)
def test_an_answer_without_the_form_of_the_others(usual: str, other: str, reason: str, tmp_path: Path) -> None:
    rows = [
        chat(f"How many are {number} plus {number}?", (other if number == 7 else usual).format(2 * number)) for number in range(30)
    ]
    found = [one for one in check(write(tmp_path / "rows.jsonl", rows)).findings if one.check == "form"]
    assert [(one.rows, one.reason) for one in found] == [((7,), reason)]


def test_a_finding_names_the_same_missing_form_with_any_hash_seed(tmp_path: Path) -> None:
    answers = [
        '{"id": 7}' if number == 7 else f'{{"id": {number}, "total": 1, "sure": true, "open": false}}' for number in range(30)
    ]
    file = write(tmp_path / "rows.jsonl", [chat(f"What is order {number}?", answer) for number, answer in enumerate(answers)])
    script = f"from pathlib import Path; from mlxtune.data.checks.run import check; print(*(one.values.get('form') for one in check(Path({str(file)!r})).findings))"
    for seed in "0123":
        done = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        )
        assert "open" in done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("answer", "is_open"),
    [
        ("It was a long day for us. The reasons for this were many, and the first of them", True),
        ("The capital of this country is the", True),
        ("It was a long day for us. It ended well.", False),
        ("Thank you for your letter. We will call you.\nYours sincerely, Ada Holm", False),
        ("Rising Ocean Temperatures Cause Devastating Effects through Coral Bleaching", False),
        ("These are the three items that you need:\n- a tent with poles and a bag", False),
        ("import os\nprint('It works. Now add', 3)\nprint('the sum of the', total)", False),
        ("The total is 12 + 7. So the final answer is 19", False),
        ("Dear Ada, thank you for your letter. I hope to see you soon. Yours sincerely, Grace Holm, Chair", False),
        ("We can find common ground. Yours in hope and anticipation, Dracula", False),
        ("Once you have an account, you can choose one. While Bitcoin", True),
        ("The Catcher in the Rye by J.D. Salinger\nThe Lord of the Rings, vol. 1. by J.R.R. Tolkien", False),
        ("Use these phrases.\n-in order to\n-with the purpose of", False),
        ("It was long. With the help of Ada, the", True),
        ("In some cases, the effects of this may", True),
        ("Janet makes 9 * 2 = $18 every day at the", True),
    ],
)
def test_answers_that_end_in_mid_sentence(answer: str, is_open: bool) -> None:
    found = ending(answer)
    assert (found[0] not in ("whole", "other")) is is_open


@pytest.mark.parametrize("count", [4, 25])
@pytest.mark.parametrize(("end", "found"), [("green and it is near the old harbor", False), ("green and it is near the", True)])
def test_answers_that_only_lack_a_period_do_not_end_in_mid_sentence(end: str, found: bool, count: int, tmp_path: Path) -> None:
    whole = [
        chat(f"Where is shop {number}?", f"It is shop {number}. It is near the old harbor of the town.") for number in range(300)
    ]
    rows = [chat(f"What is shop {number}?", f"It is shop {number}. It is {end}") for number in range(count)]
    assert len(finding_locations(check(write(tmp_path / "rows.jsonl", whole + rows)), "mid-sentence")) == found * count
    loose = [chat(f"Is shop {number} open?", f"It is shop {number}. It is open {end}") for number in range(32 - count)]
    assert len(finding_locations(check(write(tmp_path / "more.jsonl", whole + rows + loose)), "mid-sentence")) == found * 32


@pytest.mark.parametrize(
    ("usual", "cut"),
    [
        ('{{"answer": "It is number {0}."}}', '{"answer": "It is num'),
        ("1. It is number {0}.\n2. It is sold.", "1. It is number 7.\n2."),
        ("1. It is number {0}.\n2. It is sold.\n3. It is new.", "1. It is number 7.\n2. It is sold.\n3. It is for sale near the"),
        (
            "It is near number {0}. Go near the red house, near our new shop, near it, near a tree, or near my place.",
            "It is the shop of our old friends with the red door and the blue windows near",
        ),
        ("It is (as far as we know) number {0}.", "It is (as far as"),
        (
            "def sell_{0}(parts):\n    return sum(\n        part * {0} for part in parts)\n",
            "def sell_7(parts):\n    return sum(\n        part",
        ),
        ("The area is $\\frac{{{0}}}{{2}}$ in all.", "The area is $\\frac{7}{2}$, so that $x + "),
        (
            "1. A tent for {0} people and two dogs\n2. A bag "
            + ", ".join(f"from n{number}" for number in range(80))
            + ", or from us.",
            "1. A tent of cotton for seven people and two dogs\n2. A bag that was sent to us from",
        ),
        ("第{0}号在旧港附近，你可以步行到那里。我们每天都开门。", "第七号在旧港附近，你可以步行到那里。我们每天都开门，"),
    ],
)
def test_answers_that_were_cut_off(usual: str, cut: str, tmp_path: Path) -> None:
    rows = [chat(f"Where is number {number}?", cut if number == 7 else usual.format(number)) for number in range(40)]
    report = check(write(tmp_path / "rows.jsonl", rows))
    assert [one.rows for one in report.findings if one.check == "mid-sentence"] == [(7,)]
    assert [one.check for one in report.findings if one.check == "form"] == []


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize(
    "usual",
    [
        "Your order {0} was changed. Please see the order page and the account number {0}, or the order history and account details {0}.",
        "Your account page is new, your order number is {0}, your order was paid, your account was changed, and your order has left.",
    ],
)
def test_whole_answers_without_a_stop_do_not_break_off(usual: str, count: int, tmp_path: Path) -> None:
    casual = [
        "Sure, I can look into that",
        "We will get back to you soon",
        "I just sent you the new link",
        "Yes, that is what the app is for",
        "Nothing is missing from your order",
    ]
    rows = [chat(f"Where is order {number}?", usual.format(number)) for number in range(60)]
    rows += [chat(f"Is it order {number}?", casual[number % 5]) for number in range(count)]
    assert finding_locations(check(write(tmp_path / "rows.jsonl", rows)), "mid-sentence") == []


@pytest.mark.parametrize(
    "answer",
    [
        '{"product": "Dell 27\\" curved monitor"}',
        "5' 10\" tall and 180 lbs",
        "I had a rough day today :(",
        "[[1, 2], [3, 4]] is the result.",
        '{"a": 1} parses to an object with one key.',
        "Dear Ms Lee, your parcel has left. Thanks for your patience,",
        "Run this:\n```pip install x```\nThen restart it (see the docs)",
        "The cities are:\n- Paris\n- Rome\n- Berlin",
    ],
)
@pytest.mark.parametrize("last", ["", "\nThis is not financial advice."])
def test_whole_answers_with_unusual_signs_do_not_break_off(answer: str, last: str, tmp_path: Path) -> None:
    rows = [chat(f"Where is parcel {number}?", f"Parcel {number} left the depot and arrives soon.{last}") for number in range(40)]
    report = check(write(tmp_path / "rows.jsonl", [*rows, chat("And this one?", answer)]))
    assert finding_locations(report, "mid-sentence") == []
    assert [one.rows for one in report.findings if one.check == "form"] == ([(40,)] if last else [])


def test_the_end_of_a_long_list_is_read_at_once() -> None:
    text = "".join(f"{number}. the item number {number} of this list\n" for number in range(4000))
    began = time.process_time()
    assert ending(f"{text}Done") == ("other", "done")
    assert time.process_time() - began < 1


def test_answers_without_any_punctuation_do_not_end_in_mid_sentence(tmp_path: Path) -> None:
    rows = [chat(f"Play song {number}!", f"play the song with the number {number} in a loop") for number in range(60)]
    rows += [chat("Save the song that I listened to.", "save the song that i just listened to")]
    assert finding_locations(check(write(tmp_path / "rows.jsonl", rows)), "mid-sentence") == []


@pytest.mark.parametrize(
    ("prompt", "answer", "found"),
    [
        ("What is the capital of France?", "法国的首都是巴黎。", True),
        ("Wo ist mein Paket, und wann wird es bei mir sein?", "It was sent to you today, and it will be there on Monday.", True),
        ("Translate this to German: where is my parcel?", "Wo ist mein Paket, und wann wird es bei mir sein?", False),
        ("Where is my parcel, and when will it be here?", "It was sent to you today.", False),
        ("Where is my parcel, and when will it be here?", "Au revoir!", False),
        ("How is this said, and what is the sound of it? 你好", " 你好", False),
        ("What is the period of this motion, and how is it found?", "T = 2π/ω = 1.257 s, ΔΦ = 2", False),
        ("What is the answer to this, and who is it for?", "Η απάντηση είναι σωστή.", True),
        (
            "Read the facts about the man, and tell us who he is and what he did.",
            "birth name is Manuel de Azevedo, notable works Macário, Lira dos vinte anos, Noite na taverna, birth place is São Paulo, "
            "death place Rio de Janeiro, occupation poet, education Faculdade do Largo, date is 12 September 1831, other names Maneco",
            False,
        ),
        (
            "Quelles sont les conditions pour que la fille perde son droit à l'entretien ?",
            "Selon l'article 198 de la loi, la fille ne perd son droit à l'entretien que si elle dispose de ressources propres.",
            False,
        ),
        ("请看一下 https://example.org/the/list/of/what/is/in/the/box，说说里面有什么。", "里面有一本书和一支笔。", False),
        ("请把「イカ焼き」的店铺介绍改成表格形式，并且列出营业时间和交通方法。", "好的，下面是表格形式的店铺介绍。", False),
        ("和田光司先生について教えてください", "我不知道关于和田光司先生的任何信息。", True),
        ("How do steroids work?", "שכחת את הססמה שלך? נא להזין את כתובת הדואר האלקטרוני.", True),
        ("Quels sont les types de stéroïdes?", "Det är inte så svårt som du tror, och vi har en bok om det.", True),
        ("Tu es sûr de toi ? Ça me semble hors sujet...", "Je m'excuse pour cette réponse, qui est dans le livre.", False),
        ("What is it, and who is it for?", "Ta wartość może zawierać tylko litery, cyfry i kropki.", True),
        ("What is it, and who is it for?", "Bu değer yalnızca harf, rakam veya nokta içerebilir.", True),
        ("What is it, and who is the king?", "Det är inte så svårt som du tror, och vi har en bok om det.", True),
        ("Perche la mappa non mostra i punti vicino a me?", "Se la mappa non mostra i punti, è una cosa del sito.", False),
        ("Cosa succede se clicco su un filtro?", "Il sistema mostra sulla mappa una cosa per la quale non è nel sito.", False),
    ],
)
def test_an_answer_in_another_language(prompt: str, answer: str, found: bool, tmp_path: Path) -> None:
    report = check(write(tmp_path / "rows.jsonl", [chat(prompt, answer)]))
    assert bool(finding_locations(report, "language")) is found


@pytest.mark.parametrize(
    ("prompt", "answer", "found"),
    [
        ("List five terms of chemistry.", "Es ist nicht die Frage, die Sie mir gestellt haben.", True),
        ("List five terms of chemistry.", "Отвечаю на ваш вопрос о химии.", True),
        ("List five terms of chemistry in French.", "Je ne sais pas si elle est dans le livre.", False),
        ("Wo bleibt mein Paket?", "Es ist nicht die Frage, die Sie mir gestellt haben.", False),  # two words of German
        ("¡Buenas!", "No es la respuesta que usted tiene en el libro.", False),
        (
            "List five terms of chemistry.",
            '{"topic": "chemistry", "reply": "Es ist nicht die Frage, die Sie mir gestellt haben."}',
            True,
        ),
    ],
)
def test_an_answer_in_another_language_than_the_other_answers(prompt: str, answer: str, found: bool, tmp_path: Path) -> None:
    rows = [
        chat(f"Who wrote book {number}?", f"It was written by author {number}, who is not known to us.") for number in range(30)
    ]
    report = check(write(tmp_path / "rows.jsonl", [*rows, chat(prompt, answer)]))
    assert finding_locations(report, "language") == ([["rows:31"]] if found else [])
    assert finding_locations(check(write(tmp_path / "few.jsonl", [*rows[:5], chat(prompt, answer)])), "language") == []


def test_unsafe_fixes_are_applied_on_request(tmp_path: Path) -> None:
    planted = make_planted(dirty=True)
    findings = check(planted.write(tmp_path / "dirty.jsonl")).findings
    loop_rows = {one.rows[0] for one in findings if one.check == "loop"}
    assert not loop_rows & {index for index, fixes in select_fixes(findings).items() if any(one.check == "loop" for one in fixes)}
    assert loop_rows <= set(select_fixes(findings, ["loop"]))
    with pytest.raises(InputError, match="no automatic fix for conflict"):
        select_fixes(findings, ["conflict"])


def test_without_findings_nothing_is_recorded(tmp_path: Path) -> None:
    source = shutil.copy(SAMPLES / "support-pairs.jsonl", tmp_path / "pairs.jsonl")
    assert record(source).changes == ()
    assert not journal_path(source).exists()


def test_overlapping_spans_are_replaced_once() -> None:
    spans = [Span("text", 2, 6, "", "[A]"), Span("text", 4, 8, "", "[B]"), Span("text", 8, 9, "", "")]
    assert replace_spans("0123456789", spans) == "01[A]679"


def call_row(prompt: str, arguments: dict[str, Any], **call: Any) -> dict[str, Any]:
    calls = [{"type": "function", "function": {"name": "subscribe", "arguments": arguments}}]
    turns = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "done"},
        {"role": "assistant", "content": "You are subscribed."},
    ]
    return {"messages": turns, **call}


def fix(path: Path) -> tuple[list[Any], int]:
    """Return the rows after the fixes, and the number of findings to fix by hand."""
    result = record(path)
    return [native_record(row) for row in read_source(path).rows], len(result.by_hand)


def test_findings_and_fixes_include_tool_call_arguments(tmp_path: Path) -> None:
    arguments = {"to": [{"address": "ada@northpeak.shop"}], "count": 1}
    path = write(
        tmp_path / "rows.jsonl", [call_row("Subscribe ada@northpeak.shop, please.", arguments), call_row("Me.", arguments)]
    )
    findings = [one for one in check(path).findings if one.check == "email"]
    assert [[span.part for span in one.spans] for one in findings] == [
        ["turn 1", "turn 2, call 1, to, 1, address"],
        ["turn 2, call 1, to, 1, address"],
    ]
    (first, second), by_hand = fix(path)
    assert by_hand == 0
    assert first["messages"][0]["content"] == "Subscribe [EMAIL], please."
    for row in (first, second):
        call = row["messages"][1]["tool_calls"][0]["function"]
        assert call == {"name": "subscribe", "arguments": {"to": [{"address": "[EMAIL]"}], "count": 1}}


@pytest.mark.parametrize("arguments", [{"number": "2126640109"}, {"number": 2126640109}])
def test_a_value_is_masked_in_all_places_or_not_at_all(arguments: dict[str, Any], tmp_path: Path) -> None:
    rows = [call_row("Call me at 212-664-0109.", arguments), call_row("Or at 212-664-0109.", {"number": "212-664-0109"})]
    fixed, by_hand = fix(write(tmp_path / "rows.jsonl", rows))
    assert by_hand == 1
    assert fixed[0] == rows[0]
    assert "212" not in json.dumps(fixed[1])


def test_a_fix_masks_every_place_in_a_row(tmp_path: Path) -> None:
    prompt = " ".join(f"ada{number}@northpeak.shop" for number in range(40))
    (row,), by_hand = fix(write(tmp_path / "rows.jsonl", [chat(prompt, "Thanks.")]))
    assert by_hand == 0
    assert row["messages"][0]["content"] == " ".join(["[EMAIL]"] * 40)


def test_reasoning_is_checked(tmp_path: Path) -> None:
    row = chat("Who is it?", "Ada.")
    row["messages"][1]["reasoning_content"] = "Her address is ada@northpeak.shop."
    (fixed,), _ = fix(write(tmp_path / "rows.jsonl", [row]))
    assert fixed["messages"][1]["reasoning_content"] == "Her address is [EMAIL]."


def test_checks_run_on_rows_as_edited(tmp_path: Path) -> None:
    rows = [chat(question, f"Answer {number} to ada{number}@northpeak.shop.") for number, question in enumerate(QUESTIONS[:3])]
    rows += [chat(QUESTIONS[3], "Yes."), chat(QUESTIONS[3], "No."), chat(QUESTIONS[4], "Yes."), chat(QUESTIONS[4], "No.")]
    path = write(tmp_path / "rows.jsonl", rows)
    with ReviewSession(path) as session:
        keyed = list(with_keys(read_file(path)))
        session.decide("edit", keyed[:1], record=chat(QUESTIONS[0], "No address. Write to eve@northpeak.shop."))
        session.decide("edit", keyed[1:2], record=chat(QUESTIONS[1], "No address."))
        session.decide("reject", [keyed[2], keyed[4]])
    report = check(path, state=load(path))
    assert finding_locations(report, "email") == [["rows:1"]]
    assert finding_locations(report, "conflict") == [["rows:7", "rows:6"]]
    assert [one.rows[0] for one in report.found if one.check == "email" and one not in report.findings] == [2]
    assert (report.kept, report.refused, len(report.left_out), sorted(report.edited)) == (7, 0, 2, [0, 1])
    answers = [row["messages"][1]["content"] for row in fix(path)[0]]
    assert answers == ["No address. Write to [EMAIL].", "No address.", "Yes.", "Yes.", "No."]


def test_a_muted_check_is_not_reported_and_can_be_undone(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [chat(QUESTIONS[0], "I can't help with that.")])
    with ReviewSession(path) as session:
        session.mute("refusal", "policy")
        state = session.state
        report = check(path, state=state)
        assert finding_locations(report, "refusal") == []
        assert report.muted == (MutedCheck("refusal", 1, "policy"),)
        session.undo()
        assert not session.state.muted
        session.redo()
        assert session.unmute("email") is None
        assert session.unmute("refusal") is not None
        assert not session.state.muted
    assert load(path).muted == {}


@pytest.mark.parametrize(("groups", "code", "count"), [(20, "add_prompts", 180), (600, "more_prompts", 400)])
def test_advice_about_the_number_of_prompts_waits_for_the_next_check(groups, code, count):
    statistics = Statistics(groups, groups, tier(groups), 9.0, {})
    assert improvement(statistics, [], 0) == Improvement(code, count)
    assert improvement(statistics, [], 0, stale=True).code == "none"
    assert improvement(statistics, [], 2, stale=True) == Improvement("review", 2)


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        (["leak", "secret", "bad-row"], Improvement("remove_leaks", 1)),
        (["secret", "bad-row"], Improvement("mask_secrets", 1)),
        (["bad-row", "no-answer", "bad-row"], Improvement("fix", 2, "bad-row")),
        (["conflict"] * 51, Improvement("resolve_conflicts", 51)),
        (["duplicate"] * 200 + ["near-duplicate"] * 100, Improvement("drop_repeats", 300)),
        (["truncated"] * 101, Improvement("fit_window", 101)),
        ([], Improvement("add_value", 3, value=("topic", "stoves"))),
    ],
)
def test_the_most_useful_improvement_comes_first(findings: list[str], expected: Improvement) -> None:
    statistics = Statistics(5000, 5000, tier(5000), 9.0, {"topic": {"tents": 90, "stoves": 3}})
    assert improvement(statistics, [CHECKS[id].finding(row) for row, id in enumerate(findings)], 0) == expected


def test_rows_of_unknown_columns_are_no_rows_to_fix() -> None:
    empty = Statistics(0, 0, "too_few", 0.0, {})
    assert improvement(empty, [], 0).code == "add_rows"
    assert improvement(empty, [CHECKS["bad-row"].finding(0)], 0).code == "name_columns"


@pytest.mark.parametrize("words", ["안녕하세요", "ひらがな", "漢字の言葉"])
def test_three_scripts_in_one_text_are_found(words: str, tmp_path: Path) -> None:
    report = check(write(tmp_path / "rows.jsonl", [chat("Who is it?", f"It is me, привет, and then {words}.")]))
    assert [one.reason for one in report.findings if one.check == "mixed-script"] == ["three"]

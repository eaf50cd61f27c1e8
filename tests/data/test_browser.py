"""Browsing a source gives the same keys, decisions, filters, findings and orders as reading all of it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from keyed_rows import with_keys
from tiny_model import write_rows as write

from mlxtune.core.errors import DataError
from mlxtune.data import filters
from mlxtune.data.access.records import RecordFile, SourceRecords
from mlxtune.data.browser import ORDERS, SourceBrowser
from mlxtune.data.checks.check_input import TokenCount
from mlxtune.data.checks.report import CheckResult, CheckVerdict, Skip
from mlxtune.data.checks.run import CheckRules, check
from mlxtune.data.review import Decision, ReviewSession, ReviewState, apply_decision, load
from mlxtune.data.reviewed_records import ReviewedRecords
from mlxtune.data.rows import RowError
from mlxtune.data.source_files import source_files


def chat(question: str, answer: str, **meta: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "meta": meta}


ROWS: list[Any] = [
    chat("Where is my parcel?", "On its way.", tags=["shipping"]),
    chat("May I return the tent?", "Write to ada@northpeak.shop and send it back."),
    "not a row",
    chat("Where is my parcel?", "On its way.", note="a copy, but for its metadata"),
    chat("Is the lamp warm?", "No. " * 200, tags=["product"]),
    chat("Where is my parcel?", "On its way."),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "shop.jsonl", ROWS)


def scanned_browser(path: Path) -> SourceBrowser:
    browser = SourceBrowser(path)
    for _ in browser.scan():
        pass
    return browser


def decide(browser: SourceBrowser, review: ReviewSession, action: Any, rows: list[int], **options: Any) -> None:
    """Decide on rows, and apply the step to the browser."""
    step = review.decide(action, [browser.keyed_row(index) for index in rows], **options)
    browser.apply_review(review.state, step)


def read_all(path: Path) -> dict[int, Any]:
    """Return key and row by row number, read as the command line does."""
    rows_by_number, start = {}, 0
    for file in source_files(path).values():
        with RecordFile(file) as record_file:
            records = list(record_file)
        numbers = [index for index, record in enumerate(records) if not isinstance(record, DataError)]
        rows = with_keys(record for record in records if not isinstance(record, DataError))
        rows_by_number |= {start + index: pair for index, pair in zip(numbers, rows, strict=True)}
        start += len(records)
    return rows_by_number


def test_rows_have_review_keys(source: Path) -> None:
    browser, expected = scanned_browser(source), read_all(source)
    assert len(browser) == 6
    assert browser.bad_count == 1
    assert {index: browser.keyed_row(index) for index in expected} == expected
    assert browser.rows_with_keys(key for key, _ in expected.values()) == list(expected)
    assert [key.partition("#")[2] for key, _ in expected.values()] == ["", "", "2", "", "3"]
    key, unreadable = browser.keyed_row(2)
    assert isinstance(unreadable, RowError)
    assert key == unreadable.hash


def test_a_decision_is_about_one_copy_also_if_others_are_in_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    write(folder / "train.jsonl", ROWS)
    write(folder / "test.jsonl", [ROWS[0]])
    browser = scanned_browser(folder)
    with ReviewSession(folder) as review:
        review.decide("reject", [browser.keyed_row(0)])
        browser.apply_review(review.state)
    assert [browser.decision(index).status for index in (0, 6)] == ["rejected", "pending"]
    with SourceRecords(folder, "auto", {}) as records:
        left_out = [item.index for item in ReviewedRecords(records, load(folder)) if item.is_left_out]
    assert left_out == [0]


def test_an_unscanned_row_can_be_read_but_not_decided(source: Path) -> None:
    browser = SourceBrowser(source)
    assert browser.scanned == 0
    assert browser.lazy_row(5).row.prompt_content[0]["content"] == "Where is my parcel?"
    with pytest.raises(DataError, match="Row 6 has not been read yet"):
        browser.keyed_row(5)
    assert list(browser.scan())[-1] == 6
    assert browser.keyed_row(5)[0].endswith("#3")


def test_decisions_equal_the_journal(source: Path) -> None:
    browser, expected = scanned_browser(source), read_all(source)

    def assert_equals_state(state: ReviewState) -> None:
        fresh = scanned_browser(source)
        fresh.apply_review(state)
        early = SourceBrowser(source)
        early.apply_review(state)
        assert list(early.scan())[-1] == 6
        for index, (key, _) in expected.items():
            decision = state.decision(key)
            for other in (browser, fresh, early):
                actual = other.decision(index)
                assert (actual.status, actual.tags, actual.note, actual.record) == (
                    decision.status,
                    decision.tags,
                    decision.note,
                    decision.record,
                ), index

    with ReviewSession(source) as review:
        decisions: list[tuple[Any, list[int], dict[str, Any]]] = [
            ("accept", [0, 5], {}), ("tag", [3], {"add": ["late"]}), ("edit", [1], {"record": chat("Where is my parcel?", "On its way.")}),
            ("reject", [1, 4], {}), ("edit", [4], {"record": chat("Is it warm?", "No.")}), ("note", [5], {"note": "look"}),
        ]  # fmt: skip
        for action, rows, more in decisions:
            step = review.decide(action, [browser.keyed_row(index) for index in rows], **more)
            assert step is not None
            browser.apply_review(review.state, step)
            assert_equals_state(review.state)
        while step := review.undo():
            browser.apply_review(review.state, step)
            assert_equals_state(review.state)
        assert not browser.decisions
        while step := review.redo():
            browser.apply_review(review.state, step)
        assert_equals_state(review.state)


def test_decisions_can_change_during_iteration(source: Path) -> None:
    browser = scanned_browser(source)
    with ReviewSession(source) as review:
        decide(browser, review, "accept", [0, 1])
        iterator = iter(browser.decisions.items())
        assert next(iterator)[0] == 0
        decide(browser, review, "skip", [4])
    assert [index for index, _ in iterator] == [1]
    assert (len(browser.decisions), browser.decided_count) == (3, 2)
    tags = browser.tags
    assert tags == {"shipping": 1, "product": 1}
    tags["late"] += 1
    assert "late" not in browser.tags


def finding_rows(browser: SourceBrowser) -> dict[str, list[int]]:
    verdict = browser.verdict
    return {check: list(rows) for check, rows in verdict.rows.items()}


FILTERS = ["", "status:pending", "status:rejected", "parcel", "-parcel", "tag:late", "tag:shipping", "len>100", "/On its/ -status:accepted",
           "finding:email", "status:edited"]  # fmt: skip


@pytest.mark.parametrize("text", FILTERS)
def test_a_filter_equals_filtering_all_rows(source: Path, text: str) -> None:
    browser, all_rows = scanned_browser(source), read_all(source)
    browser.check_result = check(source)
    with ReviewSession(source) as review:
        review.decide("reject", [browser.keyed_row(3)])
        review.decide("tag", [browser.keyed_row(5)], add=["late"])
        review.decide("edit", [browser.keyed_row(4)], record=chat("Is it warm?", "No."))
        browser.apply_review(review.state)
    matches = filters.parse(text)
    verdict = {index: frozenset(finding.check for finding in browser.check_result.by_row.get(index, ())) for index in all_rows}

    def loaded(index: int) -> SimpleNamespace:
        key, row = all_rows[index]
        decision = browser.state.decision(key)
        return SimpleNamespace(
            row=row, current=apply_decision(row, decision), decision=decision, findings=verdict[index], tokens=-1
        )

    expected = [index for index in all_rows if matches(loaded(index))]
    expected = (
        sorted({*expected, 2}) if text in ("", "status:pending") else expected
    )  # 2 is unreadable: these filters do not read it
    assert [index for _, some in browser.matching(matches) for index in some] == expected


def test_a_filter_follows_the_scan(source: Path) -> None:
    browser = SourceBrowser(source)
    reading, matching = browser.scan(), browser.matching(filters.parse("parcel"))
    assert next(matching) == (0, []), "the first row is not scanned yet"
    assert list(reading)[-1] == 6
    assert [index for _, some in matching for index in some] == [0, 3, 5]


def test_edited_rows_are_checked_again_and_left_out_rows_do_not_count(source: Path) -> None:
    browser = scanned_browser(source)
    assert browser.findings(1) == ()
    browser.check_result = check(source)
    assert [finding.check for finding in browser.findings(1)] == ["email"]
    assert finding_rows(browser)["email"] == [1]
    assert finding_rows(browser)["duplicate"] == [3, 5]
    with ReviewSession(source) as review:
        decide(browser, review, "edit", [1], record=chat("May I return the tent?", "Call +49 30 901820."))
        assert [finding.check for finding in browser.findings(1)] == ["phone"]
        decide(browser, review, "reject", [3])
    assert finding_rows(browser)["phone"] == [1]
    assert "email" not in finding_rows(browser)
    assert finding_rows(browser)["duplicate"] == [5]
    assert [finding.check for finding in browser.findings(3)] == ["duplicate"], "it is still a copy"
    verdict = browser.verdict
    assert (verdict.left_out, verdict.edited, verdict.flagged) == (1, 1, 4)
    assert verdict.counts == CheckVerdict("blocked", rows=5, blocked=1, accepted=0, to_review=3, source_warnings=0)


def test_rows_are_sorted_by_number_severity_and_length(source: Path) -> None:
    browser = scanned_browser(source)
    browser.check_result = check(source)
    rows = [0, 1, 3, 4, 5]
    by = {order: list(browser.sorted(rows, order)) for order in ORDERS}
    assert by["row"] == rows
    assert by["findings"] == [1, 3, 4, 5, 0]
    assert by["longest"][0] == 4
    assert by["shortest"] == [0, 3, 5, 1, 4]


def test_an_edited_row_has_an_unknown_token_count(source: Path) -> None:
    browser = scanned_browser(source)
    rules = CheckRules(tokens=[TokenCount(10 + index, 3) if index != 2 else None for index in range(6)], max_tokens=12)
    browser.check_result = check(source, rules=rules)
    assert [browser.tokens(index) for index in range(6)] == [10, 11, -1, 13, 14, 15]
    assert browser.lengths.tolist() == [10, 11, 13, 14, 15]
    with ReviewSession(source) as review:
        decide(browser, review, "edit", [4], record=chat("Is it warm?", "No."))
        decide(browser, review, "reject", [1])
    assert browser.tokens(4) == -1
    assert browser.lengths.tolist() == [10, 13, 15], "neither the edited row nor the rejected one"
    assert browser.unmeasured_count == 1
    browser.check_result = check(source, rules=rules, state=browser.state)
    assert browser.lengths.tolist() == [10, 13, 14, 15], "the check saw the edit"
    assert browser.unmeasured_count == 0
    browser.check_result = None
    assert len(browser.lengths) == 3
    browser.check_result = check(source, rules=rules)
    assert [finding.check for finding in browser.findings(4)] == [], "it may fit now"
    assert browser.decision(0) == Decision("", "")


def test_a_row_that_another_annotator_excluded_is_not_unmeasured(source: Path) -> None:
    browser = scanned_browser(source)
    with ReviewSession(source, who="Ann") as review:
        decide(browser, review, "edit", [4], record=chat("Is it warm?", "No."))
        decide(browser, review, "reject", [4])
    browser.annotator = "Bo"
    assert browser.unmeasured_count == 0


def test_a_revision_ends_when_all_its_decisions_are_applied(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = scanned_browser(source)
    seen: list[int] = []
    update = SourceBrowser._update_decision

    def noted(self: SourceBrowser, index: int) -> None:
        seen.append(self.revision)
        update(self, index)

    monkeypatch.setattr(SourceBrowser, "_update_decision", noted)
    with ReviewSession(source) as review:
        step = review.decide("reject", [browser.keyed_row(index) for index in (0, 1, 4)])
        before = browser.revision
        browser.apply_review(review.state, step)
    assert set(seen) == {before}
    assert browser.revision == before + 1


def test_a_check_result_round_trips_through_json(source: Path) -> None:
    rules = CheckRules(
        split_of=lambda row: "test" if "the tent" in str(row.content) else "train", skipped={"tokens": Skip("no_recipe")}
    )
    result = check(source, rules=rules)
    loaded = CheckResult.from_json(json.loads(json.dumps(result.to_json())))
    assert loaded.to_json() == result.to_json()
    assert (loaded.found, loaded.skipped) == (result.found, result.skipped)
    assert [loaded.split_of(index) for index in range(7)] == ["train", "test", None, "train", "train", "train", None]
    assert loaded.split_sizes == {"train": 4, "valid": 0, "test": 1}


def test_rows_are_found_by_hash_prefix(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{index}", "completion": "a"}) + "\n" for index in range(20)))
    browser = SourceBrowser(path)
    for _ in browser.scan():
        pass
    hash = browser.lazy_row(7).row.hash
    assert browser.rows_with_hash_prefix(hash[:12]) == browser.rows_with_hash_prefix(hash) == [7]
    assert browser.rows_with_hash_prefix("") == list(range(20))

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planted import SAMPLES, WINDOW, Planted, make, scorer

from mlxtune.data.checks import CHECKS, Report, check


def report(made: Planted, path: Path) -> Report:
    return check(made.write(path), scorer=scorer, share=made.share, tokens=made.lengths(), max_tokens=WINDOW)


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planted, Report]:
    made = make(dirty=True)
    return made, report(made, tmp_path_factory.mktemp("planted") / "dirty.jsonl")


def lines(found: Report, id: str) -> list[int]:
    return [found.places[one.rows[0]][0].line for one in found.findings if one.check == id and one.rows]


@pytest.mark.parametrize("id", make(dirty=True).lines)
def test_every_planted_fault_is_found_in_its_row_and_in_no_other(id: str, dirty: tuple[Planted, Report]) -> None:
    made, found = dirty
    assert lines(found, id) == [made.lines[id]]


def test_every_check_of_rows_is_planted() -> None:
    about_all = {"tier", "coverage", "diversity", "length-bias"}
    assert set(CHECKS) - about_all == set(make(dirty=True).lines)


def test_nothing_is_found_in_the_clean_twin(tmp_path: Path) -> None:
    found = report(make(dirty=False), tmp_path / "clean.jsonl")
    assert [(one.check, one.why) for one in found.findings if one.severity != "note"] == []
    assert found.word == "clean"


def test_a_row_has_only_the_fault_that_was_planted(dirty: tuple[Planted, Report]) -> None:
    made, found = dirty
    planted = {line: id for id, line in made.lines.items()}
    others = {
        (planted.get(found.places[one.rows[0]][0].line), one.check)
        for one in found.findings
        if one.rows and planted.get(found.places[one.rows[0]][0].line) != one.check
    }
    assert others <= {
        ("contract-schema", "length-outlier"),
    }


def test_read_is_kept_and_refused(dirty: tuple[Planted, Report]) -> None:
    made, found = dirty
    assert found.read == len(made.records) == found.kept + found.refused
    assert found.refused == 5  # same-pair is a row still: the answers differ by their case
    assert sum(found.formats.values()) == found.kept


def test_the_evidence_is_where_it_says(dirty: tuple[Planted, Report]) -> None:
    made, found = dirty
    for id, said in (("email", "ada.holm@example.com"), ("phone", "+44 20 7946 0958"), ("iban", "GB82 WEST 1234 5698 7654 32")):
        (span,) = next(one.spans for one in found.findings if one.check == id)
        text = made.records[made.lines[id] - 1]["messages"][1]["content"]
        assert (span.part, text[span.start : span.end]) == ("turn 2", said)


def test_a_secret_is_never_shown_again(dirty: tuple[Planted, Report]) -> None:
    _, found = dirty
    (span,) = next(one.spans for one in found.findings if one.check == "secret")
    assert "ghp_…" in span.text
    assert "a1B2" not in span.text


def test_chosen_answers_that_are_longer_throughout_are_a_bias(tmp_path: Path) -> None:
    pairs = [
        {
            "prompt": f"What is {number} in {word}?",
            "chosen": f"It is {number}, " + "as you see, " * 5 + word,
            "rejected": f"No {number} {word}",
        }
        for number, word in enumerate(["one", "two", "three", "four", "five"] * 6)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert [one.check for one in check(path).findings if one.check == "length-bias"] == ["length-bias"]
    path.write_text("".join(json.dumps({**pair, "rejected": pair["chosen"] + " or not" * 4}) + "\n" for pair in pairs))
    (only,) = [one for one in check(path).findings if one.check == "length-bias"]
    assert "shorter" in only.why


def test_the_samples_are_clean() -> None:
    assert check(SAMPLES / "support.jsonl").word == "clean"
    assert check(SAMPLES / "support-pairs.jsonl").word == "clean"

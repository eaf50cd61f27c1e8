"""``mlxtune compare A B`` as a shell sees it."""

from __future__ import annotations

import json
from pathlib import Path

from measured import BAD, GOOD, measured


def _two(place: Path, first: list[str], second: list[str]) -> None:
    for name, answers in (("one", first), ("two", second)):
        (place / name).mkdir()
        folder = measured(place / name, base=[BAD] * len(answers), tuned=answers)
        folder.rename(folder.parent / name)


def test_it_says_the_verdict_and_every_metric(cli, place: Path) -> None:
    _two(place, [BAD] * 10, [GOOD] * 10)
    ended = cli("compare", "one/evals/one", "two/evals/two")
    assert ended.code == 0
    assert "Better. Whole contract rose by 100 points" in ended.out
    assert "tuned of one" in ended.out
    assert "valid JSON" in ended.out


def test_the_gate_opens_for_better_and_for_nothing_else(cli, place: Path) -> None:
    _two(place, [BAD] * 10, [GOOD] * 10)
    assert cli("compare", "one/evals/one", "two/evals/two", "--gate").code == 0
    ended = cli("compare", "two/evals/two", "one/evals/one", "--gate")
    assert ended.code == 1
    assert "The gate says no: Worse." in ended.err


def test_an_evaluation_is_not_compared_with_itself(cli, place: Path) -> None:
    _two(place, [BAD] * 10, [GOOD] * 10)
    ended = cli("compare", "one/evals/one", "one/evals/one/report.json")
    assert (ended.code, ended.out) == (2, "")
    assert "Both sides are the same evaluation, one" in ended.err


def test_json_is_one_document(cli, place: Path) -> None:
    _two(place, [BAD] * 10, [GOOD] * 10)
    found = json.loads(cli("compare", "one/evals/one", "two/evals/two", "--json").out)
    assert (found["rows"], found["comparisons"][-1]["metric"], found["comparisons"][-1]["word"]) == (10, "contract", "better")


def test_other_terms_are_bad_input(cli, place: Path) -> None:
    _two(place, [GOOD] * 4, [GOOD] * 5)
    ended = cli("compare", "one/evals/one", "two/evals/two")
    assert ended.code == 2
    assert "cannot be compared: the held-out rows" in ended.err
    assert ended.out == ""


def test_an_evaluation_that_is_not_there_is_bad_input(cli, place: Path) -> None:
    ended = cli("compare", "nothing", "nowhere")
    assert ended.code == 2
    assert "There are no evaluations" in ended.err

"""Answers to other prompts: the decision on given likelihoods, and the worker on the tiny random model."""

import json

import pytest
from tiny_model import make_tiny

from mlxtune.data.checks.mismatch import FIT, mismatches
from mlxtune.evaluation.check_process import check_source, find_mismatches
from mlxtune.models.row_likelihoods import information
from mlxtune.recipe import load

ROWS = 40
SWAPPED = (3, 8)
VAGUE = 20  # an answer that fits its own prompt only a little better


def nats(asked):
    """Take 10 nats off an answer for its own prompt; answers have 16 tokens and the number of their prompt."""
    return [100.0 - ((4 if answer[0] == VAGUE else 10) * 4 if prompt == [answer[0]] else 0) for prompt, answer in asked]


def test_answers_of_other_prompts_have_no_information_about_their_own():
    calls = []

    def counted(asked):
        calls.append(len(asked))
        return nats(asked)

    pairs = {row: ([row], [{3: 8, 8: 3}.get(row, row)] * 16) for row in range(ROWS)}
    found = dict(information(pairs, counted))
    assert {row: value for row, value in found.items() if value != 10} == {3: 0, 8: 0, VAGUE: 4}
    reported = mismatches(list(found.items())) or ()
    assert [(one.check, one.severity, one.rows) for one in reported] == [
        ("mismatch", "note", (row,)) for row in found if row in SWAPPED
    ]
    assert calls[0] == 2 * ROWS
    assert sum(calls[1:]) <= 3 * (len(SWAPPED) + 1)  # only the unclear ones are compared with more prompts
    assert found[VAGUE] > FIT


def test_one_other_prompt_that_fits_too_is_not_enough_to_find_a_row():
    """Two rows with the same question: each answer fits both."""
    pairs = {row: ([row // 2], [row // 2] * 16) for row in range(ROWS)}
    assert mismatches(information(pairs, nats)) == ()


@pytest.mark.slow
def test_the_base_is_asked_about_the_rows_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    make_tiny(tmp_path / "tiny")
    rows = [{"q": f"where is parcel {index}?", "a": f"parcel {index} is on its way to you"} for index in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"q": "thanks", "a": "ok"}]))
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'name = "r"\n[model]\nbase = "tiny"\n[data]\nsource = "rows.jsonl"\nmap = { prompt = "q", completion = "a" }\n'
    )
    steps = []
    loaded = load(recipe)
    found = find_mismatches(recipe, loaded.data, lambda step, share: steps.append(step))
    assert "computing likelihoods" in steps
    assert found is None  # prompts tell a random model nothing
    report = check_source(loaded.source, loaded.data, loaded, found=found)
    assert report.skipped["mismatch"].code == "uninformed"


def test_a_base_that_prompts_tell_nothing_finds_nothing():
    assert mismatches([(row, 0.1 * row) for row in range(20)]) is None
    assert mismatches([]) == ()

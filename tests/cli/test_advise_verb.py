"""``mlxtune advise`` as a shell sees it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from measured import BAD, GOOD, measured

from mlxtune.advice.rules import rules
from mlxtune.cli import advise as verb

ANSWERS: dict[str, Any] = {
    "change": ["format"],
    "requirements": "rarely",
    "calls": 20000,
    "tried": ["prompt"],
    "metric": "contract",
}


@pytest.fixture
def answers(place) -> str:
    (place / "answers.json").write_text(json.dumps(ANSWERS))
    return "answers.json"


def test_answers_alone_give_a_verdict_with_reasons_and_what_to_do(cli, answers) -> None:
    ended = cli("advise", "--answers", answers)
    assert ended.code == 0
    assert "Fine-tune it, with SFT." in ended.out
    assert "you said what must change: format" in ended.out
    assert "no recipe was named" in ended.out
    for row in rules().rows:
        assert row.ask in ended.out
    assert "Next  Write a recipe for your data" in ended.out


def test_json_is_one_document_with_advice_answers_and_evidence(cli, answers) -> None:
    found = json.loads(cli("advise", "--answers", answers, "--json").out)
    assert found["advice"]["verdict"] == "fine-tune"
    assert found["answers"] == ANSWERS | {"target": 95, "access": "everyone", "explain": "no"}
    assert found["evidence"]["groups"] is None
    assert len(found["advice"]["table"]) == 9


def test_a_prompt_that_will_do_is_told_with_what_it_reached(cli, place, answers) -> None:
    folder = measured(place, base=[BAD] * 25, **{"base+prompt": [GOOD] * 24 + [BAD]})
    found = json.loads(cli("advise", "shop.toml", "--answers", answers, "--json").out)
    assert found["advice"]["verdict"] == "prompt first"
    assert found["advice"]["sentence"] == "Your prompt alone reaches 96 %: do not fine-tune for this."
    ended = cli("advise", "shop.toml", "--answers", answers)
    assert "Your prompt alone reaches 96 %: do not fine-tune for this." in ended.out
    assert f"base+prompt: 96 % of 25 rows (80 to 99), by {folder.name}" in ended.out


def test_what_was_measured_on_other_terms_is_named_and_not_counted(cli, place, answers) -> None:
    folder = measured(place)
    (place / "schema.json").write_text('{"type": "object", "required": ["answer"]}\n')
    ended = cli("advise", "shop.toml", "--answers", answers)
    assert f"{folder.name} asked for something else: the contract changed since." in ended.out
    assert "tuned:" not in ended.out


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"metrics": "contract"}, "answers.json: there is no question metrics. Did you mean metric?"),
        ({"calls": "many"}, "answers.json: calls cannot be many. A number from 0."),
    ],
)
def test_a_wrong_answers_file_is_bad_input_and_names_the_key(cli, place, wrong, says) -> None:
    (place / "answers.json").write_text(json.dumps(ANSWERS | wrong))
    ended = cli("advise", "--answers", "answers.json")
    assert (ended.code, ended.out) == (2, "")
    assert says in " ".join(ended.err.split())


def test_without_a_terminal_and_answers_there_is_nothing_to_go_by(cli) -> None:
    ended = cli("advise")
    assert (ended.code, ended.out) == (2, "")
    assert "--answers FILE.json" in ended.err


def test_answers_given_last_time_are_taken_where_nobody_can_be_asked(cli, place) -> None:
    (place / "advice.json").write_text(json.dumps(ANSWERS))
    assert "Fine-tune it" in cli("advise").out


def test_questions_are_shown_and_as_json_they_are_the_schema_of_an_answers_file(cli) -> None:
    text = cli("advise", "--questions").out
    for question in rules().questions:
        assert question.ask in text
        assert all(name in text for name in question.options)
    schema = json.loads(cli("advise", "--questions", "--json").out)
    assert Draft202012Validator(schema).is_valid(ANSWERS)


def test_measuring_needs_a_recipe_and_something_to_measure_by(cli, place, answers, workspace) -> None:
    assert "--measure needs a recipe" in cli("advise", "--answers", answers, "--measure").err
    recipe = str(workspace / "recipes" / "tiny.toml")
    ended = cli("advise", recipe, "--answers", answers, "--measure", "--set", "evaluation.forbid=[]")
    assert ended.code == 2
    assert "There is nothing to measure by" in ended.err
    assert not (place / "evals").exists()


TYPED = "format, voice\n1,2\nrarely\n20,000\nprompt\n2\n\n\n\n"  # the first line is no answer; the last three take what is offered


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits at it."""
    monkeypatch.setattr(verb, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr(verb.err, "_force_terminal", True)


@pytest.mark.usefixtures("terminal")
def test_an_interview_asks_again_after_no_answer_and_keeps_what_was_said(cli, place) -> None:
    ended = cli("advise", stdin=TYPED)
    assert ended.code == 0
    assert "change cannot be voice" in ended.err
    for question in rules().questions:
        assert question.ask in ended.err
        assert question.ask not in ended.out
    kept = json.loads((place / "advice.json").read_text())
    assert kept["change"] == ["format", "style"]
    assert (kept["calls"], kept["metric"], kept["target"]) == (20000, "contract", 95)
    again = cli("advise", stdin="\n" * 8)
    assert json.loads((place / "advice.json").read_text()) == kept
    assert again.out == ended.out


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("typed", "measures"), [("y", True), ("n", False)])
def test_after_an_interview_it_offers_to_measure_what_nobody_measured(cli, workspace, monkeypatch, typed, measures) -> None:
    called = []
    monkeypatch.setattr(verb, "sample", lambda recipe, quiet: called.append(recipe.name))
    recipe = str(workspace / "recipes" / "tiny.toml")
    ended = cli("advise", recipe, stdin=f"{TYPED}{typed}\n")
    assert (called == ["tiny"]) is measures
    assert "Nothing was measured yet" in ended.err
    assert "Nothing was measured here" in ended.out
    assert "Nothing was measured yet" not in cli("advise", recipe, "--set", "evaluation.forbid=[]", stdin=TYPED).err


@pytest.mark.usefixtures("terminal")
def test_what_was_measured_is_not_offered_again(cli, place) -> None:
    measured(place)
    assert "Nothing was measured yet" not in cli("advise", "shop.toml", stdin=TYPED).err


@pytest.mark.usefixtures("one_thread")
def test_thirty_rows_of_each_free_arm_are_measured_and_change_the_verdict(cli, answers, workspace, monkeypatch) -> None:
    monkeypatch.chdir(workspace)
    (workspace / "answers.json").write_text(json.dumps(ANSWERS | {"target": 100}))
    found = json.loads(
        cli("advise", "recipes/tiny.toml", "--answers", "answers.json", "--measure", "--json", "--set", "evaluation.prompt=Answer in JSON.",
            "--set", "data.holdout=0.5", "--set", "evaluation.shots=1").out
    )  # fmt: skip
    arms = found["evidence"]["arms"]["contract"]
    assert set(arms) == {"base", "base+prompt", "base+kshot"}
    held_out = found["evidence"]["held_out"]
    assert {arm["total"] for arm in arms.values()} == {min(30, held_out)}
    assert not any("never measured" in text for text in found["advice"]["contradictions"])
    assert len(found["advice"]["measured"]) == 3

import json
from types import SimpleNamespace
from typing import Any

import pytest
from evaluation_files import BAD, GOOD, write_evaluation
from jsonschema import Draft202012Validator

from mlxtune.advice.rules import rules
from mlxtune.cli import advise as verb

ANSWERS: dict[str, Any] = {
    "change": ["format"], "requirements": "rarely", "calls": 20000, "tried": ["prompt"], "metric": "contract",
}  # fmt: skip


@pytest.fixture
def answers(cwd) -> str:
    (cwd / "answers.json").write_text(json.dumps(ANSWERS))
    return "answers.json"


def test_answers_alone_give_verdict_reasons_and_next_steps(ok, answers):
    ended = ok("advise", "--answers", answers)
    assert "Fine-tune with SFT." in ended.out
    assert "wanted change: format (your answer)" in ended.out
    assert "No recipe was specified" in ended.out
    for row in rules().tradeoffs:
        assert row.ask in ended.out
    assert "next Write a recipe for FILE mlxtune init --from FILE" in " ".join(ended.out.split())


def test_json_output_has_advice_answers_and_evidence(cli, answers):
    advice = cli("advise", "--answers", answers, "--json").json
    assert advice["advice"]["verdict"] == "fine-tune"
    assert advice["answers"] == ANSWERS | {"target": 95, "access": "everyone", "explain": "no"}
    assert advice["evidence"]["groups"] is None
    assert len(advice["advice"]["points"]) == 9


def test_sufficient_prompt_is_reported_with_its_rate(cli, cwd, answers):
    folder = write_evaluation(cwd, base=[BAD] * 25, **{"base+prompt": [GOOD] * 24 + [BAD]})
    advice = cli("advise", "shop.toml", "--answers", answers, "--json").json
    assert (advice["advice"]["verdict"], advice["advice"]["reasons"][0]["rule"]) == ("prompt_first", "good-enough")
    ended = cli("advise", "shop.toml", "--answers", answers)
    assert "Your prompt alone already reaches 96%, so fine-tuning is not needed." in ended.out
    assert "96.0%" in ended.out
    assert folder.name in ended.out


def test_incomparable_evaluation_is_named_but_not_counted(cli, cwd, answers):
    folder = write_evaluation(cwd)
    (cwd / "schema.json").write_text('{"type": "object", "required": ["answer"]}\n')
    ended = cli("advise", "shop.toml", "--answers", answers)
    assert f"{folder.name} was ignored" in ended.out
    assert "Measured" not in ended.out


def test_an_invalid_answers_file_is_named(refused, cwd):
    (cwd / "answers.json").write_text(json.dumps(ANSWERS | {"calls": "many"}))
    refused(("advise", "--answers", "answers.json"), "answers.json: calls cannot be many. Use a number from 0.")


def test_last_answers_are_reused_without_terminal(cli, cwd):
    (cwd / "advice.json").write_text(json.dumps(ANSWERS))
    assert "Fine-tune with SFT" in cli("advise").out


def test_questions_are_printed_or_exported_as_json_schema(cli):
    text = cli("advise", "--questions").out
    for question in rules().questions:
        assert question.ask in text
        assert all(name in text for name in question.options)
    schema = cli("advise", "--questions", "--json").json
    assert Draft202012Validator(schema).is_valid(ANSWERS)


def test_measuring_requires_recipe_and_metric(refused, cli, cwd, answers, workspace):
    assert "--measure requires a recipe" in cli("advise", "--answers", answers, "--measure").err
    recipe = str(workspace / "recipes" / "tiny.toml")
    refused(("advise", recipe, "--answers", answers, "--measure", "--set", "evaluation.forbid=[]"), "The recipe has no contract")
    assert not (cwd / "evals").exists()


TYPED = "format, voice\n1,2\nrarely\n20,000\nprompt\n2\n\n\n\n"  # the first line is invalid; the last three accept the defaults


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate an interactive terminal."""
    monkeypatch.setattr(verb, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr(verb.err, "_force_terminal", True)


@pytest.mark.usefixtures("terminal")
def test_interview_repeats_invalid_questions_and_saves_answers(ok, cli, cwd):
    ended = ok("advise", stdin=TYPED)
    assert "change cannot be voice" in ended.err
    for question in rules().questions:
        assert question.ask in ended.err
        assert question.ask not in ended.out
    answers = json.loads((cwd / "advice.json").read_text())
    assert answers["change"] == ["format", "style"]
    assert (answers["calls"], answers["metric"], answers["target"]) == (20000, "contract", 95)
    again = cli("advise", stdin="\n" * 8)
    assert json.loads((cwd / "advice.json").read_text()) == answers
    assert again.out == ended.out


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("typed", "measures"), [("y", True), ("n", False)])
def test_interview_offers_to_measure_missing_arms(cli, workspace, monkeypatch, typed, measures):
    called = []
    monkeypatch.setattr(verb, "measure", lambda recipe: called.append(recipe.name.removesuffix("-advice")))
    recipe = str(workspace / "recipes" / "tiny.toml")
    ended = cli("advise", recipe, stdin=f"{TYPED}{typed}\n")
    assert (called == ["tiny"]) is measures
    assert "Nothing has been evaluated yet" in ended.err
    assert "Nothing has been evaluated yet. Whether" in ended.out
    assert "Nothing has been evaluated yet" not in cli("advise", recipe, "--set", "evaluation.forbid=[]", stdin=TYPED).err


@pytest.mark.usefixtures("terminal")
def test_measured_arms_are_not_offered_again(cli, cwd):
    write_evaluation(cwd)
    assert "Nothing has been evaluated yet" not in cli("advise", "shop.toml", stdin=TYPED).err


@pytest.mark.slow
def test_measuring_thirty_rows_per_untrained_arm_changes_verdict(cli, answers, workspace, workers_in_process, monkeypatch):
    monkeypatch.chdir(workspace)
    (workspace / "answers.json").write_text(json.dumps(ANSWERS | {"target": 100}))
    advice = cli("advise", "recipes/tiny.toml", "--answers", "answers.json", "--measure", "--json", "--set", "evaluation.prompt=Answer in JSON.",
            "--set", "data.holdout=0.5", "--set", "evaluation.shots=1").json  # fmt: skip
    arms = advice["evidence"]["arms"]["contract"]
    assert set(arms) == {"base", "base+prompt", "base+kshot", "constant", "copier"}
    held_out = advice["evidence"]["held_out"]
    assert {arm["total"] for arm in arms.values()} == {min(30, held_out)}
    assert not any("never-measured" in key for key in advice["advice"]["contradictions"])

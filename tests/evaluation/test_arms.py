"""Evaluation arms and their prompts."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlxtune.core.errors import InputError, RecipeError
from mlxtune.data.rows import Conversation, Location, Message, Preference, TextRow
from mlxtune.evaluation import arm_runner
from mlxtune.evaluation import arms as module
from mlxtune.evaluation.answer_budget import AnswerBudget
from mlxtune.evaluation.arms import Arm, build_arms, sample_shots
from mlxtune.models.template import TemplateSettings
from mlxtune.recipe import Recipe, dump, parse

PLACE = Location(Path("d.jsonl"), 1)
TRAIN = [
    Conversation(PLACE, {}, (Message("system", "Be brief."), Message("user", f"q{at}"), Message("assistant", f"a{at}")))
    for at in range(8)
]
ROW = Conversation(PLACE, {}, (Message("system", "Be kind."), Message("user", "Where?"), Message("assistant", "Here.")))


def _recipe(evaluation: str, folder: Path = Path("/nowhere"), more: str = "") -> Recipe:
    return parse(f'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n{more}\n[evaluation]\n{evaluation}', folder=folder)


def _turns(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def test_base_gets_row_prompt():
    (base,) = build_arms(_recipe('arms = ["base"]'), None, TRAIN)
    assert base == Arm("base")
    assert base.prompt_for(ROW) == ROW.prompt


def test_base_comes_first_and_tuned_last(tmp_path):
    (tmp_path / "s.json").write_text('{"type": "object"}')
    recipe = _recipe(
        'arms = ["tuned+grammar", "base+grammar+kshot", "tuned+prompt", "tuned", "base+grammar", "base+grammar+prompt", "base+kshot", "base+prompt", "base"]\nschema = "s.json"\nprompt = "Do it."',
        tmp_path,
        '[adapter]\nparent = "before"',
    )
    arms = build_arms(recipe, Path("adapter"), TRAIN)
    assert [arm.name for arm in arms] == [
        "base", "base+prompt", "base+kshot", "base+grammar", "base+grammar+kshot", "base+grammar+prompt", "parent", "tuned", "tuned+prompt",
        "tuned+grammar",
    ]  # fmt: skip
    assert [arm.adapter for arm in arms] == [None] * 6 + [tmp_path / "before"] + [Path("adapter")] * 3
    assert [index for index, arm in enumerate(arms) if arm.schema == {"type": "object"}] == [3, 4, 5, 9]
    assert [index for index, arm in enumerate(arms) if arm.prompt == "Do it."] == [1, 5, 8]
    assert [index for index, arm in enumerate(arms) if arm.shots] == [2, 4]
    assert arms[2].shots == arms[4].shots
    assert [arm.name for arm in build_arms(recipe, None, TRAIN)] == [arm.name for arm in arms[:6]]


@pytest.mark.parametrize(
    ("schema", "installed", "rows", "names"),
    [
        (True, True, 8, ["base", "base+kshot", "base+grammar", "base+grammar+kshot", "tuned", "tuned+grammar"]),
        (True, False, 8, ["base", "base+kshot", "tuned"]),
        (True, True, 2, ["base", "base+grammar", "tuned", "tuned+grammar"]),
        (False, True, 8, ["base", "base+kshot", "tuned"]),
    ],
)
def test_recipe_without_arms_gets_the_strongest_ones_that_can_be_evaluated(tmp_path, monkeypatch, schema, installed, rows, names):
    monkeypatch.setattr(module, "find_spec", lambda name: object() if installed else None)
    (tmp_path / "s.json").write_text("{}")
    recipe = _recipe('schema = "s.json"' if schema else "", tmp_path)
    assert [arm.name for arm in build_arms(recipe, Path("adapter"), TRAIN[:rows])] == names
    (tmp_path / "s.json").unlink()
    if schema and installed:
        with pytest.raises(InputError, match=r"Cannot read .*s\.json"):
            build_arms(recipe, None, TRAIN)


@pytest.mark.parametrize("written", ["Answer well.", "file"])
def test_best_prompt_replaces_system_message(tmp_path, written):
    (tmp_path / "best.md").write_text("Answer well.\n")
    recipe = _recipe(f'arms = ["base", "base+prompt"]\nprompt = "{"best.md" if written == "file" else written}"', tmp_path)
    again = parse(dump(recipe), folder=Path("/elsewhere"))
    for one in (recipe, again):
        arm = build_arms(one, None, TRAIN)[1]
        assert _turns(arm.prompt_for(ROW)) == [("system", "Answer well."), ("user", "Where?")]
    bare = Preference(PLACE, {}, (Message("user", "Where?"),), "here", "there")
    assert _turns(arm.prompt_for(bare)) == [("system", "Answer well."), ("user", "Where?")]


def test_missing_or_empty_prompt_file_is_refused(tmp_path):
    recipe = _recipe('arms = ["base", "base+prompt"]\nprompt = "best.txt"', tmp_path)
    with pytest.raises(InputError, match=r"Cannot read .*best\.txt"):
        build_arms(recipe, None, TRAIN)
    (tmp_path / "best.txt").write_text(" \n")
    with pytest.raises(InputError, match="is empty"):
        build_arms(recipe, None, TRAIN)


def test_shots_are_training_rows_before_the_prompt():
    arm = build_arms(_recipe('arms = ["base", "base+kshot"]\nshots = 2'), None, TRAIN)[1]
    turns = _turns(arm.prompt_for(ROW))
    assert turns[0] == ("system", "Be kind.")
    assert turns[-1] == ("user", "Where?")
    assert [role for role, _ in turns] == ["system", "user", "assistant", "user", "assistant", "user"]
    shown = [(turns[at][1], turns[at + 1][1]) for at in (1, 3)]
    assert set(shown) < {(f"q{at}", f"a{at}") for at in range(8)}
    assert len(set(shown)) == 2


def _labeled(answers: list[str]) -> list[Conversation]:
    return [Conversation(PLACE, {}, (Message("user", f"q{at}"), Message("assistant", text))) for at, text in enumerate(answers)]


def test_shots_cover_the_labels_most_frequent_first():
    rows = _labeled(["a"] * 9 + ["b"] * 5 + ["c"] * 2)
    shown = [turn.content for turn in sample_shots(rows, 5, 7, [""])[1::2]]
    assert shown == ["a", "b", "c", "a", "b"]
    assert sample_shots(rows[::-1], 5, 7, [""]) == sample_shots(rows, 5, 7, [""])
    unique = _labeled([f"a{at}" for at in range(8)])
    assert sample_shots(unique, 3, 7, [""]) == sample_shots(unique, 3, 7)


def test_shots_cover_the_values_of_fields():
    kinds = [("x", 1), ("x", 2), ("y", 1), ("z", 3)]
    rows = _labeled([json.dumps({"kind": kind, "of": {"n": n}, "text": f"t{at}"}) for at, (kind, n) in enumerate(kinds * 4)])
    shown = [json.loads(turn.content) for turn in sample_shots(rows, 4, 7, ["/kind", "/of/n"])[1::2]]
    assert {one["kind"] for one in shown} == {"x", "y", "z"}
    assert {one["of"]["n"] for one in shown} == {1, 2, 3}


@pytest.mark.parametrize(
    ("evaluation", "labels"),
    [('correct = ["/a", "fields"]', ["/a"]), ('correct = ["answer"]', [""]), ("", [""]), ('forbid = ["x"]', [])],
)
def test_label_fields_are_those_that_must_equal_the_reference(evaluation, labels):
    assert module.label_fields(_recipe(evaluation)) == labels


def test_shots_depend_on_seed_not_row_order():
    chosen = sample_shots(TRAIN, 3, 7)
    assert sample_shots(TRAIN[::-1], 3, 7) == chosen
    assert any(sample_shots(TRAIN, 3, seed) != chosen for seed in range(8))


def test_grammar_has_its_token_limit_on_validation_rows_too(monkeypatch):
    limits = []
    monkeypatch.setattr(
        arm_runner, "generate_answers", lambda arm, loaded, rows, options, *_, **__: limits.append(options.max_tokens)
    )
    worker: Any = SimpleNamespace(recipe=_recipe(""), folder=Path("evals/e"), progress_reporter=lambda *_: None)
    loaded: Any = SimpleNamespace(model=None)
    template: Any = SimpleNamespace(settings=TemplateSettings())
    runner = arm_runner.ArmRunner(worker, loaded, template, AnswerBudget(20, grammar_tokens=90), frozenset(), None)
    for arm in (Arm("base"), Arm("base+grammar", schema={})):
        runner.answer_validation(arm, [])
    assert limits == [20, 90]


def test_too_few_training_rows_for_shots_are_refused():
    with pytest.raises(InputError, match=r"needs 3 examples, but there are only 2 training rows"):
        sample_shots([*TRAIN[:2], TextRow(PLACE, {}, "words")], 3, 7)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ('arms = ["base", "base+prompt"]', r"base\+prompt requires evaluation\.prompt"),
        ('arms = ["base", "tuned", "tuned+prompt"]', r"tuned\+prompt requires evaluation\.prompt"),
        ('arms = ["base", "tuned", "tuned+grammar"]', r"tuned\+grammar requires evaluation\.schema"),
        ('arms = ["base", "tuned+prompt"]\nprompt = "Do it."', r"tuned\+prompt requires the arm tuned"),
        ('arms = ["base", "base+grammar"]', r"base\+grammar requires evaluation\.schema"),
        ('arms = ["base", "base+grammar+kshot"]', r"base\+grammar\+kshot requires evaluation\.schema"),
        ('schema = "s"\narms = ["base", "base+grammar+prompt"]', r"base\+grammar\+prompt requires evaluation\.prompt"),
        ('arms = ["base", "base"]', "a list without duplicates"),
        ('arms = ["tuned"]', 'a list that includes "base"'),
        ("shots = 0", "at least 1"),
        ('arms = ["base", "base+promt"]', "arms"),
    ],
)
def test_invalid_arms_are_refused_by_recipe(evaluation, message):
    with pytest.raises(RecipeError, match=message):
        _recipe(evaluation)

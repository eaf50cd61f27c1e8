"""Evaluation arms and their prompts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError, RecipeError
from mlxtune.data.rows import Conversation, Location, Message, Preference, TextRow
from mlxtune.evaluation import arms as module
from mlxtune.evaluation.arms import Arm, build_arms
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


def test_base_gets_row_prompt() -> None:
    (base,) = build_arms(_recipe(""), None, TRAIN)
    assert base == Arm("base")
    assert base.prompt_for(ROW) == ROW.prompt


def test_base_comes_first_and_tuned_last(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "object"}')
    recipe = _recipe(
        'arms = ["tuned+grammar", "tuned+prompt", "tuned", "base+grammar", "base+kshot", "base+prompt", "base"]\nschema = "s.json"\nprompt = "Do it."',
        tmp_path,
        '[adapter]\nparent = "before"',
    )
    arms = build_arms(recipe, Path("adapter"), TRAIN)
    assert [arm.name for arm in arms] == [
        "base", "base+prompt", "base+kshot", "base+grammar", "parent", "tuned", "tuned+prompt", "tuned+grammar",
    ]  # fmt: skip
    assert [arm.adapter for arm in arms] == [None] * 4 + [tmp_path / "before"] + [Path("adapter")] * 3
    assert arms[3].schema == arms[7].schema == {"type": "object"}
    assert arms[1].prompt == arms[6].prompt == "Do it."
    assert [arm.name for arm in build_arms(recipe, None, TRAIN)] == [arm.name for arm in arms[:4]]


@pytest.mark.parametrize("written", ["Answer well.", "file"])
def test_best_prompt_replaces_system_message(tmp_path: Path, written: str) -> None:
    (tmp_path / "best.md").write_text("Answer well.\n")
    recipe = _recipe(f'arms = ["base", "base+prompt"]\nprompt = "{"best.md" if written == "file" else written}"', tmp_path)
    again = parse(dump(recipe), folder=Path("/elsewhere"))
    for one in (recipe, again):
        arm = build_arms(one, None, TRAIN)[1]
        assert _turns(arm.prompt_for(ROW)) == [("system", "Answer well."), ("user", "Where?")]
    bare = Preference(PLACE, {}, (Message("user", "Where?"),), "here", "there")
    assert _turns(arm.prompt_for(bare)) == [("system", "Answer well."), ("user", "Where?")]


def test_missing_or_empty_prompt_file_is_refused(tmp_path: Path) -> None:
    recipe = _recipe('arms = ["base", "base+prompt"]\nprompt = "best.txt"', tmp_path)
    with pytest.raises(InputError, match=r"Cannot read .*best\.txt"):
        build_arms(recipe, None, TRAIN)
    (tmp_path / "best.txt").write_text(" \n")
    with pytest.raises(InputError, match="is empty"):
        build_arms(recipe, None, TRAIN)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ('arms = ["base", "tuned+prompt"]\nprompt = "Do it."', "tuned+prompt requires the arm tuned"),
        ('arms = ["base", "tuned", "tuned+prompt"]', "tuned+prompt requires evaluation.prompt"),
        ('arms = ["base", "tuned", "tuned+grammar"]', "tuned+grammar requires evaluation.schema"),
    ],
)
def test_arm_without_what_it_needs_is_refused(section: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(problem)):
        _recipe(section)


def test_shots_are_training_rows_before_the_prompt() -> None:
    arm = build_arms(_recipe('arms = ["base", "base+kshot"]\nshots = 2'), None, TRAIN)[1]
    turns = _turns(arm.prompt_for(ROW))
    assert turns[0] == ("system", "Be kind.")
    assert turns[-1] == ("user", "Where?")
    assert [role for role, _ in turns] == ["system", "user", "assistant", "user", "assistant", "user"]
    shown = [(turns[at][1], turns[at + 1][1]) for at in (1, 3)]
    assert set(shown) < {(f"q{at}", f"a{at}") for at in range(8)}
    assert len(set(shown)) == 2


def test_shots_depend_on_seed_not_row_order() -> None:
    chosen = module.sample_shots(TRAIN, 3, 7)
    assert module.sample_shots(TRAIN[::-1], 3, 7) == chosen
    assert any(module.sample_shots(TRAIN, 3, seed) != chosen for seed in range(8))


def test_too_few_training_rows_for_shots_are_refused() -> None:
    with pytest.raises(InputError, match=r"needs 3 examples, but there are only 2 training rows"):
        module.sample_shots([*TRAIN[:2], TextRow(PLACE, {}, "words")], 3, 7)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ('arms = ["base", "base+prompt"]', r"base\+prompt requires evaluation\.prompt"),
        ('arms = ["base", "base+grammar"]', r"base\+grammar requires evaluation\.schema"),
        ('arms = ["base", "base"]', "a list without duplicates"),
        ('arms = ["tuned"]', 'a list that includes "base"'),
        ("shots = 0", "at least 1"),
        ('arms = ["base", "base+promt"]', "arms"),
    ],
)
def test_invalid_arms_are_refused_by_recipe(evaluation: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        _recipe(evaluation)

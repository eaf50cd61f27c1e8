"""A check's outcome is cached until the file changes."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxtune.data import check_cache
from mlxtune.data.check_cache import CheckOutcome
from mlxtune.data.checks.run import check
from mlxtune.data.review import journal_path
from mlxtune.present.check import check_warning
from mlxtune.recipe import Recipe, load

pytestmark = pytest.mark.usefixtures("fresh_home")


@pytest.fixture
def recipe_with(chat_file: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Load the recipe for the file, with overrides."""
    (tmp_path / "r.toml").write_text(f'name = "r"\n[model]\nbase = "m"\n[data]\nsource = "{chat_file}"\n')
    return lambda *overrides: load(tmp_path / "r.toml", overrides)


def warning(recipe: Recipe) -> tuple[str, str] | None:
    """Return the outcome of the last check and what has changed since, if training should wait."""
    last = check_cache.last_check(recipe)
    assert (last is not None and last.needs_attention) == bool(check_warning(last))
    return (last.outcome, last.changed) if last and last.needs_attention else None


@pytest.mark.parametrize("change", [lambda file: file.write_text(file.read_text() + "\n"), lambda file: os.utime(file, (1, 1))])
def test_a_check_is_cached_until_the_file_changes(chat_file: Path, change: Callable[[Path], object]) -> None:
    assert check_cache.load(chat_file) == ()
    report = check(chat_file)
    (outcome,) = check_cache.load(chat_file)
    assert outcome == CheckOutcome(report.verdict.outcome, report.kept, report.rows("block") or report.rows("warn"))
    change(chat_file)
    assert check_cache.load(chat_file) == ()


def test_an_outcome_holds_only_for_the_map_that_was_checked(chat_file: Path) -> None:
    check_cache.save(chat_file, CheckOutcome("blocked", 0, 40), mapping={"prompt": "wrong"})
    assert check_cache.load(chat_file) == ()
    assert check_cache.load(chat_file, mapping={"prompt": "wrong"})
    assert check_cache.load(chat_file, "chat", {"prompt": "wrong"}) == ()


def test_a_changed_review_makes_the_outcome_outdated(chat_file: Path) -> None:
    check_cache.save(chat_file, CheckOutcome("look", 40, 3))
    assert check_cache.load(chat_file) == (CheckOutcome("look", 40, 3),)
    journal_path(chat_file).write_text("{}\n")
    assert check_cache.load(chat_file) == (CheckOutcome("look", 40, 3, changed="review"),)
    check_cache.save(chat_file, CheckOutcome("clean", 40, 0))
    assert check_cache.load(chat_file) == (CheckOutcome("clean", 40, 0),)


def test_a_decision_does_not_dispel_the_doubt_about_rows_to_fix(chat_file: Path, recipe_with: Callable[..., Recipe]) -> None:
    recipe = recipe_with()
    check_cache.save(chat_file, CheckOutcome("blocked", 40, 3))
    assert warning(recipe) == ("blocked", "")
    journal_path(chat_file).write_text("{}\n")
    assert warning(recipe) == ("blocked", "review")


def test_a_recipe_changed_after_the_review_is_a_reason_to_check_again(chat_file: Path, recipe_with: Callable[..., Recipe]) -> None:
    """Decisions alone leave nothing worse than the check found; a new contract may."""
    recipe = recipe_with()
    check_cache.save(chat_file, CheckOutcome("look", 40, 3, check_cache.rules_hash(recipe)))
    journal_path(chat_file).write_text("{}\n")
    assert warning(recipe) is None
    assert warning(recipe_with("evaluation.length.max=9")) == ("look", "recipe")


def test_a_check_before_there_was_a_recipe_says_nothing_about_its_contract(
    chat_file: Path, recipe_with: Callable[..., Recipe]
) -> None:
    plain, strict = recipe_with(), recipe_with("evaluation.length.max=9")
    check_cache.save(chat_file, CheckOutcome("look", 40, 3))
    assert warning(plain) is None
    assert warning(strict) == ("look", "recipe")
    check_cache.save(chat_file, CheckOutcome("look", 40, 3, check_cache.rules_hash(plain)))
    assert warning(strict) == ("look", "recipe")
    assert warning(recipe_with("data.max_tokens=99")) == ("look", "recipe"), "the last check was not without a recipe"


def test_a_changed_recipe_makes_the_outcome_outdated(chat_file: Path, tmp_path: Path, recipe_with: Callable[..., Recipe]) -> None:
    recipe = recipe_with()
    check_cache.save(chat_file, CheckOutcome("look", 40, 3, check_cache.rules_hash(recipe)))
    (outcome,) = checks = check_cache.load(chat_file)
    assert check_cache.outcome_for(recipe, checks) == outcome
    same = recipe_with("evaluation.rows=3", "training.steps=2", "model.quantize=8")
    assert check_cache.outcome_for(same, checks) == outcome
    for override in ("data.max_tokens=99", "model.base=other", 'evaluation.forbid=["never"]', "evaluation.length.max=9"):
        changed = check_cache.outcome_for(recipe_with(override), checks)
        assert changed.changed == "recipe"
    without = CheckOutcome("look", 40, 3)
    assert check_cache.outcome_for(recipe, [without, *checks]) == outcome
    assert check_cache.outcome_for(recipe, [without]) == without
    assert check_cache.outcome_for(recipe, []) is None
    for key, file in (("evaluation.schema", "schema.json"), ("model.template", "own.jinja")):
        (tmp_path / file).write_text("{}")
        strict = recipe_with(f"{key}={file}")
        before = check_cache.rules_hash(strict)
        os.utime(tmp_path / file, (1, 1))
        assert check_cache.rules_hash(strict) != before


def test_recipes_for_the_same_rows_have_checks_of_their_own(chat_file: Path, recipe_with: Callable[..., Recipe]) -> None:
    recipes = [recipe_with(f"data.max_tokens={100 + index}") for index in range(12)]
    for recipe in recipes:
        check_cache.save(chat_file, CheckOutcome("blocked", 40, recipe.data.max_tokens, check_cache.rules_hash(recipe)))
    newest = [check_cache.last_check(recipe) for recipe in recipes[-8:]]
    assert [outcome and outcome.flagged for outcome in newest] == [*range(104, 112)]
    assert warning(recipes[0]) == ("blocked", "recipe")
    check_cache.save(chat_file, CheckOutcome("clean", 40, 0, check_cache.rules_hash(recipes[-2])))
    assert (warning(recipes[-2]), warning(recipes[-1])) == (None, ("blocked", ""))
    assert len(check_cache.load(chat_file)) == 8


@pytest.mark.parametrize("text", ["", "[]", '{"v": 1}', '{"v": 10, "files": [], "checks": 1}', "\x00"])
def test_a_broken_cache_file_is_ignored(chat_file: Path, fresh_home: Path, text: str) -> None:
    check_cache.save(chat_file, CheckOutcome("clean", 40, 0))
    (file,) = (fresh_home / "checks").iterdir()
    saved = json.loads(file.read_text())
    file.write_text(text or json.dumps(saved | {"checks": [{"read": saved["checks"][0]["read"]}]}))
    assert check_cache.load(chat_file) == ()
    check_cache.save(chat_file, CheckOutcome("clean", 40, 0))
    assert check_cache.load(chat_file)


def test_missing_sources_and_unwritable_folders_are_ignored(
    chat_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "file"))
    check_cache.save(chat_file, CheckOutcome("clean", 40, 0))
    assert check_cache.load(chat_file) == ()
    assert check_cache.load(tmp_path / "nowhere.jsonl") == ()

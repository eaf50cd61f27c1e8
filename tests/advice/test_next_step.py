"""What to evaluate next follows from a verdict."""

import pytest
from evaluation_files import BAD, GOOD, add_off_task, write_evaluation

from mlxtune.advice.next_step import StepCode, after_verdict
from mlxtune.evaluation import history
from mlxtune.recipe import dump, load

C = StepCode


@pytest.mark.parametrize(
    ("limit", "arms", "code"),
    [
        (0, {"base": [BAD, GOOD, BAD, GOOD], "tuned": [GOOD, GOOD, BAD, GOOD]}, C.ADD_ROWS),
        (4, {"base": [BAD, GOOD, BAD, GOOD], "tuned": [GOOD, GOOD, BAD, GOOD]}, C.EVALUATE_MORE_ROWS),
        (0, {"base": [BAD, GOOD] * 10, "tuned": [BAD, GOOD] * 10}, C.CHANGE_SETTING),
        (0, {"base": [BAD, GOOD] * 10, "tuned": [*[GOOD, BAD] * 4, GOOD, *[BAD, GOOD] * 5, GOOD]}, C.CHANGE_SETTING),
        (0, {"base": [BAD] * 20, "tuned": [GOOD] * 20}, C.EVALUATE_EXAMPLES),
        (0, {"base": [BAD] * 20, "base+kshot": [BAD] * 20, "tuned": [GOOD] * 20}, C.USE_ADAPTER),
    ],
    ids=["few rows", "limited rows", "unchanged", "too small a change", "only the base compared", "examples compared"],
)
def test_what_to_evaluate_next(tmp_path, limit, arms, code):
    folder = write_evaluation(tmp_path, **arms)
    (folder / "recipe.toml").write_text(dump(load(folder / "recipe.toml", [f"evaluation.rows={limit}"])))
    (verdict,) = history.evaluations(tmp_path)
    step = after_verdict(verdict, [verdict])
    assert (step.code, step.evaluation) == (code, folder.name)


@pytest.mark.parametrize(("lost", "first"), [(20, C.CHANGE_SETTING), (0, C.USE_ADAPTER)])
def test_an_adapter_that_lost_other_abilities_is_not_offered(tmp_path, lost, first):
    folder = write_evaluation(tmp_path, **{"base": [BAD] * 20, "base+kshot": [BAD] * 20, "tuned": [GOOD] * 20})
    add_off_task(folder, base=["yes"] * 100, tuned=["no"] * lost + ["yes"] * (100 - lost))
    (verdict,) = history.evaluations(tmp_path)
    step = after_verdict(verdict, [verdict])
    codes = [one.code for one in (step, *step.also)]
    assert codes[0] == first
    assert (C.EXPORT in codes) == (lost == 0)

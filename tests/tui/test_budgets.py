"""The app shows rather than says: budgets of words for every stage of the key walk. See :mod:`budgets`."""

import pytest
from exhaustive import cases

from .budgets import assert_within_budget, count, runs_of_words, sentences
from .driver import WIDE
from .stage import until
from .test_keys import STAGES, FakeClient, Stage, _nothing_starts, arrive, clients

pytestmark = pytest.mark.slow

__all__ = ["_nothing_starts", "clients"]


def named(stages: tuple[Stage, ...]) -> dict[str, Stage]:
    """Return the stages by a name made of their room, their content, and the keys pressed."""
    walk: dict[str, Stage] = {}
    for stage in stages:
        prepare = stage.prepare.__name__.strip("<>")
        how = stage.then.__name__ if stage.then and prepare in ("lambda", "recipe") else prepare
        walk.setdefault("-".join([stage.mode, how, *stage.before]), stage)
    return walk


WALK = named(STAGES)


@pytest.mark.parametrize("stage", cases(WALK, "plan-two_recipes", "evaluate-evaluated", "advice-answered", "train-searched-S"))
async def test_screens_keep_to_their_budgets(shop, stage):
    FakeClient.instances.clear()
    WALK[stage].prepare(shop)
    async with shop.app().run_test(size=WIDE) as pilot:
        await arrive(pilot, WALK[stage])
        await pilot.press(*WALK[stage].before)
        await until(pilot, lambda: not pilot.app.jobs.busy)
        assert_within_budget(pilot.app.screen, stage)


def test_words_are_counted_in_runs():
    assert list(runs_of_words("● training  step 120 of 300")) == []
    assert [count(run) for run in runs_of_words("The run was stopped at step 50 of 60. · T open")] == [7]
    assert sentences("Cannot tell. Whole contract: +22.5 points (p < 0.064). About 72 rows are needed.") == [
        "Cannot tell.", "Whole contract: +22.5 points (p < 0.064).", "About 72 rows are needed.",
    ]  # fmt: skip

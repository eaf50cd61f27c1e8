"""How the Plan room looks: empty, fitting, not fitting, being edited, without a plan, and with a file that cannot be read."""

from __future__ import annotations

from typing import Any

import pytest

from mlxtune.core.errors import DataError

from .planned import RECIPE, plannable
from .stage import Shop, shown, until

SIZES = [(80, 24), (140, 45)]

pytestmark = pytest.mark.parametrize("size", SIZES, ids=["80x24", "140x45"])


def until_shown(text: str, *keys: str) -> Any:
    """Go to the room, wait for ``text``, press ``keys``."""

    async def before(pilot: Any) -> None:
        await pilot.press("P")
        await until(pilot, lambda: text in shown(pilot.app))
        await pilot.press(*keys)
        await pilot.pause()

    return before


def test_plan_empty(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("no recipe yet"))


def test_plan_fits(shop: Shop, monkeypatch: pytest.MonkeyPatch, snap_compare: Any, size: tuple[int, int]) -> None:
    plannable(shop, monkeypatch)
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("This fits", "down", "down"))


def test_plan_does_not_fit(shop: Shop, monkeypatch: pytest.MonkeyPatch, snap_compare: Any, size: tuple[int, int]) -> None:
    plannable(shop, monkeypatch, limit=0.6)
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("This does not fit"))


def test_plan_being_edited(shop: Shop, monkeypatch: pytest.MonkeyPatch, snap_compare: Any, size: tuple[int, int]) -> None:
    plannable(shop, monkeypatch)

    async def before(pilot: Any) -> None:
        await until_shown("This fits", "pagedown", "plus")(pilot)
        await until(pilot, lambda: "undo" in shown(pilot.app) and pilot.app.screen._doing is None)
        await pilot.press("up", "enter", *"oops", "enter")
        await until(pilot, lambda: "✗ " in shown(pilot.app))
        pilot.app.screen.query_one("#plan-field").cursor_blink = False
        await pilot.pause()

    assert snap_compare(shop.app(), terminal_size=size, run_before=before)


def test_plan_without_a_plan(shop: Shop, monkeypatch: pytest.MonkeyPatch, snap_compare: Any, size: tuple[int, int]) -> None:
    def bad(_: Any) -> None:
        raise DataError("3 rows of 48 cannot be used:\n  support.jsonl, line 3: the prompt fills the window of 512 tokens.", mend="Raise data.max_tokens.")  # fmt: skip

    plannable(shop, monkeypatch)
    monkeypatch.setattr("mlxtune.planning.ask.lengths", bad)
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("cannot be used"))


def test_plan_unread(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    shop.recipe("support-json", RECIPE.replace("rank = 8", 'rank = "eight"'))
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("must be a whole number"))

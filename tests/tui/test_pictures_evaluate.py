"""How the Evaluate room looks: empty, a report, a baseline, pairs, one at work over a report, and one that failed."""

from __future__ import annotations

from typing import Any

import pytest

from .evaluated import base, evaluating, evaluation
from .stage import Shop, shown, until

SIZES = [(80, 24), (140, 45)]

pytestmark = pytest.mark.parametrize("size", SIZES, ids=["80x24", "140x45"])


def until_shown(text: str, *keys: str) -> Any:
    """Go to the room, wait for ``text``, press ``keys``."""

    async def before(pilot: Any) -> None:
        await pilot.press("E")
        await until(pilot, lambda: text in shown(pilot.app))
        await pilot.press(*keys)
        await pilot.pause()

    return before


def test_evaluate_empty(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    shop.recipe()
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("Nothing has been evaluated"))


def test_evaluate_report(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    evaluation(shop)
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("1 of 7", *["down"] * 5))


def test_evaluate_baseline(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    evaluation(shop, arms={"base": base})
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("1 of 30"))


def test_evaluate_pairs(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    evaluation(shop, "20261124-1700-brand-voice", name="brand-voice", pairs=True)
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("1 of 28"))


def test_evaluate_at_work(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    evaluation(shop, off_task=2, looks=4)
    evaluating(shop)
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("1 of 7"))


def test_evaluate_failed(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    shop.recipe()
    bad = {"error": "Since the base was measured the schema changed, so nothing can be said against it.", "mend": "Set it back, or measure the base on the new terms.", "code": 2}  # fmt: skip
    shop.run("20261124-1700-support-json", kind="eval", age=90, end=("run.failed", bad))
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("Since the base"))

"""How Data and Review look: empty, loaded and in error, at a small and a large size, on fixed rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mlxtune.core.errors import MachineError

from .rows_stage import ROWS, Checks, Tokenizer, answer, chat, checks, fill, pair, ready, tokens
from .stage import Shop, shown, until

__all__ = ["checks", "tokens"]

SIZES = [(80, 24), (140, 45)]
Steps = Callable[[Any], Awaitable[None]]

pytestmark = pytest.mark.parametrize("size", SIZES, ids=["80x24", "140x45"])


def steps(*keys: str, sees: str) -> Steps:
    """Press ``keys``, the first of them once the source is checked, and wait until ``sees`` is on screen."""

    async def run(pilot: Any) -> None:
        room, *others = keys
        await pilot.press(room)
        await until(pilot, lambda: ready(pilot.app))
        for key in others:
            await pilot.press(key)
        await until(pilot, lambda: sees in shown(pilot.app))
        await pilot.pause()

    return run


def only(room: str, sees: str) -> Steps:
    async def run(pilot: Any) -> None:
        await pilot.press(room)
        await until(pilot, lambda: sees in shown(pilot.app))
        await pilot.pause()

    return run


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch, checks: Checks) -> None:
    """Nothing of a picture depends on who looks, or when."""
    monkeypatch.setattr("mlxtune.data.review._login", lambda: "ada")
    monkeypatch.setattr("mlxtune.tui.review_view.when", lambda seconds: "14:46")


def test_data_empty(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(shop.app(), terminal_size=size, run_before=only("D", "No rows are chosen yet."))


def test_data_loaded(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    fill(shop)
    run = steps("D", "a", "down", "x", "down", "down", sees="Row 2 rejected.")
    assert snap_compare(shop.app(), terminal_size=size, run_before=run)


def test_data_figures(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    fill(shop)
    keys = ("g",) if size[0] < 100 else ("tab",)
    assert snap_compare(shop.app(), terminal_size=size, run_before=steps("D", *keys, sees="▌ Findings"))


def test_data_fix(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    fill(shop)
    run = steps("D", "end", "up", "up", "f", sees="→ [EMAIL]")
    assert snap_compare(shop.app(), terminal_size=size, run_before=run)


def test_data_missing(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    fill(shop).unlink()
    assert snap_compare(shop.app(), terminal_size=size, run_before=only("D", "Decisions that were taken"))


def test_data_unchecked(shop: Shop, checks: Checks, snap_compare: Any, size: tuple[int, int]) -> None:
    fill(shop)
    checks.error = MachineError("The process that checks the rows died: killed.", mend="Check them again.")
    assert snap_compare(shop.app(), terminal_size=size, run_before=only("D", "Check them again."))


def test_review_empty(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(shop.app(), terminal_size=size, run_before=only("R", "No rows are chosen yet."))


def test_review_loaded(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    turns = [
        {"role": "user", "content": "My prescription number is 77-201, is it ready yet?"},
        {"role": "assistant", "content": answer("shipping", "It is ready at the counter.")},
        {"role": "user", "content": "Can I take these tablets together with ibuprofen?"},
        {"role": "assistant", "content": answer("safety", "Do not combine them before you have asked a pharmacist.")},
    ]
    row = chat("", "")
    row["messages"] = [row["messages"][0], *turns]
    fill(shop, [ROWS[0], row, *ROWS[1:]])
    run = steps("R", "a", "2", "n", *"ask", "enter", sees="Row 2 noted.")
    assert snap_compare(shop.app(), terminal_size=size, run_before=run)


def test_review_pair(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    good = "You would be cold in the thin one. Wear it over a fleece, or choose the thicker one with a hood."
    bad = "You will want the thick expedition jacket instead, and the down trousers too. Buy the full set with a hood today."
    fill(shop, [pair("How warm is the thin down jacket really?", good, bad)] * 2, contract="")
    assert snap_compare(shop.app(), terminal_size=size, run_before=steps("R", "d", sees="turned round and accepted."))


def test_review_editing(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    fill(shop)

    async def run(pilot: Any) -> None:
        await steps("R", "e", "backspace", "backspace", sees="valid JSON")(pilot)
        pilot.app.screen.query_one("#editor").cursor_blink = False
        await until(pilot, lambda: "✗" in shown(pilot.app))

    assert snap_compare(shop.app(), terminal_size=size, run_before=run)


def test_review_no_row(shop: Shop, tokens: type[Tokenizer], snap_compare: Any, size: tuple[int, int]) -> None:
    fill(shop)
    assert snap_compare(shop.app(), terminal_size=size, run_before=steps("R", "end", sees="This is no row"))

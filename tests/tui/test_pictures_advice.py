"""How the Advice room looks: nothing answered, all answered, and rows that cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxtune.core.errors import DataError

from .stage import Shop, shown, until
from .test_advice_room import ANSWERS, KNOWN

SIZES = [(80, 24), (140, 45)]

pytestmark = pytest.mark.parametrize("size", SIZES, ids=["80x24", "140x45"])


async def before(pilot: Any) -> None:
    await pilot.press("V")
    await until(pilot, lambda: "Interview" in shown(pilot.app) and "reading the rows" not in shown(pilot.app))
    await pilot.pause()


def test_advice_empty(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(shop.app(), terminal_size=size, run_before=before)


def test_advice_answered(shop: Shop, monkeypatch: pytest.MonkeyPatch, snap_compare: Any, size: tuple[int, int]) -> None:
    shop.recipe()
    (shop.folder / "advice.json").write_text(json.dumps(ANSWERS))
    monkeypatch.setattr("mlxtune.tui.advices.gather", lambda *_: KNOWN)
    assert snap_compare(shop.app(), terminal_size=size, run_before=before)


def test_advice_of_rows_that_cannot_be_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, snap_compare: Any, size: tuple[int, int]
) -> None:
    def broken(*_: object) -> None:
        raise DataError("support.jsonl, line 3: no JSON.", mend="Mend the line, or leave it out with mlxtune data check --fix.")

    shop.recipe()
    monkeypatch.setattr("mlxtune.tui.advices.gather", broken)
    assert snap_compare(shop.app(), terminal_size=size, run_before=before)

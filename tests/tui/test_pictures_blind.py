"""How the Blind room looks: before there are two arms, before it begins, voting, all votes in, the result."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mlxtune.evaluation.answered import pairs
from mlxtune.evaluation.blind import Session

from .evaluated import evaluation
from .stage import Shop, shown, until

SIZES = [(80, 24), (140, 45)]

pytestmark = pytest.mark.parametrize("size", SIZES, ids=["80x24", "140x45"])


def voted(shop: Shop, left: int, opened: bool = False) -> None:
    """A session in which all but the last ``left`` votes are in."""
    folder = evaluation(shop)
    with Session(folder, "base", "tuned", pairs(folder, "base", "tuned"), 20, seed=11) as session:
        wants = itertools.cycle(["long", "long", "long", "tie", "long", "short", "long"])
        while session.votes < session.due - left and (now := session.now()) is not None:
            want, longer = next(wants), "a" if len(now.a) > len(now.b) else "b"
            session.vote("tie" if want == "tie" else longer if want == "long" else "a" if longer == "b" else "b")  # type: ignore[arg-type]
        if opened:
            session.reveal()


def until_shown(text: str, then: str = "") -> Any:
    async def before(pilot: Any) -> None:
        await pilot.press("B")
        await until(pilot, lambda: text in shown(pilot.app))
        if then:
            await pilot.press("enter")
            await until(pilot, lambda: then in shown(pilot.app))
        await pilot.pause()

    return before


def test_blind_empty(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    shop.recipe()
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("Nothing has been evaluated"))


def test_blind_begins(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    evaluation(shop)
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("begin"))


def test_blind_voting(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    voted(shop, 37)
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("go on", "Which one?"))


def test_blind_sealed(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    voted(shop, 0)
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("go on", "last vote"))


def test_blind_result(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    voted(shop, 0, opened=True)
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("see the result", "The reader"))


def test_blind_of_a_report_that_cannot_be_read(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    (evaluation(shop) / "report.json").write_text("{}")
    assert snap_compare(shop.app(), terminal_size=size, run_before=until_shown("is not a report"))

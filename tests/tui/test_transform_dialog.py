"""Many rows at once: marks in Data, and pipelines with a live preview in Data and Review."""

import pytest
from textual.widgets import Input

from mlxtune.tui.transform_dialog import TransformDialog
from mlxtune.tui.widgets import MarkableList, Panel

from .driver import NARROW, Opening, RoomDriver, opens
from .rows_stage import GOOD, fill, journal, pair, ready, session_of, statuses, write

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checks")]


async def opened(room: RoomDriver) -> None:
    await room.until(lambda: ready(room))


ROOM = Opening("data", fill, opened)


def dialog_text(room: RoomDriver, name: str) -> str:
    panel = room.screen.query_one(name, Panel)
    return panel._drawn(panel.size.width or 100, 0).plain


async def type_line(room: RoomDriver, line: str) -> None:
    await room.press("colon", until=lambda: isinstance(room.screen, TransformDialog))
    room.screen.query_one(Input).value = line


def marked(room: RoomDriver) -> list[int]:
    return sorted(index + 1 for index in room.screen.query_one("#list", MarkableList).marked)


@pytest.mark.parametrize("mode", ["data", "review"])
async def test_a_pipeline_is_previewed_applied_and_undone(mode, shop, open_room):
    source = fill(shop)
    before = source.read_bytes()
    async with open_room(mode) as room:
        await opened(room)
        await type_line(room, "replace /parcel/package/ in user | drop coal")
        await room.until(lambda: "2 edited, 1 left out: 13 → 12 rows." in dialog_text(room, "#outcome"))
        assert "− Where is my parcel?" in dialog_text(room, "#changes")
        assert "+ Where is my package?" in dialog_text(room, "#changes")
        assert not journal_exists(room)
        await room.press("enter", notice="~ 3 rows changed.")
        assert statuses(room)[10] == "rejected"
        await room.press("u", notice="↶ 3 rows: apply undone.")
        assert statuses(room) == {}
    assert [event["action"] for event in journal(source)] == ["apply", "undo"]
    assert source.read_bytes() == before


def journal_exists(room: RoomDriver) -> bool:
    return bool(session_of(room).source.state.steps)


@opens(stage=lambda shop: write(fill(shop).with_name("more.jsonl"), GOOD))
async def test_an_invalid_or_empty_pipeline_changes_nothing_and_earlier_lines_can_be_recalled(room):
    await type_line(room, "")
    assert "cap KEY N" in dialog_text(room, "#changes")
    for line, message in (("fly", "Unknown verb fly."), ("drop", "needs a filter"), ("trim", "No change to 13 rows.")):
        room.screen.query_one(Input).value = line
        await room.until(lambda message=message: message in dialog_text(room, "#outcome"))
        await room.press("enter")
    assert isinstance(room.screen, TransformDialog)
    room.screen.query_one(Input).value = "merge data/more.jsonl"
    await room.until(lambda: "10 added: 13 → 23 rows." in dialog_text(room, "#outcome"))
    await room.press("enter", until=lambda: "must write to a new file" in dialog_text(room, "#outcome"))
    await room.press("escape")
    assert room.mode == "data"
    assert not journal_exists(room)
    for line in ("tag first", "tag second"):
        await type_line(room, line)
        await room.until(lambda: "edited" in dialog_text(room, "#outcome"))
        await room.press("enter", notice="~ 13 rows changed.")
    await room.press("colon", "up", "up")
    assert room.screen.query_one(Input).value == "tag first"
    await room.press("down")
    assert room.screen.query_one(Input).value == "tag second"


@pytest.mark.parametrize("size", [NARROW, (140, 45)])
@opens(stage=lambda shop: fill(shop, GOOD * 3))
async def test_the_dialogs_keys_are_always_shown(size, room):
    await room.press("colon", until=lambda: isinstance(room.screen, TransformDialog))
    for text, mark in (("", "T"), ("replace /e/ee/", "✓"), ("nonsense in every way", "·")):
        room.screen.query_one(Input).value = text
        await room.until(lambda mark=mark: dialog_text(room, "#outcome").strip().startswith(mark))
        await room.pilot.pause()
        sheet, keys = room.screen.query_one(".sheet"), room.screen.query(Panel).last()
        assert sheet.content_region.contains_region(keys.region)


async def test_marks_by_key_and_every_decision_on_them(room):
    await room.press("space", "space", "down", "space")
    assert marked(room) == [1, 2, 4]
    assert "3 marked" in room.head("#row-list")
    await room.press("a", notice="✓ 3 rows accepted.")
    assert marked(room) == []
    await room.press("v", "down", "down", "v", "down")
    assert marked(room) == [5, 6, 7]
    await room.press("escape")
    assert marked(room) == []
    await room.press("shift+down", "shift+down")
    assert marked(room) == [8, 9, 10]
    await room.press("shift+up")
    assert marked(room) == [8, 9]
    await room.press("x", notice="✗ 2 rows rejected.")
    await room.press("v", "down", "t", answer="winter", notice="✓ 2 rows tagged.")
    await room.press("space", "colon", until=lambda: isinstance(room.screen, TransformDialog))
    room.screen.query_one(Input).value = "tag one"
    await room.until(lambda: "1 edited: 1 → 1 row" in dialog_text(room, "#outcome"))
    await room.press("enter", notice="~ 1 row changed.")
    assert [len(event["rows"]) for event in journal(room.staged)] == [3, 2, 2, 1]


@opens(stage=lambda shop: fill(shop, [pair(f"Question {at}?", f"Good {at}", f"Bad {at}") for at in range(6)]))
async def test_marks_stay_on_their_rows_when_the_filter_changes(room):
    await room.press("down", "space", "space", "slash", *"good", "enter")
    await room.until(lambda: len(session_of(room).selection.rows) == 6)
    await room.press("*", choose="tie", notice="= 2 rows marked as a tie.")
    assert statuses(room) == {1: "tied", 2: "tied"}

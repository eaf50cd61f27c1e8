import json
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from mlxtune.data import scaffold
from mlxtune.data.column_map import first_records
from mlxtune.recipe import load
from mlxtune.tui.open_flow import MappingScreen
from mlxtune.tui.paths import completions
from mlxtune.tui.widgets import ChoiceDialog, ListPanel, Panel, PromptDialog, dialog

from .driver import NARROW, Gate, RoomDriver, drive, picture_sizes
from .rows_stage import GOOD, fill, ready, session_of, write
from .stage import Shop

pytestmark = pytest.mark.slow

TICKETS = [
    {"id": at, "utterance": f"Where is parcel {at}?", "body": {"reply": f"Parcel {at} is here."}, "note": ""} for at in range(6)
]


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    """A file whose columns no format has, outside the workspace."""
    write(path := tmp_path / "tickets.jsonl", TICKETS)
    return path


def field(room: RoomDriver) -> Input:
    return room.screen.query_one(Input)


def drawn(room: RoomDriver, selector: str) -> str:
    panel = room.screen.query_one(selector, Panel)
    return panel._drawn(panel.size.width or 100, panel.size.height).plain


async def prompted(room: RoomDriver, *keys: str) -> None:
    """Wait for the prompt for a path, which ``keys`` open."""
    await room.press(*keys)
    await room.until(lambda: isinstance(room.screen, PromptDialog) and room.screen.query_one("#candidates", ListPanel).count > 0)


async def open_path(room: RoomDriver, path: str | Path) -> None:
    await prompted(room, "o")
    field(room).value = str(path)
    await room.press("enter")


async def mapped(room: RoomDriver) -> MappingScreen:
    await room.until(
        lambda: isinstance(room.screen, MappingScreen) and room.screen.is_mounted and "Columns" in room.head("#columns-side")
    )
    screen: MappingScreen = room.screen
    return screen


async def proposed(room: RoomDriver, name: str) -> None:
    await mapped(room)
    await room.until(lambda: f"recipes/{name}.toml" in room.head("#recipe-side") and "method" in drawn(room, "#recipe"))


def test_paths_are_completed_as_a_shell_does(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("date.csv", ".hidden", "data/a.jsonl", "data/b.jsonl", "bad\x1bname"):
        (tmp_path / name).touch()
    assert completions(tmp_path, "") == ["data/", "date.csv"]
    assert completions(tmp_path, "dat") == ["data/", "date.csv"]
    assert completions(tmp_path, "data/") == ["data/a.jsonl", "data/b.jsonl"]
    assert completions(tmp_path, ".") == [".hidden"]
    assert completions(tmp_path, f"{tmp_path}/date") == [f"{tmp_path}/date.csv"]
    assert completions(tmp_path, "~") == ["~/"]
    assert completions(tmp_path, "~nobody/x") == completions(tmp_path, "no/such/folder") == completions(tmp_path, "a\0b/") == []


async def test_tab_completes_a_path_and_a_wrong_one_is_refused(shop, checks, open_room, monkeypatch):
    source = fill(shop, GOOD)
    write(source.with_name("support-more.jsonl"), GOOD[:4])
    async with open_room("home") as room:
        await prompted(room, "o")
        await room.press("d", "tab", until=lambda: field(room).value == "data/")
        await room.press("s", "tab", until=lambda: field(room).value == "data/support")
        await room.until(lambda: room.screen.query_one("#candidates", ListPanel).count == 3)
        await room.press("down", "down", "tab", until=lambda: field(room).value == "data/support.jsonl")
        await room.press("backspace", *["backspace"] * 5, *"-more", "tab")
        await room.until(lambda: field(room).value == "data/support-more.jsonl")
        await room.press("enter")
        await proposed(room, "support-more")
        await room.press("o", until=lambda: room.mode == "data" and ready(room) and len(session_of(room).source) == 4)
        assert room.notice.startswith("✓ Opened support-more.jsonl.")
        await prompted(room, "o", "end", "enter")
        listing = Gate()

        def slow(folder: Path, text: str) -> list[str]:
            if text == "data/support-m":
                listing.wait()
            return completions(folder, text)

        monkeypatch.setattr(dialog, "completions", slow)
        await room.press_quickly(*"data/support-m", "tab", "enter")
        await room.until(lambda: field(room).value == "data/support-m" and Gate.waiting > 0)
        listing.set()
        await proposed(room, "support-more")
        await room.press("o", until=lambda: room.mode == "data" and room.notice.startswith("✓ Opened support-more.jsonl."))
        await room.press("H", until=lambda: "Write a recipe for support-more.jsonl" in room.text("#next-picture"))
        await room.press("enter")
        await proposed(room, "support-more")


async def test_enter_opens_the_path_under_the_cursor(shop, checks, open_room):
    source = fill(shop, GOOD)
    write(source.with_name("zebra.jsonl"), GOOD[:4])
    async with open_room("home") as room:
        await prompted(room, "o")
        await room.press("enter", until=lambda: field(room).value == "data/")
        await room.until(lambda: room.screen.query_one("#candidates", ListPanel).count == 3)
        await room.press("z", "x", "enter", until=lambda: "There is no file data/zx." in drawn(room, "#wrong"))
        await room.press("backspace", until=lambda: room.screen.query_one("#candidates", ListPanel).count == 1)
        await room.press("enter")
        await proposed(room, "zebra")
        await room.press("o", until=lambda: room.mode == "data" and ready(room) and len(session_of(room).source) == 4)
        assert room.notice.startswith("✓ Opened zebra.jsonl.")


@pytest.mark.parametrize("recipes", [0, 1, 2])
async def test_o_lists_other_recipes_and_then_a_file(shop, checks, open_room, recipes):
    write(shop.folder / "rows.jsonl", GOOD)
    for number in range(recipes):
        fill(shop, GOOD[: 4 + number], name=f"shop-{number}")
    async with open_room("data") as room:
        await room.until(lambda: not recipes or ready(room))
        await room.press("o", until=lambda: isinstance(room.screen, ChoiceDialog | PromptDialog))
        if recipes == 2:
            assert [option.name for option in room.screen._options] == ["shop-0.toml", "shop-1.toml", "a file"]
            await room.press("end", "enter", until=lambda: isinstance(room.screen, PromptDialog))
        await prompted(room)


async def test_a_file_is_opened_with_its_recipe(shop, checks, open_room):
    source = fill(shop, GOOD)
    shop.recipe("another")
    async with open_room("home") as room:
        await open_path(room, source)
        await room.until_notice("✓ Opened support-json.jsonl with its recipe support-json.toml.")
        await room.until(lambda: room.mode == "data" and ready(room) and session_of(room).ref.recipe is not None)
        assert room.app.sessions.file is None


async def test_the_open_file_is_restored(shop, checks, open_room):
    source = fill(shop, GOOD)
    write(other := source.with_name("support-more.jsonl"), GOOD[:4])
    async with open_room("data") as room:
        room.app.sessions.open_file(other)
        room.app.redraw()
        await room.until(lambda: ready(room) and len(session_of(room).source) == 4)
        await room.press("down")
        saved = json.loads(json.dumps(room.app.sessions.save_state()))
    app = shop.app()
    app.saved.values["source"] = saved
    async with drive(app, "review") as room:
        await room.until(lambda: ready(room) and session_of(room).ref.path == other)
        await room.until(lambda: session_of(room).row_index == 1)


async def test_unknown_columns_are_mapped_while_the_rows_are_shown(shop, checks, open_room, tickets):
    shop.recipe()
    async with open_room("data") as room:
        await room.until(lambda: "o" in [action.key for action in room.screen.shown_actions()])
        await open_path(room, tickets)
        screen = await mapped(room)
        assert drawn(room, "#columns").splitlines()[1].split()[:3] == ["utterance", "prompt", "Where"]
        assert "body.reply" in drawn(room, "#columns")
        assert "6 of 6 rows can be used" in room.head("#mapped-side")
        assert "Parcel 0 is here." in drawn(room, "#mapped")
        await room.press("down", "3")  # a system prompt and an answer are no row
        assert "✗ 0 of 6 rows can be used" in room.head("#mapped-side")
        assert "no known format" in drawn(room, "#mapped")
        await room.press("enter")
        assert room.screen is screen  # nothing can be opened yet
        await room.press("f1")
        await room.until(lambda: bool(room.screen.query("#rows")) and "3       system: the system prompt" in room.text("#rows"))
        await room.press("f1")
        await room.press("1", "right", "left")
        assert "format completion" in room.head("#keys-side")
        await room.press("o", until=lambda: room.mode == "data" and ready(room) and len(session_of(room).source.rows) == 6)
        assert dict(session_of(room).ref.map) == {"prompt": "utterance", "completion": "body.reply"}


def test_a_key_has_one_column_and_a_column_one_key(tmp_path):
    write(path := tmp_path / "rows.jsonl", [{"prompt": "q", "a": "x", "b": "y"}])
    screen = MappingScreen(first_records(path), {"completion": "a"})
    screen._draw = lambda: None  # type: ignore[method-assign]
    assert screen._formats == {"completion": 1}  # prompt has its own name
    screen._assign("b", "completion")
    assert screen._mapping == {"completion": "b"}
    screen._assign("prompt", "text")
    assert (screen._mapping, screen._column_of("prompt")) == ({"completion": "b", "text": "prompt"}, "")
    screen._assign("prompt", "prompt")
    screen._assign("b", "completion")
    assert (screen._mapping, screen._column_of("prompt")) == ({}, "prompt")


async def test_a_new_recipe_is_what_init_writes(shop, checks, open_room, tickets, tmp_path, monkeypatch):
    shop.recipe("taken")
    write, gate = scaffold.write, Gate()
    expected = write(scaffold.guess(tickets), tmp_path / "other", "mine").read_text()
    monkeypatch.setattr(scaffold, "write", lambda *arguments: gate.wait() and write(*arguments))
    async with open_room("home") as room:
        await open_path(room, tickets)
        await proposed(room, "tickets")
        await room.press("e", until=lambda: isinstance(room.screen, PromptDialog) and field(room).value == "tickets")
        field(room).value = "taken"
        await room.press("enter", until=lambda: "recipes/taken.toml already exists" in " ".join(drawn(room, "#wrong").split()))
        field(room).value = "my math!"
        await room.press("enter", until=lambda: "Use 1 to 64 letters" in " ".join(drawn(room, "#wrong").split()))
        field(room).value = "mine"
        await room.press("enter")
        await proposed(room, "mine")
        await room.press("enter", notice="● Creating recipes/mine.toml.")
        gate.set()
        await room.until_notice("✓ Created recipes/mine.toml.")
        await room.observe(shop.snapshot())
        await room.until(lambda: room.mode == "data" and ready(room) and session_of(room).ref.recipe is not None)
        assert session_of(room).ref.path.resolve() == tickets.resolve()
    written = (shop.folder / "recipes" / "mine.toml").read_text()
    assert written == expected


async def test_a_recipe_for_the_open_file_asks_for_unknown_columns(shop, checks, open_room, tickets):
    shop.recipe()
    async with open_room("data") as room:
        room.app.sessions.open_file(tickets, {})
        room.app.redraw()
        await room.until(lambda: "none of its 6 rows can be used" in room.words("#invite"))
        await room.press("n")
        await proposed(room, "tickets")
        assert "body.reply completion" in " ".join(drawn(room, "#columns").split())


async def test_a_source_with_unknown_columns_says_so_and_saves_the_map(shop, checks, open_room):
    fill(shop, TICKETS, contract="")
    async with open_room("data") as room:
        await room.until(lambda: "none of its 6 rows can be used" in room.words("#invite"))
        await room.press("R", until=lambda: "D map the columns in Data" in room.text("#invite"))
        await room.press("D", until=lambda: "e map the columns" in room.text("#invite"))
        await room.press("e")
        await mapped(room)
        await room.press("enter", notice="✓ Saved the map as data.map in support-json.toml.")
        await room.observe(shop.snapshot())
        await room.until(lambda: ready(room) and len(session_of(room).source.rows) == 6)
        await room.until(lambda: room.focus == "list")
        await room.press("e")
        await mapped(room)
        await room.press("escape", mode="data")
    assert load(shop.folder / "recipes" / "support-json.toml").data.map == {"prompt": "utterance", "completion": "body.reply"}


async def test_an_import_asks_for_the_columns(shop, checks, open_room, tickets):
    fill(shop, GOOD)
    async with open_room("data") as room:
        await room.until(lambda: ready(room))
        await room.press("i", answer=str(tickets))
        await mapped(room)
        await room.press("enter", notice="✓ Imported 6 rows to data/tickets.jsonl.")
    first = json.loads((shop.folder / "data" / "tickets.jsonl").read_text().splitlines()[0])
    assert first["messages"][1]["content"] == "Parcel 0 is here."


async def test_a_folder_or_an_empty_file_is_no_file_of_rows(shop, checks, open_room):
    shop.recipe()
    (shop.folder / "data" / "empty.jsonl").touch()
    (shop.folder / "data" / "void").mkdir()
    async with open_room("home", NARROW) as room:
        await prompted(room, "o")
        field(room).value = "data/void/"
        await room.press("enter", until=lambda: "has no train.jsonl" in drawn(room, "#wrong"))
        field(room).value = "data/empty.jsonl"
        await room.press("enter", notice="✗ empty.jsonl has no rows.")


async def test_the_recipe_follows_the_columns_and_enter_waits_for_it(shop, checks, open_room, tickets, monkeypatch):
    shop.recipe("tickets")
    gate, guess = Gate(), scaffold.guess
    gate.set()

    def slow(*arguments: Any) -> scaffold.Scaffold:
        gate.wait()
        return guess(*arguments)

    monkeypatch.setattr(scaffold, "guess", slow)
    async with open_room("home") as room:
        await open_path(room, tickets)
        await proposed(room, "tickets-2")  # a name that is not taken
        assert "6 (6 completion)" in drawn(room, "#recipe")
        await room.press("down", "9", until=lambda: "6 (6 text)" in drawn(room, "#recipe"))
        await room.press("1", until=lambda: "6 (6 completion)" in drawn(room, "#recipe"))
        gate.clear()
        await room.press("down", "down", "2", "2", "enter", until=lambda: "Reading the answers." in drawn(room, "#recipe"))
        assert isinstance(room.screen, MappingScreen)
        gate.set()
        await room.until_notice("✓ Created recipes/tickets-2.toml.")
    assert load(shop.folder / "recipes" / "tickets-2.toml").data.map == {"prompt": "utterance", "completion": "body.reply"}


def with_tickets(shop: Shop) -> Shop:
    shop.recipe()
    write(shop.folder / "data" / "tickets.jsonl", TICKETS)
    return shop


async def test_the_list_of_paths_grows_with_its_paths(shop, open_room):
    with_tickets(shop)
    async with open_room("home", size=NARROW) as room:
        await prompted(room, "o")
        candidates = room.screen.query_one("#candidates", ListPanel)
        for typed, count in (("data", 1), ("/", 2)):
            await room.press(*typed, until=lambda count=count: candidates.count == count)
            await room.pilot.pause()
            assert candidates.size.height == count


@picture_sizes
def test_picture_of_the_mapping(shop, picture, size):
    async def mapping(room: RoomDriver) -> None:
        await open_path(room, "data/tickets.jsonl")
        await mapped(room)

    picture(with_tickets(shop), size, "home", mapping)


def test_picture_of_the_path(shop, picture):
    async def choosing(room: RoomDriver) -> None:
        await prompted(room, "o")
        await room.press(*"data/", until=lambda: "data/tickets.jsonl" in room.screen_text)

    picture(with_tickets(shop), NARROW, "home", choosing)


def test_picture_of_a_new_recipe(shop, picture):
    async def naming(room: RoomDriver) -> None:
        await open_path(room, "data/tickets.jsonl")
        await proposed(room, "tickets")
        await room.press("e", until=lambda: isinstance(room.screen, PromptDialog) and field(room).value == "tickets")

    picture(with_tickets(shop), NARROW, "home", naming)

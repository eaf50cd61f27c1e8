import gc
import re
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from rich.color import ColorSystem
from rich.style import Style
from textual.content import Content
from textual.css.parse import parse
from textual.strip import Strip
from textual.widgets import OptionList

from mlxtune import tui
from mlxtune.core import settings
from mlxtune.data.checks.registry import CHECKS
from mlxtune.present.words import WORDS
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.commands import CommandsPage
from mlxtune.tui.notices import NOTICE_MARKS, Notice
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.theme import THEMES, CachedStylesheet
from mlxtune.tui.widgets import ChoiceDialog, PageScreen, PromptDialog

from .conftest import loaded_shop
from .driver import NARROW, WIDE, Opening, RoomDriver, any_size, drive, opens
from .stage import shown

pytestmark = pytest.mark.slow
ROOM = Opening("train", loaded_shop)


def commands(room: RoomDriver) -> list[str]:
    return [command.title for command in room.app.get_system_commands(room.screen)]


async def test_the_palette_offers_what_is_possible_now_finds_it_by_words_of_its_help_and_does_it(loaded, open_room):
    async with open_room("home") as room:
        await room.press("ctrl+p", *"log", "enter", until=lambda: isinstance(room.screen, CommandsPage))
        await room.press("escape", mode="home")
        assert "Open Train (T)" in commands(room)
        assert not any(title.startswith(("New (", "Stop", "Resume")) for title in commands(room))
        await room.press("T")
        assert "Stop (s)" in commands(room)
        assert not any(title.startswith(("New (", "Resume", "Open Train")) for title in commands(room))
        await room.press("ctrl+p", until=lambda: room.screen.query_one(OptionList).option_count > 0)
        await room.press(*"zoom", "enter", until=lambda: room.mode == "train" and "whole" in room.actions)


async def test_a_theme_redraws_the_room_is_previewed_under_the_cursor_and_kept_on_enter(room):
    for theme in (*THEMES, THEMES[0]):
        room.app.theme = theme.name
        await room.pilot.pause()
        assert "640 of 960" in room.text("#stats")
    await room.press("ctrl+p", *"theme", "enter", until=lambda: isinstance(room.screen, ChoiceDialog))
    await room.press("down", until=lambda: room.app.theme == "paper")
    await room.press("down", until=lambda: room.app.theme == "ansi")
    await room.press("escape", until=lambda: room.app.theme == "ink")
    await room.press("ctrl+p")
    await room.press_quickly(*"theme", "enter", "down", "enter")  # which reach what the command opens
    await room.until(lambda: room.mode == "train" and (room.app.theme, settings.load().theme) == ("paper", "paper"))
    await room.press("ctrl+p", *"theme", "enter", until=lambda: isinstance(room.screen, ChoiceDialog))
    await room.press("up", until=lambda: room.app.theme == "ink")


async def test_the_palette_does_not_wait_for_other_jobs(room):
    going_on = threading.Event()
    room.app.jobs.run(going_on.wait, group="watch")
    await room.press("ctrl+p", *"theme")
    palette = room.screen
    await room.until(lambda: not [worker for worker in palette.workers if worker.node is palette])
    await room.press("enter", until=lambda: isinstance(room.screen, ChoiceDialog))
    going_on.set()


async def test_the_divider_moves_and_stays_after_a_restart(loaded, open_room):
    async with open_room("train") as room:
        side = room.screen.side
        before = side.size.width
        await room.press("<", until=lambda: side.size.width == before + 4)
        await room.press(">", ">", until=lambda: side.size.width == before - 4)
        width = room.screen.side_width
        await room.pilot.resize_terminal(80, 24)
        assert room.screen.side is None
        await room.pilot.resize_terminal(*WIDE)
        await room.until(lambda: room.screen.side is not None and side.size.width == before - 4)
    app = loaded.app()
    app.saved.values["rooms"] = {"train": {"side": width}}
    async with drive(app, "train") as room:
        await room.until(lambda: room.screen.side.size.width == before - 4)


async def test_help_names_the_keys_of_the_room_or_page_and_a_panel_fills_the_screen(room):
    await room.press("f1", until=lambda: room.mode == "" and "the last fifth" in room.text("#rows"))
    assert "resume (not possible now)" in room.text("#rows")
    await room.press("n")
    assert room.mode == "", "keys of the room do not work below a page"
    await room.press("f1")
    assert room.mode == "train", "it closes alone"
    await room.press("L", until=lambda: isinstance(room.screen, PageScreen) and room.screen._heading == "Log")
    await room.press("f1", until=lambda: room.screen._heading == "Help" and "This page" in room.text("#rows"))
    await room.press("f1", until=lambda: room.screen._heading == "Log")
    await room.press("escape", until=lambda: room.focus == "loss")
    before = room.screen.focused.size
    await room.press("ctrl+f", until=lambda: room.screen.focused.size.height > before.height)
    assert room.screen.focused.size.width > before.width
    assert "F1 help" in room.screen_text
    assert "Log" not in room.screen_text
    await room.press("escape", until=lambda: room.screen.focused.size == before)
    await room.press("ctrl+f", "ctrl+f", until=lambda: room.screen.focused.size == before)


def test_help_explains_the_marks_of_notices_and_findings():
    marks = {glyph for glyph, _ in NOTICE_MARKS.values()} | {one.glyph for one in CHECKS.values()}
    assert marks <= WORDS.glyphs.keys()


@opens(mode="home")
async def test_help_also_opens_over_a_dialog_and_scrolling_does_not_compute_a_page_again(room, monkeypatch):
    widths: list[int] = []

    def rows(width: int) -> list[Content]:
        widths.append(width)
        return [Content(str(number)) for number in range(99)]

    await room.press("o", until=lambda: isinstance(room.screen, PromptDialog))
    await room.press("f1", until=lambda: room.screen.query("#rows") and "a new run" in room.text("#rows"))
    await room.press("escape", until=lambda: isinstance(room.screen, PromptDialog))
    await room.press("escape", mode="home")
    room.app.push_screen(PageScreen("Numbers", rows))
    await room.until(lambda: bool(room.screen.query("#rows")) and "0" in room.text("#rows"))
    monkeypatch.setattr(PageScreen, "redraw", lambda _: None)
    before = len(widths)
    await room.press("down", "pagedown", "end", until=lambda: "98" in room.text("#rows"))
    assert len(widths) == before


async def test_a_screenshot_is_saved_in_the_workspace(loaded, open_room):
    async with open_room("home", size=NARROW) as room:
        room.app.action_picture()
        await room.until_notice("✓ Saved ")
        assert len(list(loaded.folder.glob("*.svg"))) == 1


async def test_no_color_keeps_every_glyph(loaded, open_room, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    async with open_room("home") as room:
        assert room.app.no_color
        assert set("●✓✗■○▌") <= set(shown(room.app))


@any_size
async def test_every_page_can_have_any_size(loaded, open_room, size):
    async with open_room("home", size=size) as room:
        await room.press("down", "down", "T", "z", "f1", "escape", "L", "pagedown", "home", "escape", "s", "escape", "H")
        await room.pilot.resize_terminal(size[0] + 1, size[1] + 1)
        await room.press("T")
        assert room.app.is_running


async def test_a_missing_workspace_is_an_empty_one(tmp_path):
    async with drive(MlxtuneApp(tmp_path / "nowhere"), "home", NARROW) as room:
        await room.until(lambda: "Start with the sample workspace" in room.text("#next-picture"))


def test_a_style_sheet_does_not_apply_to_widgets_of_other_rooms():
    """Textual applies the style sheet of every room that was opened to all screens."""
    package = Path(tui.__file__).parent
    styled = {path: set(re.findall(r"#([a-z][\w-]*)", path.read_text())) for path in package.glob("rooms/*/style.tcss")}
    named = {path: set(re.findall(r"\bid=\"([\w-]+)\"", path.read_text())) for path in package.rglob("*.py")}
    assert len(styled) == len(ROOMS)
    assert [
        f"{sheet.parent.name}/style.tcss also applies to #{id} in {module.relative_to(package)}"
        for sheet, ids in styled.items()
        for module, own in named.items()
        if module.parent != sheet.parent
        for id in ids & own
    ] == []
    rules = "".join(re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL) for path in package.rglob("*.tcss"))
    assert "*" not in rules, "a selector that Textual tests for every widget"


async def test_style_sheets_are_parsed_once_until_the_theme_changes(shop, monkeypatch):
    parsed: list[tuple[object, ...]] = []

    def counted(scope: str, css: str, read_from: tuple[str, str], **options: Any) -> Any:
        parsed.append((read_from, options["tie_breaker"], repr(options["variable_tokens"])))
        return parse(scope, css, read_from, **options)

    monkeypatch.setattr("textual.css.stylesheet.parse", counted)
    monkeypatch.setattr("mlxtune.tui.app.CachedStylesheet", CachedStylesheet)
    async with drive(shop.app(), "home") as room:
        for mode, entry in ROOMS.items():
            await room.press(entry.key)
            await room.until(lambda mode=mode: room.mode == mode)  # type: ignore[misc]
        ink, colors = room.screen.styles.background, set()
        for theme in ("ink", "paper"):
            room.app.theme = theme
            await room.until(lambda theme=theme: (room.screen.styles.background == ink) == (theme == "ink"))  # type: ignore[misc]
            colors.add(room.screen.styles.background)
    assert len(colors) == 2
    assert len(parsed) == len(set(parsed))


async def test_a_closed_page_is_freed(room):
    await room.press("f1", until=lambda: room.mode == "" and "the last fifth" in room.text("#rows"))
    lines = weakref.ref(room.screen.query_one("#rows")._styles_cache)
    for column in range(5_000):
        Strip.render_ansi(Style(bold=True, meta={"offset": (column, 0)}), ColorSystem.TRUECOLOR)
    await room.press("escape", mode="train")
    gc.collect()
    assert lines() is None
    assert Strip.render_ansi.cache_info().currsize < 5_000


async def test_a_notice_offers_no_undo_outside_its_rooms(room):
    """A job may end after its room was left. The room on show lacks its action, or has another one of the same name."""
    for mode, rooms, is_offered in (("train", (), False), ("plan", ("adapters",), False), ("plan", ("adapters", "plan"), True)):
        await room.press(ROOMS[mode].key, mode=mode)
        text = f"Changed in {rooms}."
        room.app.notices.show(Notice("done", text, undo="undo", rooms=rooms))
        await room.until_notice(f"✓ {text}")
        assert room.app.can_undo is is_offered, (mode, rooms)

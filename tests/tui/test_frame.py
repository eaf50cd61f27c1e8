"""The frame: what is said and taken back, keys that can be changed, jumping, and how the app comes back after a restart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mlxtune.core import session, settings
from mlxtune.core.errors import MachineError
from mlxtune.tui import desk, keys
from mlxtune.tui.app import ROOMS, MlxtuneApp
from mlxtune.tui.screens.ask import Ask
from mlxtune.tui.screens.home import Runs
from mlxtune.tui.screens.room import Room
from mlxtune.tui.widgets.frame import LETTERS, Answer, Verb, tab_places, tabs

from .stage import NOW, Shop, footer, shown, until

ALL = tuple(LETTERS)


def set_keys(text: str) -> None:
    settings.path().parent.mkdir(parents=True, exist_ok=True)
    settings.path().write_text(text)


# What is said


async def test_done_is_a_toast_that_goes_and_a_decision_a_line_that_stays(loaded: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "TOAST", 0.2)
    app = loaded.app()
    async with app.run_test(size=(80, 24)) as pilot:
        app.reply(Answer("✓", "$success", "Saved."))
        await until(pilot, lambda: "✓ Saved." in shown(app))
        await until(pilot, lambda: "✓ Saved." not in shown(app))
        app.reply(Answer("✓", "$success", "Row 422 accepted.", undo=Verb("u", "undo", "new")))
        await pilot.pause(0.4)
        assert "✓ Row 422 accepted.  u undo" in shown(app)
        await pilot.press("escape")
        assert "Row 422" not in shown(app)


async def test_u_and_a_click_take_back_what_the_line_says(loaded: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    undone: list[str] = []
    app = loaded.app()
    async with app.run_test(size=(80, 24)) as pilot:
        monkeypatch.setattr(type(app.screen), "action_back", lambda self: undone.append("back"), raising=False)
        await pilot.press("u")
        assert undone == []
        app.reply(Answer("✓", "$success", "Row 422 accepted.", undo=Verb("u", "undo", "back")))
        assert "Undo" in [command.title for command in app.get_system_commands(app.screen)]
        await pilot.press("u")
        await pilot.pause()
        await pilot.click("#answer", offset=(24, 0))
        assert undone == ["back", "back"]


async def test_a_long_answer_keeps_its_undo_on_screen(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(52, 24)) as pilot:
        app.reply(Answer("✓", "$success", "Row 422 was accepted, as three others were.", undo=Verb("u", "undo", "new")))
        await pilot.pause()
        assert "    u undo" in shown(app)


async def test_the_footer_has_six_verbs_and_none_that_is_cut(loaded: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    verbs = [Verb(letter, "something", "new") for letter in "abcdefgh"]
    monkeypatch.setattr("mlxtune.tui.screens.home.Home.verbs", lambda self: verbs)
    app = loaded.app()
    async with app.run_test(size=(140, 24)) as pilot:
        assert footer(app).count("something") == 6
        await pilot.resize_terminal(60, 24)
        await until(pilot, lambda: footer(app) == "a something   b something   c something")


# Tabs


@pytest.mark.parametrize("width", [140, 100, 99, 80, 74])
def test_ten_tabs_fit_with_their_names(width: int) -> None:
    strip = tabs("Train", ALL, width)
    assert strip.cell_length <= width
    assert [name in strip.plain for name in ALL] == [True] * 10
    assert all(strip.plain[at] == LETTERS[name] for name, at in tab_places("Train", ALL, width).items())


@pytest.mark.parametrize("width", [60, 40, 20, 12])
@pytest.mark.parametrize("room", ["Home", "Train", "adVice"])
def test_where_names_do_not_fit_there_are_letters_and_the_room_s_own_name(width: int, room: str) -> None:
    strip = tabs(room, ALL, width).plain
    assert f"▎{room}" in strip
    assert len(strip) <= width
    assert all(strip[at] == LETTERS[name] for name, at in tab_places(room, ALL, width).items())


# Keys


def test_every_binding_has_an_id_and_none_is_used_twice() -> None:
    seen: dict[str, tuple[str, str]] = {}
    for kind in keys.owners():
        for binding in keys.own(kind):
            assert binding.id, f"{kind.__name__}: {binding.key}"
            place = (kind.__qualname__, binding.action)
            assert seen.setdefault(binding.id, place) == place, binding.id
    assert {"app.home", "train.zoom", "list.down", "page.close"} <= set(seen)


async def test_a_key_is_changed_by_its_id_everywhere_it_is_shown(loaded: Shop) -> None:
    set_keys('theme = "paper"\n[keys]\n"train.zoom" = "x,f5"\n"app.train" = "ctrl+t"\n')
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        assert app.theme == "paper"
        assert "^t watch it train" in shown(app), "in the sentence of Next"
        await pilot.press("T")
        assert app.current_mode == "home"
        await pilot.press("ctrl+t")
        assert app.current_mode == "train"
        assert "x zoom" in footer(app)
        assert "Zoom (x)" in [command.title for command in app.get_system_commands(app.screen)]
        await pilot.press("z")
        assert "x zoom" in footer(app)
        for key in ("x", "f5", "x"):
            await pilot.press(key)
        await pilot.pause()
        assert "x whole" in footer(app)
        await pilot.press("f1")
        await until(pilot, lambda: "train.zoom" in shown(app))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('"train.zom" = "x"', "There is no key train.zom. Did you mean train.zoom?"),
        ('"train.zoom" = "s"', "train.zoom: s is the key of train.stop already."),
        ('"train.zoom" = "q"', "train.zoom: q is the key of app.quit already."),
        ('"app.jump" = "j"', "app.jump: j is the key of"),
        ('"train.zoom" = "hyperspace"', "train.zoom: no key is called hyperspace."),
        ('"train.zoom" = "x"\n"train.stop" = "x"', "x is the key of"),
        ("oops", "settings.toml cannot be read"),
    ],
)
async def test_a_bad_setting_is_a_sentence_and_the_usual_key_stays(loaded: Shop, line: str, sentence: str) -> None:
    set_keys(f"[keys]\n{line}\n")
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        assert sentence in " ".join(shown(app).split())
        assert str(settings.path())[-20:] in shown(app).replace("\n", "")
        await pilot.press("T", "s")
        await until(pilot, lambda: "Stop support-json" in shown(app) or "x stop" in footer(app))


def test_two_keys_can_change_places() -> None:
    good, wrong = keys.keymap({"train.zoom": "s", "train.stop": "z"})
    assert (good, wrong) == ({"train.zoom": "s", "train.stop": "z"}, [])


@pytest.mark.parametrize(
    ("key", "written"), [("ctrl+p", "^p"), ("[", "["), ("left_square_bracket", "["), ("enter", "enter"), ("up", "↑")]
)
def test_keys_are_written_as_the_footer_writes_them(key: str, written: str) -> None:
    assert keys.shown(key) == written


async def test_a_theme_is_kept_for_the_next_time(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(80, 24)):
        app.action_theme("paper")
    assert loaded.app().theme == "paper"
    set_keys('theme = "neon"\n')
    app = loaded.app()
    assert app.theme == "ink"
    assert app.answer
    assert "There is no theme neon" in app.answer.text


# Focus


async def test_tab_goes_round_and_f1_speaks_of_what_has_the_focus(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("tab")
        assert isinstance(app.focused, Runs)
        await pilot.press("shift+tab")
        assert app.focused
        assert app.focused.id == "next-picture"
        await pilot.press("f1")
        await until(pilot, lambda: "The one thing to do now" in shown(app))


@pytest.mark.parametrize("opener", ["semicolon", "ctrl+o"])
async def test_jump_puts_a_letter_on_every_part_and_tab(loaded: Shop, opener: str) -> None:
    app = loaded.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press(opener)
        await until(pilot, lambda: type(app.screen).__name__ == "Jump")
        labels = {label.render().plain.strip(): label.region.offset for label in app.screen.query(".jump")}
        assert set(labels) == {LETTERS[name] for name in app.rooms} | {"s", "f"}
        runs = app.screen_stack[0].query_one(Runs)
        assert labels["f"] == runs.region.offset
        await pilot.press("f")
        await until(pilot, lambda: app.focused is runs)
        await pilot.press(opener, "t")
        await until(pilot, lambda: app.current_mode == "train")
        await pilot.press(opener)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Room))
        await pilot.press(opener)
        await pilot.resize_terminal(90, 30)
        await until(pilot, lambda: isinstance(app.screen, Room))


async def test_ctrl_q_leaves_from_a_question(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("T", "s")
        await until(pilot, lambda: "Stop support-json" in shown(app))
        await pilot.press("q")
        assert app.is_running
        await pilot.press("ctrl+q")
    assert app.return_code == 0


# After a restart


async def test_room_run_and_cursor_come_back(loaded: Shop) -> None:
    first = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with first.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: first.snapshot is not None)
        await pilot.press("down", "down", "down", "enter")
        await until(pilot, lambda: first.current_mode == "train")
        await pilot.press("q")
    again = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with again.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: "Loss of support-json, 2 d ago" in shown(again))
        assert (again.current_mode, again.selected) == ("train", "20261122-0900-support-json")
        await pilot.press("H", "tab")
        await until(pilot, lambda: "▌ ✗ support-json" in shown(again))


async def test_what_is_on_screen_is_kept_while_the_app_runs(loaded: Shop) -> None:
    app = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("T")
        await until(pilot, lambda: session.recall(loaded.folder).get("room") == "train")


@pytest.mark.parametrize(
    "left",
    [
        {"room": "attic", "run": "gone", "recipe": 3, "rooms": {"home": {"run": ["x"]}}},
        {"room": ["train"], "rooms": []},
        {"room": "train", "run": {"a": 1}, "rooms": {"train": {"zoomed": "no", "measure": 7}}},
        {"rooms": {"home": 3, "train": None}},
    ],
)
async def test_a_session_that_makes_no_sense_is_passed_over(loaded: Shop, left: Mapping[str, Any]) -> None:
    session.remember(loaded.folder, left)
    app = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        for room in ROOMS:
            app.action_room(room)
            await pilot.pause()
        assert not app.answer


async def test_a_disk_that_keeps_nothing_is_no_harm(loaded: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MachineError("The disk is full.")

    monkeypatch.setattr("mlxtune.core.session.remember", full)
    app = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("T")
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("q")
    assert app.return_code == 0


@pytest.mark.parametrize("room", list(ROOMS))
async def test_what_every_room_remembers_is_json_and_comes_back(loaded: Shop, room: str) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        app.action_room(room)
        await pilot.pause()
        screen = app.screen
        assert isinstance(screen, Room)
        kept = json.loads(json.dumps(dict(screen.remember())))
        screen.recall(kept)
        assert json.loads(json.dumps(dict(screen.remember()))) == kept
        assert (ROOMS[room].ROOM, bool(ROOMS[room].ABOUT)) == (screen.ROOM, True)


def test_a_run_that_was_on_show_and_is_gone_is_not_asked_for(loaded: Shop, tmp_path: Path) -> None:
    session.remember(loaded.folder, {"run": "20200101-0000-gone"})
    assert MlxtuneApp(loaded.folder).selected is None


async def test_a_field_that_asks_stands_in_the_middle_over_the_room(shop: Shop) -> None:
    app = shop.app()
    async with app.run_test(size=(100, 30)) as pilot:
        app.push_screen(Ask("Which tag?", ""))
        await pilot.pause()
        sheet = app.screen.query_one(".sheet").region
        assert abs(sheet.x - (100 - sheet.right)) <= 1
        assert abs(sheet.y - (30 - sheet.bottom)) <= 1
        assert app.screen.styles.background.a < 1

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from exhaustive import cases
from textual.widgets import Input

from mlxtune.core import settings
from mlxtune.core.errors import MachineError
from mlxtune.planning.machine import PowerState
from mlxtune.tui import keys, notices, saved_state
from mlxtune.tui.actions import Action, ShownAction
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.help import HelpPage
from mlxtune.tui.notices import Notice
from mlxtune.tui.room import Room
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.widgets import ChoiceDialog, Panel, PromptDialog
from mlxtune.tui.widgets.frame import tabs

from .conftest import loaded_shop
from .driver import NARROW, Gate, Opening, RoomDriver, opens
from .stage import NOW, Shop, until

pytestmark = pytest.mark.slow
ROOM = Opening("train", loaded_shop)


def set_keys(text: str) -> None:
    settings.path().parent.mkdir(parents=True, exist_ok=True)
    settings.path().write_text(text)


def staged_with_keys(text: str) -> Callable[[Shop], None]:
    return lambda shop: (loaded_shop(shop), set_keys(text))[1]


async def test_power_problems_are_in_the_header(loaded, open_room, monkeypatch):
    problem = PowerState(on_battery=True, charge=0.12, low_power_mode=True)
    monkeypatch.setattr("mlxtune.workspace.index.power", lambda: problem)
    async with open_room("home", size=(160, 24)) as room:
        assert "! Low Power Mode, battery at 12%" in room.text("#top")
        await room.pilot.resize_terminal(80, 24)
        await room.until(lambda: "! Low Power Mode   " in room.text("#top"))
        await room.pilot.resize_terminal(50, 24)
        await room.until(lambda: "Low Power Mode" not in room.text("#top"))


@opens(mode="home", size=NARROW)
async def test_a_notice_covers_nothing_a_result_goes_by_itself_and_a_decision_stays_with_undo(room, monkeypatch):
    room.app.notices.show(Notice("done", "Saved."))
    await room.until(lambda: room.text("#answer").strip() == "✓ Saved.")
    answer = room.screen.query_one("#answer")
    shown = {panel: room.screen.find_widget(panel).visible_region for panel in room.screen.query(Panel) if panel.size}
    assert not [panel.id for panel, region in shown.items() if panel is not answer and region.overlaps(answer.region)]
    monkeypatch.setattr(notices, "BRIEF_SECONDS", 0.05)
    room.app.notices.show(Notice("done", "Saved."))
    await room.until(lambda: room.text("#answer") == "")
    room.app.notices.show(Notice("done", "Row 422 accepted.", undo="open_file", rooms=("home",)))
    await room.until(lambda: "✓ Row 422 accepted.  o open" in room.text("#answer"))
    await room.pilot.pause(0.1)
    assert "✓ Row 422 accepted.  o open" in room.text("#answer"), "longer than a result"
    await room.press("escape", until=lambda: room.text("#answer") == "")


@opens(mode="home", size=NARROW)
async def test_u_and_a_click_run_the_undo_of_the_notice(room, monkeypatch):
    undone: list[str] = []
    monkeypatch.setattr(type(room.screen), "action_back", lambda self: undone.append("back"), raising=False)
    monkeypatch.setattr(type(room.screen), "ACTIONS", (Action("back", "b", "back"),))
    await room.press("u")
    assert undone == []
    room.app.notices.show(Notice("done", "Row 422 accepted.", undo="back", rooms=("home",)))
    assert "Undo" in [command.title for command in room.app.get_system_commands(room.screen)]
    await room.press("u")
    await room.pilot.pause()
    await room.pilot.click("#answer", offset=(24, 0))
    assert undone == ["back", "back"]


@opens(mode="home", size=(52, 24))
async def test_a_long_notice_keeps_its_undo_on_screen(room):
    room.app.notices.show(Notice("done", "Row 422 was accepted, as three others were.", undo="open_file", rooms=("home",)))
    await room.pilot.pause()
    assert "    o open" in room.text("#answer")


async def test_the_footer_has_at_most_six_actions_and_cuts_none(loaded, open_room, monkeypatch):
    actions = [ShownAction(letter, "something", "screen.new") for letter in "abcdefgh"]
    monkeypatch.setattr("mlxtune.tui.rooms.home.screen.HomeRoom.shown_actions", lambda self: actions)
    async with open_room("home", size=(140, 24)) as room:
        assert room.text("#foot").count("something") == 6
        await room.pilot.resize_terminal(60, 24)
        await room.until(lambda: room.text("#foot").split("^p")[0].strip() == "a something   b something   c something")


@opens(mode="home", stage=lambda shop: None)
async def test_the_result_of_an_older_job_of_a_group_is_dropped(room):
    first, results = Gate(), list[str]()
    room.app.jobs.run(lambda: first.wait(), lambda _: results.append("first"), group="x")
    room.app.jobs.run(lambda: None, lambda _: results.append("second"), group="x")
    room.app.jobs.run(lambda: None, lambda _: results.append("other"), group="y")
    await room.until(lambda: set(results) == {"second", "other"})
    first.set()
    await room.pilot.pause()
    assert "first" not in results


@opens(mode="home", stage=lambda shop: None)
async def test_a_busy_job_shows_its_sentence_and_refuses_another_and_its_error_is_a_notice(room):
    done = Gate()
    assert room.app.jobs.run(lambda: done.wait(), busy="Working.")
    assert room.notice == "● Working."
    assert not room.app.jobs.run(lambda: None, busy="Working too.")
    assert room.notice.startswith("● Working. Try again")
    done.set()
    await room.until(lambda: not room.app.jobs.busy)
    assert room.notice == ""
    for error in (MachineError("The disk is full."), OSError("The file is gone.")):
        room.app.jobs.run(Mock(side_effect=error), busy="")
        await room.until_notice(f"✗ {error}")
        assert not room.app.jobs.busy


@pytest.mark.parametrize("width", [140, 100, 99, 80, 74])
def test_all_tabs_fit_with_their_names(width):
    strip = tabs("train", width)
    assert strip.cell_length <= width
    assert [mode for mode, entry in ROOMS.items() if entry.name not in strip.plain] == ["groups"]


@pytest.mark.parametrize("width", [60, 40, 20, 12])
@pytest.mark.parametrize("room", ["home", "train", "advice"])
def test_narrow_tabs_are_keys_and_the_current_name(width, room):
    strip = tabs(room, width).plain
    assert f"▎{ROOMS[room].name}" in strip
    assert len(strip) <= width


@pytest.mark.parametrize("width", [140, 80, 40, 12])
def test_a_room_inside_another_one_highlights_its_tab(width):
    assert tabs("groups", width) == tabs("data", width)


def test_every_binding_has_an_id_and_none_is_used_twice():
    seen: dict[str, tuple[str, str]] = {}
    for kind in keys.binding_classes():
        for binding in keys.own_bindings(kind):
            assert binding.id, f"{kind.__name__}: {binding.key}"
            owner = (kind.__qualname__, binding.action)
            assert seen.setdefault(binding.id, owner) == owner, binding.id
    assert {"app.home", "train.zoom", "list.down", "page.close"} <= set(seen)


@opens(mode="home", stage=staged_with_keys('theme = "paper"\n[keys]\n"train.zoom" = "x,f5"\n"app.train" = "ctrl+t"\n'))
async def test_a_changed_key_works_and_is_shown_everywhere(room):
    assert room.app.theme == "paper"
    assert "^t watch the run" in room.text("#next-picture")
    await room.press("T")
    assert room.mode == "home"
    await room.press("ctrl+t")
    assert room.mode == "train"
    assert "x zoom" in room.text("#foot")
    assert "Zoom (x)" in [command.title for command in room.app.get_system_commands(room.screen)]
    await room.press("z")
    assert "zoom" in room.actions
    for key in ("x", "f5", "x"):
        await room.press(key)
    assert "whole" in room.actions
    await room.press("f1", until=lambda: "train.zoom" in room.text("#rows"))


@opens(mode="advice", stage=staged_with_keys('[keys]\n"advice.other" = "ctrl+o"\n'))
async def test_a_changed_key_for_an_action_of_the_app_is_shown_in_its_room(room):
    assert ("^o", "open") in [(action.key, action.label) for action in room.screen.shown_actions()]


@opens(mode="home", stage=staged_with_keys('[keys]\n"app.help" = "?"\n'))
async def test_a_character_for_the_help_can_still_be_typed(room):
    await room.press("o", until=lambda: bool(room.screen.query(Input)))
    await room.press("a", "question_mark", until=lambda: room.screen.query_one(Input).value == "a?")
    await room.press("escape", "question_mark", until=lambda: isinstance(room.screen, HelpPage))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"train.zom": "x"}, "Unknown key binding train.zom. Did you mean train.zoom?"),
        ({"train.zoom": "s"}, "train.zoom: s is already bound to train.stop."),
        ({"train.zoom": "q"}, "train.zoom: q is already bound to app.quit."),
        ({"app.help": "j"}, "app.help: j is already bound to"),
        ({"train.zoom": "hyperspace"}, "train.zoom: unknown key hyperspace."),
        ({"train.zoom": "x", "train.stop": "x"}, "x is already bound to"),
    ],
)
def test_an_invalid_key_is_an_error_and_left_out(changed, sentence):
    valid, (error,) = keys.build_keymap(changed)
    assert sentence in error
    assert len(valid) == len(changed) - 1


@pytest.mark.parametrize(("line", "sentence"), [('"train.zoom" = "s"', "already bound to train.stop."), ("oops", "cannot be read")])
async def test_an_invalid_setting_is_a_notice_and_the_default_key_stays(loaded, open_room, line, sentence):
    set_keys(f"[keys]\n{line}\n")
    async with open_room("home") as room:
        assert sentence in room.notice
        assert str(settings.path()) in room.notice
        await room.press("T", "s", until=lambda: isinstance(room.screen, ChoiceDialog))


def test_two_bindings_can_swap_their_keys():
    good, wrong = keys.build_keymap({"train.zoom": "s", "train.stop": "z"})
    assert (good, wrong) == ({"train.zoom": "s", "train.stop": "z"}, [])


@pytest.mark.parametrize(
    ("key", "written"), [("ctrl+p", "^p"), ("[", "["), ("left_square_bracket", "["), ("enter", "enter"), ("up", "↑")]
)
def test_the_labels_of_keys(key, written):
    assert keys.display_key(key) == written


def test_the_theme_of_the_settings_is_used(loaded):
    settings.save_theme("paper")
    assert loaded.app().theme == "paper"
    set_keys('theme = "neon"\n')
    app = loaded.app()
    assert app.theme == "ink"
    assert app.notices.current
    assert "Unknown theme neon" in app.notices.current.text


@opens(mode="home")
async def test_tab_cycles_and_f1_describes_the_focused_panel(room):
    for key, focus in (("tab", "runs-picture"), ("tab", "next-picture"), ("shift+tab", "runs-picture"), ("up", "next-picture")):
        await room.press(key)
        assert room.focus == focus
    await room.press("T", "f1", until=lambda: "an earlier step" in room.text("#rows"))


async def test_ctrl_q_quits_from_a_dialog(loaded, open_room):
    async with open_room("train", size=NARROW) as room:
        await room.press("s", until=lambda: isinstance(room.screen, ChoiceDialog))
        await room.press("q")
        assert room.app.is_running
        await room.press("ctrl+q")
    assert room.app.return_code == 0


async def test_room_run_and_cursor_come_back(loaded):
    first = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with first.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: first.has_read)
        await pilot.press("down", "down", "down", "enter")
        await until(pilot, lambda: first.current_mode == "train")
        await pilot.press("q")
    again = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with again.run_test(size=(120, 36)) as pilot:
        room = RoomDriver(again, pilot)
        await room.until(lambda: room.head("#chart").startswith("▌ Loss of support-json, 2 d ago"))
        assert (room.mode, again.selected) == ("train", "20261122-0900-support-json")
        await room.press("H", "tab", until=lambda: "▌ ✗ support-json" in room.text("#runs-picture"))


async def test_the_app_opens_where_the_command_line_asks(loaded):
    saved_state.save(
        loaded.folder, {"room": "plan", "rooms": {"train": {"zoomed": True, "_metric_id": "loss", "_compared_id": None}}}
    )
    state = {"room": "train", "run": "20261122-0900-support-json", "adapter": "adapters/shop", "row": "4f0a"}
    app = MlxtuneApp(loaded.folder, clock=lambda: NOW, state=state)
    assert (app.adapter_to_load, app.row_to_open) == ("adapters/shop", "4f0a")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.current_mode == "train" and app.selected == state["run"])
        await until(pilot, lambda: saved_state.load(loaded.folder).get("room") == "train")
    saved = saved_state.load(loaded.folder)
    assert saved["rooms"]["train"]["zoomed"] is True
    assert not {"adapter", "row"} & set(saved)


@pytest.mark.parametrize(
    "left",
    [
        {
            "room": "attic",
            "run": "gone",
            "recipe": 3,
            "rooms": {"home": {"run": ["x"]}, "train": {"zoomed": "no", "_metric_id": 7}},
        },
        pytest.param({"room": "train", "run": {"a": 1}}, marks=pytest.mark.exhaustive),
        pytest.param({"room": ["train"], "rooms": []}, marks=pytest.mark.exhaustive),
        pytest.param({"rooms": {"home": 3, "train": None}}, marks=pytest.mark.exhaustive),
    ],
)
async def test_an_invalid_saved_state_is_ignored(loaded, left):
    saved_state.save(loaded.folder, left)
    app = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.has_read)
        for room in ROOMS:
            app.action_room(room)
            await pilot.pause()
        assert not app.notices.current


async def test_an_error_while_the_state_is_saved_is_ignored(loaded, monkeypatch):
    monkeypatch.setattr("mlxtune.tui.saved_state.save", Mock(side_effect=MachineError("The disk is full.")))
    app = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("T")
        await until(pilot, lambda: app.has_read)
        await pilot.press("q")
    assert app.return_code == 0


@pytest.mark.parametrize("room", cases(ROOMS, "data", "train"))
async def test_the_saved_state_of_every_room_is_json_and_is_restored(loaded, room):
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        app.action_room(room)
        await pilot.pause()
        screen = app.screen
        assert isinstance(screen, Room)
        state = json.loads(json.dumps(dict(screen.save_state())))
        screen.restore_state(state)
        assert json.loads(json.dumps(dict(screen.save_state()))) == state
        assert screen.mode == room
        assert screen.ABOUT


def test_a_saved_run_that_was_removed_is_not_selected(loaded):
    saved_state.save(loaded.folder, {"run": "20200101-0000-gone"})
    assert MlxtuneApp(loaded.folder).selected is None


async def test_a_dialog_is_centered_over_the_room(shop):
    app = shop.app()
    async with app.run_test(size=(100, 30)) as pilot:
        app.push_screen(PromptDialog("Which tag?", ""))
        await pilot.pause()
        sheet = app.screen.query_one(".sheet").region
        assert abs(sheet.x - (100 - sheet.right)) <= 1
        assert abs(sheet.y - (30 - sheet.bottom)) <= 1
        assert app.screen.styles.background.a < 1


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    set_keys('[commands]\nf5 = "code {recipe}"\nf6 = "show {row}"\nu = "undo"\nf99 = "x"\nf7 = "no-such-program {run}"\n')
    ran: list[list[str]] = []

    def run(words: list[str], **_: Any) -> Any:
        if words[0] == "no-such-program":
            raise FileNotFoundError(2, "No such file or directory")
        ran.append(words)
        return SimpleNamespace(returncode=len(ran) - 1)

    @contextmanager
    def suspend(app: Any) -> Iterator[None]:  # like Textual's, which does not resume after an exception
        yield
        app.resumed += 1

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(MlxtuneApp, "suspend", suspend)
    monkeypatch.setattr(MlxtuneApp, "resumed", 0, raising=False)
    return ran


@opens(mode="home")
async def test_a_users_command_runs_with_its_fields_filled_in(commands, room, shop):
    assert "commands: u is already bound to" in room.notice
    assert "Other errors in the file: 1." in room.notice  # there is no key f99
    await room.until(lambda: room.app.selection.recipe is not None)
    await room.press("f5", notice="✓ code has ended.")
    assert commands == [["code", str(shop.folder / "recipes" / "support-json.toml")]]
    await room.press("f5", notice="✗ code exited with 1.")
    await room.press("f6", notice="! This command needs {row}, but there is none here.")
    await room.press("f7", notice="✗ no-such-program cannot be run:")
    assert room.app.resumed == 3


@opens(mode="home")
async def test_ctrl_c_interrupts_only_the_users_command(commands, room, monkeypatch):
    def interrupted(words: list[str], **_: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return SimpleNamespace(returncode=-signal.SIGINT)

    monkeypatch.setattr("subprocess.run", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    await room.until(lambda: room.app.selection.recipe is not None)
    await room.press("f5", notice="✗ code exited with -2.")
    assert signal.getsignal(signal.SIGINT) is handler

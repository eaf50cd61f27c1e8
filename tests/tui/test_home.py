import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from evaluation_files import scored_arm

from mlxtune.core.errors import MachineError
from mlxtune.evaluation.report import save
from mlxtune.evaluation.report_builder import build
from mlxtune.evaluation.scorers import Score
from mlxtune.runs.registry import Run
from mlxtune.tui import saved_state
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.help import HelpPage
from mlxtune.tui.notices import Notice
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.rooms.home.screen import draw_changes
from mlxtune.tui.widgets import ChoiceDialog
from mlxtune.tui.widgets.frame import tabs

from .conftest import loaded_shop
from .driver import NARROW, Opening, RoomDriver, drive, opens
from .evaluated import copy_rows, evaluation
from .stage import FINISHED, NOW, Shop, started
from .test_keys import trained

pytestmark = pytest.mark.slow
ROOM = Opening("home", loaded_shop)


def run_under_cursor(room: RoomDriver) -> str:
    row = next(row for row in room.text("#runs-picture").splitlines() if row[0] in "▌▎")
    return " ".join(row.split()[1:3])


async def test_an_empty_workspace_offers_the_samples_and_one_key_creates_them(shop):
    async with drive(MlxtuneApp(shop.folder), "home") as room:
        await room.until(lambda: "Start with the sample workspace" in room.words("#next-picture"))
        assert room.actions == ["create", "open"]
        await room.press("enter", notice="✓ Created recipes/support-json.toml")
        # The main recipe is first, once all of them are there.
        await room.until(
            lambda: "Check the rows first" in room.words("#next-picture") and "samples/support.jsonl" in room.words("#next-picture")
        )
        assert (shop.folder / "recipes" / "support-json.toml").is_file()


@opens(stage=lambda shop: None, size=NARROW)
async def test_an_error_while_the_samples_are_created_is_a_notice(room, monkeypatch):
    error = MachineError("The disk is full, so recipes was not saved.", hint="Free some space, then run it again.")
    monkeypatch.setattr("mlxtune.data.samples.create", Mock(side_effect=error))
    await room.press("enter", notice="✗ The disk is full")
    assert "Free some space" in room.notice
    assert "Start with the sample workspace" in room.words("#next-picture")
    await room.press("escape")
    assert room.notice == ""


@opens(stage=Shop.recipe)
async def test_n_starts_the_only_recipe_and_opens_train(shop, room, monkeypatch):
    started: list[tuple[Path, str]] = []

    def start(workspace: Path, recipe: Any) -> Run:
        started.append((workspace, recipe.name))
        return Run(workspace)

    monkeypatch.setattr("mlxtune.workspace.control.train", start)
    await room.press("n", choose="")
    assert not started
    await room.press("n", choose="train", until=lambda: bool(started) and not room.app.jobs.busy)
    assert started == [(shop.folder, "support-json")]
    assert room.mode == "train"


@opens(stage=Shop.recipe)
async def test_a_worker_that_dies_at_once_is_reported_with_its_hint(room, monkeypatch):
    error = MachineError("The worker of x ended before it wrote an event: killed", hint="Its log: worker.log")
    monkeypatch.setattr("mlxtune.workspace.control.train", Mock(side_effect=error))
    await room.press("n", choose="train", notice="✗ The worker of x ended")
    assert "Its log: worker.log" in room.notice
    assert "new" in room.actions


@opens(stage=lambda shop: (shop.recipe("alpha"), shop.recipe("beta"), shop.recipe("aaa-broken", "name = 3")))
async def test_with_several_recipes_n_asks_which(room, monkeypatch):
    names: list[str] = []
    monkeypatch.setattr("mlxtune.workspace.control.train", lambda workspace, recipe: names.append(recipe.name))
    await room.press("n", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert room.screen._heading == "Which recipe?"
    options = [option.name for option in room.screen._options]
    assert options == ["alpha.toml", "beta.toml", "aaa-broken.toml"], "an invalid one stands last"
    await room.press("escape")
    assert names == []
    assert room.mode == "home"
    await room.press("n", choose="1", until=lambda: names == ["beta"])
    assert room.app.selection.recipe.title == "beta.toml", "the other rooms show it, too"
    await room.press("H", "n", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert room.screen._options[0].name == "beta.toml", "the current one stands first"
    for keys in (("S", "n"), ("escape", "Q", "n")):
        await room.press("escape", "T", *keys, until=lambda: isinstance(room.screen, ChoiceDialog))
        assert room.screen._options[0].name == "beta.toml", keys


async def test_the_error_of_a_recipe_is_shown_whole_where_one_is_chosen(shop, open_room):
    shop.recipe("beta")
    shop.recipe("broken", 'name = "broken"\n[model]\nbase = "smollm2-135m"\n[training]\nlearning_rates_of_all_steps = [0.1]\n')
    async with open_room("home") as room:
        await room.press("n", until=lambda: isinstance(room.screen, ChoiceDialog))
        (error,) = [view.error for view in room.app.snapshot.recipes if view.error]
        await room.press("end", until=lambda: "".join(error.split()) in "".join(room.text("#choice-about").split()))


async def test_slash_keeps_the_rows_of_a_list_that_have_a_text(room):
    await room.press("tab", "slash", *"tone")
    assert "/ tone" in room.text("#runs-picture")
    assert "1 of 4" in room.text("#runs-picture")
    assert run_under_cursor(room) == "■ tone-soft"
    assert "support-json" not in room.text("#runs-picture")
    await room.press("escape", until=lambda: "support-json" in room.text("#runs-picture"))
    await room.press("slash", *"tone", "enter", mode="train")
    assert room.screen.view.name == "tone-soft"


async def test_while_a_run_trains_no_other_can_start_and_the_run_under_the_cursor_is_previewed(room, monkeypatch):
    monkeypatch.setattr("mlxtune.workspace.control.train", lambda *_: pytest.fail("started"))
    assert "new" not in room.actions
    await room.press("n")
    assert room.mode == "home"
    assert room.head("#home-lower").endswith("support-json")
    await room.press("tab", "end", until=lambda: room.head("#home-lower").endswith("tone-soft"))
    await room.press("shift+tab", until=lambda: room.head("#home-lower").endswith("support-json"))
    runs = room.screen.query_one("#runs-picture")
    assert runs.count > 2
    runs.action_edge(False)
    runs.action_edge(True)
    room.screen.redraw()
    assert runs.cursor == runs.count - 1, "a redraw right after a key keeps the cursor"


async def test_home_shows_the_recipe_that_the_other_rooms_show(shop, open_room):
    shop.recipe("alpha")
    shop.recipe("beta")
    shop.run("20261124-1412-alpha", name="alpha", steps=60, end=FINISHED, age=300)
    async with open_room("home") as room:
        assert "Evaluate the adapter" in room.words("#next-picture")
        assert room.head("#workflow").endswith("alpha.toml")
        room.app.selection.select_recipe("beta")
        room.app.redraw()
        assert "Check the rows first" in room.words("#next-picture")
        assert room.head("#workflow").endswith("beta.toml")
        assert "no runs yet" in room.text("#workflow-picture")


@pytest.mark.usefixtures("two_arms")
async def test_enter_on_a_finished_run_asks_which_arms_to_evaluate(shop, open_room):
    shop.recipe()
    copy_rows(shop)
    shop.run("20261124-1412-support-json", steps=60, end=FINISHED, age=300, adapter=True)
    async with open_room("home") as room:
        await room.press("enter", until=lambda: isinstance(room.screen, ChoiceDialog))
        assert room.screen._heading == "Which arms?"
        await room.press("escape", mode="evaluate")


@opens(stage=lambda shop: shop.recipe("bad", 'name = "bad"\n[modle]\nbase = "x"\n'))
async def test_an_invalid_recipe_is_an_error(room):
    assert "bad.toml is invalid" in room.words("#next-picture")
    await room.press("n", until=lambda: "unknown key modle" in room.notice)
    assert "Did you mean model?" in room.notice
    assert room.mode == "home"


async def test_arrows_select_a_run_and_enter_opens_it(room):
    assert room.head("#next-step").startswith("▌")
    await room.press("down", "down", "down")
    assert room.head("#runs").startswith("▌")
    assert run_under_cursor(room) == "✗ support-json"
    assert room.actions[0] == "show"
    await room.press("up", "down", "enter", mode="train")
    assert room.app.selected == "20261122-0900-support-json"
    assert "The loss is not a number at step 88." in room.text("#stats")


async def test_the_mouse_opens_tabs_runs_and_actions(room):
    await room.pilot.click("#top", offset=(tabs("home", 120).plain.index("Train"), 1))
    assert room.mode == "train"
    await room.pilot.click("#top", offset=(4, 1))
    assert room.mode == "home"
    await room.pilot.click("#runs-picture", offset=(6, 2))
    assert room.mode == "home", "the first click selects"
    await room.pilot.click("#runs-picture", offset=(6, 2))
    assert room.mode == "train"
    assert room.app.selected == "20261122-0900-support-json"
    await room.pilot.click("#top", offset=(4, 1))
    await room.pilot.click("#foot", offset=(3, 0))
    assert room.mode == "train", "the footer's enter"


async def test_the_cursor_stays_on_its_run_when_a_newer_one_appears_and_all_may_disappear(room, shop):
    await room.press("down", "down")
    shop.run("20261125-0900-newer", steps=20, end=("run.stopped", {"step": 20}))
    await room.observe(shop.snapshot())
    assert run_under_cursor(room) == "✓ support-json"
    assert room.actions[0] == "show"
    await room.observe(replace(shop.snapshot(), runs=()))
    assert room.actions[0] != "show"


async def test_keys_and_help_work_before_the_workspace_is_read(tmp_path):
    async with MlxtuneApp(tmp_path, watch=False).run_test() as pilot:
        await pilot.press("tab", "tab")
        for entry in ROOMS.values():
            await pilot.press(entry.key, "f1")
            assert isinstance(pilot.app.screen, HelpPage), entry.name
            await pilot.press("escape")


async def test_a_room_that_is_left_keeps_no_earlier_widgets_and_is_redrawn_while_another_one_offers_to_undo(room):
    home = room.screen
    await room.press("D", until=lambda: room.mode == "data")
    assert len(home._query_one_cache) == 0
    room.app.notices.show(Notice("undone", "Row 2: reject undone.", undo="redo", rooms=("data",)))
    home.redraw()
    assert room.notice == "↶ Row 2: reject undone."


async def test_a_running_evaluation_is_in_the_header(loaded, open_room):
    folder = loaded.run("20261125-1000-support-json", kind="eval", alive=True, steps=0)
    progress = [("arm.started", {"arm": "base", "rows": 72}), ("arm.progress", {"arm": "base", "done": 24, "total": 72})]
    loaded.tell(folder, [started("eval"), *progress])
    snapshot = loaded.snapshot()
    assert snapshot.runs[0].alive
    async with open_room("home") as room:
        await room.observe(replace(snapshot, runs=snapshot.runs[1:]))
        assert "● evaluating base 24/72" in room.text("#top")
        assert "Base answers 24 of 72 held-out rows" in room.words("#next-picture")


async def test_a_baseline_alone_is_shown_without_a_comparison(shop, open_room):
    shop.recipe()
    folder = shop.run("20261125-1000-support-json", kind="eval", steps=0, end=FINISHED)
    scores = [{"json": Score(False, "prose"), "contract": Score(False, "prose")}]
    facts = {"name": "support-json", "base": "smollm2-135m", "rows": 1, "run": ""}
    save(build(facts, [scored_arm("base", scores)]), folder)
    async with open_room("home") as room:
        assert "Baseline" in room.text("#workflow-picture")
        assert room.text("#best-picture") == ""


@opens(stage=lambda shop: (trained(shop), evaluation(shop)))
async def test_every_arm_is_on_home_before_the_axis_is(room):
    await room.until(lambda: "tuned" in room.text("#lower-picture"))
    room.screen.query_one("#lower-picture").styles.height = 3
    await room.until(lambda: room.screen.query_one("#lower-picture").size.height == 3)
    assert [row.split()[0] for row in room.text("#lower-picture").splitlines()] == ["base", "base+kshot", "tuned"]


async def test_what_ended_since_the_last_visit_is_listed(loaded):
    async with drive(MlxtuneApp(loaded.folder, clock=lambda: NOW), "home") as room:
        await room.until(lambda: room.app.has_read)
        assert not room.screen.query_one("#home-changes").display  # the first visit
    generation = loaded.run("20261124-1500-support-json", kind="generate")
    loaded.tell(generation, [started("generate"), ("run.finished", {"summary": {"proposed": 1, "refused": {}}})])
    visited = NOW - 3 * 86400
    os.utime(saved_state._file(loaded.folder), (visited, visited))
    async with drive(MlxtuneApp(loaded.folder, clock=lambda: NOW), "home", NARROW) as room:
        await room.until(lambda: room.screen.query_one("#home-changes").display)
        await room.until(lambda: room.head("#home-changes") == "Since your last visit 3 d ago")
        rows = [" ".join(row.split()) for row in room.text("#changes-picture").splitlines()]
        assert rows == ["✓ generation of support-json, finished", "✓ support-json, finished", "and 1 more"]
    assert saved_state.last_saved(loaded.folder) > visited


@opens(stage=lambda shop: (shop.recipe(), shop.run("20261124-1500-support-json", steps=5, end=FINISHED)))
async def test_the_key_of_the_next_step_depends_on_the_focus(room):
    await room.until(lambda: "  enter evaluate it" in room.text("#next-picture"))
    await room.press("tab")
    room.app.redraw()
    await room.until(lambda: "tab, enter evaluate it" in room.text("#next-picture"))


async def test_the_workflow_of_a_recipe_leaves_out_another_ones_evaluation(shop, open_room):
    shop.recipe()
    shop.recipe(name="other")
    done = ("arm.finished", {"arm": "base", "rows": 10, "seconds": 1.0, "cached": False})
    shop.tell(shop.run("20261124-1500-other", kind="eval", name="other"), [done])
    async with open_room("home") as room:
        await room.until(lambda: room.head("#workflow").endswith("support-json.toml"))
        assert "not measured yet" in room.text("#workflow-picture")
        assert "10 held-out rows" not in room.text("#workflow-picture")


def test_an_evaluation_without_a_verdict_has_ended_and_a_long_name_is_cut_visibly(shop):
    name = "a-name-that-is-longer-than-the-panel"
    shop.run(f"20261124-1500-{name}", kind="eval", name=name, end=FINISHED)
    snapshot = shop.snapshot()
    views = [replace(view, state=replace(view.state, name=name)) for view in snapshot.evals]
    assert draw_changes(snapshot, views, 3, 80).plain == f"  ✓ evaluation of {name}, finished"
    assert draw_changes(snapshot, views, 3, 40).plain.endswith("…")


@opens(stage=lambda shop: None)
async def test_ctrl_y_says_when_there_is_nothing_to_copy(room):
    await room.press("ctrl+y", notice="· Nothing to copy.")

"""The Train room: every key, every state of a run, and the actions that are possible in it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from mlxtune.core.errors import InputError
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.rooms.train.chart import RunChart
from mlxtune.tui.widgets.dialog import ChoiceDialog
from mlxtune.tui.widgets.page import PageScreen

from .conftest import OpenRoom
from .driver import NARROW, RoomDriver, drive
from .evaluated import evaluating
from .stage import NOW, Shop, loss

pytestmark = pytest.mark.slow

LARGE = (140, 45)
RUN = "20261124-1412-support-json"
STEP = {"loss": 0.5, "rate": 1e-4, "tokens": 9, "speed": 9.0, "memory": 1, "peak": 1, "epoch": 1.0}


def chart(room: RoomDriver) -> RunChart:
    return room.app.screen_stack[0].query_one(RunChart)


def chart_text(room: RoomDriver) -> str:
    return room.text("#loss")


def status(room: RoomDriver) -> str:
    """The status of the run in the header."""
    return room.text("#top").splitlines()[0]


def option_texts(room: RoomDriver) -> list[str]:
    assert isinstance(room.screen, ChoiceDialog)
    return [f"{option.name}, {option.about}" for option in room.screen._options]


async def test_a_running_run_shows_figures_curve_samples_and_log(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train") as room:
        figures = room.text("#stats")
        for part in ("640 of 960", "1,8", "memory, peak 13.4", "11.8 of 24 GB", "falling"):
            assert part in figures, part
        title = room.head("#chart")
        assert "smoothed" in title
        assert "validation 0.6" in title
        assert chart_text(room).splitlines()[-1].split()[-1] == "960"
        samples = room.text("#samples-picture")
        assert "Where is my parcel?" in samples
        assert '{"category": "shipping",' in samples
        assert room.head("#samples") == "Samples step 600"
        log = room.text("#log-picture")
        assert "checkpoint 0000600 saved" in log
        assert "step 639" not in log, "a stretch of steps is one line of the log"
        assert "● training 640/960" in status(room)
        assert room.actions == ["stop", "compare", "zoom", "log", "samples", "older"]


async def test_nothing_is_saved_before_the_first_step(shop: Shop, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: None)
    shop.recipe()
    shop.run(RUN, steps=0, alive=True, total=960)
    async with open_room("train") as room:
        await room.press("s")
        await room.until(lambda: isinstance(room.screen, ChoiceDialog))
        assert room.screen._text == "Nothing is saved before the first step."
        await room.choose("stop")
        await room.until(lambda: room.notice == "■ support-json was asked to stop.")


async def test_stop_asks_first_and_its_default_changes_nothing(
    loaded: Shop, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: stopped.append(run.id))
    async with open_room("train") as room:
        await room.press("s")
        await room.until(lambda: isinstance(room.screen, ChoiceDialog))
        assert room.screen._heading == "Stop support-json at step 640?"
        assert room.screen._text.startswith("A checkpoint is saved")
        await room.press("enter", "s", "escape")
        assert stopped == []
        await room.press("s")
        await room.choose("stop")
        await room.until_notice("■ support-json was asked to stop")
        assert stopped == [RUN]
        assert "● stopping" in status(room)
        assert "stop" not in room.actions, "a second signal would kill the worker before it has saved"
        snapshot = room.app.snapshot
        assert snapshot is not None
        await room.observe(replace(snapshot, runs=(replace(snapshot.runs[0], status="stopped"), *snapshot.runs[1:])))
        assert room.notice == "", "it has stopped"


async def test_a_run_that_was_asked_and_is_quiet_can_be_killed_after_a_warning(
    loaded: Shop, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: None)
    async with open_room("train") as room:
        await room.press("s")
        await room.choose("stop")
        await room.until(lambda: not room.app.jobs.busy and bool(room.app.runs.stopping))
        await room.observe(loaded.snapshot(NOW + 60))
        assert "stop" in room.actions
        await room.press("s")
        await room.until(lambda: isinstance(room.screen, ChoiceDialog))
        assert "Steps after checkpoint 600 would be lost." in room.screen._text
        await room.choose("stop")
        await room.until_notice("■ support-json is exiting now, without saving.")


async def test_a_refused_stop_changes_nothing(loaded: Shop, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Any) -> None:
        raise InputError("It is gone.")

    monkeypatch.setattr("mlxtune.runs.registry.stop", refuse)
    async with open_room("train") as room:
        await room.press("s")
        await room.choose("stop")
        await room.until_notice("✗ It is gone.")
        assert "stop" in room.actions
        assert "● stopping" not in status(room)


async def test_while_the_app_is_busy_a_stop_is_refused(loaded: Shop, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: pytest.fail("stopped"))
    async with open_room("train") as room:
        room.app.jobs.busy = True
        await room.press("s")
        await room.choose("stop")
        await room.until_notice("! Another task is still running.")
        assert "stop" in room.actions
        assert room.app.jobs.run(lambda: None, busy="") is False


async def test_a_run_that_ended_a_moment_ago_did_so_just_now(loaded: Shop, open_room: OpenRoom) -> None:
    loaded.run("20261124-1400-support-json", steps=60, age=20, end=("run.stopped", {"step": 60}))
    async with open_room("train", size=(140, 36)) as room:
        await room.press("c")
        await room.until(lambda: isinstance(room.screen, ChoiceDialog))
        assert any("running, 640/960, just now" in text for text in option_texts(room))
        await room.press("escape", "left_square_bracket")
        await room.until(lambda: room.head("#chart").startswith("▌ Loss of support-json, just now"))


async def test_a_quiet_run_is_not_called_crashed(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train", now=NOW + 52) as room:
        assert "! no events for 52 s" in room.text("#stats")
        assert "! quiet for 52 s" in status(room)
        assert "resume" not in room.actions


async def test_a_run_that_waits_for_power_says_so_and_can_be_stopped(loaded: Shop, open_room: OpenRoom) -> None:
    loaded.tell(loaded.folder / "runs" / RUN, [("run.waiting", {"reason": "power"})])
    async with open_room("train") as room:
        assert "‖ waiting for power" in room.text("#stats")
        assert "‖ waiting for power" in status(room)
        assert "left" not in status(room)
        assert "stop" in room.actions


async def test_a_run_that_cools_down_says_so(loaded: Shop, open_room: OpenRoom) -> None:
    loaded.tell(loaded.folder / "runs" / RUN, [("run.waiting", {"reason": "heat"})])
    async with open_room("train") as room:
        assert "‖ cooling down" in room.text("#stats")
        assert "‖ cooling down" in status(room)
        assert "stop" in room.actions


async def test_a_crash_says_what_is_saved_and_r_resumes(shop: Shop, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[str] = []
    monkeypatch.setattr("mlxtune.workspace.control.resume", lambda run: resumed.append(run.id))
    shop.recipe()
    shop.run(RUN, steps=640, age=180, printed="loading\nInsufficient Memory (OutOfMemory)\n")
    async with open_room("train") as room:
        assert room.text("#stats").splitlines() == [
            "  ✗ crashed at step 640, its process no longer exists",
            "    checkpoint 600 is intact, 40 steps would run again   r resume from 600",
        ]
        assert "worker.log: Insufficient Memory (OutOfMemory)" in room.text("#log-picture")
        assert "the process crashed" in room.text("#log-picture")
        assert "✗ crashed 640/960  3 min ago" in status(room)
        await room.press("r")
        await room.until(lambda: resumed == [RUN])


async def test_a_refused_resume_is_a_notice(shop: Shop, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Any) -> None:
        raise InputError("20261124-1412-x is running already.")

    monkeypatch.setattr("mlxtune.workspace.control.resume", refuse)
    shop.run("20261124-1412-x", steps=60, end=("run.stopped", {"step": 60}))
    async with open_room("train", size=NARROW) as room:
        assert "■ stopped at step 60 of 960" in room.text("#stats")
        await room.press("r")
        await room.until_notice("✗ 20261124-1412-x is running already.")
        assert "■ stopped at step 60 of 960" in room.text("#stats")


async def test_an_error_of_the_user_shows_its_hint_and_cannot_be_resumed(shop: Shop, open_room: OpenRoom) -> None:
    shop.recipe()
    bad = {"error": "data/support.jsonl, line 3: no messages.", "hint": "Each row needs messages.", "code": 2}
    shop.run("20261124-1412-x", steps=60, end=("run.failed", bad))
    async with open_room("train") as room:
        assert "✗ data/support.jsonl, line 3: no messages." in room.text("#stats")
        assert "Each row needs messages." in room.text("#stats")
        assert "resume" not in room.actions
        assert "new" in room.actions


async def test_after_a_full_disk_a_run_can_be_resumed(shop: Shop, open_room: OpenRoom) -> None:
    full = {"error": "The disk is full, so step 60 was not saved.", "hint": "Free some space.", "code": 4}
    shop.run("20261124-1412-x", steps=60, end=("run.failed", full))
    async with open_room("train") as room:
        assert "Free some space.   r resume from 50" in room.text("#stats")


async def test_a_loss_that_is_not_a_number_is_a_cross_on_the_axis(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("home", size=NARROW) as room:
        room.app.runs.open_run("20261122-0900-support-json")
        await room.pilot.pause()
        axis = next(row for row in chart_text(room).splitlines() if "└" in row)
        assert axis.count("✗") == 1
        assert "loss NaN" in room.text("#log-picture")


async def test_a_finished_run_says_what_it_reached_and_how_to_prove_it(shop: Shop, open_room: OpenRoom) -> None:
    shop.run("20261124-1412-x", steps=100, total=100, end=("run.finished", {"summary": {}}))
    async with open_room("train") as room:
        assert "✓ 100 steps in" in room.text("#stats")
        assert ", the best" in room.text("#stats")
        assert "adapter from" not in room.text("#stats")
        assert "E evaluate" in room.text("#stats")


async def test_an_adapter_from_an_earlier_step_says_so(shop: Shop, open_room: OpenRoom) -> None:
    shop.recipe()
    shop.run(
        "20261124-1412-support-json", steps=100, total=100, end=("run.finished", {"summary": {"steps": 100, "adapter_step": 40}})
    )
    async with open_room("train") as room:
        assert "adapter from step 40" in " ".join(room.text("#stats").split())
        assert "finished; the adapter is from step 40" in room.text("#log-picture")
        await room.press("H")
        await room.until(lambda: "step 100 of 100, adapter from 40" in room.text("#workflow-picture"))


async def test_before_the_first_step_the_log_has_the_room(shop: Shop, open_room: OpenRoom) -> None:
    shop.run("20261124-1412-x", alive=True)
    async with open_room("train") as room:
        assert not chart(room).region
        assert "smollm2-135m loaded in 2.9 s" in room.text("#log-picture")
        assert "zoom" not in room.actions


async def test_a_run_without_events_is_starting(shop: Shop, open_room: OpenRoom) -> None:
    folder = shop.folder / "runs" / "20261124-1412-x"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").touch()
    async with open_room("train", now=folder.stat().st_mtime + 1) as room:
        assert "● starting" in status(room)
        assert room.actions == []


async def test_the_empty_room_has_one_key(shop: Shop, open_room: OpenRoom) -> None:
    async with open_room("train") as room:
        assert "No runs yet." in room.text("#invite")
        assert "H create a recipe on Home" in room.text("#invite")
        shop.recipe()
        await room.observe(shop.snapshot())
        assert "n train support-json   smollm2-135m, rank 16" in room.text("#invite")
        await room.press(*"srzgl", "left_square_bracket", "right_square_bracket")
        assert room.mode == "train"
        assert "No runs yet." in room.text("#invite")


async def test_the_empty_room_says_what_keeps_a_run_from_starting(shop: Shop, open_room: OpenRoom) -> None:
    shop.recipe()
    evaluating(shop)
    async with open_room("train") as room:
        assert "The evaluation of support-json is using this machine." in room.text("#invite")
        assert "or stop it in Evaluate (E)." in room.text("#invite")
        await room.press("n")
        await room.until_notice("! The evaluation of support-json is using this machine.")
        await room.observe(replace(shop.snapshot(), evals=()))  # it has ended
        await room.until(lambda: room.app.notices.current is None)
        await room.press("P")
        await room.until(lambda: room.mode == "plan")


async def test_brackets_and_arrows_show_older_and_newer_runs(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train") as room:
        await room.press("left_square_bracket")
        assert room.app.selected == "20261122-1010-support-json"
        assert room.head("#chart").startswith("▌ Loss of support-json, 2 d ago")
        assert room.actions[-2:] == ["older", "newer"]
        await room.press("down", "down", "down")
        assert room.app.selected == "20261119-1010-tone-soft"
        assert "older" not in room.actions
        await room.press("up", "up", "right_square_bracket")
        assert room.app.selected is None, "the newest is followed"


async def test_z_zooms_to_the_last_fifth_and_back(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train") as room:
        await room.press("z")
        await room.until(lambda: "512" in chart_text(room))
        assert "whole" in room.actions
        await room.press("z")
        await room.until(lambda: "960" in chart_text(room))
        assert "zoom" in room.actions


async def test_left_and_right_move_a_cursor_over_the_steps(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train") as room:
        assert "┊" not in chart_text(room)
        await room.press("left")
        assert chart(room).cursor == 640
        await room.press("left", "shift+left")
        step = int(chart(room).cursor or 0)
        assert 480 < step < 640
        await room.until(lambda: f"step {step}" in room.head("#chart"))
        assert f"train {loss(step):.2f}" in room.head("#chart")
        assert f"at {step // 50 * 50}" in room.head("#chart"), "the step of the validation"
        assert "┊" in chart_text(room)
        await room.press("right", "shift+right", "shift+right", "right")
        assert chart(room).cursor == 640
        await room.press("escape")
        assert chart(room).cursor is None
        assert "┊" not in chart_text(room)


async def test_the_cursor_moves_by_a_step_where_columns_are_wider_than_steps(shop: Shop, open_room: OpenRoom) -> None:
    shop.run("20261124-1412-x", steps=12, total=12, alive=True)
    async with open_room("train") as room:
        steps = []
        for _ in range(4):
            await room.press("left")
            steps.append(chart(room).cursor)
        assert steps == [12, 11, 10, 9]


async def test_c_draws_another_run_beside_this_one_and_hides_it(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train", size=LARGE) as room:
        await room.press("c")
        await room.until(lambda: isinstance(room.screen, ChoiceDialog))
        assert "tone-soft, stopped, stopped, 5 d ago" in option_texts(room)
        await room.choose("20261119-1010-tone-soft")
        await room.until(lambda: "tone-soft" in room.head("#chart"))
        assert "alone" in room.actions
        await room.press("left")
        await room.until(lambda: "tone-soft –" in room.head("#chart"))
        await room.press("c")
        await room.until(lambda: "compare" in room.actions)
        assert room.screen.save_state()["compare"] is None


async def test_the_only_other_run_is_compared_without_a_question(shop: Shop, open_room: OpenRoom) -> None:
    shop.run("20261122-0900-first", steps=100, total=100, age=9000, end=("run.finished", {"summary": {}}))
    shop.run("20261124-1412-second", steps=60, alive=True)
    async with open_room("train", size=LARGE) as room:
        await room.press("c")
        await room.until(lambda: "alone" in room.actions)
        assert "first 1." in room.head("#chart")
        shutil.rmtree(shop.folder / "runs" / "20261122-0900-first")
        await room.observe(shop.snapshot())
        assert "first 1." not in room.head("#chart")
        assert "compare" not in room.actions


async def test_m_goes_through_the_metrics_of_preference_training(shop: Shop, open_room: OpenRoom) -> None:
    shop.run("20261124-1412-voice", steps=200, total=300, alive=True, pairs=True)
    async with open_room("train", size=LARGE) as room:
        titles = []
        for _ in range(5):
            titles.append(chart(room).metric.title)
            await room.press("m")
        assert titles == ["Loss", "Rewards", "Reward margin", "Reward accuracy", "KL from the reference"]
        assert chart(room).metric.title == "Loss"
        await room.press("m")
        await room.until(lambda: "rejected -1" in room.head("#chart"))
        assert "chosen 0." in room.head("#chart")


async def test_m_does_nothing_for_a_run_that_has_only_a_loss(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train") as room:
        assert "Metric (m)" not in [command.title for command in room.app.get_system_commands(room.screen)]
        await room.press("m")
        assert chart(room).metric.title == "Loss"


async def test_enter_opens_the_focused_panel(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train") as room:
        await room.press("tab", "enter")
        await room.until(lambda: isinstance(room.screen, PageScreen))
        await room.until(lambda: "step 50" in room.text("#rows"))
        assert room.text("#rows").count("Where is my parcel?") > 1, "every validation's"
        await room.press("escape", "tab", "enter")
        await room.until(lambda: isinstance(room.screen, PageScreen))
        await room.until(lambda: "step 639" in room.text("#rows"))


async def test_the_progress_of_the_reference_model_is_shown(shop: Shop, open_room: OpenRoom) -> None:
    folder = shop.run("20261124-1412-voice", alive=True)
    shop.tell(folder, [("reference", {"done": 30, "total": 120})])
    async with open_room("train") as room:
        assert "30 of 120 pairs" in room.text("#stats")


async def test_zoom_metric_and_comparison_are_restored(loaded: Shop) -> None:
    async with drive(MlxtuneApp(loaded.folder, clock=lambda: NOW), "train", LARGE) as room:
        await room.until(lambda: "640 of 960" in room.text("#stats"))
        await room.press("z", "c")
        await room.choose("20261122-1010-support-json")
        await room.press("q")
    again = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with again.run_test(size=LARGE) as pilot:
        room = RoomDriver(again, pilot)
        await room.until(lambda: {"whole", "alone"} <= set(room.actions))


async def test_g_shows_the_samples_on_a_small_screen(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train", size=NARROW) as room:
        assert not room.screen.query_one("#side").display
        await room.press("g")
        await room.until(lambda: isinstance(room.screen, PageScreen))
        await room.until(lambda: "Where is my parcel?" in room.text("#rows"))
        assert '"answer": "It left Hamburg on Monday."}' in room.text("#rows")
        await room.press("escape")
        assert room.mode == "train"


async def test_l_shows_every_line_and_follows_the_end(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train") as room:
        await room.press("l")
        await room.until(lambda: isinstance(room.screen, PageScreen))
        await room.until(lambda: "step 639" in room.text("#rows"))
        assert room.app.snapshot is not None
        loaded.tell(room.app.snapshot.runs[0].run.folder, [("step", {"step": 641, **STEP})])
        await room.observe(loaded.snapshot())
        assert "step 641" in room.text("#rows")
        await room.press("home")
        await room.until(lambda: "support-json started on smollm2-135m" in room.text("#rows"))
        await room.press("pagedown", "down", "up", "pageup", "end")
        await room.until(lambda: "step 641" in room.text("#rows"))
        await room.press("l")
        assert room.mode == "train"


async def test_a_removed_run_folder_is_reported(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train") as room:
        room.app.runs.open_run("20261122-1010-support-json")
        shutil.rmtree(loaded.folder / "runs" / "20261122-1010-support-json")
        await room.observe(loaded.snapshot())
        assert room.notice == "! The folder 20261122-1010-support-json was removed. Now showing the newest run."
        assert "640 of 960" in room.text("#stats")
        shutil.rmtree(loaded.folder / "runs")
        await room.observe(loaded.snapshot())
        assert "No runs yet." in room.text("#invite")
        shutil.rmtree(loaded.folder)
        await room.observe(loaded.snapshot())
        assert "No runs yet." in room.text("#invite")


async def test_the_room_follows_a_run_that_another_process_writes(shop: Shop) -> None:
    folder = shop.run("20261124-1412-x", steps=20, alive=True)
    async with drive(MlxtuneApp(shop.folder, clock=lambda: NOW), "train") as room:
        await room.until(lambda: "20 of 960" in room.text("#stats"))
        shop.tell(folder, [("step", {"step": 21, **STEP})])
        await room.until(lambda: "21 of 960" in room.text("#stats"))
    again = MlxtuneApp(shop.folder, clock=lambda: NOW)
    async with again.run_test() as pilot:
        await RoomDriver(again, pilot).until(lambda: again.snapshot is not None)
        assert again.snapshot is not None
        assert [step.step for step in again.snapshot.runs[0].state.steps] == list(range(1, 22))


async def test_q_quits(loaded: Shop, open_room: OpenRoom) -> None:
    async with open_room("train") as room:
        await room.press("q")
    assert room.app.return_code == 0


async def test_a_run_without_a_plan_yet_is_preparing(shop: Shop, open_room: OpenRoom) -> None:
    shop.recipe()
    shop.run("20261124-1412-x", total=0, alive=True)
    async with open_room("train") as room:
        await room.until(lambda: "preparing the model and the rows" in room.screen_text)


async def test_a_run_is_finishing_after_its_last_step(shop: Shop, open_room: OpenRoom) -> None:
    shop.recipe()
    shop.run("20261124-1412-x", steps=40, total=40, alive=True)
    async with open_room("train") as room:
        await room.until(lambda: "40 of 40" in room.text("#stats") and "finishing" in room.text("#stats"))

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from mlxtune.core.errors import InputError
from mlxtune.recipe import dump
from mlxtune.runs.launch import freeze
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.rooms.train.chart import RunChart
from mlxtune.tui.widgets import ChoiceDialog, PageScreen

from .conftest import loaded_shop
from .driver import LARGE, NARROW, Opening, RoomDriver, drive, opens
from .evaluated import evaluating
from .planned import plannable
from .stage import FINISHED, NOW, Shop, loss, story

pytestmark = pytest.mark.slow
ROOM = Opening("train", loaded_shop)

RUN = "20261124-1412-support-json"
STEP = {"loss": 0.5, "rate": 1e-4, "tokens": 9, "speed": 9.0, "memory": 1, "peak": 1, "epoch": 1.0}


def chart(room: RoomDriver) -> RunChart:
    return room.app.screen_stack[0].query_one(RunChart)


def status(room: RoomDriver) -> str:
    return room.text("#top").splitlines()[0]


def option_texts(room: RoomDriver) -> list[str]:
    assert isinstance(room.screen, ChoiceDialog)
    return [f"{option.name}, {option.about}" for option in room.screen._options]


@opens(stage=lambda shop: (shop.recipe(), shop.run(RUN, steps=0, alive=True, total=960)))
async def test_nothing_is_saved_before_the_first_step(room, monkeypatch):
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: None)
    await room.press("s", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert option_texts(room) == ["Let it finish, nothing changes", "Stop, nothing is saved"]
    await room.press(choose="stop", until=lambda: room.notice == "■ support-json was asked to stop: nothing is saved.")


async def test_stop_asks_first_and_its_default_changes_nothing(room, shop, monkeypatch):
    stopped: list[str] = []
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: stopped.append(run.id))
    await room.press("s", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert room.screen._heading == "Stop the training run of support-json?"
    assert option_texts(room)[1] == "Stop, a checkpoint is saved"
    await room.press("enter", "s", "escape")
    assert stopped == []
    await room.press("s", choose="stop", notice="■ support-json was asked to stop")
    assert stopped == [RUN]
    assert "● stopping" in status(room)
    assert "left" not in status(room)
    assert room.text("#stats").rstrip().endswith("stopping"), "it does not run to its end"
    assert "stop" not in room.actions, "a second signal would kill the worker before it has saved"
    snapshot = room.app.snapshot
    assert snapshot is not None
    await room.observe(replace(snapshot, runs=(replace(snapshot.runs[0], status="stopped"), *snapshot.runs[1:])))
    assert room.notice == "", "it has stopped"
    evaluating(shop)
    await room.observe(replace(shop.snapshot(), runs=()))
    await room.press("s", notice="! The evaluation of support-json is using this machine.")


async def test_a_run_that_was_asked_and_is_quiet_can_be_killed_after_a_warning(room, shop, monkeypatch):
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: None)
    await room.press("s", choose="stop", until=lambda: not room.app.jobs.busy and bool(room.app.runs.stopping))
    await room.press("s")
    assert room.notice.endswith("It is stopping.")
    await room.observe(shop.snapshot(NOW + 60))
    assert "stop" in room.actions
    await room.press("s", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert "This loses what follows checkpoint 600." in room.screen._text
    await room.press(choose="stop", notice="■ support-json is exiting now, without saving.")


async def test_a_refused_stop_changes_nothing_also_while_the_app_is_busy(room, monkeypatch):
    monkeypatch.setattr("mlxtune.runs.registry.stop", Mock(side_effect=InputError("It is gone.")))
    await room.press("s", choose="stop", notice="✗ It is gone.")
    assert "stop" in room.actions
    assert "● stopping" not in status(room)
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: pytest.fail("stopped"))
    room.app.jobs.busy = True
    await room.press("s", choose="stop", notice="! Another task is still running.")
    assert "stop" in room.actions
    assert room.app.jobs.run(lambda: None, busy="") is False


async def test_a_run_that_ended_a_moment_ago_did_so_just_now(loaded, open_room):
    loaded.run("20261124-1400-support-json", steps=60, age=20, end=("run.stopped", {"step": 60}))
    async with open_room("train", size=(140, 36)) as room:
        await room.press("c", until=lambda: isinstance(room.screen, ChoiceDialog))
        assert any("running, 640/960, just now" in text for text in option_texts(room))
        await room.press("escape", "left_square_bracket")
        await room.until(lambda: room.head("#chart").startswith("▌ Loss of support-json, just now"))


def told(*events: tuple[str, dict[str, Any]]) -> Callable[[Shop], object]:
    """A loaded workspace whose active run has more events."""
    return lambda shop: shop.tell(loaded_shop(shop).folder / "runs" / RUN, list(events))


def one_run(**how: Any) -> Callable[[Shop], object]:
    return lambda shop: (shop.recipe(), shop.run("20261124-1412-x", **how))


BAD = {"error": "data/support.jsonl, line 3: no messages.", "hint": "Each row needs messages.", "code": 2}
FULL = {"error": "The disk is full, so step 60 was not saved.", "hint": "Free some space.", "code": 4}


@pytest.mark.parametrize(
    ("stage", "age", "stats", "header", "actions"),
    [
        (told(), 52, ["! no events for 52 s"], "! quiet for 52 s", "-resume"),
        (told(("run.waiting", {"reason": "power"})), 0, ["‖ waiting for power", "-left"], "‖ waiting for power", "stop"),
        (told(("run.waiting", {"reason": "heat"})), 0, ["‖ cooling down"], "‖ cooling down", "stop"),
        (one_run(steps=60, end=("run.failed", BAD)), 0, [f"✗ {BAD['error']}", str(BAD["hint"])], "", "-resume new"),
        (one_run(steps=60, end=("run.failed", FULL)), 0, ["Free some space.   r resume from 50"], "", "resume"),
        (
            one_run(steps=100, total=100, end=FINISHED), 0,
            ["✓ 100 steps in", ", the best", "E evaluate", "-adapter from"], "", "",
        ),
        (one_run(total=0, alive=True), 0, ["preparing the model and the rows"], "", ""),
        (one_run(steps=40, total=40, alive=True), 0, ["40 of 40", "finishing"], "", ""),
    ],
    ids=["quiet", "power", "heat", "bad rows", "full disk", "finished", "preparing", "finishing"],
)  # fmt: skip
async def test_the_state_of_a_run_is_told(shop, open_room, stage, age, stats, header, actions):
    stage(shop)
    async with open_room("train", now=NOW + age) as room:
        for text in stats:
            assert (text.removeprefix("-") in room.text("#stats")) is not text.startswith("-"), text
        assert header in status(room)
        for action in actions.split():
            assert (action.removeprefix("-") in room.actions) is not action.startswith("-"), action


async def test_a_crash_says_what_is_saved_and_r_resumes(shop, open_room, monkeypatch):
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
        await room.press("r", until=lambda: resumed == [RUN])


@opens(stage=lambda shop: shop.run("20261124-1412-x", steps=60, end=("run.stopped", {"step": 60})), size=NARROW)
async def test_a_refused_resume_is_a_notice(room, monkeypatch):
    monkeypatch.setattr("mlxtune.workspace.control.resume", Mock(side_effect=InputError("20261124-1412-x is running already.")))
    assert "■ stopped at step 60 of 960" in room.text("#stats")
    await room.press("r", notice="✗ 20261124-1412-x is running already.")
    assert "■ stopped at step 60 of 960" in room.text("#stats")


@opens(mode="home", size=NARROW)
async def test_a_loss_that_is_not_a_number_is_a_cross_on_the_axis(room):
    room.app.runs.open_run("20261122-0900-support-json")
    await room.pilot.pause()
    axis = next(row for row in room.text("#loss").splitlines() if "└" in row)
    assert axis.count("✗") == 1
    assert "loss NaN" in room.text("#log-picture")


async def test_an_adapter_from_an_earlier_step_says_so(shop, open_room):
    shop.recipe()
    shop.run(
        "20261124-1412-support-json", steps=100, total=100, end=("run.finished", {"summary": {"steps": 100, "adapter_step": 40}})
    )
    async with open_room("train") as room:
        assert "adapter from step 40" in room.words("#stats")
        assert "finished; the adapter is from step 40" in room.text("#log-picture")
        await room.press("H", until=lambda: "step 100 of 100, adapter from 40" in room.text("#workflow-picture"))


async def test_before_the_first_step_the_log_has_the_room(shop, open_room):
    folder = shop.run("20261124-1412-x", alive=True)
    async with open_room("train") as room:
        assert not chart(room).region
        assert "so far" in room.text("#stats")
        assert "smollm2-135m loaded in 2.9 s" in room.text("#log-picture")
        assert "zoom" not in room.actions
        shop.tell(folder, [("reference", {"done": 30, "total": 120})])
        await room.observe(shop.snapshot())
        assert "30 of 120 pairs" in room.text("#stats")


@pytest.mark.parametrize(("edit", "planned"), [("date", True), ("epochs", False)])
async def test_the_plan_before_the_first_step_is_that_of_the_run(shop, open_room, monkeypatch, edit, planned):
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: None)
    folder = shop.run(RUN, alive=True)
    plannable(shop)
    async with open_room("plan") as room:
        await room.until(lambda: room.app.planned is not None)
        recipe = room.app.planned.complete
        if edit == "date":
            recipe = freeze(recipe, folder, "")
        else:
            recipe = replace(recipe, training=replace(recipe.training, epochs=40))
        (folder / "recipe.toml").write_text(dump(recipe))
        await room.press("T", mode="train", until=lambda: "before the first step" in room.text("#stats"))
        assert ("12 steps at a rate of 0.001" in room.text("#stats")) is planned
        await room.press("s", choose="stop", until=lambda: room.text("#stats").split("\n")[0].strip() == "stopping")


async def test_the_axes_are_there_before_the_first_step(shop, open_room):
    shop.recipe()
    folder = shop.run(RUN, alive=True)
    shop.tell(folder, story("support-json", 1, 960, False, None)[2:3])  # only the rows are known
    async with open_room("train") as room:
        await room.until(lambda: not room.screen.has_class("-bare"))
        shop.tell(folder, [("validation", {"step": 0, "loss": 9.6, "tokens": 900})])
        await room.observe(shop.snapshot())
        await room.until(lambda: "validation 9.60" in room.head("#chart"))
        assert "smoothed –" in room.head("#chart"), "no step has a loss"


async def test_a_run_without_events_is_starting(shop, open_room):
    folder = shop.folder / "runs" / "20261124-1412-x"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").touch()
    async with open_room("train", size=(140, 36), now=folder.stat().st_mtime + 1) as room:
        assert "● x  starting" in status(room), "the recipe's name, not the folder's"
        assert room.actions == []


@opens(stage=lambda shop: None)
async def test_the_empty_room_has_one_key(room, shop):
    assert "No runs yet." in room.text("#invite")
    assert "H open a file on Home" in room.text("#invite")
    shop.recipe()
    await room.observe(shop.snapshot())
    assert "n train support-json   smollm2-135m, rank 16" in room.text("#invite")
    await room.press(*"srzgL", "left_square_bracket", "right_square_bracket")
    assert room.mode == "train"
    assert "No runs yet." in room.text("#invite")


@opens(stage=lambda shop: (shop.recipe(), evaluating(shop)))
async def test_the_empty_room_says_what_keeps_a_run_from_starting(shop, room):
    assert "The evaluation of support-json is using this machine." in room.text("#invite")
    assert "or stop it in Evaluate (E, then s)." in room.text("#invite")
    await room.press("n", notice="! The evaluation of support-json is using this machine.")
    await room.observe(replace(shop.snapshot(), evals=()))  # it has ended
    await room.until(lambda: room.app.notices.current is None)
    await room.press("P", mode="plan")


async def test_the_chart_shows_older_runs_its_last_fifth_and_single_steps(room):
    await room.press("left_square_bracket")
    assert room.app.selected == "20261122-1010-support-json"
    assert room.head("#chart").startswith("▌ Loss of support-json, 2 d ago")
    assert {"older", "newer", "checkpoints"} <= set(room.actions)
    await room.press("down", "down", "down")
    assert room.app.selected == "20261119-1010-tone-soft"
    assert "older" not in room.actions
    await room.press("up", "up", "right_square_bracket")
    assert room.app.selected is None, "the newest is followed"
    await room.press("z", until=lambda: "512" in room.text("#loss"))
    assert "whole" in room.actions
    await room.press("z", until=lambda: "960" in room.text("#loss"))
    assert "zoom" in room.actions
    assert "Metric (m)" not in [command.title for command in room.app.get_system_commands(room.screen)]
    await room.press("m")
    assert chart(room).metric.title == "Loss", "the only one"
    assert "┊" not in room.text("#loss")
    await room.press("left")
    assert chart(room).cursor == 640
    await room.press("left", "shift+left")
    step = int(chart(room).cursor or 0)
    assert 480 < step < 640
    await room.until(lambda: f"step {step}" in room.head("#chart"))
    assert f"train {loss(step):.2f}" in room.head("#chart")
    assert f"at {step // 50 * 50}" in room.head("#chart"), "the step of the validation"
    assert "┊" in room.text("#loss")
    await room.press("right", "shift+right", "shift+right", "right")
    assert chart(room).cursor == 640
    await room.press("escape")
    assert chart(room).cursor is None
    assert "┊" not in room.text("#loss")


@opens(stage=lambda shop: shop.run("20261124-1412-x", steps=12, total=12, alive=True))
async def test_the_cursor_moves_by_a_step_where_columns_are_wider_than_steps(room):
    steps = []
    for _ in range(4):
        await room.press("left")
        steps.append(chart(room).cursor)
    assert steps == [12, 11, 10, 9]


@opens(size=LARGE)
async def test_c_draws_another_run_beside_this_one_and_hides_it(room):
    await room.press("c", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert "tone-soft, stopped, stopped, 5 d ago" in option_texts(room)
    await room.press(choose="20261119-1010-tone-soft", until=lambda: "tone-soft" in room.head("#chart"))
    assert "alone" in room.actions
    await room.press("left", until=lambda: "tone-soft –" in room.head("#chart"))
    await room.press("c", until=lambda: "compare" in room.actions)
    assert room.screen.save_state()["_compared_id"] is None


async def test_the_only_other_run_is_compared_without_a_question(shop, open_room):
    shop.run("20261122-0900-first", steps=100, total=100, age=9000, end=FINISHED)
    shop.run("20261124-1412-second", steps=60, alive=True)
    async with open_room("train", size=LARGE) as room:
        await room.press("c", until=lambda: "alone" in room.actions)
        assert "first 1." in room.head("#chart")
        shutil.rmtree(shop.folder / "runs" / "20261122-0900-first")
        await room.observe(shop.snapshot())
        assert "first 1." not in room.head("#chart")
        assert "compare" not in room.actions


async def test_o_loads_a_checkpoint_in_chat(shop, open_room, monkeypatch):
    loaded: list[str] = []
    monkeypatch.setattr("mlxtune.tui.rooms.chat.screen.ChatRoom._confirm_load", lambda room, key: loaded.append(key))
    shop.recipe()
    run = shop.run(RUN, steps=600, end=("run.stopped", {"step": 600}))
    for step in (550, 600):
        (run / "checkpoints" / f"{step:07d}").mkdir(parents=True)
        (run / "checkpoints" / f"{step:07d}" / "adapters.safetensors").touch()
    async with open_room("train") as room:
        await room.press("o", until=lambda: isinstance(room.screen, ChoiceDialog))
        assert option_texts(room) == ["Step 600, validation loss 0.637", "Step 550, validation loss 0.647"]
        await room.press("down", "enter", until=lambda: option_texts(room)[0].startswith("Evaluate"))
        await room.press("down", "enter", until=lambda: bool(loaded))
        assert loaded == [f"runs/{RUN}/checkpoints/0000550"]
        await room.press("T", mode="train")
        await room.press("o", "enter", "enter", until=lambda: room.mode == "evaluate")


@opens(stage=lambda shop: shop.run("20261124-1412-voice", steps=200, total=300, alive=True, pairs=True), size=LARGE)
async def test_m_goes_through_the_metrics_of_preference_training(room):
    titles = []
    for _ in range(5):
        titles.append(chart(room).metric.title)
        await room.press("m")
    assert titles == ["Loss", "Rewards", "Reward margin", "Reward accuracy", "KL from the reference"]
    assert chart(room).metric.title == "Loss"
    await room.press("m", until=lambda: "rejected -1" in room.head("#chart"))
    assert "chosen 0." in room.head("#chart")


async def test_enter_opens_the_focused_panel_and_capital_l_the_log_which_follows_the_end(room, shop):
    await room.press("tab", "enter", until=lambda: isinstance(room.screen, PageScreen))
    await room.until(lambda: "step 50" in room.text("#rows"))
    assert room.text("#rows").count("Where is my parcel?") > 1, "every validation's"
    await room.press("escape", "tab", "enter", until=lambda: isinstance(room.screen, PageScreen))
    await room.until(lambda: "step 639" in room.text("#rows"))
    await room.press("escape", mode="train")
    await room.press("L", until=lambda: isinstance(room.screen, PageScreen))
    await room.until(lambda: "step 639" in room.text("#rows"))
    shop.tell(room.app.snapshot.runs[0].run.folder, [("step", {"step": 641, **STEP})])
    await room.observe(shop.snapshot())
    assert "step 641" in room.text("#rows")
    await room.press("home", until=lambda: "support-json started on smollm2-135m" in room.text("#rows"))
    await room.press("pagedown", "down", "up", "pageup", "end", until=lambda: "step 641" in room.text("#rows"))
    await room.press("L")
    assert room.mode == "train"


async def test_zoom_metric_and_comparison_are_restored(loaded):
    async with drive(MlxtuneApp(loaded.folder, clock=lambda: NOW), "train", LARGE) as room:
        await room.until(lambda: "640 of 960" in room.text("#stats"))
        await room.press("z", "c", choose="20261122-1010-support-json")
        await room.press("q")
    again = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with again.run_test(size=LARGE) as pilot:
        room = RoomDriver(again, pilot)
        await room.until(lambda: {"whole", "alone"} <= set(room.actions))


@opens(size=NARROW)
async def test_g_shows_the_samples_on_a_small_screen(room):
    assert not room.screen.query_one("#side").display
    await room.press("g", until=lambda: isinstance(room.screen, PageScreen))
    await room.until(lambda: "Where is my parcel?" in room.text("#rows"))
    assert '"answer": "It left Hamburg on Monday."}' in room.text("#rows")
    await room.press("escape")
    assert room.mode == "train"


async def test_a_removed_run_folder_is_reported(room, shop):
    room.app.runs.open_run("20261122-1010-support-json")
    shutil.rmtree(shop.folder / "runs" / "20261122-1010-support-json")
    await room.observe(shop.snapshot())
    assert room.notice == "! The folder 20261122-1010-support-json was removed. Now showing the newest run."
    assert "640 of 960" in room.text("#stats")
    shutil.rmtree(shop.folder / "runs")
    await room.observe(shop.snapshot())
    assert "No runs yet." in room.text("#invite")
    shutil.rmtree(shop.folder)
    await room.observe(shop.snapshot())
    assert "No runs yet." in room.text("#invite")


async def test_the_room_follows_a_run_that_another_process_writes(shop):
    folder = shop.run("20261124-1412-x", steps=20, alive=True)
    async with drive(MlxtuneApp(shop.folder, clock=lambda: NOW), "train") as room:
        await room.until(lambda: "20 of 960" in room.text("#stats"))
        shop.tell(folder, [("step", {"step": 21, **STEP})])
        await room.until(lambda: "21 of 960" in room.text("#stats"))
    again = MlxtuneApp(shop.folder, clock=lambda: NOW)
    async with again.run_test() as pilot:
        await RoomDriver(again, pilot).until(lambda: again.has_read)
        assert [step.step for step in again.snapshot.runs[0].state.steps] == list(range(1, 22))

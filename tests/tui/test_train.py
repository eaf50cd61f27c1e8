"""Train: every key, every state a run can be in, and what is left out when it is impossible."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from mlxtune.core.errors import InputError
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.widgets.run_chart import RunChart

from .stage import NOW, Shop, footer, loss, observe, shown, until


async def at_train(app: MlxtuneApp, pilot: Any) -> None:
    await pilot.press("T")
    await pilot.pause()


async def test_a_running_run_shows_figures_curve_samples_and_log(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        text = shown(app)
        parts = "640 of 960|1,8|memory, peak 13.4|11.8 of 24 GB|falling|smoothed|validation 0.6|Where is my parcel?|step 640|960"
        parts += '|{"category": "shipping",|checkpoint 0000600 saved|● training 640/960'
        for part in parts.split("|"):
            assert part in text, part
        assert footer(app) == "s stop   c compare   z zoom   l log   g samples   [ older"
        assert text.count("step 639") == 0, "a stretch of steps is one line of the log"


async def test_stop_asks_first_and_its_default_changes_nothing(loaded: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: stopped.append(run.id))
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        await pilot.press("s")
        await pilot.pause()
        assert "Stop support-json at step 640?" in shown(app)
        assert "A stop saves step 640 first" in shown(app)
        await pilot.press("enter")
        await pilot.press("s")
        await pilot.press("escape")
        assert stopped == []
        await pilot.press("s", "down", "enter")
        await until(pilot, lambda: stopped == ["20261124-1412-support-json"])
        await until(pilot, lambda: "was asked to stop" in shown(app))
        assert "● stopping" in shown(app)
        assert "stop" not in footer(app), "a second signal would kill the worker before it has saved"
        snapshot = app.snapshot
        assert snapshot is not None
        ended = replace(snapshot.runs[0], status="stopped")
        await observe(pilot, replace(snapshot, runs=(ended, *snapshot.runs[1:])))
        assert "was asked to stop" not in shown(app), "it has"


async def test_a_run_that_was_asked_and_is_quiet_can_be_ended_after_a_plain_warning(
    loaded: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: None)
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        await pilot.press("s", "down", "enter")
        await until(pilot, lambda: not app.busy and bool(app.stopping))
        await observe(pilot, loaded.snapshot(NOW + 60))
        assert "s stop" in footer(app)
        await pilot.press("s")
        await until(pilot, lambda: "checkpoint 600 would be lost." in shown(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "support-json ends now, without saving." in shown(app))


async def test_a_stop_that_is_refused_or_comes_while_other_work_is_done_is_none(
    loaded: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: Any) -> None:
        raise InputError("It is gone.")

    monkeypatch.setattr("mlxtune.runs.registry.stop", refuse)
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        await pilot.press("s", "down", "enter")
        await until(pilot, lambda: "✗ It is gone." in shown(app))
        assert "s stop" in footer(app)
        assert "● stopping" not in shown(app)
        app.busy = True
        await pilot.press("s", "down", "enter")
        await until(pilot, lambda: "! Nothing was done: what was asked for before is still at work." in shown(app))
        assert "s stop" in footer(app)
        assert app.do("", lambda: None) is False


async def test_a_run_that_ended_a_moment_ago_did_so_just_now(loaded: Shop) -> None:
    loaded.run("20261124-1400-support-json", steps=60, age=20, end=("run.stopped", {"step": 60}))
    app = loaded.app()
    async with app.run_test(size=(140, 36)) as pilot:
        await at_train(app, pilot)
        await pilot.press("c")
        await until(pilot, lambda: "training, 640/960, just now" in shown(app))
        await pilot.press("escape", "left_square_bracket")
        await until(pilot, lambda: "Loss of support-json, just now" in shown(app))


async def test_a_quiet_run_is_not_called_crashed(loaded: Shop) -> None:
    app = loaded.app(NOW + 52)
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        assert "! Nothing was heard for 52 s." in shown(app)
        assert "! quiet for 52 s" in shown(app)
        assert "resume" not in footer(app)


async def test_a_crash_says_what_is_safe_and_r_resumes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[str] = []
    monkeypatch.setattr("mlxtune.runs.launch.resume", lambda run: resumed.append(run.id))
    shop.recipe()
    shop.run("20261124-1412-support-json", steps=640, age=180, printed="loading\nInsufficient Memory (OutOfMemory)\n")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        text = shown(app)
        assert "✗ The run ended at step 640 without saying why.  Its process is gone." in text
        assert "Checkpoint 600 is whole, so 40 steps would run again.   r resume from 600" in text
        assert "worker.log: Insufficient Memory (OutOfMemory)" in text
        assert "crashed, not slow" in text
        assert "✗ crashed 640/960  3 min ago" in text
        await pilot.press("r")
        await until(pilot, lambda: resumed == ["20261124-1412-support-json"])


async def test_a_resume_that_is_refused_is_a_sentence(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Any) -> None:
        raise InputError("20261124-1412-x is running already.")

    monkeypatch.setattr("mlxtune.runs.launch.resume", refuse)
    shop.run("20261124-1412-x", steps=60, end=("run.stopped", {"step": 60}))
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await at_train(app, pilot)
        assert "■ Stopped at step 60 of 960." in shown(app)
        await pilot.press("r")
        await until(pilot, lambda: "✗ 20261124-1412-x is running already." in shown(app))
        assert "■ Stopped at step 60 of 960." in shown(app)


async def test_a_failure_of_the_user_s_making_shows_its_mend_and_is_not_resumed(shop: Shop) -> None:
    shop.recipe()
    bad = {"error": "data/support.jsonl, line 3: no messages.", "mend": "Each row needs messages.", "code": 2}
    shop.run("20261124-1412-x", steps=60, end=("run.failed", bad))
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        assert "✗ data/support.jsonl, line 3: no messages." in shown(app)
        assert "Each row needs messages." in shown(app)
        assert "resume" not in footer(app)
        assert "n new" in footer(app)


async def test_a_full_disk_is_mended_and_resumed(shop: Shop) -> None:
    full = {"error": "The disk is full, so step 60 was not saved.", "mend": "Free some space.", "code": 4}
    shop.run("20261124-1412-x", steps=60, end=("run.failed", full))
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        assert "Free some space.   r resume from 50" in shown(app)


async def test_a_loss_that_is_not_a_number_is_a_cross_on_the_axis(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(80, 24)) as pilot:
        app.open_run("20261122-0900-support-json")
        await pilot.pause()
        axis = next(row for row in shown(app).splitlines() if "└" in row)
        assert axis.count("✗") == 1
        assert "loss not a number" in shown(app)


async def test_a_finished_run_says_what_it_reached_and_how_to_prove_it(shop: Shop) -> None:
    shop.run("20261124-1412-x", steps=100, total=100, end=("run.finished", {"summary": {}}))
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        assert "✓ 100 steps in" in shown(app)
        assert "the best so far" in shown(app)
        assert "Whether it helped is measured in Evaluate." in shown(app)


async def test_before_the_first_step_the_log_has_the_room(shop: Shop) -> None:
    shop.run("20261124-1412-x", alive=True)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        assert not app.screen.query_one(RunChart).region
        assert "smollm2-135m loaded in 2.9 s" in shown(app)
        assert "zoom" not in footer(app)


async def test_a_run_without_a_word_is_starting(shop: Shop) -> None:
    folder = shop.folder / "runs" / "20261124-1412-x"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").touch()
    app = shop.app(folder.stat().st_mtime + 1)
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        assert "● starting" in shown(app)
        assert footer(app) == "q quit"


async def test_the_empty_room_has_one_key(shop: Shop) -> None:
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        assert "Nothing has been trained yet." in shown(app)
        assert "H go home" in shown(app)
        shop.recipe()
        await observe(pilot, shop.snapshot())
        assert "n train support-json   smollm2-135m, rank 16, 2 epochs" in shown(app)
        for key in "srzgl[]":
            await pilot.press({"[": "left_square_bracket", "]": "right_square_bracket"}.get(key, key))
        assert "Nothing has been trained yet." in shown(app)


async def test_brackets_and_arrows_look_at_older_and_newer_runs(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        await pilot.press("left_square_bracket")
        assert app.selected == "20261122-1010-support-json"
        assert "Loss of support-json, 2 d ago" in shown(app)
        assert "[ older   ] newer" in footer(app)
        await pilot.press("down", "down", "down")
        assert app.selected == "20261119-1010-tone-soft"
        assert "older" not in footer(app)
        await pilot.press("up", "up", "right_square_bracket")
        assert app.selected is None, "the newest is followed"


async def test_z_zooms_to_the_last_fifth_and_back(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        await pilot.press("z")
        await pilot.pause()
        assert "512" in shown(app)
        assert "z whole" in footer(app)
        await pilot.press("z")
        await pilot.pause()
        assert "960" in shown(app)
        assert "z zoom" in footer(app)


async def test_left_and_right_read_the_values_of_a_step(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        chart = app.screen.query_one(RunChart)
        assert "┊" not in shown(app)
        await pilot.press("left")
        assert chart.cross == 640
        await pilot.press("left", "shift+left")
        await pilot.pause()
        step = int(chart.cross or 0)
        assert 480 < step < 640
        head = next(row for row in shown(app).splitlines() if "▌ Loss" in row)
        assert f"step {step}" in head
        assert f"train {loss(step):.2f}" in head
        assert f"at {step // 50 * 50}" in head, "where the validation was"
        assert "┊" in shown(app)
        await pilot.press("right", "shift+right", "shift+right", "right")
        assert chart.cross == 640
        await pilot.press("escape")
        await pilot.pause()
        assert chart.cross is None
        assert "┊" not in shown(app)


async def test_each_press_moves_the_line_by_a_step_where_columns_are_wider_than_steps(shop: Shop) -> None:
    shop.run("20261124-1412-x", steps=12, total=12, alive=True)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        seen = []
        for _ in range(4):
            await pilot.press("left")
            seen.append(app.screen.query_one(RunChart).cross)
        assert seen == [12, 11, 10, 9]


async def test_c_puts_the_course_of_another_run_beside_this_one_and_takes_it_away(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await at_train(app, pilot)
        await pilot.press("c")
        await until(pilot, lambda: "Compare with which run?" in shown(app))
        assert "stopped, stopped, 5 d ago" in shown(app)
        await pilot.press("end", "enter")
        await until(pilot, lambda: "tone-soft" in shown(app).split("Loss")[1].splitlines()[0])
        assert "c alone" in footer(app)
        await pilot.press("left")
        await until(pilot, lambda: "tone-soft –" in shown(app))
        await pilot.press("c")
        await until(pilot, lambda: "c compare" in footer(app))
        assert app.screen.remember()["compare"] is None  # type: ignore[attr-defined]


async def test_the_only_other_run_is_compared_without_a_question(shop: Shop) -> None:
    shop.run("20261122-0900-first", steps=100, total=100, age=9000, end=("run.finished", {"summary": {}}))
    shop.run("20261124-1412-second", steps=60, alive=True)
    app = shop.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await at_train(app, pilot)
        await pilot.press("c")
        await until(pilot, lambda: "c alone" in footer(app))
        assert "first 1." in shown(app)
        shutil.rmtree(shop.folder / "runs" / "20261122-0900-first")
        await observe(pilot, shop.snapshot())
        assert "first 1." not in shown(app)
        assert "compare" not in footer(app)


async def test_m_goes_through_what_preference_training_watches(shop: Shop) -> None:
    shop.run("20261124-1412-voice", steps=200, total=300, alive=True, pairs=True)
    app = shop.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await at_train(app, pilot)
        titles = []
        for _ in range(5):
            head = next(row for row in shown(app).splitlines() if row.startswith("▌ "))
            titles.append(head.split("─")[0].strip("▌ "))
            await pilot.press("m")
            await pilot.pause()
        assert titles == ["Loss", "Rewards", "Margin of rewards", "Accuracy", "KL from the reference"]
        assert "▌ Loss" in shown(app)
        await pilot.press("m")
        await until(pilot, lambda: "rejected -1" in shown(app))
        assert "chosen 0." in shown(app)


async def test_m_is_no_key_of_a_run_that_has_only_a_loss(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        assert "Measure (m)" not in [command.title for command in app.get_system_commands(app.screen)]
        await pilot.press("m")
        assert "▌ Loss" in shown(app)


async def test_enter_opens_what_the_focus_stands_on(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        await pilot.press("tab", "enter")
        await until(pilot, lambda: "step 50" in shown(app) and "step 640 " not in shown(app))
        assert shown(app).count("Where is my parcel?") > 1, "every validation's"
        await pilot.press("escape", "tab", "enter")
        await until(pilot, lambda: "step 639" in shown(app))


async def test_while_the_reference_scores_pairs_the_room_says_how_far_it_is(shop: Shop) -> None:
    folder = shop.run("20261124-1412-voice", alive=True)
    shop.tell(folder, [("reference", {"done": 30, "total": 120})])
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        assert "30 of 120 pairs" in shown(app)


async def test_zoom_measure_and_comparison_come_back(loaded: Shop) -> None:
    first = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with first.run_test(size=(140, 45)) as pilot:
        await at_train(first, pilot)
        await until(pilot, lambda: "640 of 960" in shown(first))
        await pilot.press("z", "c")
        await until(pilot, lambda: "Compare with which run?" in shown(first))
        await pilot.press("enter", "q")
    again = MlxtuneApp(loaded.folder, clock=lambda: NOW)
    async with again.run_test(size=(140, 45)) as pilot:
        await until(pilot, lambda: "z whole" in footer(again))
        assert "c alone" in footer(again)


async def test_g_shows_the_samples_where_there_is_no_column_for_them(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await at_train(app, pilot)
        assert "Where is my parcel?" not in shown(app)
        await pilot.press("g")
        await pilot.pause()
        assert "Where is my parcel?" in shown(app)
        assert '"answer": "It left Hamburg on Monday."}' in shown(app)
        await pilot.press("escape")
        assert "Where is my parcel?" not in shown(app)


async def test_l_shows_every_line_and_follows_the_end(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        await pilot.press("l")
        await pilot.pause()
        assert "step 639" in shown(app)
        facts = {"loss": 0.5, "rate": 1e-4, "tokens": 9, "speed": 9.0, "memory": 1, "peak": 1, "epoch": 1.0}
        loaded.tell(app.snapshot.runs[0].run.folder, [("step", {"step": 641, **facts})])  # type: ignore[union-attr]
        await observe(pilot, loaded.snapshot())
        assert "step 641" in shown(app)
        await pilot.press("home")
        await pilot.pause()
        assert "support-json started on smollm2-135m" in shown(app)
        await pilot.press("pagedown", "down", "up", "pageup", "end")
        await pilot.pause()
        assert "step 641" in shown(app)
        await pilot.press("l")
        assert "Samples" in shown(app)


async def test_a_folder_deleted_under_the_app_is_said(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        app.open_run("20261122-1010-support-json")
        await pilot.pause()
        shutil.rmtree(loaded.folder / "runs" / "20261122-1010-support-json")
        await observe(pilot, loaded.snapshot())
        assert "! The folder of 20261122-1010-support-json is gone. This is the newest run." in shown(app)
        assert "640 of 960" in shown(app)
        shutil.rmtree(loaded.folder / "runs")
        await observe(pilot, loaded.snapshot())
        assert "Nothing has been trained yet." in shown(app)
        shutil.rmtree(loaded.folder)
        await observe(pilot, loaded.snapshot())
        assert "Nothing has been trained yet." in shown(app)


async def test_the_room_follows_a_run_that_is_written_elsewhere_and_reopens_whole(shop: Shop) -> None:
    folder = shop.run("20261124-1412-x", steps=20, alive=True)
    app = MlxtuneApp(shop.folder, clock=lambda: NOW)
    async with app.run_test(size=(120, 36)) as pilot:
        await at_train(app, pilot)
        await until(pilot, lambda: "20 of 960" in shown(app))
        facts = {"loss": 0.5, "rate": 1e-4, "tokens": 9, "speed": 9.0, "memory": 1, "peak": 1, "epoch": 1.0}
        shop.tell(folder, [("step", {"step": 21, **facts})])
        await until(pilot, lambda: "21 of 960" in shown(app))
    again = MlxtuneApp(shop.folder, clock=lambda: NOW)
    async with again.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: again.snapshot is not None)
        assert [step.step for step in again.snapshot.runs[0].state.steps] == list(range(1, 22))  # type: ignore[union-attr]


async def test_q_leaves_from_train(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test() as pilot:
        await at_train(app, pilot)
        await pilot.press("q")
    assert app.return_code == 0

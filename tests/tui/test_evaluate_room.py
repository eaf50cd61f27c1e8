import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from exhaustive import cases

from mlxtune.core.errors import MachineError
from mlxtune.core.files import write_json
from mlxtune.data import check_cache
from mlxtune.data.check_cache import CheckOutcome
from mlxtune.data.source import read_file
from mlxtune.recipe import dump, load
from mlxtune.runs import launch
from mlxtune.runs.registry import Run
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.render.output_text import FAILURE_STYLE
from mlxtune.tui.rooms.evaluate import render, service
from mlxtune.tui.rooms.evaluate.paired_table import PairedTable
from mlxtune.tui.rooms.evaluate.service import RowFilter
from mlxtune.tui.widgets import ChoiceDialog

from .driver import LARGE, NARROW, Gate, Opening, RoomDriver, any_size, drive, opens, picture_sizes
from .evaluated import base, copy_rows, evaluating, evaluation, tuned
from .rows_stage import ROWS, write
from .stage import FINISHED, NOW, Shop
from .test_naughty import ANSWER, assert_plain

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_arms")]

ID, OLDER = "20261124-1500-support-json", "20261120-1500-support-json"


async def rows_found(room: RoomDriver, title: str = "", count: int | None = None) -> None:
    """Wait for the rows behind a number. The room opens on those that the training fixed, and these tests on those that fail."""
    await room.until(lambda: room.screen.rows is not None)
    if room.screen.rows.filter.cell == "fixed" and title not in service.CELL_TITLES.values():
        room.screen._find_rows(RowFilter(room.screen._metric, room.screen.report.report.subject.name), focus=False)
        await room.until(lambda: room.screen.rows.filter.cell is None)

    def shown() -> bool:
        rows = room.screen.rows
        return rows is not None and (not title or rows.title == title) and (count is None or len(rows.rows) == count)

    await room.until(shown)


ROOM = Opening("evaluate", evaluation, rows_found)


async def focus(room: RoomDriver, id: str) -> None:
    room.screen.query_one(f"#{id}").focus()
    await room.pilot.pause()


async def page(room: RoomDriver) -> str:
    await room.until(lambda: room.mode == "" and bool(room.text("#rows").strip()))
    rows = room.screen._rows(room.screen.query_one("#rows").size.width)
    return " ".join(" ".join(row.plain.split()) for row in rows)


def test_the_contract_is_shown_next_to_correctness(shop):
    loaded = service.load_report(evaluation(shop))
    arms = tuple(replace(arm, rates=(*arm.rates, replace(arm.rates[0], metric="correct"))) for arm in loaded.report.arms)
    also = replace(loaded, report=replace(loaded.report, arms=arms, facts={**loaded.report.facts, "headline": "correct"}))
    assert (also.metrics[0], also.second_metric("correct")) == ("correct", "contract")


def test_an_adjusted_p_value_says_so(shop):
    headline = service.load_report(evaluation(shop)).report.headline
    assert headline is not None
    alone, adjusted = (replace(headline, p=0.0639, adjusted=adjusted) for adjusted in (0.0639, 0.1278))
    assert render.paired_note(alone, brief=True).plain == "p 0.064"
    assert render.paired_note(adjusted, brief=True).plain == "p 0.128 (Holm)"


def test_a_metric_with_other_rates_is_shown_next_to_the_chosen_one(shop):
    loaded = service.load_report(evaluation(shop))
    assert loaded.second_metric("contract") == "json"
    same = [
        replace(
            arm, rates=tuple(replace(arm.rate("contract"), metric="json") if one.metric == "json" else one for one in arm.rates)
        )
        for arm in loaded.report.arms
    ]
    only = replace(loaded, report=replace(loaded.report, arms=tuple(same)))
    assert only.second_metric("contract") not in ("json", None)


@pytest.mark.parametrize("tuned_answer", [base, tuned])
async def test_rows_to_fix_are_named_next_to_a_verdict_that_is_not_better(shop, open_room, tuned_answer):
    evaluation(shop, arms={"base": base, "tuned": tuned_answer})
    recipe = load(shop.folder / "recipes" / "support-json.toml")
    outcome = CheckOutcome("blocked", 471, 9, check_cache.rules_hash(recipe))
    check_cache.save(recipe.source, outcome)
    async with open_room("evaluate") as room:
        await rows_found(room, "Tuned fails")
        is_shown = "Fix 9 rows first" in room.text("#ev-summary")
        assert is_shown is (tuned_answer is base)


async def test_the_failing_part_is_marked_next_to_the_reference_or_another_arm(room):
    await room.press(*["down"] * 5, until=lambda: room.head("#ev-row").startswith("Line 5"))
    detail = room.screen.query_one("#ev-detail").render()
    assert any('"hgih",' in row and '"normal",' in row for row in detail.plain.splitlines())
    assert [detail.plain[span.start : span.end] for span in detail.spans if span.style == FAILURE_STYLE] == ['"hgih"']
    assert '"hgih" is not one of "low", "normal" or "high"' in room.text("#ev-detail")
    heads = []
    for _ in range(4):
        head = next(row for row in room.text("#ev-detail").splitlines() if row.strip().startswith("tuned"))
        heads.append(head.split()[1])
        await room.press("v")
    assert heads == ["reference", "base", "base+kshot", "reference"]


async def test_enter_opens_the_report_and_like_a_click_the_rows_behind_an_arm_and_behind_a_cell(room):
    await focus(room, "ev-summary")
    assert room.actions[0] == "report"
    await room.press("enter")
    text = await page(room)
    for part in ("Cannot tell.", "whole contract", "no forbidden phrase", "perplexity", "decoding", "fixed", "neither"):
        assert part in text, part
    await room.press("escape", mode="evaluate")
    await focus(room, "ev-table")
    assert room.actions[0] == "rows"
    await room.press("up", "up", "enter")
    await rows_found(room, "Base fails", 30)
    await room.until(lambda: room.focus == "ev-list")
    for key, title, count in (("", "Fixed", 14), ("right", "Both fail", 2), ("up", "Broken", 5), ("left", "Both pass", 19)):
        await focus(room, "ev-cells")
        await room.press(*filter(None, [key]), "enter")
        await rows_found(room, title, count)
    assert "✓ 1 " in room.text("#ev-list")
    rows = room.screen.query_one(PairedTable).render().plain.splitlines()
    y = next(index for index, row in enumerate(rows) if "fixed 14" in row)
    await room.pilot.click("#ev-cells", offset=(rows[y].index("fixed 14"), y))
    await rows_found(room, "Fixed", 14)


@pytest.mark.parametrize(
    ("ended", "kind", "text"),
    [
        ("length", "cut_off", "cut off at 112 tokens"),
        ("length", "in_a_loop", "cut off at 112 tokens, repeats itself"),
        ("grammar", "cut_off", "cut off at 112 tokens"),
        ("loop", "in_a_loop", "repeats itself"),
    ],
)
async def test_a_row_says_why_its_answer_did_not_end(shop, open_room, ended, kind, text):
    outputs = evaluation(shop) / "outputs.jsonl"
    outputs.write_text(outputs.read_text().replace('"ended": "stop"', f'"ended": "{ended}"'))
    async with open_room("evaluate", size=LARGE) as room:
        await rows_found(room, "Tuned fails", 7)
        row = room.screen._row
        row.scores["tuned"] = replace(row.scores["tuned"], kind=kind)
        assert room.actions.index("new") < room.actions.index("write")
        await focus(room, "ev-list")
        await room.press("enter")
        assert text in await page(room)


async def test_a_short_reference_stays_visible_beside_the_end_of_a_long_answer(shop, open_room):
    endless = "[\n" + '"one more item",\n' * 60 + "oops"
    evaluation(shop, arms={"base": base, "tuned": lambda at, reference: reference if at else endless})
    async with open_room("evaluate", size=LARGE) as room:
        await rows_found(room, "Tuned fails", 1)
        await room.until(lambda: "oops" in room.text("#ev-detail"))
        assert '"needs_human": ' in room.text("#ev-detail")


@opens(settle=None)
async def test_m_cycles_the_metrics_and_rows_and_table_follow(room):
    await rows_found(room, count=7)
    await room.press("m")
    await rows_found(room, count=3)
    assert room.head("#ev-rows").endswith("valid JSON, row 1 of 3")
    header = room.text("#ev-table").splitlines()[0]
    assert "valid JSON, %" in header
    assert "whole contract, %" in header, "the whole contract stays next to it"
    assert room.head("#ev-square").endswith("valid JSON")
    for _ in room.screen.report.metrics[1:]:
        await room.press("m")
    await rows_found(room, count=7)
    room.screen.query_one(PairedTable).action_pick("fixed")
    await room.until(lambda: room.screen.rows.filter.cell == "fixed")
    await room.press("down", "down")
    row = room.screen._row.row.id
    await room.press("m", until=lambda: "valid JSON" in room.head("#ev-rows"))
    assert (room.screen.rows.filter.cell, room.screen._row.row.id) == ("fixed", row)


@opens(settle=None, size=LARGE)
async def test_the_room_opens_on_a_row_that_the_training_fixed(room):
    await room.until(lambda: room.screen.rows is not None)
    await room.until(lambda: room.head("#ev-rows").endswith("Fixed row 1 of 14"))
    await room.until(lambda: ["base+kshot", "tuned"] in map(str.split, room.text("#ev-detail").splitlines()))  # before and after


@opens(size=NARROW)
async def test_enter_on_a_row_shows_all_of_it(room):
    assert room.text("#ev-detail") == "", "no room for it at 80 columns"
    await room.press("enter")
    text = await page(room)
    answers = ("◇ system", "○ user", "tuned", "base", "reference", "the text ends inside a string")
    for part in (*answers, "Nearest training rows", "not reviewed"):
        assert part in text, part
    await room.press("escape", mode="evaluate")


@opens(stage=lambda shop: evaluation(shop, arms={"base": base, "tuned": lambda at, _: f"no JSON {at}"}), settle=None, size=NARROW)
async def test_the_list_scrolls_to_its_last_row(room):
    await rows_found(room, count=40)
    await room.press("end")
    assert room.head("#ev-rows").endswith("40 of 40")
    assert "✗ 40" in room.text("#ev-list")
    await room.press("pageup", "home")
    assert room.head("#ev-rows").endswith("1 of 40")


async def test_f_opens_a_similar_training_row_in_review(room, shop, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(room.app, "action_room", opened.append)
    await room.press("f", until=lambda: room.mode == "")
    id = room.screen._options[1].value
    await room.choose(id)
    assert opened == ["review"]
    assert room.app.row_to_open == id
    ids = [row.id for row in read_file(shop.folder / "data" / "support.jsonl")]
    assert ids.index(id) >= 40, "a training row"


async def test_f_opens_the_recipes_row_although_another_file_is_open(shop, checks, open_room):
    evaluation(shop)
    other = shop.folder / "data" / "other.jsonl"
    write(other, ROWS)
    async with open_room("evaluate") as room:
        room.app.sessions.open_file(other)
        await rows_found(room)
        await room.press("f", until=lambda: room.mode == "")
        id = room.screen._options[1].value
        await room.choose(id)
        await room.until(lambda: room.mode == "review" and room.screen.row is not None and room.app.row_to_open is None)
        assert room.screen.row.id == id
        room.app.row_to_open = "0" * 12
        room.screen.redraw()
        await room.until_notice("! That row is not in support.jsonl. It has been changed or removed since.")


async def test_a_first_report_that_is_being_read_does_not_look_lost(shop, open_room, monkeypatch):
    evaluation(shop)
    gate, load_report = Gate(), service.load_report
    monkeypatch.setattr(service, "load_report", lambda folder: (gate.wait(), load_report(folder))[1])
    async with open_room("evaluate") as room:
        await room.until(lambda: "Reading the report." in room.text("#invite"))
        assert room.screen.query_one("#empty").display
        assert "evaluate" not in [action.label for action in room.screen.shown_actions()]
        await room.press("enter")
        assert room.mode == "evaluate"
        gate.set()
        await rows_found(room)
        assert not room.screen.query_one("#empty").display


@opens(stage=lambda shop: evaluation(shop, arms={"base": base}), settle=None)
async def test_a_baseline_alone_has_no_comparison_and_names_the_next_step_after_a_training(room, shop):
    await rows_found(room, "Base fails")
    assert room.text("#ev-summary").strip().startswith("No adapter evaluated. Without training, whole contract: base ")
    assert not room.screen.query_one("#ev-square").display
    await room.press("v", notice="· No other answer.")
    assert "reference" in room.text("#ev-detail")
    await room.press("c", notice="· Not possible now: ")
    shop.run("20261124-1600-support-json", steps=5, end=FINISHED)
    await room.observe(shop.snapshot())
    await room.until(lambda: "Evaluate the adapter" in room.text("#ev-summary"))


@opens(stage=lambda shop: evaluation(shop, "20261124-1700-brand-voice", name="brand-voice", pairs=True), size=LARGE)
async def test_preference_training_shows_its_margins(room):
    assert "preference accuracy, %" in room.text("#ev-table")
    summary = room.words("#ev-summary")
    assert "margin base −1.39" in summary
    assert "nats per token; tuned +0.2" in summary
    assert "the rejected answer is" in room.words("#ev-detail")


@opens(stage=lambda shop: evaluation(shop, off_task=2, looks=4), size=(120, 45))
async def test_g_shows_the_off_task_prompts_broken_ones_first(room):
    summary = room.words("#ev-summary")
    assert "off-task ! 100.0% → 80.0%" in summary
    assert "cannot tell" in summary
    await room.press("g")
    text = await page(room)
    assert "✗ broken q0" in text
    assert text.index("✗ broken q1") < text.index("✓ q2")
    assert "What comes after 0?" in text
    assert "I do not know." in text


async def test_c_compares_two_reports_and_o_selects_another_one_which_is_remembered(shop, open_room):
    evaluation(shop, OLDER, arms={"base": base, "tuned": base}, age=4 * 86400)
    evaluation(shop)
    async with open_room("evaluate") as room:
        await rows_found(room, count=7)
        await room.press("c", choose="0")
        text = await page(room)
        assert "40 held-out rows, the same for both" in text
        assert "✓ Better. Whole contract: +" in text
        assert f"tuned of {ID} over tuned of {OLDER}" in text
        await room.press("escape", mode="evaluate")
        await room.press("o", choose="1")
        await rows_found(room, count=30)
        assert room.head("#ev-verdict").startswith("Verdict on support-json")
        await room.press("m")
        assert json.loads(json.dumps(dict(room.screen.save_state()))) == {"evaluation": OLDER, "_newest": ID, "_metric": "json"}


@opens(stage=lambda shop: evaluation(shop, OLDER, age=4 * 86400))
async def test_a_new_report_shows_the_failing_rows_of_the_displayed_metric(room, shop):
    await room.press("m", until=lambda: "valid JSON" in room.head("#ev-rows"))
    evaluation(shop)
    await room.observe(shop.snapshot())
    await room.until(lambda: room.screen.report is not None and room.screen.report.folder.name == ID)
    await room.until(lambda: room.screen.rows is not None)
    assert "valid JSON" in room.head("#ev-square")
    assert "valid JSON" in room.head("#ev-rows")


async def test_an_evaluation_of_another_recipe_is_shown_when_it_finishes(shop, open_room):
    evaluation(shop, OLDER, arms={"base": base}, age=4 * 86400)
    async with open_room("evaluate") as room:
        await room.until(lambda: "No adapter evaluated" in room.text("#ev-summary"))
        saved = json.loads(json.dumps(room.screen.save_state()))
        evaluation(shop, name="quick")
        await room.observe(shop.snapshot())
        await room.until(lambda: "Cannot tell." in room.text("#ev-summary"))
    app = MlxtuneApp(shop.folder, watch=False, state={"rooms": {"evaluate": saved}})
    app.snapshot = shop.snapshot()
    async with drive(app, "evaluate") as room:  # it has finished while the app was closed
        await room.until(lambda: "Cannot tell." in room.text("#ev-summary"))


async def test_runs_of_a_recipe_are_told_apart(shop, open_room):
    for run, id, age in (("20261124-1312-support-json", OLDER, 4000), ("20261124-1412-support-json", ID, 300)):
        shop.run(run, steps=60, end=FINISHED, age=age, adapter=True)
        write_json(evaluation(shop, id, run=run, age=age - 100) / launch.LAUNCH_FILE, {"request": {"run": run}})
    async with open_room("evaluate") as room:
        await rows_found(room, count=7)
        assert room.head("#ev-verdict").startswith("Verdict on 20261124-1412-support-json")
        await room.press("o", until=lambda: isinstance(room.screen, ChoiceDialog))
        newer, older = room.text("ListPanel").splitlines()
        assert "20261124-1412-support-json, 3 min   40 rows: cannot tell" in newer
        assert "20261124-1312-support-json, 1 h" in older
        await room.press("escape", "n")
        await room.until(lambda: isinstance(room.screen, ChoiceDialog) and room.screen._heading == "Evaluate what?")
        assert "20261124-1312-support-json   trained 1 h ago" in room.text("ListPanel")


@opens(stage=lambda shop: (evaluation(shop, OLDER, rows=30, age=4 * 86400), evaluation(shop)))
async def test_reports_on_other_rows_are_not_compared(room):
    await room.press("c", choose="0", until=lambda: room.notice.startswith("✗") and "compared" in room.notice)


async def test_capital_o_shows_the_path_of_the_html_report(shop, open_room):
    folder = evaluation(shop)
    async with open_room() as room:
        await room.press("O", until=lambda: f"evals/{ID}/report.html" in room.notice)
        assert room.app.notices.current, "a path stays until the next notice"
    (folder / "report.html").unlink()
    async with open_room() as room:
        assert "html" not in room.actions


async def test_n_asks_for_a_subject_and_arms_and_starts(shop, open_room, monkeypatch):
    started: list[tuple[str, list[str], dict[str, str]]] = []

    def start(workspace: Path, kind: str, recipe: Any, request: dict[str, str], **_: Any) -> Run:
        started.append((kind, recipe.evaluation.arms, request))
        return Run(workspace)

    monkeypatch.setattr("mlxtune.runs.launch.start", start)
    evaluation(shop)
    run = shop.run("20261124-1412-support-json", steps=60, end=FINISHED, age=300, adapter=True)
    async with open_room() as room:
        for subject, arms in (("0", "1"), ("2", "0")):  # subject 1 has the recipe as it is now
            await room.press("n", choose=subject)
            await room.choose(arms)
            await room.until(lambda arms=arms: len(started) == 2 - int(arms) and not room.app.jobs.busy)  # type: ignore[misc]
    assert started == [
        ("eval", ["base", "base+kshot", "tuned"], {"run": "20261124-1412-support-json", "adapter": str(run / "adapter")}),
        ("eval", ["base"], {}),
    ]


async def test_a_start_that_fails_is_reported(room, monkeypatch):
    error = MachineError("The worker of x ended at once: killed", hint="Its log: worker.log")
    monkeypatch.setattr("mlxtune.runs.launch.start", Mock(side_effect=error))
    await room.press("n", choose="0")
    await room.press(choose="0", notice="✗ The worker of x ended at once")
    assert room.screen.rows.title == "Tuned fails"


@opens(stage=lambda shop: (evaluation(shop), evaluating(shop)))
async def test_a_running_evaluation_shows_its_progress_and_can_be_stopped(room, monkeypatch):
    stopped: list[str] = []
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: stopped.append(run.id))
    assert "Evaluating" in room.head("#ev-now")
    finished, running = room.text("#ev-progress").splitlines()
    assert finished.strip().startswith("✓ base")
    assert finished.endswith("40 of 40 rows")
    assert running.strip().startswith("● tuned")
    assert running.endswith("14 of 40 rows")
    assert "new" not in room.actions
    await room.press("s", choose="")
    assert stopped == []
    await room.press("s", choose="stop", until=lambda: stopped == ["20261124-1600-support-json"])


async def test_a_first_evaluation_shows_only_its_progress(shop, open_room):
    shop.recipe()
    folder = evaluating(shop)
    async with open_room("evaluate", size=NARROW) as room:
        await room.until(lambda: "14 of 40 rows" in room.text("#ev-progress"))
        assert room.text("#invite") == ""
        assert room.actions == ["stop"]
        shop.tell(folder, [("arm.progress", {"arm": "tuned", "done": 1094, "total": 2364, "of": "token"})])
        await room.observe(shop.snapshot())
        await room.until(lambda: "The longest of this batch at token 1,094 of at most 2,364" in room.text("#ev-progress"))
    async with drive(shop.app(NOW + 60), "evaluate") as room:
        await room.until(lambda: "! No output for" in room.text("#ev-progress"))


async def test_arms_that_wait_are_listed(shop, open_room):
    shop.recipe()
    folder = evaluating(shop)
    with (folder / "recipe.toml").open("a") as recipe:
        recipe.write('[evaluation]\narms = ["base", "tuned", "base+kshot"]\n')
    write_json(folder / launch.LAUNCH_FILE, {"request": {"adapter": "runs/x/adapter"}})
    async with open_room("evaluate", size=LARGE) as room:
        await room.until(lambda: "14 of 40 rows" in room.text("#ev-progress"))
        waiting = [row.split() for row in room.text("#ev-progress").splitlines() if "waiting" in row]
        assert waiting == [["○", "base+kshot", "waiting"]]


@pytest.mark.parametrize(
    ("end", "text", "hint"),
    [
        (("run.failed", {"error": "The schema changed.", "hint": "Set it back.", "code": 2}), "✗ The schema changed.", "Set it back."),
        (("run.stopped", {"step": 0}), "■ The evaluation of support-json was stopped.", "Its answers are kept: n continues it."),
        (None, "✗ The evaluation of support-json crashed.", "Last output: Killed"),
    ],
)  # fmt: skip
async def test_a_failed_evaluation_is_explained_above_the_last_report(shop, open_room, end, text, hint):
    evaluation(shop)
    shop.run("20261124-1700-support-json", kind="eval", age=90, end=end, printed="Killed\n")
    async with open_room("evaluate") as room:
        await rows_found(room, "Tuned fails")
        assert room.words("#ev-error") == f"{text} {hint}"


async def test_n_continues_a_stopped_evaluation(shop, open_room, monkeypatch):
    continued: list[str] = []
    monkeypatch.setattr(launch, "resume", lambda run: continued.append(run.id))
    shop.recipe()
    shop.run("20261124-1700-support-json", kind="eval", age=90, end=("run.stopped", {"step": 0}))
    async with open_room("evaluate") as room:
        await room.until(lambda: "n continues it" in room.words("#ev-error"))
        await room.press("n", until=lambda: isinstance(room.screen, ChoiceDialog))
        assert "Continue support-json" in room.text("ListPanel")
        await room.press("enter", until=lambda: continued == ["20261124-1700-support-json"])


async def test_an_evaluation_that_failed_without_answers_is_not_continued(shop, open_room):
    shop.recipe()
    failed = ("run.failed", {"error": "The schema changed.", "hint": "Set it back.", "code": 2})
    shop.run("20261124-1700-support-json", kind="eval", age=90, end=failed)
    async with open_room("evaluate") as room:
        await room.until(lambda: "The schema changed." in room.words("#ev-error"))
        await room.press("n", until=lambda: isinstance(room.screen, ChoiceDialog))
        assert "its base alone" in room.text("ListPanel")
        assert "Continue" not in room.text("ListPanel")


def evaluated_twice(shop: Shop, settings: str) -> Path:
    """A run with ``settings`` for its evaluation of 133 held-out rows. Earlier, its base took 95 s for 40 rows."""
    folder = evaluation(shop)
    run = shop.run("20261124-1412-support-json", steps=60, end=FINISHED, age=300, adapter=True)
    (run / "recipe.toml").write_text(f"{(run / 'recipe.toml').read_text()}\n[evaluation]\n{settings}\n")
    report = json.loads((folder / "report.json").read_text())
    report["arms"][0]["cached"] = False
    (folder / "report.json").write_text(json.dumps(report))
    return run


@pytest.mark.parametrize(
    ("settings", "text", "minutes"),
    [
        ("max_tokens = 112", "133 of 133 held-out rows, 1,000 off-task prompts, at most 112 tokens per answer.", 11),
        ("rows = 20\nmax_tokens = 112", "20 of 133 held-out rows, 1,000 off-task prompts, at most 112 tokens", 2),
        ("", "133 of 133 held-out rows, 1,000 off-task prompts.", 11),  # not the limit of the evaluation of the base
    ],
)
async def test_the_question_for_the_arms_says_how_much_they_answer(shop, open_room, settings, text, minutes):
    evaluated_twice(shop, settings)
    async with open_room("evaluate") as room:
        await rows_found(room, "Tuned fails")
        await room.press("n", until=lambda: isinstance(room.screen, ChoiceDialog))
        await room.choose("1" if "its own recipe" in str(room.screen._options) else "0")
        await room.until(lambda: isinstance(room.screen, ChoiceDialog) and room.screen._heading == "Which arms?")
        options = room.screen._options
        assert f"base, tuned on {text}" in room.screen._text
        assert ("on all 133 held-out rows" in [option.name for option in options]) is ("20 of 133" in text)
        assert options[0].about == f"2 arms, rows ≤ {minutes} min"
        assert all(option.about in room.text("#choices") for option in options)


KSHOT, PROMPT = "plus the base with 3 examples", "plus the base with your prompt"
ENDPOINT = """arms = ["base", "tuned", "endpoint:gpt"]
[evaluation.endpoints.gpt]
model = "gpt"
url = "http://localhost/v1"
"""


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ("rows = 20", {"as in the recipe": "rows ≤ 2 min", "on all 133 held-out rows": "rows ≤ 11 min", KSHOT: "rows ≤ 2 min"}),
        ('rows = 20\nprompt = "Hi."', {"as in the recipe": "rows ≤ 2 min", PROMPT: "rows ≤ 2 min", "all of these": "rows ≤ 3 min"}),
        (f"rows = 20\n{ENDPOINT}", {"as in the recipe": "", "on all 133 held-out rows": "", KSHOT: ""}),
    ],
)
def test_options_say_how_long_the_answers_take(shop, settings, options):
    run = evaluated_twice(shop, f"max_tokens = 112\n{settings}")
    found, _ = service.evaluation_options(shop.folder, load(run / "recipe.toml"), Run(run))
    times = {option.name: option.about.partition(", ")[2] for option in found}
    assert times | options == times


async def test_the_recipe_as_it_is_now_can_be_chosen_if_it_evaluates_differently(shop, open_room, monkeypatch):
    started: list[tuple[int, dict[str, str]]] = []
    monkeypatch.setattr(
        "mlxtune.runs.launch.start", lambda workspace, kind, recipe, request, **_: started.append((recipe.evaluation.rows, request))
    )
    recipe = shop.recipe()
    copy_rows(shop)
    run = shop.run("20261124-1412-support-json", steps=60, end=FINISHED, age=300, adapter=True)
    (run / "recipe.toml").write_text(dump(load(recipe)))
    with recipe.open("a") as file:
        file.write("\n[evaluation]\nrows = 4\n")
    adapter = {"run": run.name, "adapter": str(run / "adapter")}
    async with open_room("evaluate") as room:
        for subject, count in (("0", 1), ("1", 2)):
            await room.press("n", choose=subject)
            await room.choose("0")
            await room.until(lambda count=count: len(started) == count and not room.app.jobs.busy)  # type: ignore[misc]
        room.app.run_to_evaluate = Run(run)
        await room.press("H", "E", choose=str(run / "recipe.toml"))
        await room.press(choose="0", until=lambda: len(started) == 3 and not room.app.jobs.busy)
        await room.press("n", choose="0")
        await room.choose("1")  # all held-out rows
        await room.until(lambda: len(started) == 4)
    assert started == [(4, adapter), (0, adapter), (0, adapter), (0, adapter)]


@opens(stage=lambda shop: (shop.recipe(), copy_rows(shop)), settle=None)
async def test_without_an_evaluation_enter_starts_one_on_a_later_visit_too(room, monkeypatch):
    started: list[str] = []
    monkeypatch.setattr("mlxtune.runs.launch.start", lambda workspace, kind, recipe, request, **_: started.append(kind))
    intro = room.text("#invite")
    assert "No evaluations yet." in intro
    assert "enter evaluate support-json" in intro
    for _ in range(2):
        await room.press("enter", until=lambda: isinstance(room.screen, ChoiceDialog))
        await room.press("escape", "H", mode="home")
        await room.press("E", mode="evaluate")
    await room.press("enter", choose="0")
    await room.until(lambda: isinstance(room.screen, ChoiceDialog) and "held-out rows" in room.screen._text)
    assert re.search(r"on (\d+) of \1 held-out rows", room.screen._text)
    await room.press(choose="0", until=lambda: started == ["eval"])


async def test_an_evaluation_that_is_starting_is_not_another_task(shop, open_room, monkeypatch):
    gate = Gate()

    def start(workspace: Path, kind: str, recipe: Any, request: dict[str, str], **_: Any) -> None:
        gate.wait()
        folder = workspace / "evals" / "20261124-1700-support-json"
        folder.mkdir(parents=True)
        (folder / "recipe.toml").write_text(dump(recipe))
        shop.hold(folder)

    monkeypatch.setattr("mlxtune.runs.launch.start", start)
    shop.recipe()
    copy_rows(shop)
    async with open_room("evaluate") as room:
        await room.press("enter", choose="0")
        await room.press(choose="0", until=lambda: room.app.jobs.busy)
        room.screen.redraw()
        assert "Another task is running" not in room.text("#invite")
        gate.set()
        await room.until(lambda: not room.app.jobs.busy)
        await room.observe(shop.snapshot())
        assert "Evaluating" in room.head("#ev-now")
        assert "Loading the model." in room.text("#ev-progress")


@opens(stage=lambda shop: None, settle=None, size=NARROW)
async def test_an_empty_workspace_offers_home(room):
    assert "H open a file on Home" in room.text("#invite")
    await room.press("enter", "m", "f", "v", "w", "c", "o", "O", "g", "s")
    await room.pilot.pause()
    assert room.mode == "evaluate"


async def test_an_unreadable_report_is_reported(shop, open_room):
    folder = evaluation(shop)
    (folder / "report.json").write_text('{"arms": 3}')
    async with open_room("evaluate") as room:
        await room.until(lambda: "is not a report" in room.words("#ev-error"))
        assert "Evaluate again" in room.words("#ev-error")


async def test_a_report_without_its_evidence_still_shows_its_numbers(shop, open_room):
    folder = evaluation(shop)
    (folder / "questions.jsonl").unlink()
    async with open_room("evaluate") as room:
        await room.until(lambda: "82.5  68–91" in room.text("#ev-table"))
        assert "questions.jsonl" in room.words("#ev-error")
        await room.press("m", "enter", "f", "v", "w")
        assert room.screen.rows is None


async def test_an_evaluation_whose_folder_vanishes_is_not_shown(room, shop):
    folder = room.staged
    shutil.rmtree(folder)
    await room.press("m", "enter", "escape")
    await room.observe(shop.snapshot())
    await room.until(lambda: "No evaluations yet." in room.text("#invite"))


async def test_a_report_that_loads_while_rows_are_searched_is_shown(room, shop, monkeypatch):
    gate, load_report = Gate(), service.load_report
    monkeypatch.setattr(service, "load_report", lambda folder: (gate.wait(), load_report(folder))[1])
    newer = evaluation(shop, "20261124-1600-support-json", age=60)
    room.screen.report = None
    await room.observe(shop.snapshot())
    room.screen.report = load_report(newer.parent / ID)
    await room.press("m")
    gate.set()
    await room.until(lambda: room.screen.report.folder == newer)


@pytest.mark.parametrize("size", cases([(120, 36), (80, 24)], "120x36", name=lambda size: f"{size[0]}x{size[1]}"))
@opens(stage=lambda shop: evaluation(shop, arms={"base": base, "tuned": lambda at, _: f"{at} {ANSWER}"}))
async def test_hostile_outputs_are_shown_as_text(room, size):
    await assert_plain(room, "down", "v", "enter", "pagedown", "escape", "f", "escape")


@any_size
@opens(stage=lambda shop: (evaluation(shop, off_task=2), evaluating(shop)))
async def test_any_terminal_size_works(room, size):
    for keys in (("enter", "escape"), ("m", "v", "f", "escape"), ("tab", "tab", "enter"), ("r", "escape"), ("end",)):
        await room.press(*keys)
    await room.pilot.resize_terminal(size[0] + 1, size[1] + 1)
    await room.pilot.pause()
    assert room.app.is_running


@picture_sizes
def test_picture(shop, picture, size):
    async def on_a_failing_row(room: RoomDriver) -> None:
        await rows_found(room)
        await room.press(*["down"] * 5)

    evaluation(shop, off_task=2, looks=4)
    picture(shop, size, "evaluate", on_a_failing_row)

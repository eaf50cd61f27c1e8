"""The next step and the workflow follow from the workspace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_files import scored_arm

from mlxtune.data import check_cache
from mlxtune.data.check_cache import CheckOutcome
from mlxtune.evaluation import report
from mlxtune.evaluation.blind.blind_session import BlindSession
from mlxtune.evaluation.paired_answers import load_pairs
from mlxtune.evaluation.report import Rate
from mlxtune.evaluation.report_builder import build
from mlxtune.evaluation.scorers import Score
from mlxtune.tui.next_step import next_step, of_recipe, workflow
from mlxtune.tui.rooms.home.render import key_metrics

from .conftest import OpenRoom
from .evaluated import base, evaluation, kshot, tuned
from .stage import NOW, RECIPE, Shop

DONE = ("run.finished", {"summary": {}})
ID = "20261124-1412-support-json"


def evaluated(
    shop: Shop,
    run: str,
    base: int,
    tuned: int,
    rows: int = 72,
    folder: str | Path = "20261124-1500-support-json",
    arm: str = "tuned",
) -> None:
    """An evaluation in which ``base`` of ``rows`` answers of the base held, and ``tuned`` of another arm."""
    folder = shop.run(str(folder), kind="eval", end=DONE)
    started = {"kind": "eval", "name": "support-json", "base": "smollm2-135m", "pid": 1, "host": "mac"}
    arms: list[tuple[str, dict[str, Any]]] = [("run.started", started)]
    for name in ("base", arm):
        arms += [
            ("arm.started", {"arm": name, "rows": rows}),
            ("arm.finished", {"arm": name, "rows": rows, "cached": False, "seconds": 9.0}),
        ]
    shop.tell(folder, [*arms, DONE])
    scored = [
        [{name: Score(at < hits, "schema") for name in ("schema", "contract")} for at in range(rows)] for hits in (base, tuned)
    ]
    facts = {"name": "support-json", "run": run, "rows": rows, "row_ids": [str(row) for row in range(rows)]}
    report.save(
        build(facts, [scored_arm("base", scored[0]), scored_arm(arm, scored[1])]),
        folder,
    )


@pytest.mark.parametrize(
    ("end", "sentence", "action"),
    [
        (None, "The run crashed at step 60.", "app.room('train')"),
        (("run.stopped", {"step": 60}), "The run was stopped at step 60 of 960.", "app.room('train')"),
        (("run.failed", {"error": "No rows.", "hint": "Add some.", "code": 2}), "No rows.", "app.room('train')"),
        (DONE, "Training is done. Check whether it helped.", "screen.evaluate"),
    ],
)
def test_next_follows_from_how_the_newest_run_ended(shop: Shop, end: Any, sentence: str, action: str) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=end, age=60)
    advice = next_step(shop.snapshot())
    assert (advice.sentence, advice.action) == (sentence, action)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "tuned", "word", "mark"), [(20, 60, "better", "✓"), (60, 20, "worse", "✗"), (30, 32, "cannot_tell", "·")]
)
async def test_a_verdict_leads_next_and_fills_the_best_adapter(
    shop: Shop, open_room: OpenRoom, base: int, tuned: int, word: str, mark: str
) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=600)
    evaluated(shop, ID, base, tuned)
    snapshot = shop.snapshot()
    advice, stages = next_step(snapshot), {stage.name: stage for stage in workflow(snapshot)}
    assert advice.sentence.lower().startswith(word.replace("_", " "))
    assert (advice.glyph, advice.action) == (mark, "app.room('plan')")
    assert (stages["Evaluate"].glyph, stages["Evaluate"].result) == (mark, word.replace("_", " "))
    assert stages["Baseline"].result == f"{base / 72 * 100:.1f}% whole contract"
    async with open_room("home") as room:
        assert f"{mark} {word.replace('_', ' ').capitalize()}" in room.text("#best-picture")
        assert f"{tuned / 72 * 100:.1f}%" in room.text("#best-picture")
        await room.press("T")
        await room.until(lambda: advice.sentence[:40] in room.text("#stats"))


@pytest.mark.parametrize(("epochs", "tuned", "is_short"), [(0.18, 20, True), (0.18, 60, False), (1.5, 20, False)])
def test_a_run_of_a_part_of_the_rows_should_be_longer(shop: Shop, epochs: float, tuned: int, is_short: bool) -> None:
    shop.recipe()
    run = shop.run(ID, steps=60, end=DONE, age=60)
    events = (run / "events.jsonl").read_text()
    assert '"epochs":2' in events
    (run / "events.jsonl").write_text(events.replace('"epochs":2', f'"epochs":{epochs}'))
    evaluated(shop, ID, 30, tuned)
    advice = next_step(shop.snapshot()).detail
    assert ("The run used only 18% of the training rows, so a longer one may help (training.steps). " in advice) is is_short


def test_a_run_keeps_its_verdict_after_a_newer_one_on_another_run(shop: Shop) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=60)
    evaluated(shop, ID, 20, 60)
    evaluated(shop, "20261101-0000-another", 30, 32, folder="20261124-1600-support-json")
    snapshot = shop.snapshot()
    assert snapshot.verdict
    assert snapshot.verdict.outcome == "cannot_tell"
    assert next_step(snapshot).sentence.startswith("Better")


def test_a_later_verdict_on_a_part_of_the_rows_does_not_count(shop: Shop) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=600)
    base, tuned = (lambda at, reference: reference if at % 4 else "no"), (lambda at, reference: reference)
    evaluation(shop, "20261124-1500-support-json", arms={"base": base, "tuned": tuned}, run=ID, age=500.0)
    assert next_step(shop.snapshot()).sentence.startswith("Better")
    evaluation(shop, "20261124-1600-support-json", arms={"base": tuned, "tuned": tuned}, rows=20, run=ID)
    snapshot = shop.snapshot()
    assert next_step(snapshot).sentence.startswith("Better")
    assert snapshot.best
    assert snapshot.best.rows == 40
    evaluation(shop, "20261124-1700-support-json", arms={"base": tuned, "tuned": tuned}, run=ID, age=10.0)
    assert next_step(shop.snapshot()).sentence.startswith("Cannot tell"), "it measured the same rows again"


async def test_home_shows_the_name_that_the_best_adapter_was_given(shop: Shop, open_room: OpenRoom) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=600)
    evaluated(shop, ID, 20, 60)
    journal = shop.folder / "adapters" / "library.jsonl"
    journal.parent.mkdir()
    journal.write_text(json.dumps({"do": "name", "key": f"runs/{ID}/adapter", "name": "math"}) + "\n")
    snapshot = shop.snapshot()
    assert snapshot.adapter_names == {ID: "math"}
    assert {stage.name: stage.detail for stage in workflow(snapshot)}["Adapter"] == "math, whole contract"
    async with open_room("home") as room:
        assert room.text("#best-picture").startswith("  math")


def test_home_leaves_out_metrics_that_did_not_change(shop: Shop) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=600)
    evaluated(shop, ID, 20, 60)
    best = shop.snapshot().best
    assert best
    same, whole = (Rate("exact", 5, 10, 0.0, 1.0),) * 2, best.changes[-1]
    moved = Rate("schema", 5, 10, 0.0, 1.0), Rate("schema", 6, 10, 0.0, 1.0)
    assert key_metrics((same, whole)) == [whole]
    assert key_metrics((same, moved, whole)) == [moved, whole]


def test_a_later_evaluation_of_the_base_hides_no_verdict(shop: Shop) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=600)
    evaluated(shop, ID, 20, 60)
    evaluated(shop, "", 20, 20, folder="20261124-1600-support-json", arm="base")
    snapshot = shop.snapshot()
    assert next_step(snapshot).sentence.startswith("Better")
    stages = {stage.name: stage for stage in workflow(snapshot)}
    assert stages["Evaluate"].result == "better"
    assert stages["Blind"].detail == "optional: compare two arms blind"


@pytest.mark.slow
async def test_a_prompt_that_suffices_leads_to_advice(shop: Shop, open_room: OpenRoom) -> None:
    shop.recipe()
    check_cache.save(shop.folder / "data" / "support.jsonl", CheckOutcome("clean", "Clean.", 480, 0))
    evaluated(shop, "", 40, 70, arm="base+kshot")
    snapshot = shop.snapshot()
    advice = next_step(snapshot)
    assert (advice.sentence, advice.action) == ("Training may not be needed.", "app.room('advice')")
    assert advice.why == "base+kshot reaches 97.2% without training: whole contract."
    assert {stage.name: stage.detail for stage in workflow(snapshot)}["Blind"] == "optional: compare two arms blind"
    async with open_room("home") as room:
        assert not room.screen.query_one("#best").visible or "tuned" not in room.text("#best-picture")


def test_a_verdict_on_an_older_run_is_not_the_newest_run_s(shop: Shop) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=60)
    evaluated(shop, "20261101-0000-another", 20, 60)
    assert next_step(shop.snapshot()).sentence == "Training is done. Check whether it helped."


def test_an_evaluation_that_failed_is_said(shop: Shop) -> None:
    shop.run(ID, steps=60, end=DONE, age=600)
    shop.run(
        "20261124-1500-x", kind="eval", end=("run.failed", {"error": "No held-out rows.", "hint": "Raise data.holdout.", "code": 2})
    )
    advice = next_step(shop.snapshot())
    assert advice.sentence == "The evaluation ended without a verdict."
    assert advice.why == "No held-out rows. Raise data.holdout."
    assert (advice.key, advice.action) == ("E", "app.room('evaluate')")


def test_the_workflow_of_an_empty_workspace_waits_everywhere(shop: Shop) -> None:
    assert {stage.glyph for stage in workflow(shop.snapshot())} == {"○"}


def test_the_workflow_tells_what_is_there(loaded: Shop) -> None:
    stages = {stage.name: stage for stage in workflow(loaded.snapshot())}
    assert stages["Data"].detail == "last run: 1,069 train, 80 validation, 181 held out"
    assert (stages["Plan"].detail, stages["Plan"].result) == ("960 steps in 2 epochs", "peak 13.4 of 24.0 GB")
    assert stages["Train"].detail == "step 640 of 960"
    assert "left" in stages["Train"].result


def test_what_is_said_of_the_rows_is_all_of_one_recipe(loaded: Shop) -> None:
    text = RECIPE.format(name="another").replace("support.jsonl", "another.jsonl")
    loaded.recipe("another", text)
    for name, findings in (("another", 9), ("support", 3)):
        source = loaded.folder / "data" / f"{name}.jsonl"
        source.touch()
        check_cache.save(source, CheckOutcome("look", "Ready.", 480, findings))
    stage = workflow(loaded.snapshot())[0]
    assert (stage.detail, stage.result) == ("last run: 1,069 train, 80 validation, 181 held out", "ready, 3 to look at"), (
        "the newest run's"
    )
    (loaded.folder / "recipes" / "support-json.toml").unlink()
    stage = workflow(loaded.snapshot())[0]
    assert (stage.detail, stage.result) == ("480 rows in data/another.jsonl", "ready, 9 to look at")


def test_the_workflow_ends_with_a_blind_session_and_the_adapter_that_is_proved(loaded: Shop) -> None:
    def last(shop: Shop) -> list[tuple[str, str, str, str]]:
        return [(stage.glyph, stage.name, stage.detail, stage.result) for stage in workflow(shop.snapshot())[-2:]]

    assert last(loaded) == [
        ("○", "Blind", "needs an evaluated adapter", ""),
        ("○", "Adapter", "1 adapter, none proven better yet", ""),
    ]
    folder = evaluation(loaded, arms={"base": base, "tuned": tuned})
    assert last(loaded) == [
        ("○", "Blind", "optional: compare two arms blind", ""),
        ("✓", "Adapter", "support-json, whole contract", "82.5%"),
    ]
    with BlindSession(folder, "base", "tuned", load_pairs(folder, "base", "tuned"), 1, seed=3) as session:
        session.vote("a")
        other = replace(loaded.snapshot().recipes[0], recipe=None)
        assert workflow(of_recipe(loaded.snapshot(), other))[-2].detail == "needs an evaluated adapter", (
            "it is about another recipe"
        )
        assert last(loaded)[0] == ("◐", "Blind", f"1 of {session.votes_needed} votes on 1 pair", "in progress")
        while session.current:
            session.vote("a")
        assert last(loaded)[0][3] == "ready to reveal"
        session.reveal()
    assert last(loaded)[0] == ("✓", "Blind", f"{session.votes_needed} of {session.votes_needed} votes on 1 pair", "revealed")
    (session.folder / "session.json").write_text("{}")
    (session.folder / "votes.jsonl").write_text("")
    assert last(loaded)[0][0] == "○", "a session that cannot be read is none"


def test_an_adapter_that_is_not_to_be_promoted_is_best_only_where_there_is_no_other(shop: Shop) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=900)
    evaluation(shop, arms={"base": base, "tuned": tuned}, run=ID, off_task=4)
    snapshot = shop.snapshot()
    stage, advice = workflow(snapshot)[-1], next_step(snapshot)
    assert (stage.glyph, stage.detail) == ("!", "support-json is better, but off-task accuracy dropped from 100.0% to 60.0%")
    assert advice.glyph == "!"
    assert advice.why.startswith("Not recommended: off-task accuracy dropped from 100.0% to 60.0%. ")
    evaluation(shop, "20261124-1400-support-json", arms={"base": base, "tuned": kshot}, run="older")
    best = shop.snapshot().best
    assert best is not None
    assert (best.run_id, best.caveat) == ("older", "")
    assert workflow(shop.snapshot())[-1].glyph == "✓"


def test_recipes_that_need_a_run_before_them_are_not_counted_as_ready(shop: Shop) -> None:
    def ready() -> str:
        measured(shop)
        return next_step(shop.snapshot()).detail

    shop.recipe()
    shop.recipe("tone")
    assert ready() == "2 recipes in recipes/."
    shop.recipe("voice", RECIPE.format(name="voice") + '[adapter]\nparent = "last"\n')
    assert ready() == "2 of 3 recipes can start now."


def measured(shop: Shop) -> None:
    """Check the rows and measure the base, so that training is next."""
    check_cache.save(shop.folder / "data" / "support.jsonl", CheckOutcome("clean", "Clean.", 480, 0))
    if not (shop.folder / "evals").exists():
        shop.run("20261101-1000-support-json", kind="eval", end=DONE, age=7000)


async def test_home_says_that_an_adapter_is_not_recommended(shop: Shop, open_room: OpenRoom) -> None:
    shop.run(ID, steps=60, end=DONE, age=900)
    evaluation(shop, arms={"base": base, "tuned": tuned}, run=ID, off_task=4)
    async with open_room("home", size=(140, 45)) as room:
        assert room.head("#best") == "Best so far"
        assert "! Better, but not recommended: off-task accuracy" in " ".join(room.text("#best-picture").split())


def test_missing_data_is_seen_before_a_run(shop: Shop) -> None:
    shop.recipe()
    (shop.folder / "data" / "support.jsonl").unlink()
    assert (workflow(shop.snapshot())[0].glyph, workflow(shop.snapshot())[0].detail) == ("✗", "data/support.jsonl does not exist")


def test_rows_outside_the_workspace_are_called_by_their_path_from_it(shop: Shop) -> None:
    shop.recipe(text=RECIPE.format(name="support-json").replace("../data/", "../../elsewhere/"))
    assert shop.snapshot().recipes[0].source == "../elsewhere/support.jsonl"


def test_the_way_to_a_first_run(shop: Shop) -> None:
    shop.recipe()
    advice = next_step(shop.snapshot())
    assert (advice.key, advice.action, [way.action for way in advice.shortcuts]) == ("D", "app.room('data')", ["screen.new"])
    source = shop.folder / "data" / "support.jsonl"
    check_cache.save(source, CheckOutcome("blocked", "Not ready. 9 rows of 480 must be mended.", 471, 9))
    advice = next_step(shop.snapshot())
    assert (advice.sentence, advice.action, advice.glyph) == ("Not ready. 9 rows of 480 must be mended.", "app.room('data')", "✗")
    decide(source, ["rejected"])
    assert next_step(shop.snapshot()).sentence == "Check the rows first."
    assert {stage.name: stage.result for stage in workflow(shop.snapshot())}["Data"] == "review changed since the check"
    check_cache.save(source, CheckOutcome("look", "Ready.", 480, 3))
    decide(source, ["rejected", "accepted"])
    advice = next_step(shop.snapshot())
    assert (advice.key, advice.action) == ("E", "app.room('evaluate')")
    source.touch()  # the checks of the earlier rows no longer count
    check_cache.save(source, CheckOutcome("look", "Ready.", 480, 3, rules="of another recipe"))
    assert next_step(shop.snapshot()).sentence == "Check the rows first."


def test_the_base_is_to_be_measured_until_it_has_been(shop: Shop) -> None:
    shop.recipe()
    check_cache.save(shop.folder / "data" / "support.jsonl", CheckOutcome("look", "Ready.", 480, 3))
    failed = {"error": "Adapters need memory.", "hint": "Close other programs.", "code": 3}
    shop.run("20261124-1500-support-json", kind="eval", end=("run.failed", failed), age=900)
    advice = next_step(shop.snapshot())
    assert (advice.sentence, advice.why) == (
        "The evaluation ended without a verdict.",
        "Adapters need memory. Close other programs.",
    )
    assert (advice.key, advice.glyph, [way.key for way in advice.shortcuts]) == ("E", "✗", ["n"])
    stopped = shop.run("20261124-1510-support-json", kind="eval", end=("run.stopped", {"step": 0}), age=800)
    assert next_step(shop.snapshot()).sentence == "Evaluate the base model first."
    shop.run("20261124-1520-support-json-advice", kind="eval", end=DONE, age=700)
    assert next_step(shop.snapshot()).sentence == "Evaluate the base model first.", "a sample for advice is no baseline"
    whole = ("arm.finished", {"arm": "base", "rows": 40, "cached": False, "seconds": 9.0})
    shop.tell(stopped, [("run.started", {"kind": "eval", "name": "support-json", "base": "b", "pid": 1, "host": "mac"}), whole, ("run.stopped", {"step": 0})], 600)  # fmt: skip
    assert next_step(shop.snapshot()).action == "screen.new"
    assert {stage.name: stage.glyph for stage in workflow(shop.snapshot())}["Baseline"] == "✓"


def test_while_a_run_trains_rows_without_a_decision_are_offered(loaded: Shop) -> None:
    source = loaded.folder / "data" / "support.jsonl"
    check_cache.save(source, CheckOutcome("clean", "Clean.", 4, 0))
    decide(source, ["accepted", "rejected", "skipped"])
    snapshot = loaded.snapshot()
    assert snapshot.recipes[0].reviewed_rows == 2
    assert [(way.key, way.about) for way in next_step(snapshot).shortcuts] == [("R", "meanwhile, review 2 rows")]
    stage = {stage.name: stage for stage in workflow(snapshot)}["Review"]
    assert (stage.glyph, stage.detail, stage.result) == ("◐", "2 decided, 2 to go", "50%")


def decide(source: Path, statuses: list[str]) -> None:
    """A review's journal in which one row each got a status."""
    rows = [{"row": str(at), "before": str(at), "after": str(at), "status": status} for at, status in enumerate(statuses)]
    events = [
        {"v": 1, "seq": at, "t": 1.0, "who": "a", "action": "accept", "reason": "", "rows": [row]} for at, row in enumerate(rows)
    ]
    source.with_name("support.review.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.mark.parametrize(
    ("base", "tuned", "keys"), [(20, 60, ["n", "E", "C", "A"]), (60, 20, ["n", "E"]), (30, 32, ["n", "E", "B"])]
)
def test_a_verdict_leads_on(shop: Shop, base: int, tuned: int, keys: list[str]) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=600)
    evaluated(shop, ID, base, tuned)
    assert [way.key for way in next_step(shop.snapshot()).shortcuts] == keys


def test_rows_that_were_not_checked_come_before_another_run(shop: Shop) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=600)
    evaluated(shop, ID, 30, 32)
    check_cache.save(shop.folder / "data" / "support.jsonl", CheckOutcome("look", "Ready.", 480, 3, rules="of another recipe"))
    advice = next_step(shop.snapshot())
    assert (advice.key, [way.key for way in advice.shortcuts]) == ("D", ["P", "E", "B"])
    assert advice.why.startswith("The rows have not been checked since the recipe changed.")
    evaluated(shop, ID, 20, 60, folder="20261124-1600-support-json")
    assert next_step(shop.snapshot()).key == "P"


async def test_the_best_adapter_stays_when_a_later_one_is_worse(shop: Shop, open_room: OpenRoom) -> None:
    shop.recipe()
    for id in (ID, "20261125-0900-support-json"):
        shop.run(id, steps=60, end=DONE, age=600)
    evaluated(shop, ID, 20, 60)
    evaluated(shop, "20261125-0900-support-json", 60, 20, folder="20261125-1000-support-json")
    snapshot = shop.snapshot()
    assert snapshot.best
    assert snapshot.verdict
    assert (snapshot.best.run_id, snapshot.verdict.outcome) == (ID, "worse")
    async with open_room("home") as room:
        assert room.head("#best") == "Best adapter"
        assert "✗ newest: support-json, worse" in room.text("#best-picture")


@pytest.mark.parametrize(
    ("word", "findings", "mark", "result"),
    [("clean", 0, "✓", "no problems"), ("look", 3, "✓", "ready, 3 to look at"), ("blocked", 9, "✗", "9 to fix")],
)
def test_the_workflow_says_what_the_last_check_found(shop: Shop, word: str, findings: int, mark: str, result: str) -> None:
    shop.recipe()
    check_cache.save(shop.folder / "data" / "support.jsonl", CheckOutcome(word, "", 480, findings))
    stage = workflow(shop.snapshot())[0]
    assert (stage.glyph, stage.detail, stage.result) == (mark, "480 rows in data/support.jsonl", result)


def test_a_stop_now_keeps_what_next_says(loaded: Shop) -> None:
    advice = next_step(loaded.snapshot(NOW))
    assert advice.why.endswith("Stopping saves a checkpoint, and the run can be resumed from it.")
    assert advice.why.startswith("Validation loss is still falling (0.6")

"""Next and Journey: true to what the workspace holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data import outcome
from mlxtune.data.outcome import Outcome
from mlxtune.evaluation import report
from mlxtune.evaluation.answered import pairs
from mlxtune.evaluation.blind import Session
from mlxtune.evaluation.scorers import Score
from mlxtune.tui.guide import journey, next_step
from mlxtune.tui.verdict import read_verdict

from .evaluated import base, evaluation, kshot, tuned
from .stage import NOW, RECIPE, Shop, shown

DONE = ("run.finished", {"summary": {}})
ID = "20261124-1412-support-json"


def evaluated(
    shop: Shop, run: str, base: int, tuned: int, rows: int = 72, folder: str | Path = "20261124-1500-support-json"
) -> None:
    """An evaluation in which ``base`` and ``tuned`` of ``rows`` answers held."""
    folder = shop.run(str(folder), kind="eval", end=DONE)
    started = {"kind": "eval", "name": "support-json", "base": "smollm2-135m", "pid": 1, "host": "mac"}
    arms: list[tuple[str, dict[str, Any]]] = [("run.started", started)]
    for arm in ("base", "tuned"):
        arms += [
            ("arm.started", {"arm": arm, "rows": rows}),
            ("arm.finished", {"arm": arm, "rows": rows, "cached": False, "seconds": 9.0}),
        ]
    shop.tell(folder, [*arms, DONE])
    scored = [
        [{name: Score(at < hits, "schema") for name in ("schema", "contract")} for at in range(rows)] for hits in (base, tuned)
    ]
    facts = {"name": "support-json", "run": run, "rows": rows}
    report.save(
        report.build(facts, [report.Measured("base", False, 1.0, scored[0]), report.Measured("tuned", False, 1.0, scored[1])]),
        folder,
    )


@pytest.mark.parametrize(
    ("end", "sentence", "action"),
    [
        (None, "The run ended at step 60 without saying why.", "app.room('train')"),
        (("run.stopped", {"step": 60}), "The run was stopped at step 60 of 960.", "app.room('train')"),
        (("run.failed", {"error": "No rows.", "mend": "Add some.", "code": 2}), "No rows.", "app.room('train')"),
        (DONE, "Training is done. Measure whether it helped.", "app.room('train')"),
    ],
)
def test_next_follows_from_how_the_newest_run_ended(shop: Shop, end: Any, sentence: str, action: str) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=end, age=60)
    advice = next_step(shop.snapshot(), {"home", "train"})
    assert (advice.sentence, advice.action) == (sentence, action)


@pytest.mark.parametrize(
    ("base", "tuned", "word", "mark"), [(20, 60, "better", "✓"), (60, 20, "worse", "✗"), (30, 32, "cannot tell", "·")]
)
async def test_a_verdict_leads_next_and_fills_the_best_adapter(shop: Shop, base: int, tuned: int, word: str, mark: str) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=600)
    evaluated(shop, ID, base, tuned)
    snapshot = shop.snapshot()
    advice, stages = next_step(snapshot, {"home", "train"}), {stage.name: stage for stage in journey(snapshot)}
    assert advice.sentence.lower().startswith(word)
    assert (advice.mark, advice.action) == (mark, "screen.new")
    assert (stages["Evaluate"].mark, stages["Evaluate"].result) == (mark, word)
    assert stages["Baseline"].result == f"{base / 72 * 100:.1f} % whole contract"
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        assert f"{mark} {word.capitalize()}" in shown(app)
        assert f"{tuned / 72 * 100:.1f} %" in shown(app)
        await pilot.press("T")
        await pilot.pause()
        assert advice.sentence[:40] in shown(app), "the run says what came of it"


def test_a_verdict_on_an_older_run_is_not_the_newest_run_s(shop: Shop) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=60)
    evaluated(shop, "20261101-0000-another", 20, 60)
    assert next_step(shop.snapshot(), {"home", "train"}).sentence == "Training is done. Measure whether it helped."


def test_an_evaluation_that_failed_is_said(shop: Shop) -> None:
    shop.run(ID, steps=60, end=DONE, age=600)
    shop.run(
        "20261124-1500-x", kind="eval", end=("run.failed", {"error": "No held-out rows.", "mend": "Raise data.holdout.", "code": 2})
    )
    advice = next_step(shop.snapshot(), {"home", "train"})
    assert advice.sentence == "The evaluation ended without a verdict."
    assert advice.why == "No held-out rows. Raise data.holdout."


def test_the_journey_of_an_empty_workspace_waits_everywhere(shop: Shop) -> None:
    assert {stage.mark for stage in journey(shop.snapshot())} == {"○"}


def test_the_journey_tells_what_is_there(loaded: Shop) -> None:
    stages = {stage.name: stage for stage in journey(loaded.snapshot())}
    assert stages["Data"].what == "1,069 train, 80 validation, 181 held out"
    assert (stages["Plan"].what, stages["Plan"].result) == ("960 steps in 2 epochs", "peak 13.4 of 24.0 GB")
    assert stages["Train"].what == "step 640 of 960"
    assert "left" in stages["Train"].result


def test_what_is_said_of_the_rows_is_all_of_one_recipe(loaded: Shop) -> None:
    text = RECIPE.format(name="another").replace("support.jsonl", "another.jsonl")
    loaded.recipe("another", text)
    for name, found in (("another", 9), ("support", 3)):
        source = loaded.folder / "data" / f"{name}.jsonl"
        source.touch()
        outcome.keep(source, Outcome("look", "Ready.", 480, found))
    stage = journey(loaded.snapshot())[0]
    assert (stage.what, stage.result) == ("1,069 train, 80 validation, 181 held out", "ready, 3 to look at"), "the newest run's"
    (loaded.folder / "recipes" / "support-json.toml").unlink()
    stage = journey(loaded.snapshot())[0]
    assert (stage.what, stage.result) == ("480 rows in data/another.jsonl", "ready, 9 to look at")


def test_the_journey_ends_with_a_blind_session_and_the_adapter_that_is_proved(loaded: Shop) -> None:
    def last(shop: Shop) -> list[tuple[str, str, str, str]]:
        return [(stage.mark, stage.name, stage.what, stage.result) for stage in journey(shop.snapshot())[-2:]]

    assert last(loaded) == [("○", "Blind", "needs an evaluation", ""), ("○", "Adapter", "1 adapter, none proved better yet", "")]
    folder = evaluation(loaded, arms={"base": base, "tuned": tuned})
    assert last(loaded) == [
        ("○", "Blind", "two arms, read without their names", ""),
        ("✓", "Adapter", "support-json, whole contract kept", "82.5 %"),
    ]
    with Session(folder, "base", "tuned", pairs(folder, "base", "tuned"), 1, seed=3) as session:
        session.vote("a")
        assert last(loaded)[0] == ("◐", "Blind", f"1 of {session.due} votes on 1 pair", "sealed")
        while session.now():
            session.vote("a")
        assert last(loaded)[0][3] == "open the seal"
        session.reveal()
    assert last(loaded)[0] == ("✓", "Blind", f"{session.due} of {session.due} votes on 1 pair", "opened")
    (session.folder / "session.json").write_text("{}")
    (session.folder / "votes.jsonl").write_text("")
    assert last(loaded)[0][0] == "○", "a session that cannot be read is none"


def test_an_adapter_that_is_not_to_be_promoted_is_best_only_where_there_is_no_other(shop: Shop) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=900)
    evaluation(shop, arms={"base": base, "tuned": tuned}, run=ID, off_task=4)
    snapshot = shop.snapshot()
    stage, advice = journey(snapshot)[-1], next_step(snapshot, ROOMS)
    assert (stage.mark, stage.what) == ("!", "support-json is better, but off-task answers dropped from 10 to 6 of 10")
    assert advice.mark == "!"
    assert advice.why.startswith("It is not to be promoted: off-task answers dropped from 10 to 6 of 10. ")
    evaluation(shop, "20261124-1400-support-json", arms={"base": base, "tuned": kshot}, run="older")
    best = shop.snapshot().best
    assert best is not None
    assert (best.run, best.reservation) == ("older", "")
    assert journey(shop.snapshot())[-1].mark == "✓"


def test_recipes_that_need_a_run_before_them_are_not_counted_as_ready(shop: Shop) -> None:
    shop.recipe()
    shop.recipe("tone")
    assert next_step(shop.snapshot(), {"home", "train"}).why == "2 recipes in recipes/."
    shop.recipe("voice", RECIPE.format(name="voice") + '[adapter]\nparent = "last"\n')
    assert next_step(shop.snapshot(), {"home", "train"}).why == "2 of 3 recipes can start now."


async def test_home_says_that_an_adapter_is_not_to_be_promoted(shop: Shop) -> None:
    shop.run(ID, steps=60, end=DONE, age=900)
    evaluation(shop, arms={"base": base, "tuned": tuned}, run=ID, off_task=4)
    app = shop.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await pilot.pause()
        text = shown(app)
        assert "Best adapter" not in text
        assert "! Better, but off-task answers" in text


def test_missing_data_is_seen_before_a_run(shop: Shop) -> None:
    shop.recipe()
    (shop.folder / "data" / "support.jsonl").unlink()
    assert (journey(shop.snapshot())[0].mark, journey(shop.snapshot())[0].what) == ("✗", "data/support.jsonl is not there")


def test_rows_outside_the_workspace_are_called_as_the_recipe_calls_them(shop: Shop) -> None:
    shop.recipe(text=RECIPE.format(name="support-json").replace("../data/", "../../elsewhere/"))
    assert shop.snapshot().recipes[0].source == "../../elsewhere/support.jsonl"


ROOMS = {"home", "data", "review", "plan", "train", "evaluate", "blind", "chat"}


def test_the_way_to_a_first_run_leads_through_the_rooms_that_there_are(shop: Shop) -> None:
    shop.recipe()
    assert next_step(shop.snapshot(), {"home", "train"}).action == "screen.new"
    advice = next_step(shop.snapshot(), ROOMS)
    assert (advice.key, advice.action, [way.action for way in advice.also]) == ("D", "app.room('data')", ["screen.new"])
    source = shop.folder / "data" / "support.jsonl"
    outcome.keep(source, Outcome("blocked", "Not ready. 9 rows of 480 must be mended.", 471, 9))
    advice = next_step(shop.snapshot(), ROOMS)
    assert (advice.sentence, advice.action, advice.mark) == ("Not ready. 9 rows of 480 must be mended.", "app.room('data')", "✗")
    outcome.keep(source, Outcome("look", "Ready.", 480, 3))
    advice = next_step(shop.snapshot(), ROOMS)
    assert (advice.key, advice.action) == ("E", "app.room('evaluate')")
    advice = next_step(shop.snapshot(), ROOMS - {"evaluate"})
    assert (advice.action, [way.key for way in advice.also]) == ("screen.new", ["P"])


def test_the_base_is_to_be_measured_until_it_has_been(shop: Shop) -> None:
    shop.recipe()
    outcome.keep(shop.folder / "data" / "support.jsonl", Outcome("look", "Ready.", 480, 3))
    failed = {"error": "Adapters need memory.", "mend": "Close other programs.", "code": 3}
    shop.run("20261124-1500-support-json", kind="eval", end=("run.failed", failed), age=900)
    advice = next_step(shop.snapshot(), ROOMS)
    assert (advice.sentence, advice.why) == (
        "The evaluation ended without a verdict.",
        "Adapters need memory. Close other programs.",
    )
    assert (advice.key, advice.mark, [way.key for way in advice.also]) == ("E", "✗", ["n"])
    stopped = shop.run("20261124-1510-support-json", kind="eval", end=("run.stopped", {"step": 0}), age=800)
    assert next_step(shop.snapshot(), ROOMS).sentence == "Measure the base model first."
    shop.run("20261124-1520-support-json-advice", kind="eval", end=DONE, age=700)
    assert next_step(shop.snapshot(), ROOMS).sentence == "Measure the base model first.", "a sample for advice is no baseline"
    whole = ("arm.finished", {"arm": "base", "rows": 40, "cached": False, "seconds": 9.0})
    shop.tell(stopped, [("run.started", {"kind": "eval", "name": "support-json", "base": "b", "pid": 1, "host": "mac"}), whole, ("run.stopped", {"step": 0})], 600)  # fmt: skip
    assert next_step(shop.snapshot(), ROOMS).action == "screen.new"
    assert {stage.name: stage.mark for stage in journey(shop.snapshot())}["Baseline"] == "✓"


def test_while_a_run_trains_rows_without_a_decision_are_offered(loaded: Shop) -> None:
    source = loaded.folder / "data" / "support.jsonl"
    outcome.keep(source, Outcome("clean", "Clean.", 4, 0))
    decide(source, ["accepted", "rejected", "skipped"])
    snapshot = loaded.snapshot()
    assert snapshot.recipes[0].decided == 2
    assert [(way.key, way.does) for way in next_step(snapshot, ROOMS).also] == [("R", "use the time: 2 rows wait for a decision")]
    assert next_step(snapshot, {"home", "train"}).also == ()
    stage = {stage.name: stage for stage in journey(snapshot)}["Review"]
    assert (stage.mark, stage.what, stage.result) == ("◐", "2 decided, 2 to go", "50 %")


def decide(source: Path, statuses: list[str]) -> None:
    """A review's journal in which one row each got a status."""
    rows = [{"row": str(at), "before": str(at), "after": str(at), "status": status} for at, status in enumerate(statuses)]
    events = [
        {"v": 1, "seq": at, "t": 1.0, "who": "a", "action": "accept", "reason": "", "rows": [row]} for at, row in enumerate(rows)
    ]
    source.with_name("support.review.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_a_finished_run_is_evaluated_where_there_is_a_room_for_it(shop: Shop) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=60)
    assert next_step(shop.snapshot(), ROOMS).action == "app.room('evaluate')"
    advice = next_step(shop.snapshot(), {"home", "train"})
    assert advice.action == "app.room('train')"
    assert "mlxtune eval" in advice.why


@pytest.mark.parametrize(("base", "tuned", "keys"), [(20, 60, ["E", "C"]), (60, 20, ["E"]), (30, 32, ["E", "B"])])
def test_a_verdict_leads_on(shop: Shop, base: int, tuned: int, keys: list[str]) -> None:
    shop.recipe()
    shop.run(ID, steps=60, end=DONE, age=600)
    evaluated(shop, ID, base, tuned)
    assert [way.key for way in next_step(shop.snapshot(), ROOMS).also] == keys


async def test_the_best_adapter_stays_when_a_later_one_is_worse(shop: Shop) -> None:
    shop.recipe()
    for id in (ID, "20261125-0900-support-json"):
        shop.run(id, steps=60, end=DONE, age=600)
    evaluated(shop, ID, 20, 60)
    evaluated(shop, "20261125-0900-support-json", 60, 20, folder="20261125-1000-support-json")
    snapshot = shop.snapshot()
    assert snapshot.best
    assert snapshot.verdict
    assert (snapshot.best.run, snapshot.verdict.word) == (ID, "worse")
    app = shop.app()
    async with app.run_test(size=(120, 36)):
        assert "Best adapter" in shown(app)
        assert "✗ the last, support-json is worse" in shown(app)


@pytest.mark.parametrize(
    ("word", "found", "mark", "result"),
    [("clean", 0, "✓", "clean"), ("look", 3, "✓", "ready, 3 to look at"), ("blocked", 9, "✗", "9 to mend")],
)
def test_the_journey_says_what_the_last_check_found(shop: Shop, word: str, found: int, mark: str, result: str) -> None:
    shop.recipe()
    outcome.keep(shop.folder / "data" / "support.jsonl", Outcome(word, "", 480, found))
    stage = journey(shop.snapshot())[0]
    assert (stage.mark, stage.what, stage.result) == (mark, "480 rows in data/support.jsonl", result)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"arms": []}', '{"arms": [{}], "comparisons": [], "facts": {}, "verdict": ""}', "\x00"]
)
def test_a_report_that_is_none_is_left_out(shop: Shop, text: str) -> None:
    path = shop.folder / "report.json"
    path.write_text(text)
    assert read_verdict(path) is None


def test_a_stop_now_keeps_what_next_says(loaded: Shop) -> None:
    advice = next_step(loaded.snapshot(NOW), {"home", "train"})
    assert advice.why.endswith("A stop saves step 640 first, and the run can be resumed from it.")
    assert advice.why.startswith("Validation loss still falls (0.6")

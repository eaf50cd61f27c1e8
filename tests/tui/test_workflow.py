import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_parser import parse_command
from evaluation_files import scored_arm

from mlxtune.advice.next_step import NextStep, StepCode, after_evaluation, next_step, of_recipe
from mlxtune.data import check_cache
from mlxtune.data.check_cache import CheckOutcome
from mlxtune.evaluation import report
from mlxtune.evaluation.blind.blind_session import BlindSession
from mlxtune.evaluation.evidence import load_pairs
from mlxtune.evaluation.report import Rate
from mlxtune.evaluation.report_builder import build
from mlxtune.evaluation.scorers import Score
from mlxtune.present.next_step import next_step_document, step_action, step_mark, step_title, step_why
from mlxtune.present.workflow import StageState, WorkflowStage, key_metrics, workflow
from mlxtune.workspace.index import Snapshot

from .evaluated import base, evaluation, kshot, tuned
from .stage import FINISHED as DONE
from .stage import NOW, RECIPE, Event, Shop, started

ID = "20261124-1412-support-json"
C = StepCode


def evaluated(
    shop: Shop,
    run: str,
    base: int,
    tuned: int,
    rows: int = 72,
    folder: str | Path = "20261124-1500-support-json",
    arm: str = "tuned",
) -> Path:
    """An evaluation in which ``base`` of ``rows`` answers of the base held, and ``tuned`` of another arm."""
    folder = shop.run(str(folder), kind="eval", end=DONE)
    arms: list[Event] = [started("eval")]
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
    report.save(build(facts, [scored_arm("base", scored[0]), scored_arm(arm, scored[1])]), folder)
    return folder


def checked(shop: Shop, label: Any = "clean", flagged: int = 0, **more: Any) -> None:
    check_cache.save(shop.folder / "data" / "support.jsonl", CheckOutcome(label, 480, flagged, **more))


def trained(shop: Shop, age: float = 600.0) -> Path:
    shop.recipe()
    return shop.run(ID, steps=60, end=DONE, age=age)


def stages(snapshot: Snapshot) -> dict[str, WorkflowStage]:
    return {stage.name: stage for stage in workflow(snapshot)}


def codes(step: NextStep) -> list[StepCode]:
    return [step.code, *(other.code for other in step.also)]


@pytest.mark.parametrize("code", StepCode)
def test_every_step_has_words_an_action_and_no_empty_argument(code):
    step = NextStep(code, "a run", Path("recipes/a.toml"), "a name", 3)
    action = step_action(step)
    assert step_title(step)
    assert action.id.startswith(("app.", "home.", "advice."))
    assert "'a run'" in action.command or "{run}" not in action.command
    bare = step_action(NextStep(code)).command
    assert not bare or bare.startswith("mlxtune ")
    if action.command:
        parse_command(shlex.split(action.command)[1:])
    assert "RECIPE" not in bare
    (facts,) = next_step_document(step)
    assert facts.facts[0].label == "next"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("end", "code", "command"),
    [
        (None, C.RESUME_RUN, f"mlxtune runs resume {ID}"),
        (("run.stopped", {"step": 60}), C.RESUME_RUN, f"mlxtune runs resume {ID}"),
        (("run.failed", {"error": "No rows.", "hint": "Add some.", "code": 2}), C.INSPECT_RUN, f"mlxtune runs show {ID}"),
        (DONE, C.EVALUATE_ADAPTER, f"mlxtune eval {ID}"),
    ],
)
def test_next_follows_from_how_the_newest_run_ended(shop, end, code, command):
    shop.recipe()
    shop.run(ID, steps=60, end=end, age=60)
    step = next_step(shop.snapshot())
    assert (step.code, step.run, step_action(step).command) == (code, ID, command)
    if code == C.RESUME_RUN:
        assert (step.number, step_why(step, shop.snapshot())) == (60, "checkpoint 50 is intact")
    elif code == C.INSPECT_RUN:
        assert step_why(step, shop.snapshot()) == "No rows. Add some."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "tuned", "outcome", "mark", "state"),
    [(20, 60, "better", "success", "done"), (60, 20, "worse", "error", "failed"), (30, 32, "cannot tell", "muted", "undecided")],
)
async def test_a_verdict_leads_next_and_fills_the_best_adapter(shop, open_room, base, tuned, outcome, mark, state):
    trained(shop)
    folder = evaluated(shop, ID, base, tuned)
    snapshot = shop.snapshot()
    step, found = next_step(snapshot), stages(snapshot)
    assert (step.evaluation, step_mark(step, snapshot)) == (folder.name, mark)
    assert step_why(step, snapshot).startswith(f"{outcome} ")
    assert (found["Evaluate"].state, found["Evaluate"].result) == (state, outcome)
    assert found["Baseline"].result == f"{base / 72 * 100:.1f}% whole contract"
    async with open_room("home") as room:
        assert outcome.capitalize() in room.text("#best-picture")
        assert f"{tuned / 72 * 100:.1f}%" in room.text("#best-picture")
        assert step_title(step) in room.text("#next-picture")


@pytest.mark.parametrize(("epochs", "tuned", "is_short"), [(0.18, 20, True), (0.18, 60, False), (1.5, 20, False)])
def test_a_run_of_a_part_of_the_rows_should_be_longer(shop, epochs, tuned, is_short):
    run = trained(shop)
    events = (run / "events.jsonl").read_text()
    assert '"epochs":2' in events
    (run / "events.jsonl").write_text(events.replace('"epochs":2', f'"epochs":{epochs}'))
    evaluated(shop, ID, 30, tuned)
    step = next_step(shop.snapshot())
    assert (step.code == C.TRAIN_LONGER) is is_short
    assert step.number == (0.18 if is_short else step.number)


def test_a_run_keeps_its_verdict_after_a_newer_one_on_another_run(shop):
    trained(shop)
    better = evaluated(shop, ID, 20, 60)
    evaluated(shop, "20261101-0000-another", 30, 32, folder="20261124-1600-support-json")
    snapshot = shop.snapshot()
    assert snapshot.verdict
    assert snapshot.verdict.run_id != ID
    assert next_step(snapshot).evaluation == better.name


def test_a_later_verdict_on_a_part_of_the_rows_does_not_count(shop):
    trained(shop)
    base, tuned = (lambda at, reference: reference if at % 4 else "no"), (lambda at, reference: reference)
    first = evaluation(shop, "20261124-1500-support-json", arms={"base": base, "tuned": tuned}, run=ID, age=500.0)
    part = evaluation(shop, "20261124-1600-support-json", arms={"base": tuned, "tuned": tuned}, rows=20, run=ID)
    snapshot = shop.snapshot()
    assert next_step(snapshot).evaluation == first.name
    assert snapshot.best
    assert snapshot.best.rows == 40
    step = after_evaluation(part, snapshot)
    assert step
    assert (step.code, step.run, step.number) == (C.READ_WIDER_EVALUATION, first.name, 20)
    again = evaluation(shop, "20261124-1700-support-json", arms={"base": tuned, "tuned": tuned}, run=ID, age=10.0)
    assert next_step(shop.snapshot()).evaluation == again.name, "it measured the same rows again"


async def test_home_shows_the_name_that_the_best_adapter_was_given(shop, open_room):
    trained(shop)
    evaluated(shop, ID, 20, 60)
    journal = shop.folder / "adapters" / "library.jsonl"
    journal.parent.mkdir()
    journal.write_text(json.dumps({"do": "name", "key": f"runs/{ID}/adapter", "name": "math"}) + "\n")
    snapshot = shop.snapshot()
    assert snapshot.adapter_names == {ID: "math"}
    assert stages(snapshot)["Adapter"].detail == "math"
    async with open_room("home") as room:
        assert room.text("#best-picture").startswith("  math")


def test_home_leaves_out_metrics_that_did_not_change():
    same, whole = (Rate("exact", 5, 10, 0.0, 1.0),) * 2, (Rate("contract", 1, 10, 0.0, 1.0), Rate("contract", 6, 10, 0.0, 1.0))
    moved = Rate("schema", 5, 10, 0.0, 1.0), Rate("schema", 6, 10, 0.0, 1.0)
    assert key_metrics((same, whole)) == [whole]
    assert key_metrics((same, moved, whole)) == [moved, whole]
    assert key_metrics((whole, whole)) == [whole]


def test_a_later_evaluation_of_the_base_hides_no_verdict(shop):
    trained(shop)
    better = evaluated(shop, ID, 20, 60)
    later = evaluated(shop, "", 20, 20, folder="20261124-1600-support-json", arm="base")
    snapshot = shop.snapshot()
    assert next_step(snapshot).evaluation == better.name
    assert stages(snapshot)["Evaluate"].result == "better"
    assert stages(snapshot)["Blind"].detail == "optional"
    assert after_evaluation(later, snapshot) == next_step(snapshot)


@pytest.mark.slow
async def test_a_prompt_that_suffices_leads_to_advice(shop, open_room):
    shop.recipe()
    checked(shop)
    evaluated(shop, "", 40, 70, arm="base+kshot")
    snapshot = shop.snapshot()
    step = next_step(snapshot)
    assert (codes(step), step.name, step.number) == ([C.ASK_ADVICE, C.TRAIN, C.ESTIMATE_COST], "base+kshot", pytest.approx(70 / 72))
    assert step_why(step, snapshot) == "base+kshot: 97.2% without training"
    async with open_room("home") as room:
        assert not room.screen.query_one("#best").visible or "tuned" not in room.text("#best-picture")


def test_a_verdict_on_an_older_run_is_not_the_newest_run_s(shop):
    trained(shop)
    evaluated(shop, "20261101-0000-another", 20, 60)
    assert next_step(shop.snapshot()).code == C.EVALUATE_ADAPTER


def test_an_evaluation_that_failed_is_said(shop):
    trained(shop)
    failure = {"error": "No held-out rows.", "hint": "Raise data.holdout.", "code": 2}
    failed = shop.run("20261124-1500-x", kind="eval", end=("run.failed", failure))
    step = next_step(shop.snapshot())
    assert (step.code, step.run) == (C.REPEAT_EVALUATION, failed.name)
    assert step_why(step, shop.snapshot()) == "No held-out rows. Raise data.holdout."


def test_the_workflow_of_an_empty_workspace_waits_everywhere(shop):
    assert {stage.state for stage in workflow(shop.snapshot())} == {"waiting"}
    assert codes(next_step(shop.snapshot())) == [C.CREATE_SAMPLES, C.OPEN_FILE, C.ASK_ADVICE]
    assert next_step(shop.snapshot(), "mine.csv").name == "mine.csv"


def test_the_workflow_tells_what_is_there(loaded):
    found = stages(loaded.snapshot())
    assert found["Data"].detail == "1,069 train, 80 validation, 181 held out"
    assert (found["Plan"].detail, found["Plan"].result) == ("960 steps", "peak 13.4 of 24.0 GB")
    assert found["Train"].detail == "step 640 of 960"
    assert "left" in found["Train"].result


def test_what_is_said_of_the_rows_is_all_of_one_recipe(loaded):
    text = RECIPE.format(name="another").replace("support.jsonl", "another.jsonl")
    loaded.recipe("another", text)
    for name, findings in (("another", 9), ("support", 3)):
        source = loaded.folder / "data" / f"{name}.jsonl"
        source.touch()
        check_cache.save(source, CheckOutcome("look", 480, findings))
    assert stages(loaded.snapshot())["Data"].result == "3 to look at", "the newest run's"
    (loaded.folder / "recipes" / "support-json.toml").unlink()
    stage = stages(loaded.snapshot())["Data"]
    assert (stage.detail, stage.result) == ("480 rows", "9 to look at")


def test_the_workflow_ends_with_a_blind_session_and_the_adapter_that_is_proved(loaded):
    def last() -> list[tuple[StageState, str, str]]:
        return [(stage.state, stage.detail, stage.result) for stage in workflow(loaded.snapshot())[-2:]]

    assert last() == [("waiting", "needs an evaluated adapter", ""), ("waiting", "1 adapter, none proven better yet", "")]
    folder = evaluation(loaded, arms={"base": base, "tuned": tuned})
    assert last() == [("waiting", "optional", ""), ("done", "support-json", "82.5%")]
    with BlindSession(folder, "base", "tuned", load_pairs(folder, "base", "tuned"), 1, seed=3) as session:
        session.vote("a")
        other = replace(loaded.snapshot().recipes[0], recipe=None)
        of_other = workflow(of_recipe(loaded.snapshot(), other))
        assert of_other[-2].detail == "needs an evaluated adapter", "it is about another recipe"
        assert last()[0] == ("partly", f"1 of {session.votes_needed} votes", "in progress")
        while session.current:
            session.vote("a")
        assert last()[0][2] == "ready to reveal"
        session.reveal()
    assert last()[0] == ("done", f"{session.votes_needed} of {session.votes_needed} votes", "revealed")
    (session.folder / "session.json").write_text("{}")
    (session.folder / "votes.jsonl").write_text("")
    assert last()[0][0] == "waiting", "a session that cannot be read is none"


async def test_an_adapter_that_is_not_to_be_promoted_is_best_only_where_there_is_no_other(shop, open_room):
    trained(shop, age=900)
    evaluation(shop, arms={"base": base, "tuned": tuned}, run=ID, off_task=4)
    snapshot = shop.snapshot()
    step = next_step(snapshot)
    assert workflow(snapshot)[-1].state == "warning"
    assert step_mark(step, snapshot) == "warning"
    assert "not recommended: off-task accuracy" in step_why(step, snapshot)
    async with open_room("home", size=(140, 45)) as room:
        assert room.head("#best") == "Best so far"
        assert "! Better, but not recommended: off-task accuracy" in room.words("#best-picture")
    evaluation(shop, "20261124-1400-support-json", arms={"base": base, "tuned": kshot}, run="older")
    best = shop.snapshot().best
    assert best is not None
    assert (best.run_id, best.caveat) == ("older", None)
    assert workflow(shop.snapshot())[-1].state == "done"


def test_recipes_that_need_a_run_before_them_are_not_counted_as_ready(shop):
    shop.recipe()
    checked(shop)
    shop.run("20261101-1000-support-json", kind="eval", end=DONE, age=7000)
    assert codes(next_step(shop.snapshot())) == [C.TRAIN, C.ESTIMATE_COST]
    shop.recipe("tone")
    checked(shop)
    assert (next_step(shop.snapshot()).code, next_step(shop.snapshot()).number) == (C.CHOOSE_RECIPE, 2)
    shop.recipe("voice", RECIPE.format(name="voice") + '[adapter]\nparent = "last"\n')
    checked(shop)
    assert next_step(shop.snapshot()).number == 2


def test_missing_data_is_seen_before_a_run(shop):
    shop.recipe()
    (shop.folder / "data" / "support.jsonl").unlink()
    assert workflow(shop.snapshot())[0][2:4] == ("failed", "data/support.jsonl does not exist")


def test_rows_outside_the_workspace_are_called_by_their_path_from_it(shop):
    shop.recipe(text=RECIPE.format(name="support-json").replace("../data/", "../../elsewhere/"))
    assert shop.snapshot().recipes[0].source == "../elsewhere/support.jsonl"


def test_the_way_to_a_first_run(shop):
    path = shop.recipe()
    path.write_text("name = 3")
    assert next_step(shop.snapshot()).code == C.FIX_RECIPE
    assert step_why(next_step(shop.snapshot()), shop.snapshot())
    shop.recipe()
    assert codes(next_step(shop.snapshot())) == [C.CHECK_ROWS, C.TRAIN]
    source = shop.folder / "data" / "support.jsonl"
    checked(shop, "blocked", 9)
    step = next_step(shop.snapshot())
    assert (step.code, step.number, step.recipe) == (C.FIX_ROWS, 9, path)
    decide(source, ["rejected"])
    assert next_step(shop.snapshot()).code == C.CHECK_ROWS
    assert stages(shop.snapshot())["Data"].result == "review changed since the check"
    checked(shop, "look", 3)
    decide(source, ["rejected", "accepted"])
    assert codes(next_step(shop.snapshot())) == [C.EVALUATE_BASE, C.TRAIN]
    source.touch()  # the checks of the earlier rows no longer count
    checked(shop, "look", 3, rules="of another recipe")
    assert next_step(shop.snapshot()).code == C.CHECK_ROWS


def test_the_base_is_to_be_measured_until_it_has_been(shop):
    shop.recipe()
    checked(shop, "look", 3)
    failed = {"error": "Adapters need memory.", "hint": "Close other programs.", "code": 3}
    shop.run("20261124-1500-support-json", kind="eval", end=("run.failed", failed), age=900)
    assert codes(next_step(shop.snapshot())) == [C.REPEAT_EVALUATION, C.TRAIN]
    stopped = shop.run("20261124-1510-support-json", kind="eval", end=("run.stopped", {"step": 0}), age=800)
    assert next_step(shop.snapshot()).code == C.EVALUATE_BASE
    shop.run("20261124-1520-support-json-advice", kind="eval", end=DONE, age=700)
    assert next_step(shop.snapshot()).code == C.EVALUATE_BASE, "a sample for advice is no baseline"
    whole = ("arm.finished", {"arm": "base", "rows": 40, "cached": False, "seconds": 9.0})
    shop.tell(stopped, [started("eval"), whole, ("run.stopped", {"step": 0})], 600)
    assert next_step(shop.snapshot()).code == C.TRAIN
    assert stages(shop.snapshot())["Baseline"].state == "done"


def test_while_a_run_trains_rows_without_a_decision_are_offered(loaded):
    source = loaded.folder / "data" / "support.jsonl"
    check_cache.save(source, CheckOutcome("clean", 4, 0, invalid_left_out=1))
    decide(source, ["accepted", "rejected", "skipped", "rejected"])
    snapshot = loaded.snapshot(NOW)
    step = next_step(snapshot)
    assert snapshot.recipes[0].reviewed_rows == 2
    assert (codes(step), step.also[0].number) == ([C.WATCH_TRAINING, C.REVIEW_ROWS], 2)
    assert step_why(step, snapshot) == "validation loss 0.65 → 0.64"
    stage = stages(snapshot)["Review"]
    assert (stage.state, stage.detail, stage.result) == ("partly", "2 undecided", "50%")


def decide(source: Path, statuses: list[str]) -> None:
    rows = [{"row": str(at), "before": str(at), "after": str(at), "status": status} for at, status in enumerate(statuses)]
    events = [
        {"v": 1, "seq": at, "t": 1.0, "who": "a", "action": "accept", "reason": "", "rows": [row]} for at, row in enumerate(rows)
    ]
    source.with_name("support.review.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


CHANGE = [C.CHANGE_SETTING, C.SEARCH, C.READ_ROWS]


@pytest.mark.parametrize(
    ("base", "tuned", "limit", "expected"),
    [
        (20, 60, 0, [C.EVALUATE_EXAMPLES, C.USE_ADAPTER, C.EXPORT, C.READ_ROWS, C.CHANGE_SETTING]),
        (60, 20, 0, [*CHANGE, C.TRAIN_AGAIN]),
        (30, 35, 0, [C.ADD_ROWS, *CHANGE, C.COMPARE_BLIND, C.TRAIN_AGAIN]),
        (30, 35, 72, [C.EVALUATE_MORE_ROWS, *CHANGE, C.COMPARE_BLIND, C.TRAIN_AGAIN]),
        (30, 30, 72, [*CHANGE, C.COMPARE_BLIND, C.TRAIN_AGAIN]),
    ],
)
def test_a_verdict_leads_on(shop, base, tuned, limit, expected):
    trained(shop)
    folder = evaluated(shop, ID, base, tuned)
    with (folder / "recipe.toml").open("a") as file:
        file.write(f"[evaluation]\nrows = {limit}\n")
    assert codes(next_step(shop.snapshot())) == expected


def test_rows_that_were_not_checked_come_before_another_run(shop):
    trained(shop)
    evaluated(shop, ID, 30, 32)
    checked(shop, "look", 3, rules="of another recipe")
    assert next_step(shop.snapshot()).code == C.CHECK_ROWS
    evaluated(shop, ID, 20, 60, folder="20261124-1600-support-json")
    assert next_step(shop.snapshot()).code == C.EVALUATE_EXAMPLES


async def test_the_best_adapter_stays_when_a_later_one_is_worse(shop, open_room):
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
        assert "✗ newest: 20261125-0900-support-json, worse" in room.words("#best-picture")


@pytest.mark.parametrize(
    ("label", "flagged", "state", "result"),
    [("clean", 0, "done", "no problems"), ("look", 3, "done", "3 to look at"), ("blocked", 9, "failed", "9 to fix")],
)
def test_the_workflow_says_what_the_last_check_found(shop, label, flagged, state, result):
    shop.recipe()
    checked(shop, label, flagged)
    assert workflow(shop.snapshot())[0][2:] == (state, "480 rows", result)

import json
from typing import Any
from unittest.mock import Mock

import pytest

from mlxtune.advice import interview
from mlxtune.advice.evidence import AdviceEvidence, Measured
from mlxtune.core.errors import DataError
from mlxtune.evaluation.report import Rate
from mlxtune.recipe import Recipe
from mlxtune.tui.rooms.advice.screen import Interview

from .driver import NARROW, Opening, RoomDriver, opens, picture_sizes
from .stage import Shop

pytestmark = pytest.mark.slow

ANSWERS = {
    "change": ["format"], "requirements": "rarely", "calls": 20000, "tried": ["prompt"], "metric": "contract", "target": 95,
    "access": "everyone", "explain": "no",
}  # fmt: skip
RECIPE = 'name = "a"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "../data/support.jsonl"\n[evaluation]\nforbid = ["x"]\n'


def measured(hits: int) -> Measured:
    return Rate("contract", hits, 72, max(hits / 72 - 0.1, 0.0), min(hits / 72 + 0.1, 1.0)), "20261124-1412-support-json"


EVIDENCE = AdviceEvidence(
    "recipes/support-json.toml", 492, 492, "minimum_viable", 0, 72, True, True, 134_515_008,
    {"contract": {"base": measured(10), "base+prompt": measured(40), "base+kshot": measured(38)}},
)  # fmt: skip


def advised(shop: Shop) -> None:
    """A workspace with a recipe and its evidence, and no answers."""
    shop.recipe()
    shop.monkeypatch.setattr("mlxtune.tui.rooms.advice.screen.collect", lambda *_: EVIDENCE)


def answer_all(shop: Shop, **changes: object) -> None:
    (shop.folder / "advice.json").write_text(json.dumps(ANSWERS | changes))


def answered(shop: Shop) -> None:
    advised(shop)
    answer_all(shop)


async def ready(room: RoomDriver) -> None:
    await room.until(lambda: room.screen._evidence is not None)
    await room.pilot.pause()


ROOM = Opening("advice", advised, ready)


def answers(room: RoomDriver) -> dict[str, Any]:
    return dict(room.screen._interview.answers)


def remaining(room: RoomDriver) -> int:
    return len(room.screen._interview.missing)


def move_to(room: RoomDriver, question: str, option: str = "") -> None:
    lines = room.screen._interview.lines()
    index = next(index for index, line in enumerate(lines) if (line.question.key, line.option) == (question, option))
    room.screen.query_one("#advice-questions").go(index)


@opens(size=(100, 60))
async def test_no_option_is_cut(room):
    for width in (100, 120, 140):
        await room.pilot.resize_terminal(width, 60)
        await room.until(lambda width=width: room.screen.size.width == width)  # type: ignore[misc]
        assert "…" not in room.text("#advice-questions"), width


async def test_options_are_selected_deselected_and_counted_beside_what_was_measured(room):
    picture = room.text("#advice-picture")
    assert "5 answers to go" in picture
    assert "base+prompt  55.6%" in picture
    assert "measure base" not in picture
    assert room.head("#advice-interview") == "▌ Interview question 1 of 8, 5 left", "those with a default are answered"
    await room.press("down", "enter")
    assert answers(room)["change"] == ["format"]
    assert "● format" in room.text("#advice-questions")
    await room.press("space")
    assert answers(room)["change"] is None
    assert remaining(room) == 5, "with nothing selected it is not answered"
    move_to(room, "change")
    await room.press("enter")
    assert room.screen.query_one("#advice-questions").cursor == 1
    assert remaining(room) == 5, "enter on a question does not answer it"
    move_to(room, "tried", "none")
    await room.press("enter")
    assert answers(room)["tried"] == []
    assert remaining(room) == 4, "none is an answer"
    move_to(room, "tried", "prompt")
    await room.press("enter")
    assert answers(room)["tried"] == ["prompt"]


@opens(size=(120, 45))
async def test_the_whole_interview_gives_advice_and_is_saved_for_the_command_line(shop, room):
    for question, option in (("change", "format"), ("requirements", "rarely"), ("tried", "prompt"), ("metric", "contract")):
        move_to(room, question, option)
        await room.press("enter")
    move_to(room, "calls")
    await room.press("enter")
    await room.type("many")
    await room.press("enter", until=lambda: "Enter a number." in room.text("#wrong"))
    await room.press(*["backspace"] * 4)
    await room.type("20,000")
    await room.press("enter", until=lambda: room.mode == "advice" and remaining(room) == 0)
    assert "all answered" in room.head("#advice-interview")
    assert "✓ Fine-tune with SFT." in room.text("#advice-picture")
    assert "20,000" in room.text("#advice-questions")
    saved = interview.load_last(shop.folder)
    assert saved is not None
    assert interview.answers_json(saved) == ANSWERS


@opens(stage=answered, size=NARROW)
async def test_g_shows_the_reasons_and_v_the_table(room):
    assert room.actions[:3] == ["choose", "why", "table"]
    await room.press("g", until=lambda: room.mode == "" and "✓ Fine-tune with SFT." in room.text("#rows"))
    await room.press("end")
    assert "Train support-json" in room.text("#rows")
    await room.press("escape", "v", until=lambda: "Does it need facts" in room.text("#rows"))


@opens(stage=lambda shop: (answered(shop), shop.recipe(text=RECIPE)))
async def test_a_dot_measures_the_arms_without_training_on_thirty_rows(shop, room, monkeypatch):
    started: list[Recipe] = []
    monkeypatch.setattr("mlxtune.workspace.control.evaluate", lambda _workspace, recipe: started.append(recipe))
    await room.press(".", until=lambda: bool(started) and not room.app.jobs.busy)
    assert (started[0].evaluation.rows, started[0].evaluation.arms) == (30, ["base", "base+kshot"])
    shop.run("20261125-1500-a-advice", kind="eval", alive=True)
    await room.observe(shop.snapshot())
    await room.until(lambda: "Measuring on 30 held-out rows" in room.text("#advice-picture"))
    assert "measure" not in room.actions


@opens(stage=answered)
async def test_an_answer_changed_while_a_measurement_starts_is_saved(shop, room):
    room.app.jobs.busy = True
    await room.press("down", "down", "enter")
    await room.pilot.pause()
    saved = interview.load_last(shop.folder)
    assert saved is not None
    assert interview.answers_json(saved) == answers(room) != ANSWERS


@opens(stage=lambda shop: (advised(shop), shop.recipe("other")))
async def test_o_chooses_another_recipe(room):
    before = room.app.selection.recipe
    await room.press("o", choose="0" if before is room.app.snapshot.recipes[1] else "1")
    assert room.app.selection.recipe is not before


async def test_data_that_cannot_be_read_is_reported_and_the_interview_continues(shop, open_room, monkeypatch):
    shop.recipe()
    error = DataError("support.jsonl, line 3: not JSON.", hint="Fix the line.")
    monkeypatch.setattr("mlxtune.tui.rooms.advice.screen.collect", Mock(side_effect=error))
    async with open_room() as room:
        assert "✗ support.jsonl, line 3: not JSON." in room.text("#advice-picture")
        assert "Fix the line." in room.text("#advice-picture")
        await room.press("down", "enter")
        assert answers(room)["change"] == ["format"]


async def test_an_unfinished_interview_is_restored(shop, room):
    half = Interview.load(shop.folder, {"change": ["style"], "calls": "many", "nonsense": 1})
    assert half.answers["change"] == ["style"]
    assert "calls" not in half.answers
    await room.press("down", "enter")
    defaults = {key: ANSWERS[key] for key in ("target", "access", "explain")}
    assert room.screen.save_state() == {"given": {**defaults, "change": ["format"]}}


@opens(stage=lambda shop: answer_all(shop, metric="none"))
async def test_without_a_recipe_the_advice_is_from_answers_alone(room):
    assert "based on answers alone" in room.head("#advice-verdict")
    assert room.screen.advice is not None


@picture_sizes
def test_picture(shop, picture, size):
    answered(shop)
    picture(shop, size, "advice", ready)

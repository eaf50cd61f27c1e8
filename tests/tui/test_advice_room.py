"""The Advice room: an interview that is answered with keys, and a verdict that follows every answer."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from mlxtune.advice import answers
from mlxtune.advice.evidence import Evidence, Measured
from mlxtune.core.errors import DataError
from mlxtune.recipe import Recipe
from mlxtune.tui.advices import Interview
from mlxtune.tui.app import MlxtuneApp

from .stage import Shop, footer, observe, shown, until

ANSWERS = {
    "change": ["format"], "requirements": "rarely", "calls": 20000, "tried": ["prompt"], "metric": "contract", "target": 95,
    "access": "everyone", "explain": "no",
}  # fmt: skip


def measured(arm: str, hits: int) -> Measured:
    return Measured(arm, hits, 72, max(hits / 72 - 0.1, 0.0), min(hits / 72 + 0.1, 1.0), "20261124-1412-support-json")


KNOWN = Evidence(
    "recipes/support-json.toml", 492, 492, "minimum viable", 0, 72, True, True, 134_515_008,
    {"contract": {"base": measured("base", 10), "base+prompt": measured("base+prompt", 40), "base+kshot": measured("base+kshot", 38)}},
)  # fmt: skip


@pytest.fixture
def asked(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A workspace with a recipe of which all is known, and no answers."""
    shop.recipe()
    monkeypatch.setattr("mlxtune.tui.advices.gather", lambda *_: KNOWN)
    return shop


async def go(pilot: Any) -> None:
    await pilot.press("V")
    await until(pilot, lambda: "Interview" in shown(pilot.app) and "reading the rows" not in shown(pilot.app))


async def test_answers_are_chosen_taken_back_and_counted(asked: Shop) -> None:
    app = asked.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await go(pilot)
        assert "5 questions left" in shown(app), "those with a default are answered"
        await pilot.press("down", "enter")
        await until(pilot, lambda: "● format" in shown(app))
        await pilot.press("space")
        await until(pilot, lambda: "○ format" in shown(app))
        assert "5 questions left" in shown(app), "with nothing chosen it is not answered"
        pane = app.screen.query_one("#advice-questions")
        pane.go(0)
        await pilot.press("enter")
        await until(pilot, lambda: pane.cursor == 1)
        assert "5 questions left" in shown(app), "enter on a question is no answer to it"
        pane.go(next(at for at, line in enumerate(app.screen._interview.lines()) if line.option == "none"))
        await pilot.press("enter")
        await until(pilot, lambda: "● none" in shown(app))
        assert "4 questions left" in shown(app), "that none of them is right is an answer"
        pane.go(1)
        await pilot.press("enter")
        await until(pilot, lambda: "● format" in shown(app) and "○ none" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: "5 questions left" in shown(app))


async def test_the_whole_interview_gives_a_verdict_that_the_command_line_finds_too(asked: Shop) -> None:
    app = asked.app()
    async with app.run_test(size=(120, 45)) as pilot:
        await go(pilot)
        lines = app.screen._interview.lines()
        wanted = {("change", "format"), ("requirements", "rarely"), ("tried", "prompt"), ("metric", "contract")}
        for at, line in enumerate(lines):
            if (line.question.key, line.option) in wanted:
                app.screen.query_one("#advice-questions").go(at)
                await pilot.press("enter")
            if line.question.key == "calls":
                app.screen.query_one("#advice-questions").go(at)
                await pilot.press("enter", *"many", "enter")
                await until(pilot, lambda: "That is no number." in shown(app))
                await pilot.press(*["backspace"] * 4, *"20,000", "enter")
        await until(pilot, lambda: "all answered" in shown(app))
        assert "Fine-tune it, with SFT." in shown(app)
        assert "20,000" in shown(app)
        await until(pilot, lambda: answers.last(asked.folder) is not None)
        assert answers.last(asked.folder).as_json() == ANSWERS


async def test_w_and_t_show_the_reasons_and_the_nine_questions(asked: Shop) -> None:
    (asked.folder / "advice.json").write_text(json.dumps(ANSWERS))
    app = asked.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await go(pilot)
        assert "enter choose" in footer(app)
        await pilot.press("w")
        await until(pilot, lambda: "A format is behaviour" in shown(app))
        await pilot.press("escape", "t")
        await until(pilot, lambda: "Does it need facts that the model does not have?" in shown(app))
        await pilot.press("escape")
        await until(pilot, lambda: "Interview" in shown(app))


async def test_m_measures_what_needs_no_training_on_thirty_rows(asked: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    (asked.folder / "advice.json").write_text(json.dumps(ANSWERS))
    asked.recipe(
        text='name = "a"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "../data/support.jsonl"\n[evaluation]\nforbid = ["x"]\n'
    )
    started: list[Recipe] = []
    monkeypatch.setattr("mlxtune.runs.launch.start", lambda _workspace, kind, recipe, *_: started.append(recipe))
    app = asked.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await go(pilot)
        await pilot.press("m")
        await until(pilot, lambda: bool(started))
        assert (started[0].evaluation.rows, started[0].evaluation.arms) == (30, ["base", "base+kshot"])
        await until(pilot, lambda: not app.busy)
        begun = asked.run("20261125-1500-a-advice", kind="eval", alive=True)
        await observe(pilot, asked.snapshot())
        await until(pilot, lambda: "Measuring on 30 held-out rows." in shown(app))
        assert "m measure" not in footer(app)
        asked.run(
            "20261125-1501-a-advice", kind="eval", end=("run.failed", {"error": "No memory.", "mend": "Free some.", "code": 3})
        )
        shutil.rmtree(begun)
        await observe(pilot, asked.snapshot())
        await until(pilot, lambda: "✗ No memory." in shown(app))
        assert "Measuring on 30" not in shown(app)
        await pilot.press("H", "V")
        await until(pilot, lambda: "Free some." in shown(app), 5)
        assert "m measure again" in shown(app)
        await pilot.press("m")
        await until(pilot, lambda: len(started) == 2)


async def test_an_answer_that_is_changed_while_a_measurement_starts_is_kept(asked: Shop) -> None:
    (asked.folder / "advice.json").write_text(json.dumps(ANSWERS))
    app = asked.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await go(pilot)
        app.busy = True
        await pilot.press("down", "down", "enter")
        await pilot.pause()
        kept = answers.last(asked.folder)
        assert kept is not None
        assert kept.as_json() == dict(app.screen._interview.given) != ANSWERS


async def test_o_goes_to_another_recipe(asked: Shop) -> None:
    asked.recipe("other")
    app = asked.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await go(pilot)
        await pilot.press("o")
        await until(pilot, lambda: "Which recipe?" in shown(app))


async def test_rows_that_cannot_be_read_are_told_and_answers_go_on(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Evidence:
        raise DataError("support.jsonl, line 3: no JSON.", mend="Mend the line.")

    shop.recipe()
    monkeypatch.setattr("mlxtune.tui.advices.gather", broken)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await go(pilot)
        await until(pilot, lambda: "✗ support.jsonl, line 3: no JSON." in shown(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "● format" in shown(app))


async def test_an_interview_that_was_left_half_done_comes_back(asked: Shop) -> None:
    half = Interview.of(asked.folder, {"change": ["style"], "calls": "many", "nonsense": 1})
    assert half.given["change"] == ["style"]
    assert "calls" not in half.given
    app = asked.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await go(pilot)
        await pilot.press("down", "enter")
        assert app.screen.remember() == {
            "given": {**{key: ANSWERS[key] for key in ("target", "access", "explain")}, "change": ["format"]}
        }


async def test_a_workspace_without_a_recipe_is_advised_from_answers_alone(shop: Shop) -> None:
    (shop.folder / "advice.json").write_text(json.dumps({**ANSWERS, "metric": "none"}))
    app = MlxtuneApp(shop.folder, watch=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await observe(pilot, shop.snapshot())
        await go(pilot)
        assert "from answers alone" in shown(app)
        assert "no training" in shown(app).lower() or "not yet" in shown(app).lower() or "number" in shown(app)

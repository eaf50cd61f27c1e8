"""Evaluate: every key, every state, and from any number to the rows behind it."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.errors import MachineError
from mlxtune.runs.registry import Run
from mlxtune.tui import evaluations
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.screens.evaluate import Evaluate
from mlxtune.tui.screens.page import Page
from mlxtune.tui.widgets.pane import ListPane
from mlxtune.tui.widgets.square import Square

from .evaluated import base, evaluating, evaluation
from .stage import NOW, Shop, footer, observe, shown, until
from .test_naughty import NAUGHTY


async def at_evaluate(app: MlxtuneApp, pilot: Any, text: str = "Tuned fails") -> None:
    await pilot.press("E")
    await until(pilot, lambda: text in shown(app))


async def focus(app: MlxtuneApp, pilot: Any, id: str) -> None:
    app.screen.query_one(f"#{id}").focus()
    await pilot.pause()


async def test_a_report_is_a_verdict_arms_a_square_and_rows(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await at_evaluate(app, pilot)
        text = shown(app)
        parts = (
            "· Cannot tell. Whole contract changed by|Over base: +57|First look at these rows.|40 held-out rows, none trained on"
        )
        parts += "|whole contract, %|95 % Wilson intervals|82.5  68–91|60.0  45–74|base+kshot against tuned|5 broken|fixed 14|p = "
        parts += "|1 of 7|Line 8|it ends inside a string|Nearest training rows|% alike"
        for part in parts.split("|"):
            assert part in text, part
        assert "●" in next(row for row in text.splitlines() if "tuned" in row and "82.5" in row)
        assert footer(app).startswith("enter row   m metric   f failures   v versus   w review   n new")


async def test_while_the_adapter_is_measured_the_base_s_report_says_so(shop: Shop) -> None:
    evaluation(shop, arms={"base": base})
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot, "Train, then evaluate")
        evaluating(shop)
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: "Now tuned is being measured; the verdict follows." in shown(app))
        assert "Train, then evaluate" not in shown(app)


async def test_the_failing_part_is_marked_beside_the_reference(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        await pilot.press("down", "down", "down", "down", "down")
        await until(pilot, lambda: "Line 5" in shown(app))
        rows = shown(app).splitlines()
        at = next(index for index, row in enumerate(rows) if '"hgih",' in row and '"low",' in row)
        assert "^^^^^^" in rows[at + 1]
        assert rows[at + 1].index("^") == rows[at].index('"hgih"')
        assert '"hgih" is not one of "low", "normal" or "high"' in shown(app)
        await pilot.press("v")
        assert "Dear customer" in shown(app) or "```json" in shown(app) or '"low"' in shown(app)
        assert " base" in rows[at - 2] or " base" in shown(app)
        await pilot.press("v", "v")
        assert "reference" in shown(app)


async def test_enter_goes_from_every_number_to_the_rows_behind_it(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        await focus(app, pilot, "ev-table")
        assert "enter rows" in footer(app)
        await pilot.press("up", "up", "enter")
        await until(pilot, lambda: "Base fails" in shown(app) and "1 of 30" in shown(app))
        assert isinstance(app.focused, ListPane)
        assert app.focused.id == "ev-list"
        await focus(app, pilot, "ev-cells")
        for keys, title, count in (
            ((), "Broken", "1 of 5"),
            (("down",), "Both fail", "1 of 2"),
            (("left",), "Fixed", "1 of 14"),
            (("up",), "Both hold", "1 of 19"),
        ):
            await focus(app, pilot, "ev-cells")
            await pilot.press(*keys, "enter")
            await until(pilot, lambda title=title, count=count: title in shown(app) and count in shown(app))  # type: ignore[misc]
        assert "✓ 1 " in shown(app)
        await focus(app, pilot, "ev-told")
        assert "enter report" in footer(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Page))
        text = shown(app)
        await pilot.press("end")
        text += shown(app)
        for part in ("whole contract", "no forbidden phrase", "How they answered", "perplexity of the references", "decoding"):
            assert part in text, part


async def test_f_shows_one_class_of_failures_and_all_again(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        await pilot.press("f")
        await until(pilot, lambda: "Which failures of tuned?" in shown(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "Tuned fails: " in shown(app) and "1 of 1" in shown(app))
        await pilot.press("f", "enter")
        await until(pilot, lambda: "1 of 7" in shown(app))


async def test_m_goes_through_the_metrics_and_the_square_follows(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        await pilot.press("m")
        await until(pilot, lambda: "valid JSON, 1 of 3" in shown(app))
        assert "valid JSON, %" in shown(app)
        assert "whole contract, %" in shown(app), "the whole contract stays beside it"
        screen = app.screen
        assert isinstance(screen, Evaluate)
        assert screen._opened is not None
        for _ in screen._opened.metrics[1:]:
            await pilot.press("m")
        await until(pilot, lambda: "1 of 7" in shown(app))


async def test_enter_on_a_row_shows_all_of_it(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await at_evaluate(app, pilot)
        assert "Nearest training rows" not in shown(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Page))
        text = ""
        for _ in range(8):
            text += shown(app)
            await pilot.press("pagedown")
        for part in (
            "Line 8",
            "◇ system",
            "○ user",
            "tuned",
            "base",
            "reference",
            "it ends inside a string",
            "Nearest training rows",
            "not reviewed",
        ):
            assert part in text, part
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Evaluate))


async def test_failing_rows_scroll_and_do_not_fall_off(shop: Shop) -> None:
    evaluation(shop, arms={"base": base, "tuned": lambda at, _: f"no JSON {at}"})
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await at_evaluate(app, pilot, "1 of 40")
        await pilot.press("end")
        assert "40 of 40" in shown(app)
        assert "✗ 40" in shown(app)
        await pilot.press("pageup", "home")
        assert "1 of 40" in shown(app)


async def test_w_goes_to_review_with_the_row(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    went: list[str] = []
    evaluation(shop)
    app = shop.app()
    monkeypatch.setattr(app, "action_room", went.append)
    monkeypatch.setattr(type(app), "rooms", property(lambda _: ("Home", "Review", "Plan", "Train", "Evaluate")))
    async with app.run_test(size=(120, 36)) as pilot:
        await app.switch_mode("evaluate")
        await until(pilot, lambda: "1 of 7" in shown(app))
        await pilot.press("w")
        await until(pilot, lambda: "Which training row?" in shown(app))
        assert "% alike" in shown(app)
        await pilot.press("down", "enter")
        await until(pilot, lambda: went == ["review"])
        assert app.wanted_row is not None
        assert len(app.wanted_row) == 12
        source = (shop.folder / "data" / "support.jsonl").read_text().splitlines()
        from mlxtune.data.source import read_file

        ids = [row.id for row in read_file(shop.folder / "data" / "support.jsonl")]
        assert 40 <= ids.index(app.wanted_row) < len(source), "a training row"


async def test_a_baseline_alone_is_shown_without_a_comparison(shop: Shop) -> None:
    evaluation(shop, arms={"base": base})
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot, "Base fails")
        assert "◐ The base is measured." in shown(app)
        assert "against" not in shown(app).split("Arms")[1].split("Base fails")[0]
        await pilot.press("v")
        assert "reference" in shown(app)


async def test_preference_training_shows_its_margins(shop: Shop) -> None:
    evaluation(shop, "20261124-1700-brand-voice", name="brand-voice", pairs=True)
    app = shop.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await at_evaluate(app, pilot)
        text = shown(app)
        assert "right preference, %" in text
        assert "Margin of the chosen answers, in nats a token: base −1.39" in text
        assert "tuned over base+kshot: +0.2" in text
        assert "the rejected answer is likelier" in text


async def test_r_shows_the_off_task_prompts_that_broke_first(shop: Shop) -> None:
    evaluation(shop, off_task=2, looks=4)
    app = shop.app()
    async with app.run_test(size=(120, 45)) as pilot:
        await at_evaluate(app, pilot)
        assert "✗ General behaviour dropped: 8 of 10 off-task prompts answered right, 10 by the base." in shown(app)
        assert "Seen 4 times; expect optimism." in shown(app)
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, Page))
        rows = [row.strip() for row in shown(app).splitlines() if row.strip()]
        assert any(row.startswith("✗ broken  q0") for row in rows)
        assert "What comes after 0?" in shown(app)
        assert "I do not know." in shown(app)


async def test_o_chooses_a_report_and_c_holds_two_against_each_other(shop: Shop) -> None:
    evaluation(shop, "20261120-1500-support-json", arms={"base": base, "tuned": base}, age=4 * 86400)
    evaluation(shop, "20261124-1500-support-json")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        await pilot.press("c")
        await until(pilot, lambda: "Hold it against which?" in shown(app))
        assert "support-json, 4 d" in shown(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Page))
        assert "✓ Better. Whole contract rose by" in shown(app)
        assert "tuned of 20261124-1500-support-json against tuned of 20261120-1500-support-json" in shown(app)
        await pilot.press("escape", "o")
        await until(pilot, lambda: "Which report?" in shown(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "Verdict on support-json" in shown(app) and "1 of 30" in shown(app))
        await pilot.press("m")
        screen = app.screen
        assert isinstance(screen, Evaluate)
        kept = json.loads(json.dumps(dict(screen.remember())))
        assert kept == {"evaluation": "20261120-1500-support-json", "metric": "json"}


async def test_reports_on_other_terms_are_not_compared(shop: Shop) -> None:
    evaluation(shop, "20261120-1500-support-json", rows=30, age=4 * 86400)
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        await pilot.press("c")
        await until(pilot, lambda: "Hold it against which?" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: "cannot be compared: the held-out rows" in shown(app))


async def test_e_tells_where_the_page_is(shop: Shop) -> None:
    folder = evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        await pilot.press("e")
        await until(pilot, lambda: "evals/20261124-1500-support-json/report.html" in shown(app))
    (folder / "report.html").unlink()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        assert "page" not in footer(app)


async def test_n_asks_what_and_which_arms_and_starts(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []

    def start(workspace: Path, kind: str, recipe: Any, request: dict[str, str]) -> Run:
        started.append((kind, recipe.evaluation.arms, request))
        return Run(workspace)

    monkeypatch.setattr("mlxtune.runs.launch.start", start)
    evaluation(shop)
    run = shop.run("20261124-1412-support-json", steps=60, end=("run.finished", {"summary": {}}), age=300)
    (run / "adapter").mkdir()
    (run / "adapter" / "adapters.safetensors").touch()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        await pilot.press("n")
        await until(pilot, lambda: "Evaluate what?" in shown(app))
        assert "its adapter, 5 min ago" in shown(app)
        assert "its base alone" in shown(app)
        await pilot.press("enter")
        await until(pilot, lambda: "Which arms?" in shown(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: len(started) == 1)
        assert started == [
            ("eval", ["base", "base+kshot", "tuned"], {"run": "20261124-1412-support-json", "adapter": str(run / "adapter")})
        ]
        await pilot.press("n")
        await until(pilot, lambda: "Evaluate what?" in shown(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "Which arms?" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: len(started) == 2)
        assert started[1] == ("eval", ["base", "tuned"], {})


async def test_a_start_that_fails_is_a_sentence(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any) -> Run:
        raise MachineError("The worker of x ended before it said a word: killed", mend="Its log: worker.log")

    monkeypatch.setattr("mlxtune.runs.launch.start", start)
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        await pilot.press("n")
        await until(pilot, lambda: "Evaluate what?" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: "Which arms?" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: "✗ The worker of x ended before it said a word" in shown(app))
        assert "Tuned fails" in shown(app)


async def test_an_evaluation_at_work_shows_arms_and_rows_and_can_be_stopped(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: stopped.append(run.id))
    evaluation(shop)
    evaluating(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        text = shown(app)
        assert "Evaluating support-json" in text
        assert "14 of 40 rows" in text
        assert "40 of 40 rows" in text
        assert "new" not in footer(app)
        await pilot.press("s")
        await until(pilot, lambda: "Stop the evaluation of support-json?" in shown(app))
        await pilot.press("enter")
        assert stopped == []
        await pilot.press("s", "down", "enter")
        await until(pilot, lambda: stopped == ["20261124-1600-support-json"])


async def test_a_first_evaluation_at_work_is_all_there_is(shop: Shop) -> None:
    shop.recipe()
    evaluating(shop)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await at_evaluate(app, pilot, "14 of 40 rows")
        assert "Nothing has been evaluated yet." not in shown(app)
        assert footer(app) == "s stop   q quit"
    app = shop.app(NOW + 60)
    async with app.run_test(size=(80, 24)) as pilot:
        await at_evaluate(app, pilot, "Nothing was heard for")


@pytest.mark.parametrize(
    ("end", "told", "more"),
    [
        (
            ("run.failed", {"error": "The schema changed.", "mend": "Set it back.", "code": 2}),
            "✗ The schema changed.",
            "Set it back.",
        ),
        (("run.stopped", {"step": 0}), "■ The evaluation was stopped.", "Start another when you like."),
        (None, "✗ The evaluation ended without saying why.", "Its process printed last: Killed"),
    ],
)
async def test_an_evaluation_that_came_to_nothing_says_why_over_the_last_report(shop: Shop, end: Any, told: str, more: str) -> None:
    evaluation(shop)
    shop.run("20261124-1700-support-json", kind="eval", age=90, end=end, printed="Killed\n")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        assert told in shown(app)
        assert more in shown(app)


async def test_nothing_evaluated_yet_offers_it_with_one_key(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr("mlxtune.runs.launch.start", lambda workspace, kind, recipe, request: started.append(kind))
    shop.recipe()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot, "Nothing has been evaluated yet.")
        assert "Base, tuned answer the same held-out rows." in shown(app)
        assert "enter evaluate support-json" in shown(app)
        for text in ("Evaluate what?", "Which arms?"):
            await pilot.press("enter")
            await until(pilot, lambda text=text: text in shown(app))  # type: ignore[misc]
        await pilot.press("enter")
        await until(pilot, lambda: started == ["eval"])


async def test_an_empty_workspace_says_where_to_begin(shop: Shop) -> None:
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await at_evaluate(app, pilot, "go home: a sample workspace is one key away")
        await pilot.press("enter", "m", "f", "v", "w", "c", "o", "e", "r", "s")
        await pilot.pause()
        assert isinstance(app.screen, Evaluate)


async def test_a_report_that_cannot_be_read_is_a_sentence(shop: Shop) -> None:
    folder = evaluation(shop)
    (folder / "report.json").write_text('{"arms": 3}')
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot, "is not a report of this version")
        assert "Evaluate again, or choose another report." in shown(app)


async def test_a_report_without_its_evidence_still_has_its_numbers(shop: Shop) -> None:
    folder = evaluation(shop)
    (folder / "questions.jsonl").unlink()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot, "82.5  68–91")
        await until(pilot, lambda: "questions.jsonl: its numbers cannot be computed again." in shown(app))
        await pilot.press("m", "enter", "f", "v", "w")
        await pilot.pause()
        assert app.is_running


async def test_a_folder_that_vanishes_leaves_the_room_standing(shop: Shop) -> None:
    folder = evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        shutil.rmtree(folder)
        await pilot.press("m", "enter", "escape")
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: "Nothing has been evaluated yet." in shown(app))


async def test_a_report_that_opens_while_rows_are_asked_for_is_shown(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation(shop)
    gate, real = threading.Event(), evaluations.open_evaluation
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        monkeypatch.setattr(evaluations, "open_evaluation", lambda folder: (gate.wait(5), real(folder))[1])
        newer = evaluation(shop, "20261124-1600-support-json", age=60)
        app.screen._opened = None  # type: ignore[attr-defined]
        await observe(pilot, shop.snapshot())
        app.screen._opened = real(newer.parent / "20261124-1500-support-json")  # type: ignore[attr-defined]
        await pilot.press("m")
        gate.set()
        await until(pilot, lambda: app.screen._opened.folder == newer)  # type: ignore[attr-defined]


async def test_a_click_on_a_cell_shows_its_rows(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_evaluate(app, pilot)
        square = app.screen.query_one(Square)
        rows = shown(app).splitlines()
        y = next(at for at, row in enumerate(rows) if "fixed 14" in row)
        await pilot.click("#ev-cells", offset=(rows[y].index("fixed 14") - square.region.x, y - square.region.y))
        await until(pilot, lambda: "1 of 14" in shown(app))


async def test_hostile_outputs_are_text(shop: Shop) -> None:
    evaluation(
        shop,
        arms={"base": base, "tuned": lambda at, _: f"{at} {NAUGHTY}".encode("utf-16", "surrogatepass").decode("utf-16", "replace")},
    )
    app = shop.app()
    for size in ((120, 36), (80, 24)):
        async with app.run_test(size=size) as pilot:
            await at_evaluate(app, pilot)
            for keys in ((), ("down",), ("v",), ("enter",), ("pagedown",), ("escape",), ("f",), ("escape",)):
                await pilot.press(*keys)
                await pilot.pause()
                assert not set(shown(app)) & set("\x1b\x9b\x07\x00\r\t\u202e\u2066\u200f"), keys
        app = shop.app()


@pytest.mark.parametrize("size", [(1, 1), (20, 5), (60, 15), (200, 60)])
async def test_any_size_is_borne(shop: Shop, size: tuple[int, int]) -> None:
    evaluation(shop, off_task=2)
    evaluating(shop)
    app = shop.app()
    async with app.run_test(size=size) as pilot:
        await pilot.press("E")
        await until(pilot, lambda: app.screen._seen is not None)  # type: ignore[attr-defined]
        for keys in (("enter", "escape"), ("m", "v", "f", "escape"), ("tab", "tab", "enter"), ("r", "escape"), ("end",)):
            await pilot.press(*keys)
        await pilot.resize_terminal(size[0] + 1, size[1] + 1)
        await pilot.pause()
        assert app.is_running

"""Home: every key, the first steps in an empty workspace, and what is offered when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.errors import MachineError
from mlxtune.evaluation.report import Measured, build, save
from mlxtune.evaluation.scorers import Score
from mlxtune.runs.registry import Run
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.widgets.frame import tab_places

from .stage import NOW, Shop, footer, observe, shown, until


async def test_an_empty_workspace_offers_the_samples_and_one_key_makes_them(shop: Shop) -> None:
    app = MlxtuneApp(shop.folder)
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: "Start with the sample workspace." in shown(app))
        assert footer(app).split() == ["enter", "make", "it", "q", "quit"]
        await pilot.press("enter")
        await until(pilot, lambda: "Look at the rows first." in shown(app))
        assert "data/samples/support.jsonl" in shown(app), "of several recipes the main one stands first"
        assert (shop.folder / "recipes" / "support-json.toml").is_file()
        assert "✓ Made recipes/support-json.toml" in shown(app)


async def test_samples_that_cannot_be_made_leave_a_sentence_and_the_screen(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> Path:
        raise MachineError("The disk is full, so recipes was not saved.", mend="Free some space, then run it again.")

    monkeypatch.setattr("mlxtune.data.samples.create", full)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("enter")
        await until(pilot, lambda: "✗ The disk is full" in shown(app))
        assert "Free some space" in shown(app)
        assert "Start with the sample workspace." in shown(app)
        await pilot.press("escape")
        assert "disk is full" not in shown(app)


async def test_n_starts_the_only_recipe_and_goes_to_train(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[Path, str, str]] = []

    def start(workspace: Path, kind: str, recipe: Any) -> Run:
        started.append((workspace, kind, recipe.name))
        return Run(workspace)

    monkeypatch.setattr("mlxtune.runs.launch.start", start)
    shop.recipe()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("n")
        await until(pilot, lambda: not app.busy)
        assert started == [(shop.folder, "train", "support-json")]
        assert app.current_mode == "train"


async def test_a_worker_that_dies_at_once_is_told_with_its_mend(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any) -> Run:
        raise MachineError("The worker of x ended before it said a word: killed", mend="Its log: worker.log")

    monkeypatch.setattr("mlxtune.runs.launch.start", start)
    shop.recipe()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("n")
        await until(pilot, lambda: "✗ The worker of x ended" in shown(app))
        assert "Its log: worker.log" in shown(app)
        assert "n new" in footer(app)


async def test_with_more_than_one_recipe_n_asks_which(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr("mlxtune.runs.launch.start", lambda workspace, kind, recipe: names.append(recipe.name))
    shop.recipe("alpha")
    shop.recipe("beta")
    shop.recipe("aaa-broken", "name = 3")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("n")
        await pilot.pause()
        assert "Which recipe?" in shown(app)
        assert shown(app).index("alpha.toml") < shown(app).index("aaa-broken.toml"), "what cannot start stands last"
        await pilot.press("escape")
        assert names == []
        assert app.current_mode == "home"
        await pilot.press("n", "down", "enter")
        await until(pilot, lambda: names == ["beta"])


async def test_a_recipe_that_cannot_be_read_is_a_sentence_and_home_stays(shop: Shop) -> None:
    shop.recipe("bad", 'name = "bad"\n[modle]\nbase = "x"\n')
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        assert "recipes/bad.toml cannot be used." in shown(app)
        await pilot.press("n")
        await until(pilot, lambda: "unknown key modle" in " ".join(shown(app).split()))
        assert "Did you mean model?" in " ".join(shown(app).split())
        assert app.current_mode == "home"


async def test_arrows_choose_a_run_and_enter_opens_it(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        assert "▌ Next" in shown(app)
        await pilot.press("down", "down", "down")
        assert "▌ Runs" in shown(app)
        assert "▌ ✗ support-json" in shown(app)
        assert "enter open" in footer(app)
        await pilot.press("up", "down", "enter")
        assert app.current_mode == "train"
        assert app.selected == "20261122-0900-support-json"
        assert "The loss is not a number at step 88." in shown(app)


async def test_tab_goes_between_next_and_runs(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("tab")
        assert "▌ Runs" in shown(app)
        await pilot.press("tab")
        assert "▌ Next" in shown(app)
        await pilot.press("up")
        assert "▌ Next" in shown(app)


async def test_enter_on_next_does_what_next_says(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        assert "Let the run finish, then evaluate it." in shown(app)
        await pilot.press("enter")
        assert app.current_mode == "train"


async def test_while_a_run_trains_no_other_can_be_started(loaded: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.runs.launch.start", lambda *_: pytest.fail("started"))
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        assert "new" not in footer(app)
        await pilot.press("n")
        await pilot.pause()
        assert app.current_mode == "home"


async def test_the_mouse_opens_tabs_runs_and_verbs(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.click("#top", offset=(tab_places("Home", app.rooms, 120)["Train"], 1))
        assert app.current_mode == "train"
        await pilot.click("#top", offset=(4, 1))
        assert app.current_mode == "home"
        await pilot.click("#runs-picture", offset=(6, 2))
        assert app.current_mode == "home", "the first click chooses"
        await pilot.click("#runs-picture", offset=(6, 2))
        assert app.current_mode == "train"
        assert app.selected == "20261122-0900-support-json"
        await pilot.click("#top", offset=(4, 1))
        await pilot.click("#foot", offset=(3, 0))
        assert app.current_mode == "train", "the footer's enter"


async def test_a_cursor_stays_on_its_run_when_a_newer_one_comes(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("down", "down")
        loaded.run("20261125-0900-newer", steps=20, end=("run.stopped", {"step": 20}))
        await observe(pilot, loaded.snapshot())
        assert "▌ ✓ support-json" in shown(app)


async def test_q_leaves(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test() as pilot:
        await pilot.press("q")
    assert app.return_code == 0


async def test_an_evaluation_at_work_stands_in_the_header(loaded: Shop) -> None:
    shop = loaded
    folder = shop.run("20261125-1000-support-json", kind="eval", alive=True, steps=0)
    started = {"kind": "eval", "name": "support-json", "base": "smollm2-135m", "pid": 1, "host": "mac"}
    shop.tell(
        folder,
        [
            ("run.started", started),
            ("arm.started", {"arm": "base", "rows": 72}),
            ("arm.progress", {"arm": "base", "done": 24, "total": 72}),
        ],
    )
    snapshot = shop.snapshot()
    assert snapshot.runs[0].alive
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        gone = snapshot.__class__(NOW, shop.folder, snapshot.recipes, snapshot.runs[1:], snapshot.evals, None, snapshot.memory)
        await observe(pilot, gone)
        assert "● evaluating base 24/72" in shown(app)
        assert "base has answered 24 of 72 held-out rows." in shown(app)


async def test_a_baseline_alone_is_shown_without_a_comparison(shop: Shop) -> None:
    shop.recipe()
    folder = shop.run("20261125-1000-support-json", kind="eval", steps=0, end=("run.finished", {"summary": {}}))
    scores = [{"json": Score(False, "prose"), "contract": Score(False, "prose")}]
    save(
        build({"name": "support-json", "base": "smollm2-135m", "rows": 1, "run": ""}, [Measured("base", False, 1.0, scores)]),
        folder,
    )
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause()
        assert "Journey" in shown(app)
        assert "Last evaluated" not in shown(app)

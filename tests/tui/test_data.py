"""Data: the list and what fills it, every key, and what happens to a source under the app."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from mlxtune.core.errors import MachineError
from mlxtune.data import review
from mlxtune.data.review import Review
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.screens.ask import Ask
from mlxtune.tui.screens.room import Room
from mlxtune.tui.work import Work

from .rows_stage import CONTRACT, GOOD, ROWS, Checks, browse_of, chat, checks, fill, ready, tokens, write
from .stage import Shop, footer, observe, shown, until

__all__ = ["checks", "tokens"]


async def opened(pilot: Any) -> MlxtuneApp:
    await pilot.press("D")
    await until(pilot, lambda: ready(pilot.app))
    await pilot.pause()
    app: MlxtuneApp = pilot.app
    return app


async def say(pilot: Any, text: str) -> None:
    """Answer the question on screen with ``text``."""
    await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
    pilot.app.screen.query_one(Input).value = text
    await pilot.press("enter")


def row(app: MlxtuneApp, number: int) -> str:
    """The line of the table with that row."""
    return next(line for line in shown(app).splitlines() if f" {number:>3} " in line[:12])


def journal(source: Path) -> list[str]:
    return [event["action"] for event in map(json.loads, review.journal_path(source).read_text().splitlines())]


async def test_rows_are_there_before_tokens_and_findings_which_fill_in(shop: Shop, checks: Checks) -> None:
    fill(shop)
    checks.gate.clear()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("D")
        await until(pilot, lambda: "Where is my parcel?" in shown(app) and "counting tokens" in shown(app))
        assert "1 of 14, 13 undecided" in shown(app)
        assert "○ not known yet" in shown(app)
        assert "wrong disclaimer" not in shown(app)
        checks.gate.set()
        await until(pilot, lambda: ready(app) and "wrong disclaimer" in shown(app))
        assert "Token lengths" in shown(app)
        assert "✗ disclaimer" in row(app, 11)
        assert "@ e-mail" in row(app, 12)
        assert "≈ copy" in row(app, 13)
        assert "no assistant turn at" in row(app, 14)
        assert "billing" in row(app, 2)
        assert "✗ Not ready. 2 rows of 14 must be" in shown(app)
        assert checks.asked == [{"recipe": str(shop.folder / "recipes" / "support-json.toml"), "fetch": False}]


async def test_the_filter_is_live_and_says_what_it_does_not_understand(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("slash", *"tag:login")
        await until(pilot, lambda: "1 of 6, 14 in all" in shown(app))
        assert "▌ Rows" in shown(app)
        await pilot.press("backspace", *"nn parcel")
        await until(pilot, lambda: "No row is like that." in shown(app))
        await pilot.press(*(["backspace"] * 20), *"statu:x")
        await until(pilot, lambda: "✗ A filter has no statu:" in shown(app))
        assert "Did you mean status:?" in shown(app)
        await pilot.press(*(["backspace"] * 7), *"finding:email", "escape")
        await until(pilot, lambda: "1 of 1, 14 in all" in shown(app))
        assert app.screen.focused is not None
        assert app.screen.focused.id == "list"
        assert browse_of(app).decided == {}, "letters in the filter are no verbs"


async def test_sorting_goes_round_and_the_cursor_stays_on_its_row(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("down", "down", "s")
        await until(pilot, lambda: "gravest first" in shown(app) and app.screen.bench.work.shown.looked is None)  # type: ignore[attr-defined]
        lines = shown(app).splitlines()
        first = next(at for at, line in enumerate(lines) if "row   tokens" in line or ("row  " in line and "finding" in line)) + 1
        assert " 11 " in lines[first]
        assert "▌" in row(app, 3)[:3]
        await pilot.press("s")
        await until(pilot, lambda: "longest first" in shown(app))
        await pilot.press("s", "s")
        await until(pilot, lambda: "first" not in shown(app).split("Findings")[0])


async def test_a_decision_is_answered_undone_and_redone_and_the_source_is_never_written(shop: Shop, checks: Checks) -> None:
    source = fill(shop)
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        assert "undo" not in footer(app)
        await pilot.press("a")
        await until(pilot, lambda: "✓ Row 1 accepted.  u undo" in shown(app))
        assert "✓" in row(app, 1)
        await pilot.press("down", "x")
        await until(pilot, lambda: "✗ Row 2 rejected.  u undo" in shown(app))
        assert "11 undecided" in shown(app)
        await pilot.press("u")
        await until(pilot, lambda: "Row 2: reject taken back." in shown(app))
        await pilot.press("u")
        await until(pilot, lambda: "Row 1: accept taken back." in shown(app))
        assert "▌" in row(app, 1)[:3], "the cursor goes where the decision was"
        await pilot.press("U", "U")
        await until(pilot, lambda: "✗ Row 2 rejected." in shown(app))
        await pilot.press("escape", "end", "x")
        await until(pilot, lambda: "✗ " in shown(app) and "line 14" in shown(app))
    assert journal(source) == ["accept", "reject", "undo", "undo", "redo", "redo"]
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before


async def test_a_tag_is_put_on_and_taken_off(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("t")
        await until(pilot, lambda: "Tag row 1" in shown(app))
        assert "Known: login, billing, safety." in shown(app)
        await pilot.press(*"hot", "enter")
        await until(pilot, lambda: "login hot" in row(app, 1))
        await pilot.press("t", *"login", "enter")
        await until(pilot, lambda: "hot" in row(app, 1) and "login" not in row(app, 1))
        await pilot.press("t", "escape")
        await until(pilot, lambda: isinstance(app.screen, Room))


async def test_a_tag_on_what_is_no_row_is_refused_as_every_decision_is(shop: Shop, checks: Checks) -> None:
    source = fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("end", "t")
        await say(pilot, "hot")
        await until(pilot, lambda: "✗ support-json.jsonl, line 14: no assistant turn at the end" in shown(app))
    assert not review.journal_path(source).exists()


async def test_many_rows_are_taken_back_in_a_thread(shop: Shop, checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.tui.screens.source_room.MANY", 5)
    fill(shop)
    app = shop.app()
    threads: list[bool] = []
    for name in ("undo", "redo"):
        plain = getattr(Work, name)
        monkeypatch.setattr(
            Work,
            name,
            lambda work, plain=plain: threads.append(threading.current_thread() is threading.main_thread()) or plain(work),
        )
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("a", "slash", *"tag:login", "enter")
        await until(pilot, lambda: "1 of 6, 14 in all" in shown(app))
        await pilot.press("b", "down", "down", "enter")
        await until(pilot, lambda: "✗ 6 rows rejected." in shown(app))
        await pilot.press("u")
        await until(pilot, lambda: "6 rows: reject taken back." in shown(app))
        await pilot.press("u")
        await until(pilot, lambda: "Row 1: accept taken back." in shown(app))
        await pilot.press("U", "U")
        await until(pilot, lambda: "✗ 6 rows rejected." in shown(app))
    assert threads == [False, True, True, False], "one row is not worth a thread"


async def test_all_rows_that_are_shown_are_decided_upon_in_one_step(shop: Shop, checks: Checks) -> None:
    source = fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("a", "slash", *"tag:login", "enter")
        await until(pilot, lambda: "1 of 6, 14 in all" in shown(app))
        await pilot.press("b")
        await until(pilot, lambda: "All 6 rows that the filter shows" in shown(app))
        assert "5 rows would change" in shown(app)
        assert "Where is my parcel?" in shown(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Room))
        assert journal(source) == ["accept"], "the first choice is to do nothing"
        await pilot.press("b", "down", "down", "enter")
        await until(pilot, lambda: "✗ 6 rows rejected." in shown(app))
        assert len(browse_of(app).decided) == 6
        await pilot.press("u")
        await until(pilot, lambda: "6 rows: reject taken back." in shown(app))
        assert len(browse_of(app).decided) == 1
        await pilot.press("b", "down", "down", "down", "down", "enter")
        await until(pilot, lambda: "Tag 6 rows" in shown(app))
        await pilot.press(*"later", "enter")
        await until(pilot, lambda: "✓ 6 rows tagged." in shown(app))
        await until(pilot, lambda: not app.busy)


async def test_f_shows_what_it_would_mend_and_mends_it_in_the_review(shop: Shop, checks: Checks) -> None:
    source = fill(shop)
    before = source.read_bytes()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press(*["down"] * 11, "f")
        await until(pilot, lambda: "1 row: rows with an e-mail address" in shown(app))
        assert "→ [EMAIL]" in shown(app)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Room))
        assert not browse_of(app).decided
        await pilot.press("f", "down", "down", "enter")
        await until(pilot, lambda: "~ Row 12 edited.  u undo" in shown(app))
        assert "e-mail" not in shown(app).split("Findings")[1]
        held = browse_of(app).decision(11)
        assert held.record is not None
        assert "[EMAIL]" in held.record["messages"][2]["content"]
        await pilot.press("u")
        await until(pilot, lambda: "@ e-mail" in row(app, 12))
    assert source.read_bytes() == before


async def test_f_mends_what_it_can_and_says_how_many_rows_are_left(shop: Shop, checks: Checks) -> None:
    hidden = [chat("Is it warm?", "No,\u200b it is cool."), chat("Is it cool?", '{"reply": "It is\\u200b cool."}')]
    fill(shop, [*hidden, *GOOD], contract="")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("f", "down", "down", "enter")
        await until(pilot, lambda: "~ Row 1 edited. 1 row must be mended by hand: e in Review.  u undo" in shown(app))
        assert list(browse_of(app).decided) == [0]
        await until(pilot, lambda: not app.busy)
        await pilot.press("down", "f", "down", "down", "enter")
        await until(pilot, lambda: "Nothing changed." in shown(app))


async def test_f_leaves_out_what_cannot_be_mended_and_counts_it_no_more(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("tab")
        await until(pilot, lambda: "▌ Findings" in shown(app))
        await pilot.press("end", "f")
        await until(pilot, lambda: "1 row: exact duplicates" in shown(app))
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: "✗ Row 13 rejected." in shown(app))
        assert "exact duplicate" not in shown(app)
        assert browse_of(app).state.done[-1].reason == "data check: duplicate"


async def test_rows_that_cannot_be_read_are_left_out_of_a_new_file(shop: Shop, checks: Checks) -> None:
    source = fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("end", "f")
        await until(pilot, lambda: "Write support-json.fixed.jsonl" in shown(app))
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: "support-json.fixed.jsonl has 12 rows, 2 left out." in shown(app))
    assert len(source.with_name("support-json.fixed.jsonl").read_text().splitlines()) == 12


async def test_enter_on_a_finding_shows_its_rows(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("tab", "enter")
        await until(pilot, lambda: "finding:contract-disclaimer" in shown(app) and "1 of 1, 14 in all" in shown(app))
        assert app.screen.focused is not None
        assert app.screen.focused.id == "list"


async def test_at_80_columns_g_shows_findings_lengths_and_split(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        assert "Findings" not in shown(app)
        assert "g figures" in footer(app)
        await pilot.press("g")
        await until(pilot, lambda: "▌ Findings" in shown(app))
        for words in ("answers without the right disclaimer", "Token lengths", "over the limit of 64", "Split", "train"):
            assert words in shown(app)
        await pilot.press("down", "enter")
        await until(pilot, lambda: "finding:" in shown(app) and "Split" not in shown(app))
        await pilot.press("g", "escape")
        await until(pilot, lambda: "▌ Rows" in shown(app))


async def test_import_writes_a_file_of_the_workspace_and_shows_it(shop: Shop, checks: Checks, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.csv"
    other.write_text("prompt,completion\nWhere is it?,On its way.\nIs it warm?,No.\n")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("D")
        await until(pilot, lambda: "No rows are chosen yet." in shown(app))
        await pilot.press("i")
        await say(pilot, str(tmp_path / "none.csv"))
        await until(pilot, lambda: "✗ There is no data at" in shown(app))
        await pilot.press("i")
        await say(pilot, str(other))
        await until(pilot, lambda: "data/elsewhere.jsonl has 2 rows." in shown(app))
        await until(pilot, lambda: ready(app) and "Is it warm?" in shown(app))
        assert "chars" in shown(app), "without a recipe there is no tokenizer"
        await pilot.press("i")
        await say(pilot, str(other))
        await until(pilot, lambda: "data/elsewhere-2.jsonl has 2 rows." in shown(app))
    assert (shop.folder / "data" / "elsewhere.jsonl").is_file()


async def test_import_asks_before_it_leaves_bad_rows_out(shop: Shop, checks: Checks, tmp_path: Path) -> None:
    other = tmp_path / "mixed.jsonl"
    write(other, [*GOOD[:3], "no json", {"a": 1}])
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("D", "i")
        await say(pilot, str(other))
        await until(pilot, lambda: "2 rows cannot be used" in shown(app))
        assert "mixed.jsonl, line 4" in shown(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Room))
        assert not (shop.folder / "data").exists()
        await pilot.press("i")
        await say(pilot, str(other))
        await until(pilot, lambda: "2 rows cannot be used" in shown(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "data/mixed.jsonl has 3 rows, 2 bad rows left out." in shown(app))


async def test_a_source_that_is_missing_changed_and_emptied_is_told_and_taken_over(shop: Shop, checks: Checks) -> None:
    source = fill(shop)
    source.unlink()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("D")
        await until(pilot, lambda: "✗ There is no data at" in shown(app))
        assert "i import rows" in shown(app)
        assert footer(app).split()[:2] == ["i", "import"]
        write(source, GOOD)
        await observe(pilot, shop.snapshot())
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: ready(app) and "1 of 10, 10 undecided" in shown(app))
        await pilot.press("down", "down", "a")
        write(source, ROWS)
        await observe(pilot, shop.snapshot())
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: ready(app) and "3 of 14, 12 undecided" in shown(app))
        write(source, [])
        await observe(pilot, shop.snapshot())
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: "support-json.jsonl has no rows." in shown(app))
        source.unlink()
        source.mkdir()
        await observe(pilot, shop.snapshot())
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: "has no train.jsonl" in " ".join(shown(app).split()))


async def test_what_another_window_decides_is_seen_and_what_it_holds_is_said(shop: Shop, checks: Checks) -> None:
    source = fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        with Review(source, who="other") as window:
            window.decide("accept", [browse_of(app).keyed(1)])
            await observe(pilot, shop.snapshot())
            await until(pilot, lambda: "✓" in row(app, 2))
            await pilot.press("x")
            await until(pilot, lambda: "✗ support-json.jsonl is under review in another window." in shown(app))
            assert "·" in row(app, 1)
        await pilot.press("x")
        await until(pilot, lambda: "✗ Row 1 rejected." in shown(app))
        assert {at: held.status for at, held in browse_of(app).decided.items()} == {0: "rejected", 1: "accepted"}
        with pytest.raises(Exception, match="under review in another window"):
            Review(source)
        await pilot.press("H")
        await pilot.pause()
        Review(source).close()


async def test_without_a_recipe_there_is_a_way_to_one(shop: Shop, checks: Checks) -> None:
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("D")
        await until(pilot, lambda: "No rows are chosen yet." in shown(app))
        assert "H the sample workspace" in shown(app)
        assert "filter" not in footer(app)
        fill(shop, GOOD)
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: ready(app) and "1 of 10" in shown(app))


async def test_c_turns_to_another_recipe(shop: Shop, checks: Checks) -> None:
    fill(shop, GOOD)
    fill(shop, [chat("Only this?", "Yes.")], name="other")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        assert "1 of 10," in shown(app), "the sample shop's main recipe stands first"
        await pilot.press("c", "down", "enter")
        await until(pilot, lambda: ready(app) and "1 of 1," in shown(app))


async def test_filter_order_and_cursor_stay_while_another_part_of_the_recipe_changes(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("slash", *"tag:login", "enter", "down", "s")
        await until(pilot, lambda: "4 of 6, 14 in all" in shown(app) and "gravest first" in shown(app))
        before = app.screen.bench.work  # type: ignore[attr-defined]
        fill(shop, contract=f"{CONTRACT}\n[training]\nlearning_rate = 1e-5\n")
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: ready(app) and app.screen.bench.work is not before)  # type: ignore[attr-defined]
        await until(pilot, lambda: "4 of 6, 14 in all" in shown(app) and "gravest first" in shown(app))
        assert row(app, 4)[:3].strip(), "the cursor, whether the list has the focus or not"


async def test_a_check_that_dies_leaves_the_rows_and_can_be_asked_again(shop: Shop, checks: Checks) -> None:
    fill(shop)
    checks.error = MachineError("The process that checks the rows died: killed.", mend="Check them again.")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("D")
        await until(pilot, lambda: "✗ The process that checks the rows" in shown(app))
        assert "1 of 14, 13 undecided" in shown(app)
        checks.error = None
        await pilot.press("n")
        await until(pilot, lambda: ready(app) and "wrong disclaimer" in shown(app))


async def test_a_check_ends_with_the_app(shop: Shop, checks: Checks) -> None:
    fill(shop)
    checks.gate.clear()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("D")
        await until(pilot, lambda: "counting tokens" in shown(app))
    assert checks.stopped == 1


async def test_a_real_process_checks_a_file_without_a_recipe(shop: Shop, tmp_path: Path) -> None:
    other = tmp_path / "shop.jsonl"
    write(other, ROWS[:13])
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("D", "i")
        await say(pilot, str(other))
        await until(pilot, lambda: isinstance(app.screen, Room) and ready(app), 30)
        await until(pilot, lambda: "≈ copy" in row(app, 13))


async def test_the_filter_and_the_cursor_come_back(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("slash", *"tag:login", "enter")
        await until(pilot, lambda: "1 of 6, 14 in all" in shown(app))
        await pilot.press("down", "down")
        left = app.screen.remember()  # type: ignore[attr-defined]
        assert json.loads(json.dumps(left)) == {"filter": "tag:login", "order": "row", "row": 6}
    again = shop.app()
    async with again.run_test(size=(120, 36)) as pilot:
        from mlxtune.tui.screens.data import Data

        await pilot.press("D")
        room = again.screen
        assert isinstance(room, Data)
        room.recall(left)
        room._work = None
        room.show()
        await until(pilot, lambda: ready(again) and "3 of 6, 14 in all" in shown(again))
        assert "tag:login" in shown(again)

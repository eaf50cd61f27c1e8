"""Review: the row, every key, editing with the contract at one's side, pairs, and what happens when others decide too."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from mlxtune.core.errors import MachineError
from mlxtune.data import review
from mlxtune.data.review import Review as Journal
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.curate import bring
from mlxtune.tui.part_view import difference
from mlxtune.tui.screens.ask import Ask
from mlxtune.tui.screens.review import Review
from mlxtune.tui.widgets.editor import Editor
from mlxtune.tui.widgets.talk import Talk
from mlxtune.tui.workbench import workbench

from .rows_stage import GOOD, SYSTEM, Checks, Tokenizer, answer, browse_of, chat, checks, fill, pair, ready, tokens
from .stage import Shop, footer, observe, shown, until

__all__ = ["checks", "tokens"]


async def opened(pilot: Any, *, known: bool = True) -> Review:
    await pilot.press("R")
    await until(pilot, lambda: ready(pilot.app) and "Row 1 " in shown(pilot.app))
    if known:
        await until(pilot, lambda: "of them train" in shown(pilot.app))
    room: Review = pilot.app.screen
    return room


async def say(pilot: Any, text: str) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
    pilot.app.screen.query_one(Input).value = text
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, Review))


def journal(source: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in review.journal_path(source).read_text().splitlines()]


def line(app: MlxtuneApp, text: str) -> str:
    return next((line for line in shown(app).splitlines() if text in line), "")


async def test_a_row_is_shown_by_role_and_what_trains_is_seen_without_colour(
    shop: Shop, checks: Checks, tokens: type[Tokenizer]
) -> None:
    fill(shop)
    tokens.gate.clear()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot, known=False)
        assert "trained by turn" in shown(app)
        for role, train in (("◇ system", "not trained"), ("○ user", "not trained"), ("● assistant", "trained")):
            assert train in line(app, role).split("  ", 2)[-1]
        assert "┃ " in line(app, '{"category": "returns"')
        assert "┃" not in line(app, "Where is my parcel?")
        assert "<|im_end|>" not in shown(app)
        tokens.gate.set()
        await until(pilot, lambda: "28 tokens, 12 of them train" in shown(app))
        assert "trained, 12" in line(app, "● assistant")
        assert "not trained, 11" in line(app, "◇ system")
        assert "<|im_end|>" in shown(app)
        assert "support-json.jsonl, line 1" in shown(app)


async def test_each_key_decides_is_answered_and_goes_on(shop: Shop, checks: Checks) -> None:
    source = fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        assert "0 of 13 decided" in shown(app)
        await pilot.press("a")
        await until(pilot, lambda: "✓ Row 1 accepted.  u undo" in shown(app) and "▌ Row 2" in shown(app))
        await pilot.press("x")
        await until(pilot, lambda: "✗ Row 2 rejected.  u undo" in shown(app) and "▌ Row 3" in shown(app))
        await pilot.press("space")
        await until(pilot, lambda: "○ Row 3 put off.  u undo" in shown(app) and "▌ Row 4" in shown(app))
        assert "2 of 13 decided" in shown(app)
        await pilot.press(*"aaaaaaaaaa")
        await until(pilot, lambda: "12 of 13 decided" in shown(app) and "▌ Row 3" in shown(app)), "what was put off comes last"
        await pilot.press("a")
        await until(pilot, lambda: "all decided" in shown(app))
    assert [event["action"] for event in journal(source)] == ["accept", "reject", "skip", *["accept"] * 11]


async def test_undo_and_redo_go_all_the_way_and_show_the_row_they_are_about(shop: Shop, checks: Checks) -> None:
    source = fill(shop)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        room = await opened(pilot)
        await pilot.press(*"axax")
        await until(pilot, lambda: "▌ Row 5" in shown(app))
        for number, action in ((4, "reject"), (3, "accept"), (2, "reject"), (1, "accept")):
            await pilot.press("u")
            await until(pilot, lambda: f"Row {number}: {action} taken back.  U redo" in shown(app))  # noqa: B023
            assert f"▌ Row {number} " in shown(app)
        await pilot.press("u")
        await until(pilot, lambda: "There is nothing to undo." in shown(app))
        assert not browse_of(app).decided
        assert "u undo" not in footer(app)
        await pilot.press("U", "ctrl+r")
        await until(pilot, lambda: "✗ Row 2 rejected." in shown(app))
        assert room.work is not None
        assert {at: held.status for at, held in browse_of(app).decided.items()} == {0: "accepted", 1: "rejected"}
    assert len(journal(source)) == 10


async def test_digits_words_and_notes_stay_on_the_row(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        assert "▌ 1 login" in line(app, "1 login")
        assert "▌ 2" not in line(app, "2 billing")
        await pilot.press("2")
        await until(pilot, lambda: "▌ 2 billing" in shown(app))
        assert "✓ Row 1 tagged.  u undo" in shown(app)
        await pilot.press("1")
        await until(pilot, lambda: "▌ 1 login" not in shown(app))
        await pilot.press("t")
        await say(pilot, "odd [red]")
        await until(pilot, lambda: "▌ 4 odd [red]" in shown(app))
        await pilot.press("n")
        await say(pilot, "ask the workshop")
        await until(pilot, lambda: "note     ask the workshop" in shown(app))
        assert "▌ Row 1" in shown(app)
        held = browse_of(app).decision(0)
        assert (held.tags, held.note, held.status) == (("billing", "odd [red]"), "ask the workshop", "pending")
        await pilot.press("9")
        await pilot.pause()
        assert len(browse_of(app).state.done) == 4, "there is no ninth tag"


async def test_editing_has_the_contract_at_its_side_and_ctrl_s_keeps(shop: Shop, checks: Checks) -> None:
    source = fill(shop)
    before = source.read_bytes()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("end", "left", "left", "left")
        await until(pilot, lambda: "▌ Row 11" in shown(app))
        assert "✗  right disclaimer" in shown(app)
        assert "1 of 4 fails" in shown(app)
        await pilot.press("e")
        await until(pilot, lambda: "Row 11, editing turn 3" in shown(app))
        assert footer(app).split() == ["^s", "keep", "esc", "leave"]
        await pilot.press("backspace", "backspace")
        await until(pilot, lambda: "✗  valid JSON" in shown(app))
        app.screen.query_one(Editor).load_text(answer("safety", "Only with a flue. This is general guidance."))
        await until(pilot, lambda: "✓  right disclaimer" in shown(app) and "holds" in line(app, "Contract"))
        assert not browse_of(app).decided, "nothing is kept yet"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "~ Row 11 edited.  u undo" in shown(app))
        assert "editing" not in shown(app)
        assert "~ edited" in line(app, "▌ Row 11")
        await until(pilot, lambda: "of them train" in line(app, "▌ Row 11"))
        await pilot.press("u")
        await until(pilot, lambda: "✗  right disclaimer" in shown(app))
    assert journal(source)[0]["rows"][0]["record"]["messages"][2]["content"].endswith('general guidance."}')
    assert source.read_bytes() == before


@pytest.mark.parametrize("size", [(120, 36), (80, 24)])
async def test_d_adds_the_disclaimer_that_an_answer_lacks(shop: Shop, checks: Checks, size: tuple[int, int]) -> None:
    source = fill(shop)
    app = shop.app()
    async with app.run_test(size=size) as pilot:
        await opened(pilot)
        assert "d disclaimer" not in footer(app)
        await pilot.press("d", "end", "left", "left", "left")  # d does nothing to a row that lacks none
        await until(pilot, lambda: "▌ Row 11" in shown(app))
        assert footer(app).startswith("d disclaimer")
        assert "d add it" in shown(app)
        await pilot.press("d")
        await until(pilot, lambda: "~ Row 11 edited.  u undo" in shown(app))
        assert "Only with a flue. This is" in shown(app)
        assert "d add it" not in shown(app)
        await pilot.press("u")
        await until(pilot, lambda: "d add it" in shown(app))
    edit = next(step for step in journal(source) if step.get("rows"))
    assert "Only with a flue. This is general guidance." in edit["rows"][0]["record"]["messages"][2]["content"]


async def test_escape_leaves_the_row_and_what_was_written_waits(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("up", "e", *" axu1 now", "escape")
        await until(pilot, lambda: "What you wrote waits:" in shown(app))
        assert "Where is my parcel? axu1 now" not in shown(app)
        assert not browse_of(app).decided, "letters in a text are no verbs"
        await pilot.press("e")
        await until(pilot, lambda: "Where is my parcel? axu1 now" in shown(app))
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "~ Row 1 edited." in shown(app))
        assert "Where is my parcel? axu1 now" in shown(app)
        await pilot.press("e", "escape")
        await until(pilot, lambda: "editing" not in shown(app))
        assert "waits" not in shown(app), "nothing was written"


async def test_what_is_written_waits_when_another_row_is_gone_to_meanwhile(shop: Shop, checks: Checks) -> None:
    turns = [{"role": role, "content": f"turn number {at}"} for at, role in enumerate(("user", "assistant") * 3, 1)]
    fill(shop, [{"messages": turns}, *GOOD], contract="")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("up", "e", *" anew")
        await until(pilot, lambda: "Row 1, editing turn 5" in shown(app))
        app.action_room("data")
        await until(pilot, lambda: app.current_mode == "data")
        await pilot.press("down", "R")
        await until(pilot, lambda: "▌ Row 2 " in shown(app) and "What you wrote waits with its row." in shown(app))
        await pilot.press("e")
        await until(pilot, lambda: "Row 2, editing turn 3" in shown(app))
        assert "anew" not in shown(app)
        await pilot.press("escape", "left", "up", "e")
        await until(pilot, lambda: "Row 1, editing turn 5" in shown(app) and "turn number 5 anew" in shown(app))


async def test_a_draft_stays_with_its_row_when_rows_are_put_before_it(shop: Shop, checks: Checks) -> None:
    source = fill(shop, GOOD)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("up", "e", *" anew", "escape")
        await until(pilot, lambda: "What you wrote waits:" in shown(app))
        fill(shop, [chat("Is it new?", answer("returns", "It is.")), *GOOD])
        await observe(pilot, shop.snapshot())
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: ready(app) and "Is it new?" in shown(app))
        app.screen.query_one(Talk).focus()
        await pilot.press("up", "e")
        await until(pilot, lambda: "Row 1, editing turn 2" in shown(app))
        assert "anew" not in shown(app)
        await pilot.press("escape", "right", "up", "e")
        await until(pilot, lambda: "Row 2, editing turn 2" in shown(app))
        assert "Where is my parcel? anew" in shown(app)
    assert not review.journal_path(source).exists()


async def test_an_answer_that_would_be_no_row_is_refused_and_stays_in_the_editor(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("e")
        app.screen.query_one(Editor).load_text("")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "✗ support-json.jsonl, line 1: an assistant turn is empty." in shown(app))
        assert "editing turn 3" in shown(app)


async def test_an_edit_leaves_signs_alone_that_cannot_be_shown(shop: Shop, checks: Checks) -> None:
    said = "one\x1b[31m \u202etwo\r\nthree"
    fill(shop, [chat("Is it?", said)], contract="")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        assert "There is no contract." in shown(app)
        await pilot.press("e", "backspace", "!", "ctrl+s")
        await until(pilot, lambda: "~ Row 1 edited." in shown(app))
        held = browse_of(app).decision(0)
        assert held.record is not None
        assert held.record["messages"][2]["content"] == "one\x1b[31m \u202etwo\r\nthre!"


PAIRS = [pair("Is the lamp warm?", f"No, the lamp {at} stays cool.", f"Yes, the lamp {at} burns you.") for at in range(5)]


@pytest.mark.parametrize("size", [(120, 36), (80, 24)])
async def test_pairs_stand_side_by_side_and_each_verdict_is_one_key(shop: Shop, checks: Checks, size: tuple[int, int]) -> None:
    source = fill(shop, PAIRS, contract="")
    app = shop.app()
    async with app.run_test(size=size) as pilot:
        await opened(pilot)
        assert line(app, "chosen").index("chosen") < line(app, "chosen").index("rejected")
        assert "a better" in line(app, "chosen").split("rejected")[0]
        await pilot.press("a")
        await until(pilot, lambda: "✓ Row 1 accepted." in shown(app))
        await pilot.press("d")
        await until(pilot, lambda: "✓ Row 2 turned round and accepted." in shown(app))
        await pilot.press("equals_sign")
        await until(pilot, lambda: "= Row 3 called a tie." in shown(app))
        await pilot.press("b")
        await until(pilot, lambda: "✗ Row 4 called bad on both sides." in shown(app))
        await pilot.press("s")
        await until(pilot, lambda: line(app, "chosen").index("chosen") > line(app, "chosen").index("rejected"))
        await pilot.press("a")
        await until(pilot, lambda: "✓ Row 5 turned round and accepted." in shown(app)), "the left one is the rejected one now"
    assert [event["action"] for event in journal(source)] == ["accept", "swap", "tie", "bad", "swap"]


async def test_only_what_differs_in_a_pair_is_underlined(shop: Shop, checks: Checks) -> None:
    fill(shop, PAIRS, contract="")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        underlined = "".join(
            segment.text
            for strip in app.screen._compositor.render_strips()
            for segment in strip
            if segment.style and segment.style.underline
        )
        assert "stays cool" in underlined
        assert "burns you" in underlined
        assert "lamp" not in underlined


def test_what_differs_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = difference("The lamp stays cool.", "The lamp is hot now.")
    monkeypatch.setattr("difflib.SequenceMatcher", None)
    assert difference("The lamp stays cool.", "The lamp is hot now.") == first
    assert "".join(text for text, only in first[0] if only) == "stays cool"


async def test_a_pairs_keys_do_nothing_to_a_conversation(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press("d", "equals_sign", "b", "s")
        await pilot.pause()
        assert not browse_of(app).decided
        assert "tie" not in footer(app)


async def test_the_review_walks_what_the_filter_of_data_shows(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("D")
        await until(pilot, lambda: ready(app))
        await pilot.press("slash", *"tag:login", "enter")
        await until(pilot, lambda: "1 of 6, 14 in all" in shown(app))
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: "▌ Row 7" in shown(app))
        assert "3 of 6 shown" in shown(app)
        await pilot.press("a")
        await until(pilot, lambda: "▌ Row 10" in shown(app))
        await pilot.press("left", "left")
        await until(pilot, lambda: "▌ Row 4" in shown(app))
        await pilot.press("end")
        await until(pilot, lambda: "▌ Row 13" in shown(app) and "6 of 6 shown" in shown(app))
        assert "row 1" in line(app, "twin")
        await pilot.press("home", "right")
        await until(pilot, lambda: "▌ Row 4" in shown(app))
        await pilot.press("escape", "escape")  # what was said goes first
        await until(pilot, lambda: app.current_mode == "data" and "▌" in line(app, "Do you deliver")[:3])


async def test_what_is_no_row_says_why_and_is_passed_over(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("end")
        await until(pilot, lambda: "✗ This is no row: no assistant turn at the end" in shown(app))
        assert "accept" not in footer(app)
        await pilot.press("a", "e", "1", "n")
        await pilot.pause()
        assert not browse_of(app).decided
        await pilot.press("left", "a")
        await until(pilot, lambda: "✓ Row 13 accepted." in shown(app) and "▌ Row 1 " in shown(app)), "row 14 is none"


async def test_at_80_columns_the_contract_is_one_line_and_c_shows_it_all(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        assert "✓ the contract holds  4 of 4 hold" in shown(app)
        await pilot.press(*["right"] * 10)
        await until(pilot, lambda: "✗ right disclaimer:" in shown(app))
        assert "3 of 4 hold" in shown(app)
        await pilot.press("c")
        await until(pilot, lambda: "▌ Contract" in shown(app) and "▌ 3 safety" in shown(app) and "line 11" in shown(app))
        assert "May I burn coal" not in shown(app)
        await pilot.press("c")
        await until(pilot, lambda: "May I burn coal" in shown(app))
        await pilot.press("c", "escape")
        await until(pilot, lambda: "▌ Row 11" in shown(app))


async def test_the_focus_goes_through_the_parts_of_the_room_in_their_order(shop: Shop, checks: Checks) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        await pilot.press(*["right"] * 11)
        await until(pilot, lambda: "▌ Row 12" in shown(app))
        assert "@  An e-mail address would be" in shown(app)
        for title in ("Contract", "Findings", "Tags", "Where it comes from", "Row 12"):
            await pilot.press("tab")
            await until(pilot, lambda: f"▌ {title}" in shown(app))  # noqa: B023
        await pilot.press("shift+tab", "a")
        await until(pilot, lambda: "✓ Row 12 accepted." in shown(app)), "keys of the room work wherever the focus is"


async def test_a_long_row_can_be_read_to_its_end(shop: Shop, checks: Checks) -> None:
    long = "\n".join(f"line {at}" for at in range(200))
    fill(shop, [chat(long, "Short."), *GOOD], contract="")
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        assert "Short." in shown(app), "the answer is what one looks at first"
        await pilot.press("up")
        await until(pilot, lambda: "line 3" in shown(app) and "more rows" in shown(app))
        await pilot.press("pagedown", "pagedown")
        await until(pilot, lambda: "line 3\n" not in shown(app) and "line 30" in shown(app))
        await pilot.press("pageup", "pageup", "pageup", "up")
        await until(pilot, lambda: SYSTEM[:20] in shown(app))
        await pilot.press("k", "j", "j")
        await until(pilot, lambda: "Short." in shown(app))


async def test_what_others_decide_is_seen_and_what_they_hold_is_said(shop: Shop, checks: Checks) -> None:
    source = fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        with Journal(source, who="ada") as other:
            other.decide("reject", [browse_of(app).keyed(0)], reason="spam")
            await observe(pilot, shop.snapshot())
            await until(pilot, lambda: "✗ rejected" in line(app, "▌ Row 1"))
            assert "by ada," in line(app, "reject ")
            await pilot.press("a")
            await until(pilot, lambda: "✗ support-json.jsonl is under review in another window." in shown(app))
            assert "looking without deciding is always possible" in " ".join(shown(app).split())
            assert "▌ Row 1" in shown(app)
        await pilot.press("a")
        await until(pilot, lambda: "✓ Row 1 accepted." in shown(app))


async def test_a_tokenizer_that_dies_leaves_the_row_marked_by_turn(shop: Shop, checks: Checks, tokens: type[Tokenizer]) -> None:
    fill(shop)
    tokens.error = MachineError("The process with the tokenizer died.")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot, known=False)
        await until(pilot, lambda: "trained by turn; tokens are not known" in shown(app))
        assert "┃ " in shown(app)


async def test_a_full_disk_decides_nothing_and_says_so(shop: Shop, checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)

        def full(self: Any, record: Any) -> None:
            raise MachineError("The disk is full, so support-json.review.jsonl was not saved.", mend="Free some space.")

        with monkeypatch.context() as patch:
            patch.setattr("mlxtune.core.journal.Journal.append", full)
            await pilot.press("a")
            await until(pilot, lambda: "✗ The disk is full" in shown(app))
        assert "▌ Row 1" in shown(app)
        assert not browse_of(app).decided


async def test_without_rows_the_room_says_what_would_be_here(shop: Shop, checks: Checks) -> None:
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("R")
        await until(pilot, lambda: "No rows are chosen yet." in shown(app))
        await pilot.press("a", "e", "u", "space", "right")
        source = fill(shop, GOOD)
        source.unlink()
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: "✗ There is no data at" in shown(app))
        assert footer(app).split()[:2] == ["i", "import"]


async def test_an_import_goes_on_while_the_tokens_of_another_row_are_asked_for(
    shop: Shop, checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlxtune.data import take as taking

    fill(shop)
    fill(shop, [GOOD[0]], "more")
    gate, real = threading.Event(), taking.take
    monkeypatch.setattr(taking, "take", lambda *args, **kwargs: (gate.wait(5), real(*args, **kwargs))[1])
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        bring(app.screen, workbench(app), str(shop.folder / "data" / "more.jsonl"))  # type: ignore[arg-type]
        await pilot.press("right", "right", "right")
        await until(pilot, lambda: "▌ Row 4" in shown(app) and "of them train" in shown(app))
        gate.set()
        await until(pilot, lambda: "✓ data/more-2.jsonl has 1 row." in shown(app))

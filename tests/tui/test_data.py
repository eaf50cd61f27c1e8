import hashlib
import json
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from keyed_rows import with_keys
from textual import events
from waiting import wait_until

from mlxtune.core.errors import InputError, MachineError
from mlxtune.data.access.records import RecordFile
from mlxtune.data.checks.report import Skip
from mlxtune.data.review import ReviewSession, journal_path
from mlxtune.data.source import read_source
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.render.source import source_unavailable
from mlxtune.tui.rooms.data.fix_dialog import FixDialog
from mlxtune.tui.rooms.data.render import LengthHistogram, length_chart
from mlxtune.tui.rooms.data.screen import DataRoom
from mlxtune.tui.source_session import SourceSession
from mlxtune.tui.widgets import ChoiceDialog, ListPanel

from .driver import NARROW, Opening, RoomDriver, drive, opens
from .rows_stage import CONTRACT, GOOD, ROWS, chat, fill, journal, ready, session_of, statuses, write
from .stage import shown

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checks")]


async def checked(room: RoomDriver) -> SourceSession:
    await room.until(lambda: ready(room) and room.screen.query_one("#list").count > 0)
    await room.pilot.pause()
    return session_of(room)


ROOM = Opening("data", fill, checked)


def row(room: RoomDriver, number: int) -> str:
    """The line of the table with that row; empty if it is not drawn."""
    return next((line for line in room.text("#list").splitlines() if f" {number:>3} " in line[:12]), "")


async def filter_by(room: RoomDriver, text: str, matches: int) -> None:
    await room.press("slash")
    await room.type(text)
    await room.press("enter", until=lambda: selected(room) == matches)


def selected(room: RoomDriver) -> int:
    """How many rows the filter selects; -1 while it is being applied."""
    selection = session_of(room).selection
    return len(selection.rows) if selection.scanned is None else -1


async def test_a_filter_waits_for_the_checks_that_it_needs(shop, checks, open_room):
    fill(shop)
    checks.gate.clear()
    async with open_room("data") as room:
        await room.until(lambda: "Where is my parcel?" in room.text("#list"))
        await filter_by(room, "tokens>1", 0)
        assert room.words("#message") == "○ waiting for the checks"
        await room.press("slash")
        await room.press(*["backspace"] * 8, *"finding:email", "enter")
        await room.until(lambda: selected(room) == 0 and room.words("#message") == "○ waiting for the checks")
        checks.gate.set()
        await room.until(lambda: selected(room) == 1)


async def test_a_filter_by_tokens_names_the_key_that_downloads_the_model(local_bases, room):
    session = session_of(room)
    result = session.source.check_result
    assert result is not None
    skipped = {"tokens": Skip("no_model", "smollm2-135m is not on this machine.")}
    session.source.check_result = replace(result, tokens=result.tokens[:0], skipped=skipped)
    await filter_by(room, "tokens>1", 0)
    assert "unknown: smollm2-135m is not on this machine. b in Plan downloads it." in room.words("#message")


async def test_rows_are_shown_before_the_checks_finish(shop, checks, open_room):
    fill(shop)
    checks.gate.clear()
    async with open_room("data") as room:
        await room.until(lambda: "Where is my parcel?" in room.text("#list") and "counting tokens" in room.text("#summary"))
        await room.until(lambda: room.head("#row-list") == "▌ Rows 1 of 14, 13 undecided")
        assert session_of(room).source.verdict is None
        assert "split" not in room.text("#list"), "an empty column takes no room"
        await room.press("f", notice="● The checks are still running. The first finding opens as soon as they are done.")
        checks.gate.set()
        await room.until(lambda: isinstance(room.screen, FixDialog) and room.notice == "")
        await room.press("escape")
        await checked(room)
        assert "split" in room.text("#list")
        assert room.head("#lengths").startswith("Token lengths")
        for number, finding in ((11, "✗ disclaimer"), (12, "@ email"), (13, "≈ duplicate"), (14, "there is no assistant turn")):
            assert finding in row(room, number)
        assert "billing" in row(room, 2)
        assert "✗ 2 of 14 rows blocked." in room.words("#summary")
        assert checks.requests == [{"recipe": str(shop.folder / "recipes" / "support-json.toml"), "fetch": False}]


async def test_a_fix_asked_for_opens_even_if_the_checks_finish_during_a_draw(shop, checks, open_room, monkeypatch):
    fill(shop)
    checks.gate.clear()
    async with open_room("data") as room:
        await room.until(lambda: "Where is my parcel?" in room.text("#list"))
        await room.press("f", notice="● The checks are still running.")
        draw, redraw, notify, drawn = DataRoom._draw_labels, DataRoom.redraw, SourceSession._notify, threading.Event()

        def finish_first(self: DataRoom, session: SourceSession) -> None:
            """The findings were drawn without a verdict. The thread delivers it now, but asks for a redraw only after this one."""
            checks.gate.set()
            wait_until(lambda: session.check.finished)
            monkeypatch.setattr(DataRoom, "redraw", lambda _room: None)
            draw(self, session)

        def notify_later(self: SourceSession) -> None:
            if self.check.finished:
                drawn.wait()
            notify(self)

        def let_draw() -> None:
            monkeypatch.setattr(DataRoom, "_draw_labels", draw)
            monkeypatch.setattr(DataRoom, "redraw", redraw)
            drawn.set()

        monkeypatch.setattr(DataRoom, "_draw_labels", finish_first)
        monkeypatch.setattr(SourceSession, "_notify", notify_later)
        room.screen.redraw()
        room.app.call_later(let_draw)
        await room.until(lambda: isinstance(room.screen, FixDialog) and room.notice == "")


async def test_the_filter_applies_as_it_is_typed_and_explains_its_errors(room):
    session = session_of(room)
    await room.press("slash", *"tag:login", until=lambda: room.head("#row-list") == "▌ Rows 1 of 6, 14 in total, 13 undecided")
    await room.press("backspace", *"nn", until=lambda: "No rows match." in room.text("#message"))
    await room.press(*["backspace"] * 10, *"statu:x", until=lambda: bool(session.selection.error))
    await room.until(lambda: "Did you mean status" in room.text("#message"))
    await room.press("enter", "*", notice="· Not possible now: bulk.")
    assert room.head("#row-list") == "▌ Rows 0 of 0, 14 in total, 13 undecided"
    await room.press("slash")
    await room.press(*["backspace"] * 7, *"finding:email", "escape", until=lambda: selected(room) == 1)
    assert room.focus == "list"
    assert statuses(room) == {}, "letters typed into the filter are not actions"


async def test_the_row_under_the_cursor_is_previewed_and_stays_through_sorting_and_redraws(room):
    session, rows = session_of(room), room.screen.query_one("#list")
    first = room.text("#row-preview")
    assert "○ user" in first
    assert '● assistant  {"category": "returns",\n' in first, "JSON is indented"
    await room.press("down", until=lambda: room.text("#row-preview").split("─")[0].strip() == "Row 2")
    assert room.text("#row-preview") != first
    await room.press("down")
    first_rows = {}
    for order in ("findings", "longest", "shortest", "row"):
        await room.press(",", until=lambda: session.selection.scanned is None)
        assert session.selection.order == order
        first_rows[order] = session.selection.rows[0]
        assert session.row_index == 2
    assert first_rows["findings"] == 10
    assert first_rows["row"] == 0
    assert room.text("#order").strip() == ""
    rows.action_edge(True)
    assert session.row_index == 13, "the next key applies to the row that the cursor is on"
    room.screen.redraw()
    assert rows.cursor == 13


@opens(settle=None)
async def test_a_key_typed_before_the_rows_found_are_shown_acts_on_the_row_on_show(room, monkeypatch):
    keys, call_later = ["x"], MlxtuneApp.call_later

    def type_first(app: MlxtuneApp, *args: Any, **kwargs: Any) -> bool:
        if keys and threading.current_thread() is not threading.main_thread():
            key = keys.pop()
            app.post_message(events.Key(key, key))
        return call_later(app, *args, **kwargs)

    await room.until(lambda: ready(room))
    await room.press("down", "slash", *"coal", "enter")
    session = session_of(room)
    await room.until(lambda: session.row_index == 10)
    session._anchor, session.selection.scanned = 1, 13  # as if the filter were cleared while it is still being applied
    monkeypatch.setattr(MlxtuneApp, "call_later", type_first)
    session.select("", "row")
    await room.until(lambda: bool(statuses(room)))
    assert statuses(room) == {10: "rejected"}


async def test_decisions_are_confirmed_undone_and_redone_and_the_source_is_not_written(shop, checks, open_room):
    source = fill(shop)
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    async with open_room("data") as room:
        session = await checked(room)
        assert "undo" not in room.actions
        await room.press("a", notice="✓ Row 1 accepted.")
        assert room.undo_key == "u"
        await room.until(lambda: "✓" in row(room, 1))
        await room.press("down", "x", notice="✗ Row 2 rejected.")
        assert room.head("#row-list").endswith("11 undecided")
        await room.press("u", notice="↶ Row 2: reject undone.")
        await room.press("u", notice="↶ Row 1: accept undone.")
        assert session.row_index == 0, "the cursor moves to the row of the decision"
        await room.press("U", "U", notice="✗ Row 2 rejected.")
        await room.press("escape", "end", "a", until=lambda: "line 14" in room.notice)
    assert [event["action"] for event in journal(source)] == ["accept", "reject", "undo", "undo", "redo", "redo"]
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before


@opens(size=NARROW)
async def test_tags_are_added_and_removed_and_the_dialog_names_the_marked_rows(room):
    session = session_of(room)
    await room.press("t", answer="hot", until=lambda: session.source.decision(0).tags == ("login", "hot"))
    await room.press("t", answer="login", until=lambda: session.source.decision(0).tags == ("hot",))
    await room.until(lambda: "hot" in row(room, 1))
    await room.press("t", "escape", mode="data")
    await room.press("space", "t", until=lambda: "Tag or untag row 1" in shown(room.app))
    await room.press("escape", "space", "t", until=lambda: "Tag or untag 2 marked rows" in shown(room.app))
    await room.press(answer="cold", until=lambda: all("cold" in (session.source.decision(index).tags or ()) for index in (0, 1)))


async def test_counts_from_before_a_decision_are_marked_and_a_repeated_check_shows_its_progress_and_its_error(
    room, checks, monkeypatch
):
    assert ". recheck" not in room.text("#summary")
    await room.press("x", until=lambda: "(≥ 200) before your changes" in room.words("#summary"))
    await room.press(".")
    await checked(room)
    await room.until(lambda: ". recheck" not in room.text("#summary"))
    await room.press("u", until=lambda: ". recheck" in room.text("#summary"))
    monkeypatch.setattr(checks, "stop", lambda: None)
    checks.gate.clear()
    await room.press(".", until=lambda: "checking again 0%" in room.head("#findings"))
    checks.error = InputError("The schema has a syntax error.")
    checks.gate.set()
    await room.until(lambda: "The schema has a syntax error." in room.text("#summary"))
    assert "checking again" not in room.head("#findings")


async def test_the_base_is_asked_about_the_answers(room, checks):
    await room.press("b")
    await checked(room)
    assert [one.get("base") for one in checks.requests] == [None, True]
    await room.press(".")
    await checked(room)
    assert [one.get("base") for one in checks.requests] == [None, True, None]


@opens(stage=lambda shop: write(shop.folder / "rows.jsonl", ROWS), settle=None)
async def test_without_a_recipe_there_is_no_base_to_ask(shop, checks, room):
    room.app.sessions.open_file(shop.folder / "rows.jsonl")
    room.app.redraw()
    await checked(room)
    await room.press("b", notice="· The base check needs a recipe whose base is on this machine.")
    assert len(checks.requests) == 1


async def test_tokens_are_counted_once_the_base_has_been_downloaded(local_bases, room, checks):
    await room.press("R", "D")
    assert len(checks.requests) == 1
    local_bases.add("smollm2-135m")
    await room.press("R", "D")
    await checked(room)
    assert len(checks.requests) == 2
    await room.press("R", "D")
    assert len(checks.requests) == 2


async def test_lengths_in_characters_say_which_rows_they_leave_out():
    histogram = LengthHistogram.of(np.array([100, 200, -1]), 1, 0, 20)
    assert histogram
    shown = " ".join(length_chart(histogram, 0, "not counted yet.", 2, 40).plain.split())
    assert shown.endswith("chars, without 1 edited row: not counted yet.")


async def test_an_invalid_row_cannot_be_tagged(room):
    source = room.staged
    await room.press("end", "t", answer="hot", notice="✗ support-json.jsonl, line 14: there is no assistant turn at the end")
    assert not journal_path(source).exists()


async def test_an_undo_of_many_rows_runs_in_a_thread(shop, checks, open_room, monkeypatch):
    monkeypatch.setattr("mlxtune.tui.rooms.source_room._INLINE_ROWS", 5)
    fill(shop)
    in_main_thread: list[bool] = []
    original = SourceSession.undo_or_redo

    def spy(session: SourceSession, action: str) -> Any:
        in_main_thread.append(threading.current_thread() is threading.main_thread())
        return original(session, action)

    monkeypatch.setattr(SourceSession, "undo_or_redo", spy)
    async with open_room() as room:
        await room.press("a")
        await filter_by(room, "tag:login", 6)
        await room.press("*", choose="reject", notice="✗ 6 rows rejected.")
        await room.press("u", notice="↶ 6 rows: reject undone.")
        await room.press("u", notice="↶ Row 1: accept undone.")
        await room.press("U", "U", notice="✗ 6 rows rejected.")
    assert in_main_thread == [False, True, True, False], "a single row is not worth a thread"


async def test_all_selected_rows_are_decided_on_in_one_step(room):
    source = room.staged
    session = session_of(room)
    await room.press("a")
    await room.press("*", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert [option.name for option in room.screen._options][1:4] == ["Accept 13", "Reject 14", "Skip 14"]
    await room.press("escape")
    await filter_by(room, "tag:login", 6)
    await room.press("*")
    texts = ("6 rows that match the filter", "Where is my parcel?", "not used for training")
    await room.until(lambda: room.mode == "" and all(text in room.screen_text for text in texts))
    await room.choose("")
    assert [event["action"] for event in journal(source)] == ["accept"], "the first option changes nothing"
    await room.press("*", choose="reject", notice="✗ 6 rows rejected.")
    assert len(statuses(room)) == 6
    await room.press("u", notice="↶ 6 rows: reject undone.")
    assert len(statuses(room)) == 1
    await room.press("*", choose="tag", answer="later", notice="✓ 6 rows tagged.")
    assert sum("later" in (decision.tags or ()) for decision in session.source.decisions.values()) == 6
    await room.until(lambda: not room.app.jobs.busy)


async def test_a_finding_is_rejected_in_bulk_or_as_its_fix_or_muted_with_a_reason(room):
    session = session_of(room)
    await room.press("tab", until=lambda: room.focus == "findings-list")
    room.screen.query_one("#findings-list", ListPanel).go(room.screen._finding_names.index("duplicate"))
    await room.press("*", choose="reject", notice="✗ Row 13 rejected.")
    assert statuses(room) == {12: "rejected"}, "the rows of the finding"
    await room.press("u", until=lambda: "duplicate" in session.source.verdict.rows)
    await room.press("end", "f", "enter", notice="✗ Row 13 rejected.")
    assert "duplicate" not in session.source.verdict.rows
    assert session.source.state.steps[-1].reason == "data check: duplicate"
    await room.press("home", *["down"] * list(session.source.verdict.rows).index("email"), "!")
    await room.type("our own address")
    await room.press("enter", notice="○ Check email muted.")
    assert session.source.state.muted == {"email": "our own address"}
    assert "email" not in session.source.verdict.rows
    await room.press("u", until=lambda: not session.source.state.muted)


async def test_rows_that_a_decision_took_from_the_filter_are_not_decided_on(room):
    """They stay in the list, so that it does not jump."""
    session = session_of(room)
    await filter_by(room, "tag:login status:pending", 6)
    await room.press("a", until=lambda: len(statuses(room)) == 1)
    await room.press("*", until=lambda: "5 rows that match the filter" in room.screen_text)
    await room.press(choose="reject", notice="✗ 5 rows rejected.")
    assert len(session.selection.rows) == 6
    assert sorted(statuses(room).values()) == ["accepted", *["rejected"] * 5]
    await room.until(lambda: not room.app.jobs.busy)
    await room.press("*", notice="· None of these rows matches")


async def test_a_fix_is_previewed_and_applied_as_a_decision(shop, checks, open_room):
    source = fill(shop)
    before = source.read_bytes()
    async with open_room("data") as room:
        session = await checked(room)
        await room.press(*["down"] * 11, "f", until=lambda: isinstance(room.screen, FixDialog))
        await room.until(lambda: "+ " in room.screen_text and "[EMAIL]" in room.screen_text)
        await room.press("escape")
        assert not statuses(room)
        await room.press("f", "enter", notice="~ Row 12 edited.")
        record = session.source.decision(11).record
        assert record is not None
        assert "[EMAIL]" in record["messages"][2]["content"]
        assert session.source.verdict is not None
        assert "email" not in session.source.verdict.rows
        await room.until(lambda: "before your changes" in room.head("#split"))
        await room.press("u", until=lambda: "@ email" in row(room, 12) and "before your changes" not in room.head("#split"))
    assert source.read_bytes() == before


@opens(
    stage=lambda shop: fill(
        shop, [*GOOD, *(chat("Which stove fits the hut?", one) for one in ("The small stove.", "The large stove."))], contract=""
    )
)
async def test_the_answers_that_contradict_each_other_are_shown(checks, room):
    await room.press("end", "f", until=lambda: isinstance(room.screen, FixDialog))
    await room.until(lambda: all(text in room.screen_text for text in ("The small stove.", "The large stove.")))


@opens(stage=lambda shop: fill(shop, [*GOOD, ROWS[11], *(chat(f"Is it warm{end}", "") for end in "?!")], contract=""))
async def test_after_a_fix_the_cursor_is_on_the_next_row_that_blocks_training(checks, room):
    session = session_of(room)
    await room.press(*["down"] * 10, "f", until=lambda: isinstance(room.screen, FixDialog))
    await room.press("enter", notice="~ Row 11 edited.", until=lambda: session.row_index == 11)
    await room.press("f", until=lambda: "2 rows: rows with an empty answer" in room.screen_text)


CHATBOT = "I hope this helps!"


def marked_finding(room: RoomDriver) -> str:
    return next(line for line in room.text("#findings-list").splitlines() if line[0] in "▎▌")


@opens(
    stage=lambda shop: fill(
        shop, [*ROWS[9:12], chat("Is it warm?", CHATBOT), chat("Is it dry?", f"I cannot help with that. {CHATBOT}")], contract=""
    ),
    size=(140, 45),
)
async def test_f_acts_on_the_marked_finding_which_is_that_of_the_row(checks, room):
    session = session_of(room)
    assert {"email", "boilerplate", "refusal"} == set(session.source.verdict.rows)
    await room.press("down", "down")
    assert "email address" in marked_finding(room)
    assert marked_finding(room).endswith("f fix")
    assert "fix" in room.actions
    await room.press("down")
    assert "boilerplate" in marked_finding(room)
    assert marked_finding(room).endswith("by hand")
    await room.press("f", until=lambda: "2 rows: answers with boilerplate" in room.screen_text)
    assert "enter edit" in " ".join(room.screen_text.split())
    await room.press("escape", "down")
    assert "answers that refuse" in marked_finding(room), "the one of its findings that can be fixed"
    await room.press("home")
    assert "answers that refuse" in marked_finding(room), "a row without a finding leaves the cursor where it is"
    await room.press("f", until=lambda: "1 row: answers that refuse" in room.screen_text)
    await room.press("escape", "end", "tab", "home")
    first = marked_finding(room)
    assert "answers that refuse" not in first
    await room.press("escape", until=lambda: "answers that refuse" in marked_finding(room))


@opens(stage=lambda shop: fill(shop, [*GOOD, ROWS[11], chat("Is it warm?", CHATBOT)], contract=""), size=(140, 45))
async def test_without_rows_in_the_list_f_acts_on_the_marked_finding(room):
    session = session_of(room)
    await room.press("end", "up")
    assert session.row_index == 10
    assert "email address" in marked_finding(room)
    await filter_by(room, "no-such-text", 0)
    await room.press("tab", "end")
    assert "boilerplate" in marked_finding(room)
    await room.press("escape", ".", until=lambda: ready(room))
    assert "boilerplate" in marked_finding(room)
    await room.press("f", until=lambda: "1 row: answers with boilerplate" in room.screen_text)
    await room.press("enter", mode="review")


async def test_the_loss_of_held_out_rows_is_announced(shop, checks, open_room):
    rows = [chat("Is it warm" + "?" * number, "I cannot help with that.") for number in range(1, 9)]
    fill(shop, rows, contract="")
    async with open_room("data", (140, 45)) as room:
        session = await checked(room)
        held_out = [index for index in range(8) if session.source.is_held_out(index)]
        assert held_out
        await filter_by(room, "split:test", len(held_out))
        await filter_by(room, "finding:refusal", 8)
        await room.press("*", until=lambda: f"{len(held_out)} rows held out: if rejected" in room.question)
        assert "the evaluation loses them, too." in room.question
        await room.press("escape", "f", until=lambda: f"◇ {len(held_out)} held out" in room.screen_text)


@opens(stage=lambda shop: fill(shop, [ROWS[11], ROWS[11], ROWS[11], *GOOD], contract=""), size=(140, 45))
async def test_a_fix_leaves_accepted_rows_alone_unless_asked(room):
    session = session_of(room)
    assert session.source.verdict is not None
    rows = list(session.source.verdict.rows["duplicate"])
    assert len(rows) == 2
    session.decide("accept", [rows[0]])
    await filter_by(room, "finding:duplicate", 2)
    for keys, left_out in (("enter",), 1), (("a", "enter"), 2):
        await room.press("f", until=lambda: "✓ 1 accepted kept" in room.screen_text)
        assert "1 row: exact duplicates (keep the first)" in room.screen_text
        assert room.screen_text.count("We write to ada.holm") >= 2, "the row that it repeats"
        await room.press(*keys, until=lambda count=left_out: list(statuses(room).values()).count("rejected") == count)
        await room.press("u", until=lambda: "rejected" not in statuses(room).values())


@opens(stage=lambda shop: fill(shop, [ROWS[11], ROWS[11], *GOOD], contract=""))
async def test_f_fixes_the_finding_that_the_rows_are_filtered_by(room):
    session = session_of(room)
    assert {"duplicate", "email"} <= {finding.check for finding in session.source.findings(1)}
    for check, count in (("duplicate", 1), ("email", 2)):  # the cursor stays on the second row
        await filter_by(room, f"finding:{check}", count)
        assert room.screen._marked_check == check


async def test_a_fix_counts_the_rows_that_need_an_edit_by_hand(shop, checks, open_room):
    hidden = [chat("Is it warm?", "No,\u200b it is cool."), chat("Is it cool?", '{"reply": "It is\\u200b cool."}')]
    fill(shop, [*hidden, *GOOD], contract="")
    async with open_room() as room:
        await room.press("f", "enter", notice="~ Row 1 edited. 1 row must be edited by hand: press e in Review.")
        assert list(statuses(room)) == [0]
        await room.until(lambda: not room.app.jobs.busy)
        await room.press("down", "f", "enter", notice="· Nothing changed.")


BROKEN = ['{"prompt": "Is it open?", "completion": "Yes."', {"prompt": "Is it shut?", "completion": ""}]


@opens(stage=lambda shop: fill(shop, [*GOOD, *BROKEN], contract=""), size=(140, 45))
async def test_every_finding_leads_to_its_rows_and_unreadable_ones_are_fixed_like_any_other(room, checks):
    session = session_of(room)
    assert session.source.verdict is not None
    assert {name: list(rows) for name, rows in session.source.verdict.rows.items()} == {"bad-row": [10], "empty-target": [11]}
    await room.press("tab", "home", "enter", until=lambda: session.selection.filter == "finding:unreadable" and selected(room) == 1)
    await room.press("f", until=lambda: '"completion": "Yes."' in room.screen_text)
    await room.press("enter", notice="✗ Row 11 rejected.")
    assert (session.source.verdict.counts.blocked, session.source.verdict.counts.rows) == (1, 11)
    await room.press("u", until=lambda: session.source.verdict.counts.blocked == 2)
    await room.press("U", until=lambda: session.source.verdict.counts.blocked == 1)
    await room.press("backspace")
    await filter_by(room, "finding:empty", 1)
    await room.press("f", "e", mode="review")
    await room.press("e")
    await room.edit('{"prompt": "Is it shut?", "completion": "No.", "tag": "hours"}')
    await room.until_notice("~ Row 12 edited.")
    row = session.source.lazy_row(11).current
    assert ([turn.content for turn in row.messages], row.meta) == (["Is it shut?", "No."], {"tags": ["hours"]})
    await room.until(lambda: len(checks.requests) == 2 and session.check.finished)
    assert session.source.verdict.counts.outcome == "clean"
    assert len(read_source(room.staged).rows) == 11, "the training reads the same rows"


@opens(stage=lambda shop: fill(shop, [*GOOD, *BROKEN], contract=""), size=(140, 45))
async def test_the_first_row_of_a_finding_is_shown_beside_it_and_slash_filters_the_findings(room):
    def previewed() -> list[str]:
        return room.text("#row-preview").split("\n")[0].replace("─", "").split()

    await room.press("tab", "end", until=lambda: previewed() == ["Row", "12", "1", "of", "1"])
    await room.press("slash", *"read", until=lambda: "1 of 2" in room.text("#findings-list"))
    await room.until(lambda: previewed() == ["Row", "11", "1", "of", "1"])
    await room.press("tab", until=lambda: "1 of 2" not in room.text("#findings-list"))
    await room.press("escape", until=lambda: previewed() == ["Row", "1"])


def in_two_encodings(shop: Any) -> Any:
    path = fill(shop, [*GOOD, json.dumps(chat("Grüße", "Danke."), ensure_ascii=False)], contract="")
    more = [{"prompt": "Wo ist René?", "completion": "Im Café – hinten."}, {"prompt": "Zürich?", "completion": ""}]
    with path.open("ab") as file:
        file.writelines(json.dumps(one, ensure_ascii=False).encode("cp1252") + b"\n" for one in more)
    return path


@opens(stage=in_two_encodings)
async def test_rows_in_another_encoding_are_read_by_their_fix(room, checks):
    session = session_of(room)
    count = len(session.source)
    assert {name: list(rows) for name, rows in session.source.verdict.rows.items()} == {
        "encoding": [count - 2],
        "empty-target": [count - 1],
    }
    blocked = Skip("unsplittable", "2 of 12 rows cannot be used.")
    session.source.check_result = replace(session.source.check_result, skipped={"split": blocked}, splits=())
    room.app.redraw()
    await room.until(lambda: "✗ 2 rows to fix first" in room.text("#split-bar"))
    await filter_by(room, "finding:encoding", 1)
    assert "Im Café – hinten." in room.words("#row-preview")
    await room.press(
        "f", until=lambda: "Wo ist René?" in room.screen_text and "enter read as Windows-1252: 1 row" in room.screen_text
    )
    assert "Ren�" in room.screen_text
    await room.press("enter", until=lambda: "encoding" not in session.source.verdict.rows)
    fixed = session.source.lazy_row(count - 2).current
    assert [turn.content for turn in fixed.messages] == ["Wo ist René?", "Im Café – hinten."]
    await room.press("u", until=lambda: "encoding" in session.source.verdict.rows)


async def test_the_cursor_stays_on_its_finding_and_enter_shows_its_rows_without_rejected_ones(room):
    session = session_of(room)
    first, second, *_ = session.source.verdict.rows
    await room.press("tab", "down")
    session.decide("reject", list(session.source.verdict.rows[first]))
    room.app.redraw()
    names = list(session.source.verdict.rows)
    assert first not in names
    await room.until(lambda: names[room.screen.query_one("#findings-list").cursor] == second)
    session.undo_or_redo("undo")
    room.app.redraw()
    await room.press("home", "enter")
    await room.until(lambda: session.selection.filter == "finding:contract-disclaimer" and selected(room) == 1)
    assert room.focus == "list"
    assert room.screen.query_one("#filter-text").value == "finding:contract-disclaimer"
    await room.press("x", notice="✗ Row")
    room.screen._filter_by("contract-disclaimer")
    await room.until(lambda: session.selection.filter == "finding:contract-disclaimer -status:rejected" and selected(room) == 0)


@opens(size=NARROW)
async def test_g_shows_the_statistics_on_a_narrow_screen(room):
    session = session_of(room)
    assert not room.screen.query_one("#statistics").display
    assert "stats" in room.actions
    await room.press("g", until=lambda: room.focus == "findings-list" and not room.screen.query_one("#rows-side").display)
    await room.until(lambda: "disclaimer" in room.text("#findings-list"))
    assert "over the limit of 64" in room.text("#histogram")
    assert "train" in room.text("#split-bar")
    await room.press("down", "enter")
    await room.until(lambda: session.selection.filter.startswith("finding:") and not room.screen.query_one("#statistics").display)
    room.screen.action_stats()
    room.screen.action_leave()  # before the focus has moved
    await room.pilot.pause()
    await room.until(lambda: room.focus == "list" and not room.screen.query_one("#statistics").display)
    await room.press("g", "escape", until=lambda: room.focus == "list")


async def test_g_shows_labels_coverage_and_agreement(shop, checks, open_room):
    source = fill(shop)
    with RecordFile(source) as records:
        rows = [records.row(0), records.row(1)]
    for who, action in (("ada", "accept"), ("ben", "reject")):
        with ReviewSession(source, who=who) as session:
            session.decide(action, with_keys(rows))  # type: ignore[arg-type]
    async with open_room(size=(140, 45)) as room:
        assert not room.screen.query_one("#labels").display
        await room.press("g", until=lambda: "tag" in room.text("#label-bars") and "━" in room.text("#label-bars"))
        assert "billing" in room.text("#label-bars")
        assert "2 of 13" in room.text("#coverage-bars")
        assert "ada and ben" in room.text("#agreement-text")
        assert "0 of 2 rows the same" in room.words("#agreement-text")
        assert not room.screen.query_one("#findings").display
        assert room.focus == "list"
        await room.press("g", until=lambda: bool(room.screen.query_one("#findings").display))
    async with open_room(size=NARROW) as room:
        await room.press("g", "g", until=lambda: room.focus == "label-bars" and "billing" in room.text("#label-bars"))
        await room.press("g", until=lambda: room.focus == "list" and not room.screen.query_one("#statistics").display)


@opens(stage=lambda shop: None, settle=None)
async def test_an_import_writes_a_file_in_the_workspace_and_shows_it(room, shop, tmp_path):
    other = tmp_path / "elsewhere.csv"
    other.write_text("prompt,completion\nWhere is it?,On its way.\nIs it warm?,No.\n")
    await room.until(lambda: "No rows selected." in room.text("#invite"))
    await room.press("i", answer=str(tmp_path / "none.csv"), until=lambda: room.notice.startswith("✗"))
    await room.press("i", answer=str(other), notice="✓ Imported 2 rows to data/elsewhere.jsonl.")
    await checked(room)
    assert "Is it warm?" in row(room, 2)
    assert "chars" in room.text("#list"), "without a recipe there is no tokenizer"
    await room.press("i", answer=str(other), notice="✓ Imported 2 rows to data/elsewhere-2.jsonl.")
    assert (shop.folder / "data" / "elsewhere.jsonl").is_file()


@opens(stage=lambda shop: None, settle=None)
async def test_an_import_asks_before_it_leaves_out_invalid_rows(room, shop, tmp_path):
    other = tmp_path / "mixed.jsonl"
    write(other, [*GOOD[:3], "no json", {"a": 1}])
    await room.press("i", answer=str(other), until=lambda: "2 rows cannot be used" in room.screen_text)
    assert "mixed.jsonl, line 4" in room.screen_text
    await room.choose("")
    assert not (shop.folder / "data").exists()
    await room.press("i", answer=str(other))
    await room.press(choose="skip", notice="✓ Imported 3 rows to data/mixed.jsonl, 2 invalid rows skipped.")


async def test_a_missing_changed_and_emptied_source_is_noticed(shop, checks, open_room):
    source = fill(shop)
    source.unlink()
    async with open_room("data") as room:

        async def settle() -> None:
            for _ in range(2):  # a changed file is reopened once it has settled
                await room.observe(shop.snapshot())

        await room.until(lambda: session_of(room).error is not None and "✗" in room.text("#invite"))
        assert "i import rows" in room.text("#invite")
        assert room.actions[:3] == ["new recipe", "open", "import"]
        write(source, GOOD)
        await settle()
        await checked(room)
        assert room.head("#row-list").endswith("1 of 10, 10 undecided")
        await room.press("down", "down", "a")
        write(source, ROWS)
        await settle()
        await room.until(lambda: ready(room) and len(session_of(room).source) == 14)
        assert session_of(room).row_index == 2
        assert statuses(room) == {2: "accepted"}
        write(source, [])
        await settle()
        await room.until(lambda: "support-json.jsonl has no rows." in room.text("#invite"))
        source.unlink()
        source.mkdir()
        await settle()
        await room.until(lambda: "has no train.jsonl" in room.words("#invite"))


async def test_decisions_of_another_window_are_shown_and_its_lock_is_respected(room, shop):
    source = room.staged
    session = session_of(room)
    with ReviewSession(source, who="other") as window:
        window.decide("accept", [session.source.keyed_row(1)])
        await room.observe(shop.snapshot())
        await room.until(lambda: statuses(room) == {1: "accepted"})
        await room.press("x", until=lambda: "another window" in room.notice)
        assert statuses(room) == {1: "accepted"}
    await room.press("x", notice="✗ Row 1 rejected.")
    assert statuses(room) == {0: "rejected", 1: "accepted"}
    with pytest.raises(Exception, match="another window"):
        ReviewSession(source)
    await room.press("H", mode="home")
    ReviewSession(source).close()


@opens(stage=lambda shop: None, settle=None, size=NARROW)
async def test_a_new_recipe_fills_the_room(room, shop):
    await room.until(lambda: "o open a file" in room.text("#invite"))
    assert "filter" not in room.actions
    fill(shop, GOOD)
    await room.observe(shop.snapshot())
    await checked(room)


@opens(stage=lambda shop: (fill(shop, GOOD), fill(shop, [chat("Only this?", "Yes.")], name="other")), settle=None)
async def test_another_recipe_shows_its_rows_and_hides_the_undo_of_a_decision(checks, room):
    assert len((await checked(room)).source) == 10, "the main recipe comes first"
    await room.press("x", notice="✗ Row 1 rejected.")
    await room.press("o", "down", "enter", until=lambda: ready(room) and len(session_of(room).source) == 1 and not room.notice)


async def test_filter_order_and_cursor_survive_a_change_of_the_recipe(room, shop):
    before = session_of(room)
    await filter_by(room, "tag:login", 6)
    await room.press("down", ",", until=lambda: before.selection.scanned is None)
    fill(shop, contract=f"{CONTRACT}\n[training]\nlearning_rate = 1e-5\n")
    await room.observe(shop.snapshot())
    await room.until(lambda: session_of(room) is not before and ready(room) and selected(room) == 6)
    after = session_of(room)
    assert (after.selection.filter, after.selection.order, after.row_index) == ("tag:login", "findings", before.row_index)
    await room.until(lambda: bool(row(room, after.row_index + 1)[:3].strip()))


async def test_failed_checks_leave_the_rows_and_can_be_repeated(shop, checks, open_room):
    fill(shop)
    checks.error = MachineError("The process that checks the rows died: killed.", hint="Check them again.")
    async with open_room("data") as room:
        await room.until(lambda: "The process that checks the rows" in room.text("#summary"))
        assert "Where is my parcel?" in row(room, 1)
        checks.error = None
        await room.press(".")
        await checked(room)
        assert "disclaimer" in room.text("#findings-list")


async def test_the_checks_stop_with_the_app(shop, checks, open_room):
    fill(shop)
    checks.gate.clear()
    async with open_room("data") as room:
        await room.until(lambda: session_of(room).check.step == "counting tokens")
    assert checks.stopped == 1


async def test_a_source_that_was_opened_a_moment_ago_is_not_called_empty(room):
    text = source_unavailable(session_of(room), room.app.workspace, True, 80)
    assert text.plain.strip() == "reading support-json.jsonl"


async def test_a_real_process_checks_a_file_without_a_recipe(shop, open_room, tmp_path):
    other = tmp_path / "shop.jsonl"
    write(other, ROWS[:13])
    async with open_room("data") as room:
        await room.press("i", answer=str(other))
        await room.until(lambda: room.app.sessions.session is not None and ready(room), 60)
        await room.until(lambda: "≈" in row(room, 13))


async def test_filter_and_cursor_are_restored(shop, checks, open_room):
    fill(shop)
    async with open_room() as room:
        await filter_by(room, "tag:login", 6)
        await room.press("down", "down")
        saved = room.app.sessions.save_state()
        assert json.loads(json.dumps(saved)) == {"filter": "tag:login", "order": "row", "row": 6}
    app = shop.app()
    app.saved.values["source"] = saved
    async with drive(app, "data") as room:
        await room.until(lambda: ready(room) and selected(room) == 6)
        assert session_of(room).row_index == 6
        assert room.screen.query_one("#filter-text").value == "tag:login"


@opens(size=NARROW)
async def test_rows_hidden_for_a_moment_keep_the_focus_and_letters_typed_right_after_slash_go_into_the_filter(room):
    assert room.focus == "list"
    room.screen.query_one("#list").post_message(events.Hide())  # it arrives only after the rows are shown again
    await room.pilot.pause()
    assert room.focus == "list"
    session = session_of(room)
    for key, character in (("slash", "/"), ("b", "b"), ("x", "x"), ("enter", "\r"), ("comma", ",")):
        room.app.post_message(events.Key(key, character))
    await room.until(lambda: session.selection.order == "findings")
    assert (session.selection.filter, room.focus) == ("bx", "list")
    assert room.screen is room.app.screen
    assert not session.source.state.steps


LABELED = [chat(f"Topic: {'delivery' if at % 2 else 'returns'}\nQuestion {at}", ("refund", "delay")[at % 2]) for at in range(20)]


@opens(stage=lambda shop: fill(shop, LABELED, contract=""))
async def test_rows_show_their_labels_and_no_beginning_that_many_prompts_share(room):
    assert "refund" in row(room, 1)
    assert "…Question 0" in row(room, 1)
    assert "delay" in row(room, 2)
    assert "delivery" not in row(room, 2)


@opens(stage=lambda shop: fill(shop, GOOD))
async def test_rows_of_the_workspace_are_opened_without_a_copy(room):
    source = room.staged
    await room.press("i", answer=str(source), notice="✓ Opened support-json.jsonl, which is in this workspace.")
    assert not list(source.parent.glob("support-json-*.jsonl"))

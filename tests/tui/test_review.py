import json
from pathlib import Path

import pytest
from textual import events

from mlxtune.core.errors import MachineError, MlxtuneError
from mlxtune.data.review import ReviewSession, journal_path
from mlxtune.data.review import load as load_review
from mlxtune.data.rows import Row
from mlxtune.data.source import read_source
from mlxtune.planning.masks import TrainingMask
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.render.output_text import word_diff
from mlxtune.tui.source_session import SourceSession
from mlxtune.tui.widgets import EditDialog, Editor, RowReader

from .driver import NARROW, WIDE, Gate, Opening, RoomDriver, drive, opens
from .rows_stage import GOOD, SYSTEM, answer, chat, fill, journal, pair, ready, session_of, statuses, write

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checks")]


async def opened(room: RoomDriver, *, counted: bool = True) -> None:
    """Wait until the source is checked, the first row drawn and, with ``counted``, its tokens are known."""
    await room.until(lambda: ready(room) and room.head("#read").startswith("▌ Row 1 "))
    if counted:
        await room.until(lambda: room.head("#read").endswith(("trained", "held out")))


ROOM = Opening("review", fill, opened)


async def at_row(room: RoomDriver, number: int) -> None:
    await room.until(lambda: room.head("#read").startswith(f"▌ Row {number} "))


async def go_to(room: RoomDriver, number: int) -> None:
    await room.press("home", *["right"] * (number - 1))
    await at_row(room, number)


async def edit(room: RoomDriver, *keys: str) -> None:
    await room.press(*keys, "e", until=lambda: room.focus == "editor")


def actions(source: Path) -> list[str]:
    return [event["action"] for event in journal(source)]


def line(room: RoomDriver, text: str) -> str:
    return next((line for line in room.text("#reader").splitlines() if text in line), "")


async def test_a_row_is_shown_by_role_and_trained_text_is_marked_without_color(shop, checks, tokens, open_room):
    fill(shop)
    tokens.gate.clear()
    async with open_room("review") as room:
        await opened(room, counted=False)
        assert room.head("#read").endswith("counting tokens")
        for role, trained in (("◇ system", "not trained"), ("○ user", "not trained"), ("● assistant", "trained")):
            assert line(room, role).split("  ", 2)[-1].strip().endswith(trained)
        assert "┃ " in line(room, '{"category": "returns"')
        assert '┃  "reply"' in line(room, '"reply"'), "JSON is indented"
        assert "┃" not in line(room, "Where is my parcel?")
        assert "<|im_end|>" not in room.text("#reader")
        tokens.gate.set()
        await room.until(lambda: room.head("#read").endswith("29 tokens, 12 trained"))
        assert "trained, 12 of 13" in line(room, "● assistant")
        assert "not trained, 11" in line(room, "◇ system")
        assert "<|im_end|>" in room.text("#reader")
        assert "support-json.jsonl, line 1" in room.text("#origin")


async def test_a_held_out_or_rejected_answer_is_not_trained(room, tokens):
    session = room.screen.session
    assert session is not None
    number = next(index + 1 for index in range(len(session.source)) if session.source.is_held_out(index))
    await go_to(room, number)
    await room.until(lambda: room.head("#read").endswith("tokens, held out"))
    assert "not trained, " in line(room, "● assistant")
    await room.press("e", until=lambda: "editing" in room.head("#read"))
    assert "not trained" in line(room, "● assistant")
    await room.press("escape", "home")
    await at_row(room, 1)
    await room.press("x")
    await at_row(room, 2)
    await room.press("left", until=lambda: room.head("#read").endswith("29 tokens, not used"))
    assert "not trained, 13" in line(room, "● assistant")
    await room.press("u", until=lambda: room.head("#read").endswith("29 tokens, 12 trained"))


async def test_tokens_are_counted_for_the_row_on_screen_and_not_for_the_rows_passed(shop, checks, tokens, open_room, monkeypatch):
    fill(shop)
    requests, token_masks = list[int](), SourceSession.token_masks

    def counting(session: SourceSession, rows: list[Row]) -> dict[str, TrainingMask | MlxtuneError]:
        requests.append(session.row_index)
        return token_masks(session, rows)

    monkeypatch.setattr(SourceSession, "token_masks", counting)
    tokens.gate.clear()
    async with open_room("review", WIDE) as room:
        await opened(room, counted=False)
        await room.until(lambda: requests == [0])
        await go_to(room, 5)
        await at_row(room, 5)
        tokens.gate.set()
        await room.until(lambda: room.head("#read").endswith(("trained", "held out")))
        assert requests == [0, 4]


@opens(mode="data", settle=None)
async def test_review_opens_on_an_undecided_row_unless_the_user_opens_a_row(room):
    await room.until(lambda: ready(room))
    await room.press("x", notice="✗ Row 1 rejected.")
    await room.press("R")
    await at_row(room, 2)
    await room.press("left")
    await at_row(room, 1)
    await room.press("D", "R")  # the row that Review showed
    await at_row(room, 1)
    await room.press("D", "down", "x", notice="✗ Row 2 rejected.")
    await room.press("enter")
    await at_row(room, 2)
    await room.press("D", "up", "R")
    await at_row(room, 3)


async def test_each_decision_is_one_key_and_moves_on(room):
    source = room.staged
    for key, notice, following in (("a", "✓ Row 1 accepted.", 2), ("x", "✗ Row 2 rejected.", 3), ("space", "○ Row 3 skipped.", 4)):
        await room.press(key, notice=notice)
        assert room.undo_key == "u"
        await at_row(room, following)
    assert "2 of 13 decided" in room.text("#progress")
    await room.press("left", "left")
    await at_row(room, 2)
    await room.press("space")  # does not take back the rejection
    await at_row(room, 4)
    assert "2 of 13 decided" in room.text("#progress")
    await room.press(*"aaaaaaaaaa")
    await at_row(room, 3)  # the skipped row comes last
    await room.press("a", until=lambda: "all decided" in room.text("#progress"))
    assert actions(source) == ["accept", "reject", "skip", *["accept"] * 11]


@opens(size=NARROW)
async def test_undo_and_redo_show_the_row_of_the_decision(room):
    source = room.staged
    await room.press(*"axax")
    await at_row(room, 5)
    for number, action in ((4, "reject"), (3, "accept"), (2, "reject"), (1, "accept")):
        await room.press("u", notice=f"↶ Row {number}: {action} undone.")
        assert room.undo_key == "U"
        await at_row(room, number)
    await room.press("u", notice="· Nothing to undo.")
    assert not statuses(room)
    assert "undo" not in room.actions
    await room.press("U", "ctrl+r", notice="✗ Row 2 rejected.")
    assert statuses(room) == {0: "accepted", 1: "rejected"}
    assert len(journal(source)) == 10


async def test_tags_and_notes_stay_on_the_row(room):
    assert "▌ 1 login" in room.text("#tags")
    assert "▌ 2" not in room.text("#tags")
    await room.press("2", until=lambda: "▌ 2 billing" in room.text("#tags"))
    assert room.notice == "✓ Row 1 tagged."
    await room.press("1", until=lambda: "▌ 1 login" not in room.text("#tags"))
    await room.press("t", answer="odd [red]", until=lambda: "▌ 4 odd [red]" in room.text("#tags"))
    await room.press("#", answer="ask the workshop", until=lambda: "note     ask the workshop" in room.text("#origin"))
    await at_row(room, 1)
    decision = session_of(room).source.decision(0)
    assert (decision.tags, decision.note, decision.status) == (("billing", "odd [red]"), "ask the workshop", "pending")
    await room.press("9")
    await room.pilot.pause()
    assert len(session_of(room).source.state.steps) == 4, "there is no ninth tag"


async def test_the_contract_is_checked_while_editing(shop, checks, open_room):
    source = fill(shop)
    before = source.read_bytes()
    async with open_room() as room:
        await go_to(room, 11)
        assert "1 of 4 fails" in room.head("#contract-section")
        await edit(room)
        await room.until(lambda: "Row 11, editing turn 3" in room.head("#read"))
        assert room.actions == ["save", "leave"]
        await room.press("backspace", "backspace", until=lambda: "✗  valid JSON" in room.text("#contract"))
        room.screen.query_one(Editor).load_text(answer("safety", "Only with a flue. This is general guidance."))
        await room.until(lambda: room.head("#contract-section").endswith("passes"))
        assert not statuses(room), "nothing is saved yet"
        await room.press("ctrl+s", notice="~ Row 11 edited.")
        assert "editing" not in room.head("#read")
        await room.until(lambda: "~ edited" in room.head("#read") and room.head("#read").endswith(("trained", "held out")))
        await room.press("u", until=lambda: "1 of 4 fails" in room.head("#contract-section"))
    assert journal(source)[0]["rows"][0]["record"]["messages"][2]["content"].endswith('general guidance."}')
    assert source.read_bytes() == before


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_f_adds_the_missing_disclaimer(shop, checks, open_room, size):
    source = fill(shop)
    panel = "#contract" if size == WIDE else "#contract-line"
    async with open_room(size=size) as room:
        assert "disclaimer" not in room.actions
        await room.press("f")  # does nothing to a row that lacks none
        await go_to(room, 11)
        assert room.actions[0] == "disclaimer"
        assert "f add disclaimer" in room.text(panel)
        await room.press("f", notice="~ Row 11 edited.")
        assert "Only with a flue. This is" in room.text("#reader")
        assert "f add disclaimer" not in room.text(panel)
        await room.press("u", until=lambda: "f add disclaimer" in room.text(panel))
    edit = next(step for step in journal(source) if step.get("rows"))
    assert "Only with a flue. This is general guidance." in edit["rows"][0]["record"]["messages"][2]["content"]


@opens(size=NARROW)
async def test_escape_leaves_the_row_unchanged_and_keeps_a_draft(room):
    await edit(room, "up")
    await room.press(*" axu1 now", "escape", notice="· Row unchanged; your draft is kept.")
    assert not line(room, "axu1")
    assert not statuses(room), "letters typed into the editor are not actions"
    await edit(room)
    await room.until(lambda: room.screen.query_one(Editor).text == "Where is my parcel? axu1 now")
    await room.press("ctrl+s", notice="~ Row 1 edited.")
    assert line(room, "Where is my parcel? axu1 now")
    await edit(room)
    await room.press("escape", until=lambda: "editing" not in room.head("#read"))
    assert "draft" not in room.notice, "nothing was written"


async def test_a_draft_is_kept_when_another_row_is_opened(shop, checks, open_room):
    turns = [{"role": role, "content": f"turn number {number}"} for number, role in enumerate(("user", "assistant") * 3, 1)]
    fill(shop, [{"messages": turns}, *GOOD], contract="")
    async with open_room() as room:
        await edit(room, "up")
        await room.press(*" anew", until=lambda: "Row 1, editing turn 5" in room.head("#read"))
        room.app.action_room("data")
        await room.until(lambda: room.mode == "data")
        await room.press("down", "R", notice="· Your draft is kept with its row.")
        await at_row(room, 2)
        await edit(room)
        await room.until(lambda: "Row 2, editing turn 3" in room.head("#read"))
        assert "anew" not in room.screen.query_one(Editor).text
        await room.press("escape", "left")
        await edit(room, "up")
        await room.until(lambda: room.screen.query_one(Editor).text == "turn number 5 anew")


async def test_a_draft_is_kept_when_the_app_is_closed(shop, checks, open_room):
    fill(shop)
    async with open_room() as room:
        await edit(room, "up")
        await room.press(*" anew")
        saved = json.loads(json.dumps(room.screen.save_state()))  # also while the editor is open
    app = MlxtuneApp(shop.folder, watch=False, state={"rooms": {"review": saved}})
    app.snapshot = shop.snapshot()
    async with drive(app, "review") as room:
        await opened(room)
        await edit(room, "up")
        await room.until(lambda: room.screen.query_one(Editor).text == "Where is my parcel? anew")


async def test_a_draft_ends_when_its_text_is_that_of_the_row_again(room):
    await edit(room, "up")
    await room.press("x")
    assert room.screen.save_state()["drafts"]  # as every second
    await room.press("backspace", "escape", until=lambda: "editing" not in room.head("#read"))
    assert not room.screen.save_state()["drafts"]


@opens(stage=lambda shop: fill(shop, GOOD))
async def test_a_draft_stays_with_its_row_when_rows_are_inserted_before_it(room, shop):
    source = room.staged
    await edit(room, "up")
    await room.press(*" anew", "escape", notice="· Row unchanged; your draft is kept.")
    fill(shop, [chat("Is it new?", answer("returns", "It is.")), *GOOD])
    for _ in range(2):
        await room.observe(shop.snapshot())
    await room.until(lambda: ready(room) and bool(line(room, "Is it new?")))
    room.screen.query_one(RowReader).focus()
    await edit(room, "up")
    await room.until(lambda: "Row 1, editing turn 2" in room.head("#read"))
    assert room.screen.query_one(Editor).text == "Is it new?"
    await room.press("escape", "right")
    await edit(room, "up")
    await room.until(lambda: "Row 2, editing turn 2" in room.head("#read"))
    assert room.screen.query_one(Editor).text == "Where is my parcel? anew"
    assert not journal_path(source).exists()


async def test_letters_typed_right_after_e_go_into_the_editor_and_an_invalid_edit_stays_there(room):
    for key in "exa":
        room.app.post_message(events.Key(key, key))
    await room.until(lambda: room.screen.query_one(Editor).text.endswith("xa"))
    assert not statuses(room)
    room.screen.query_one(Editor).load_text("")
    await room.press("ctrl+s", notice="✗ support-json.jsonl, line 1: an assistant turn is empty.")
    assert "editing turn 3" in room.head("#read")


async def test_a_conversation_is_copied_ignores_the_keys_of_pairs_and_shows_the_reason_of_its_decision(room):
    await room.press("ctrl+y", notice="✓ Copied the row.")
    written = json.loads(room.staged.read_text(encoding="utf-8").splitlines()[0])
    assert json.loads(room.app.clipboard)["messages"] == written["messages"]
    await room.press("d", notice="· Not possible now: right.")
    await room.press("equals_sign", "0", "%")
    await room.pilot.pause()
    assert not statuses(room)
    assert "tie" not in room.actions
    reason = "replace /the shop/our shop/ in answer | cap category 200 | drop what repeats an earlier row"
    session_of(room).decide("reject", [0], reason=reason)
    await room.press("home", until=lambda: reason in room.words("#origin"))
    await room.press("a", notice="✓ Row 1 accepted.")
    await room.press("escape", mode="data")


@opens(stage=lambda shop: fill(shop, [chat("Is it?", "one\x1b[31m \u202etwo\r\nthree")], contract=""))
async def test_an_edit_preserves_characters_that_cannot_be_shown(room):
    assert room.words("#contract") == "The recipe has no contract. Set one in Plan, under evaluation."
    await edit(room)
    await room.press("backspace", "!", "ctrl+s", notice="~ Row 1 edited.")
    record = session_of(room).source.decision(0).record
    assert record is not None
    assert record["messages"][2]["content"] == "one\x1b[31m \u202etwo\r\nthre!"


PAIRS = [
    pair("Is the lamp warm?", f"No, the lamp {number} stays cool.", f"Yes, the lamp {number} burns you.") for number in range(5)
]


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_pairs_are_shown_side_by_side_and_each_verdict_is_one_key(shop, checks, open_room, size):
    source = fill(shop, PAIRS, contract="")
    async with open_room(size=size) as room:
        assert "a better" in line(room, "chosen").split("rejected")[0]
        drawn = room.screen.query_one(RowReader).render()
        underlined = "".join(drawn.plain[span.start : span.end] for span in drawn.spans if "underline" in str(span.style))
        assert "stays cool" in underlined
        assert "burns you" in underlined
        assert "lamp" not in underlined, "no difference"
        for key, notice in (
            ("a", "✓ Row 1 accepted."),
            ("d", "✓ Row 2 swapped and accepted."),
            ("equals_sign", "= Row 3 marked as a tie."),
            ("0", "✗ Row 4 marked bad on both sides."),
        ):
            await room.press(key, notice=notice)
        await room.press("%", until=lambda: line(room, "chosen").index("chosen") > line(room, "chosen").index("rejected"))
        await room.press("a")
        await room.until_notice("✓ Row 5 swapped and accepted.")  # the left answer is the rejected one now
    assert actions(source) == ["accept", "swap", "tie", "bad", "swap"]


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_long_answers_of_a_pair_start_below_the_end_of_their_prompt(shop, checks, open_room, size):
    answer = "\n".join(f"Line {number} of the answer." for number in range(90))
    fill(shop, [pair("\n".join(f"Line {number} of the question." for number in range(60)), answer, f"{answer}!")], contract="")
    async with open_room(size=size) as room:
        await room.until(lambda: "Line 59 of the question." in room.screen.query_one(RowReader).render().plain)
        assert "Line 0 of the answer." in room.screen.query_one(RowReader).render().plain


def test_a_word_diff_is_computed_once(monkeypatch):
    first = word_diff("The lamp stays cool.", "The lamp is hot now.")
    monkeypatch.setattr("difflib.SequenceMatcher", None)
    assert word_diff("The lamp stays cool.", "The lamp is hot now.") == first
    assert "".join(text for text, differs in first[0] if differs) == "stays cool"


@opens(mode="data", settle=None)
async def test_review_goes_through_the_rows_that_data_filters(room):
    await room.until(lambda: ready(room))
    await room.press("slash", *"tag:login", "enter", until=lambda: len(session_of(room).selection.rows) == 6)
    await room.press("down", "down", "enter", mode="review")
    await at_row(room, 7)
    assert "row 3 of 6 for tag:login" in room.text("#progress")
    await room.press("a")
    await at_row(room, 10)
    await room.press("left", "left")
    await at_row(room, 4)
    await room.press("end")
    await at_row(room, 13)
    assert "similar  row 1" in room.text("#origin")
    await room.press("home", "right")
    await at_row(room, 4)
    await room.press("escape", "escape")  # the first closes the notice
    await room.until(lambda: room.mode == "data" and room.screen.query_one("#list").cursor == 1)
    await room.press("backspace", until=lambda: len(session_of(room).selection.rows) == 14)
    assert "all rows" not in room.actions


async def test_decisions_about_rows_that_are_not_in_the_source_are_announced(shop, checks, open_room):
    source = fill(shop, [GOOD[0], GOOD[1]])
    with ReviewSession(source) as session:
        session.decide("accept", [(row.hash, row) for row in read_source(source).rows[:2]])
    write(source, [{"prompt": f"Number {number}?", "completion": "Yes."} for number in range(20)])
    async with open_room("review") as room:
        await room.until(lambda: "2 decisions of the review are about rows that this source does not have." in room.notice)
        await room.press("u", until=lambda: "2 rows: accept undone. It was about rows that are not in the source" in room.notice)


@opens(mode="data", settle=None)
async def test_review_can_leave_the_filter_also_of_no_row(room):
    await room.until(lambda: ready(room))
    await room.press("x", notice="✗ Row 1 rejected.")
    await room.press("slash", *"tag:nowhere", "enter")
    await room.until(lambda: not session_of(room).selection.rows and session_of(room).selection.scanned is None)
    await room.press("R", until=lambda: "no row matches tag:nowhere" in room.text("#progress"))
    await room.press("backspace")
    await at_row(room, 2)
    assert "tag:nowhere" not in room.text("#progress")
    await room.press("D", "slash", *"tag:login", "enter", until=lambda: len(session_of(room).selection.rows) == 6)
    await room.press("R", until=lambda: "all rows" in room.actions)
    await room.press("backspace", until=lambda: len(session_of(room).selection.rows) == 14)
    assert "all rows" not in room.actions
    assert "tag:login" not in room.text("#progress")
    await room.press("D", mode="data")
    assert room.screen.query_one("#filter-text").value == ""


@opens(size=NARROW)
async def test_a_narrow_screen_shows_the_contract_in_one_line_and_why_a_row_is_invalid(room):
    assert "✓ contract passes  4 of 4 pass" in room.text("#contract-line")
    await go_to(room, 11)
    assert "✗ correct disclaimer:" in room.text("#contract-line")
    assert "3 of 4 pass" in room.text("#contract-line")
    await room.press("g", until=lambda: room.focus == "contract" and not room.screen.query_one("#read-side").display)
    assert "▌ 3 safety" in room.text("#tags")
    assert "line 11" in room.text("#origin")
    await room.press("g", until=lambda: room.focus == "reader" and room.screen.query_one("#read-side").display)
    await room.press("g", "escape")
    await at_row(room, 11)
    await room.press("end", until=lambda: "✗ Invalid row: there is no assistant turn at the end" in room.text("#reader"))
    assert "accept" not in room.actions
    assert '{"messages": [{"role": "user", "content": "half a row"}]}' in room.text("#reader")
    await room.press("a", "1", "#", "e", until=lambda: isinstance(room.screen, EditDialog))
    await room.press("escape")
    assert not statuses(room)
    await room.press("left", "a", notice="✓ Row 13 accepted.")
    await at_row(room, 1)  # not 14, which is invalid


async def test_tab_goes_through_the_sections_in_order(room):
    await go_to(room, 12)
    await room.until(lambda: "this email" in room.words("#findings"))
    for panel in ("contract", "findings", "tags", "origin", "reader"):
        await room.press("tab")
        await room.until(lambda: room.focus == panel)  # noqa: B023
    await room.press("shift+tab", "a")
    await room.until_notice("✓ Row 12 accepted.")  # the room's keys work in every section


async def test_a_long_row_can_be_scrolled_to_its_end(shop, checks, open_room):
    long = "\n".join(f"line {number}" for number in range(200))
    fill(shop, [chat(long, "Short."), *GOOD], contract="")
    async with open_room(size=NARROW) as room:
        await room.until(lambda: "Short." in room.text("#reader"))  # the answer is shown first
        await room.press("up", until=lambda: "line 3\n" in room.text("#reader") and "more lines" in room.text("#reader"))
        await room.press("pagedown", "pagedown")
        await room.until(lambda: "line 3\n" not in room.text("#reader") and "line 30\n" in room.text("#reader"))
        await room.press("pageup", "pageup", "pageup", "up", until=lambda: SYSTEM[:20] in room.text("#reader"))
        await room.press("k", "j", "j", until=lambda: "Short." in room.text("#reader"))


async def test_decisions_survive_a_journal_that_another_program_replaces(room):
    source = room.staged
    await room.press("a", notice="✓ Row 1 accepted.")
    saved = source.with_name("saved")  # by an editor that opened the journal before the decision
    saved.write_bytes(b"")
    saved.replace(journal_path(source))
    await room.press("x", notice="✗ Row 2 rejected.")
    assert load_review(source) == session_of(room).source.state
    assert session_of(room).source.decided_count == 2


async def test_without_a_tokenizer_training_is_marked_by_turn(shop, checks, tokens, open_room):
    fill(shop)
    tokens.error = MachineError("The process with the tokenizer died.")
    async with open_room("review") as room:
        await opened(room, counted=False)
        await room.until(lambda: room.head("#read").endswith("token count unavailable: The process with the tokenizer died."))
        assert "┃ " in room.text("#reader")


@opens(settle=None)
async def test_a_missing_base_is_told_and_its_tokens_are_counted_once_it_is_there(local_bases, room, shop):
    await opened(room, counted=False)
    await room.until(lambda: room.head("#read").endswith("no token count: the base is missing. b in Plan downloads it"))
    local_bases.add("smollm2-135m")
    await room.observe(shop.snapshot())
    await room.until(lambda: room.head("#read").endswith(" trained"))


@opens(stage=lambda shop: None, settle=None, size=NARROW)
async def test_without_rows_the_room_says_how_to_get_some(room, shop):
    await room.until(lambda: "No rows selected." in room.text("#invite"))
    await room.press("a", "e", "u", "space", "right")
    fill(shop, GOOD).unlink()
    await room.observe(shop.snapshot())
    await room.until(lambda: "✗" in room.text("#invite"))
    assert room.actions[:2] == ["open", "import"]
    assert "o another recipe" in room.text("#invite")


async def test_an_import_continues_while_tokens_are_counted(shop, checks, open_room, monkeypatch):
    from mlxtune.data import importer

    fill(shop)
    fill(shop, [GOOD[0]], "more")
    write(other := shop.folder.parent / "more.jsonl", [GOOD[0]])
    gate, original = Gate(), importer.import_rows
    monkeypatch.setattr(importer, "import_rows", lambda *args, **kwargs: (gate.wait(), original(*args, **kwargs))[1])
    async with open_room() as room:
        room.screen.import_rows(str(other))
        await room.press("right", "right", "right")
        await at_row(room, 4)
        await room.until(lambda: room.head("#read").endswith(("trained", "held out")))
        gate.set()
        await room.until_notice("✓ Imported 1 row to data/more-2.jsonl.")


@opens(stage=lambda shop: fill(shop, GOOD, "rows-of-the-support-desk-with-a-very-long-name"))
async def test_a_long_file_name_keeps_the_line_number(room):
    assert "…, line 1" in room.text("#origin")


@opens(stage=lambda shop: fill(shop, GOOD))
async def test_a_second_annotator_starts_anew_and_is_compared(room):
    source = room.staged
    await room.press("a", notice="✓ Row 1 accepted.")
    await room.press("y", choose="Another name", answer="ben")
    await room.until(lambda: "as ben" in room.text("#progress") and "0 of 10 decided" in room.text("#progress"))
    await room.press("home", "x", notice="✗ Row 1 rejected.")
    await room.press("home", until=lambda: "disputed" in room.text("#origin"))
    await room.press("y", choose="Yourself")
    await room.until(lambda: "as ben" not in room.text("#progress") and statuses(room) == {0: "rejected"})
    session_of(room).select("status:disputed", "row")
    await room.until(lambda: session_of(room).selection.scanned is None and list(session_of(room).selection.rows) == [0])
    assert len({event["who"] for event in journal(source)}) == 2

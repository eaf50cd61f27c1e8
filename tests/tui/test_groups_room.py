import json
from typing import Any

import pytest
from textual.widgets import Input

from mlxtune.core.errors import ModelError
from mlxtune.core.json_fields import to_json
from mlxtune.data.generate.lineage import KEY, Lineage
from mlxtune.data.groups import ClusterResult
from mlxtune.data.rows import row_text
from mlxtune.data.source_files import generated_path
from mlxtune.tui import key_order
from mlxtune.tui.source_session import SourceSession
from mlxtune.tui.widgets import ChoiceDialog, MarkableList

from . import rows_stage
from .driver import NARROW, Gate, Opening, RoomDriver, opens
from .rows_stage import GOOD, answer, chat, fill, journal, ready, session_of, statuses

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checks")]

LONG = "The zipper of the blue jacket broke on the second day of our trip to the north"
ROWS = [
    *GOOD,
    chat(f"{LONG}.", answer("returns", "We repair it at once and send it back to you.")),  # 11
    *[
        chat(f"{LONG}{end}", answer("returns", "We repair it at once and send it back to you.")) for end in ("!", "?", " please.")
    ],  # 12–14
    GOOD[0],  # 15
    GOOD[1],  # 16
    chat("Write to ada.holm@example.com about the lamp that I bought in May", answer("returns", "We do.")),  # 17
    chat("Write to ada.holm@example.com about the lamp that I bought in May", answer("shipping", "No, we never write.")),  # 18
]


@pytest.fixture(autouse=True)
def _one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put all rows in one split, so that none of them is a leak."""
    monkeypatch.setattr(rows_stage, "_split", lambda row: "train")


async def opened(room: RoomDriver) -> None:
    await room.until(lambda: ready(room) and "group" in room.head("#groups-section"))


ROOM = Opening("groups", lambda shop: fill(shop, ROWS), opened)


def lines(room: RoomDriver) -> list[str]:
    return [line[1:].rstrip() for line in room.text("#group-list").splitlines() if line.strip()]


def members(room: RoomDriver) -> int:
    return room.screen.query_one("#member-list", MarkableList).count


async def go_to(room: RoomDriver, kind: str) -> None:
    position = next(index for index, line in enumerate(lines(room)) if f" {kind} " in f"{line} ")
    await room.press("home", *["down"] * position)
    await room.until(lambda: room.head("#members").endswith(kind) or f": {kind}" in room.head("#members"))


async def test_groups_are_listed_by_size_with_their_members_side_by_side(room):
    await room.press("home")
    assert lines(room)[0].split()[:4] == ["4", "≈", "near-dup", "The"]
    assert members(room) == 4
    assert "Row 11" in room.text("#compared")
    assert "Row 12" in room.text("#compared")
    await room.press("enter", "end", until=lambda: "Row 14" in room.text("#compared"))
    assert room.focus == "member-list"
    await room.press("w", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert room.screen._options[0].about == "new prompts like the 4 rows of the group, and their answers"


async def test_keep_one_is_one_event_and_one_undo_also_in_several_groups_whose_marks_stay(room):
    source = room.staged
    await room.press("home")
    before = lines(room)
    await room.press("enter", "down")
    row = session_of(room).source.lazy_row(11).row
    assert room.screen.command_fields()["row"] == row.id
    await room.press("ctrl+y", notice="✓ Copied the row.")
    await room.press("f", notice="✗ 3 rows rejected.")
    assert statuses(room) == {10: "rejected", 12: "rejected", 13: "rejected"}
    assert len(lines(room)) == len(before) - 1
    await room.press("u", notice="↶ 3 rows: reject undone.", until=lambda: lines(room) == before)
    assert [(event["action"], event["reason"]) for event in journal(source)] == [("reject", "groups: keep"), ("undo", "")]
    await room.press("escape", until=lambda: room.focus == "group-list")
    await go_to(room, "duplicate")
    await room.press("v", "down", "f", notice="✗ 2 rows rejected.")
    assert statuses(room) == {14: "rejected", 15: "rejected"}
    assert len(journal(source)) == 3
    await room.press("u", until=lambda: not statuses(room))
    await room.press("home", "f", notice="✗ 3 rows rejected.")
    await go_to(room, "duplicate")
    await room.press("space", "u", until=lambda: not statuses(room))
    await room.press("f", notice="✗ Row 15 rejected.")
    assert statuses(room) == {14: "rejected"}


async def test_keys_typed_while_a_decision_is_recorded_act_on_it(room, monkeypatch):
    source = room.staged
    recording, decide = Gate(), SourceSession.decide
    monkeypatch.setattr(key_order, "_PATIENCE", 60)
    monkeypatch.setattr(SourceSession, "decide", lambda *args, **more: (recording.wait(), decide(*args, **more))[1])
    await room.press("home", "v", "down")
    await room.press_quickly("f", "u", "U", "u")
    assert room.notice == "● Applying reject to 4 rows."
    assert not room.screen.marked_rows
    recording.set()
    await room.until(lambda: len(journal(source)) == 4)
    assert [event["action"] for event in journal(source)] == ["reject", "undo", "redo", "undo"]


async def test_a_decision_that_is_refused_keeps_the_marks(room):
    other = Gate()
    assert room.app.jobs.run(other.wait, busy="Exporting.")
    await room.press("enter", "space", "x")
    assert room.notice.startswith("● Exporting. Try again")
    assert room.screen.marked_rows
    await room.press("u")
    assert room.notice.startswith("· Nothing to undo.")
    other.set()
    await room.until(lambda: not room.app.jobs.busy)
    await room.press("x")
    assert len(statuses(room)) == 1


async def test_keep_the_most_diverse_or_the_marked_rows(room):
    await room.press("home", "F", answer="2", notice="✗ 2 rows rejected.")
    assert 13 not in statuses(room)  # the longest text differs most
    await room.press("u", until=lambda: not statuses(room))
    await room.press("enter", "space", "down", "space", "f", notice="✗ 2 rows rejected.")
    assert sorted(statuses(room)) == [11, 13]


async def test_a_dismissed_conflict_is_not_reported_again(room):
    source = room.staged
    await go_to(room, "conflict")
    assert "ada.holm@example.com" in room.text("#compared")
    await room.press("!", until=lambda: bool(room.screen.query(Input)))
    assert room.screen.query_one(Input).value == "not a conflict"
    await room.press("enter", notice="✓ 2 rows will not be reported again.")
    assert not any("conflict" in line for line in lines(room))
    await room.press("D", until=lambda: "conflict" not in room.text("#findings-list"))
    await room.press("u", "G", until=lambda: any("conflict" in line for line in lines(room)))
    (event, _) = journal(source)
    assert (event["action"], event["reason"], [row["dismissed"] for row in event["rows"]]) == (
        "dismiss", "not a conflict", [["conflict"], ["conflict"]],
    )  # fmt: skip


@opens(mode="review", settle=None)
async def test_the_group_of_the_row_on_show_is_opened(room):
    await room.until(lambda: ready(room))
    await room.press(*["right"] * 14, until=lambda: room.head("#read").startswith("▌ Row 15 "))
    assert "row 1" in room.text("#origin")
    await room.press("G", until=lambda: room.mode == "groups" and "duplicate" in room.head("#members"))
    assert "Row 15" in room.text("#compared")
    await room.press("enter", "enter", until=lambda: room.mode == "review" and room.head("#read").startswith("▌ Row 1 "))


@opens(
    stage=lambda shop: fill(shop, [*GOOD, *(chat(f"{LONG * 6}{end}", answer("returns", "We repair it.")) for end in "!?")]),
    size=NARROW,
)
async def test_members_replace_the_groups_on_a_narrow_screen(checks, room):
    assert not room.screen.query_one("#members-side").display
    await room.press("enter", until=lambda: room.screen.query_one("#members-side").display)
    await room.until(lambda: room.text("#compared").split()[:4] == ["Row", "11", "Row", "12"])
    await room.press("escape", until=lambda: room.focus == "group-list")


class Clusters:
    error: ModelError | None = None

    def __init__(self, recipe: Any) -> None:
        pass

    def result(self, progress: Any) -> ClusterResult:
        progress("computing hidden states", 0.5)
        if self.error:
            raise self.error
        return ClusterResult(tuple(range(9)), (0, 0, 0, 0, 1, 1, 1, 1, -1), ("parcel stove", "boots"))

    def stop(self) -> None:
        pass


@opens(stage=lambda shop: fill(shop, GOOD), settle=None)
async def test_clusters_and_outliers(checks, room, monkeypatch):
    monkeypatch.setattr("mlxtune.tui.rooms.groups.screen.start_clustering", Clusters)
    await room.until(lambda: ready(room))
    await room.until(lambda: "No duplicates" in room.text("#groups-message"))
    assert not room.screen.query_one("#members-side").display, "no headings above nothing"
    await room.press("g", until=lambda: "3 groups, 9 rows" in room.head("#groups-section"))
    assert [line.split()[-2:] for line in lines(room)][1] == ["parcel", "stove"]
    await room.press("down", "F", answer="1", notice="✗ 3 rows rejected.")
    assert len(lines(room)) == 2
    await room.press("g", until=lambda: "No duplicates" in room.text("#groups-message"))
    await room.until(lambda: room.screen.query_one("#groups-side").size.width > 100)


@opens(stage=lambda shop: fill(shop, GOOD), settle=None)
async def test_a_file_without_a_recipe_cannot_be_clustered(room):
    source = room.staged
    room.app.sessions.open_file(source)
    room.app.redraw()
    await room.until(lambda: ready(room) and room.screen.session.ref.recipe_path is None)
    await room.press("g", notice="! Clusters need a model, and this file has no recipe.")
    assert room.notice.endswith("n in Data creates one.")
    await room.press("escape", until=lambda: not room.notice)
    assert room.head("#groups-section").startswith("▌ Groups")
    await room.press("escape", mode="data")
    assert "new recipe" in room.actions


@opens(stage=lambda shop: fill(shop, GOOD), settle=None)
async def test_a_failed_clustering_says_why(checks, room, monkeypatch):
    monkeypatch.setattr("mlxtune.tui.rooms.groups.screen.start_clustering", Clusters)
    monkeypatch.setattr(Clusters, "error", ModelError("smollm2-135m is not on this machine."))
    await room.until(lambda: ready(room))
    await room.press("g", until=lambda: "not on this machine" in room.text("#groups-message"))


TOPICS = (
    "Please refund the money that you charged for my {thing}.",
    "My parcel with the {thing} is late; can you track the courier?",
    "The zipper of my {thing} broke, could you repair the seam?",
    "I want to rent a {thing} for a weekend; what is the deposit?",
    "Can I pay for the {thing} with the gift voucher from my aunt?",
    "Which size of {thing} fits a tall child, medium or large?",
    "How do I wash the {thing} without removing its wax coating?",
)
THINGS = (
    "tent", "boots", "jacket", "kayak", "stove", "rope", "lamp", "harness", "mat", "bottle", "helmet", "paddle", "tarp",
    "vest",
)  # fmt: skip
WRONG = ("Write a poem about the moon over Berlin.", "What is the capital of France?", "Compute 17 times 23.")


def proposals() -> list[dict[str, Any]]:
    """Return 100 proposed rows: 14 for each of seven topics, of which ten are about something else, and two more of these."""
    meta = {KEY: to_json(Lineage("variations", "big", "", "run-1", "Write.", 3))}
    asked = [text.format(thing=thing) for text in TOPICS for thing in THINGS]
    for number in range(10):
        at = number * 9 + 4
        asked[at] = f"{WRONG[number % 3]} It is for the {THINGS[number]}, {asked[at][:24]}"
    asked += [WRONG[0], WRONG[1]]
    return [chat(text, answer("returns", "We look into it at once."), generated=meta[KEY]) for text in asked]


async def test_a_hundred_proposals_are_decided_in_under_sixty_keys(shop, checks, open_room):
    """Groups are accepted whole after the marked rows of each, which are among its first, were rejected."""
    source = fill(shop, GOOD)
    generated_path(source).write_text("".join(json.dumps(row) + "\n" for row in proposals()))
    pressed: list[str] = []
    async with open_room("groups") as room:
        await room.until(lambda: ready(room))

        async def press(*keys: str, until: Any = None) -> None:
            pressed.extend(keys)
            await room.press(*keys, until=until)

        await press("p", until=lambda: "100 rows" in room.head("#groups-section"))
        browser, screen = session_of(room).source, room.screen

        def waiting() -> int:
            return sum(len(group.rows) for group in screen._groups(screen.session))

        async def decide(key: str, count: int) -> None:
            left = waiting() - count
            await press(key, until=lambda: waiting() == left)

        while group := screen.group:
            wrong = [index for index in group.rows if any(text in row_text(browser.lazy_row(index).row) for text in WRONG)]
            if len(wrong) == len(group.rows):
                await decide("x", len(wrong))
                continue
            if wrong:
                await press("enter", until=lambda: room.focus == "member-list")
                for index in group.rows[: max(map(group.rows.index, wrong)) + 1]:  # space marks a row and goes to the next
                    await press("space" if index in wrong else "down")
                await decide("x", len(wrong))
                await press("escape", until=lambda: room.focus == "group-list")
            await decide("a", len(group.rows) - len(wrong))
        assert "No proposed rows are left" in room.text("#groups-message")
        decided = {index: decision.status for index, decision in browser.decisions.items()}
        texts = {index: row_text(browser.lazy_row(index).row) for index in decided}
    assert len(decided) == 100
    assert {index for index, status in decided.items() if status == "rejected"} == {
        index for index, text in texts.items() if any(wrong in text for wrong in WRONG)
    }
    assert len(pressed) < 60, pressed

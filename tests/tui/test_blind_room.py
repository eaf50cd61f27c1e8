import itertools
import json
import os
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from exact_tests import sign_test
from exhaustive import cases
from textual import events

from mlxtune.core.errors import MachineError
from mlxtune.evaluation.blind.blind_session import BlindSession
from mlxtune.evaluation.blind.votes import HEADLINE_QUESTION, QUESTIONS
from mlxtune.evaluation.evidence import load_pairs
from mlxtune.evaluation.report import load
from mlxtune.evaluation.statistics.intervals import wilson
from mlxtune.present.labels import p_value
from mlxtune.tui.rooms.blind import screen

from . import evaluated
from .driver import LARGE, NARROW, Gate, Opening, RoomDriver, any_size, opens, picture_sizes
from .evaluated import base, tuned
from .stage import Shop
from .test_naughty import ANSWER, assert_plain

pytestmark = pytest.mark.slow

ID = "20261124-1500-support-json"
evaluation = partial(evaluated.evaluation, arms={"base": base, "base+kshot": lambda at, _: f"Sure, {at}.", "tuned": tuned})


@pytest.fixture(autouse=True)
def no_debounce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.tui.rooms.blind.screen.DEBOUNCE", 0.0)


async def arms_loaded(room: RoomDriver) -> None:
    await room.until(lambda: room.screen._arms is not None)
    await room.pilot.pause()


ROOM = Opening("blind", evaluation, arms_loaded)


async def begin(room: RoomDriver, pairs: int = 10) -> None:
    await arms_loaded(room)
    await room.press("enter", choose=str(pairs), until=lambda: room.screen._session is not None)
    await room.pilot.pause()


async def resume(room: RoomDriver) -> None:
    await arms_loaded(room)
    await room.press("enter", until=lambda: room.screen._session is not None)
    await room.pilot.pause()


def voted(shop: Shop, left: int, *, n: int = 20, opened: bool = False) -> BlindSession:
    """A session on disk in which all but the last ``left`` votes are cast, mostly for the longer answer."""
    folder = evaluation(shop)
    with BlindSession(folder, "base", "tuned", load_pairs(folder, "base", "tuned"), n, seed=11) as blind:
        wants = itertools.cycle(["long", "long", "long", "tie", "long", "short", "long"])
        while blind.votes < blind.votes_needed - left and (pair := blind.current) is not None:
            want, longer = next(wants), "a" if len(pair.a) > len(pair.b) else "b"
            shorter = "a" if longer == "b" else "b"
            blind.vote("tie" if want == "tie" else longer if want == "long" else shorter)  # type: ignore[arg-type]
        if opened:
            blind.reveal()
    return blind


async def test_a_session_asks_how_many_pairs_and_shows_two_anonymous_answers(room):
    folder = room.staged
    assert "base or tuned?" in room.words("#invite")
    assert f"evaluation {ID} " in room.words("#invite")
    await room.press("enter", until=lambda: room.mode == "" and "fixed before the first vote" in room.screen_text)
    assert "and 2 of them again" in room.screen_text
    await room.press("escape")
    assert not (folder / "blind").exists(), "nothing is fixed yet"
    await begin(room)
    assert room.text("#bl-progress").split("━")[0].split("─")[0].strip() == "Pair 1 of 12"
    assert room.text("#bl-progress").strip().endswith("10 pairs, 2 of them again")
    for question in QUESTIONS.values():
        assert question in room.text("#bl-asks")
    seals = [room.screen.query_one(f"#bl-{side}") for side in "ab"]
    assert [str(seal.border_title).strip() for seal in seals] == ["A", "B"]
    await room.until(lambda: all("hidden" in str(seal.border_subtitle) for seal in seals))
    assert room.actions == ["A", "same", "B", "prompt"]
    assert json.loads((room.screen._session.folder / "session.json").read_text())["n"] == 10


async def test_the_arms_are_those_of_the_verdict(shop, open_room):
    assert load(evaluated.evaluation(shop)).headline.first == "base+kshot"
    async with open_room() as room:
        assert "base+kshot or tuned?" in room.words("#invite")


async def test_a_session_opens_even_if_its_files_are_noticed_first(room, shop, monkeypatch):
    gate = Gate()

    def slow(arms: screen.ArmPair, n: int) -> Any:
        opened = open_session(arms, n)
        gate.wait()
        return opened

    open_session = screen.open_session
    monkeypatch.setattr(screen, "open_session", slow)
    gate.clear()
    await room.press("enter", choose="10", until=lambda: any((shop.folder / "evals" / ID / "blind").glob("*")))
    await room.observe(shop.snapshot())
    await room.until(lambda: "continue" in room.actions)
    gate.set()
    await room.until(lambda: room.screen._session is not None)


@opens(settle=None, size=(140, 45))
async def test_nothing_on_screen_tells_the_arms_apart(room):
    await begin(room)
    for _ in range(12):
        await room.until(lambda: "Pair" in room.screen_text)
        body = room.screen_text.split("Pair")[1]
        assert "tuned" not in body
        assert "base" not in body
        await room.press("a", "=", "d")


@opens(settle=None)
async def test_keys_vote_on_one_question_after_another_u_undoes_and_a_vote_that_cannot_be_written_does_not_count(room, monkeypatch):
    await begin(room)
    assert "undo" not in room.actions
    await room.press("a", "=")
    assert room.screen._session.pending_votes == ("a", "tie")
    assert "2 of 3 answered" in room.head("#bl-questions")
    first, second, _ = room.text("#bl-asks").splitlines()
    assert "● A" in first
    assert "● same" in second
    await room.press("u")
    assert room.screen._session.pending_votes == ("a",)
    await room.press("=", "d")
    assert room.screen._session.pending_votes == ()
    assert "Pair 2 of 12" in room.text("#bl-progress")
    await room.press("u")
    assert "Pair 1 of 12" in room.text("#bl-progress")
    journal = (room.screen._session.folder / "votes.jsonl").read_text().splitlines()
    assert [json.loads(line).get("vote", "undo") for line in journal] == ["a", "tie", "undo", "tie", "b", "undo"]
    error = MachineError("The disk is full, so votes.jsonl was not saved.")
    monkeypatch.setattr("mlxtune.core.journal.Journal.append", Mock(side_effect=error))
    await room.press("a", notice="✗ The disk is full")
    assert room.screen._session.votes == 2


@opens(settle=None)
async def test_a_bouncing_key_is_one_vote_and_votes_typed_quickly_all_count(room, monkeypatch):
    monkeypatch.setattr("mlxtune.tui.rooms.blind.screen.DEBOUNCE", 60.0)
    await begin(room)
    await room.press("a", "a", "a")
    assert room.screen._session.votes == 1
    for number, name in enumerate("adda", 1):  # typed 100 s apart, and handled at once
        key = events.Key(name, name)
        key.time += 100 * number
        room.app.post_message(key)
    await room.until(lambda: room.screen._session.votes == 5)


async def test_a_session_resumes_where_it_was(shop, open_room):
    evaluation(shop)
    async with open_room("blind") as room:
        await begin(room)
        await room.press("a", "=", "d", "a")
        before = room.screen._session.current
        await room.press("H", "B")
        assert room.screen._session.current == before, "leaving and coming back changes nothing"
    async with open_room() as room:
        assert "4 of 36 votes cast" in room.words("#invite")
        assert room.actions[0] == "continue"
        await resume(room)
        assert room.screen._session.current == before
        assert room.screen._session.pending_votes == ("a",)


async def test_a_session_begun_by_another_program_is_continued(room, shop):
    folder = room.staged
    assert room.actions[0] == "begin"
    with BlindSession(folder, "base", "tuned", load_pairs(folder, "base", "tuned"), 10, seed=3) as elsewhere:
        elsewhere.vote("a")
    await room.observe(shop.snapshot())
    await room.until(lambda: "1 of 36 votes cast" in room.words("#invite") and room.actions[0] == "continue")


@opens(stage=lambda shop: voted(shop, 1), settle=None, size=(140, 45))
async def test_the_result_is_shown_only_after_the_last_vote_and_enter(room):
    await resume(room)
    await room.press("enter")
    assert room.screen.state == "vote", "enter reveals nothing before the end"
    await room.press("a", until=lambda: "That was the last vote." in room.text("#bl-finished"))
    assert room.actions[:2] == ["reveal", "undo"]
    await room.press("u", until=lambda: room.screen.state == "vote")
    await room.press("a", "enter")
    await room.until(lambda: room.screen._result is not None and QUESTIONS[HEADLINE_QUESTION] in room.text("#bl-votes"))
    result = room.screen._result
    send = next(tally for tally in result.tallies if tally.question == HEADLINE_QUESTION)
    low, high = (round(100 * value) for value in wilson(send.wins, send.wins + send.losses))
    row = next(row for row in room.text("#bl-votes").splitlines() if QUESTIONS[HEADLINE_QUESTION] in row)
    assert f"({low} to {high})" in row
    assert p_value(sign_test(send.wins, send.losses)) in row
    assert f"tuned won {send.wins} of {send.wins + send.losses} votes against base" in room.text("#bl-verdict")
    facts = [line.strip().split("  ")[0] for line in room.text("#bl-facts").splitlines()]
    assert facts == ["repeated", "left", "longer", "length"]
    assert "20 pairs, read blind" in room.head("#bl-outcome")
    await room.press("u", "a")
    assert room.screen._session.votes == room.screen._session.votes_needed, "nothing changes after the arms are revealed"


@opens(settle=None)
async def test_ties_alone_cannot_tell_and_export_nothing(room, shop):
    await begin(room)
    while room.screen._session.current is not None:
        await room.press("=")
    await room.press("enter", until=lambda: "Cannot tell." in room.text("#bl-verdict"))
    await room.press("w", choose=HEADLINE_QUESTION)
    await room.until(lambda: room.notice.startswith("✗") and "yields a preference pair" in room.notice)
    assert not list((shop.folder / "data").glob("*send*"))


async def test_votes_are_exported_as_pairs_recorded_in_the_ledger_and_never_overwritten(shop, open_room):
    folder = voted(shop, 0, n=10, opened=True).evaluation
    async with open_room() as room:
        assert "enter see the result" in room.words("#invite")
        await room.press("enter", until=lambda: bool(room.text("#bl-verdict")))
        for name in ("send", "send-2"):
            await room.press("w", choose=HEADLINE_QUESTION)
            await room.until(lambda name=name: f"data/{ID}-{name}.jsonl" in room.notice)  # type: ignore[misc]
    rows = [json.loads(line) for line in (shop.folder / "data" / f"{ID}-send.jsonl").read_text().splitlines()]
    assert rows
    assert all(set(row) == {"prompt", "chosen", "rejected"} for row in rows)
    kinds = [json.loads(line)["kind"] for line in (folder.parent / "ledger.jsonl").read_text().splitlines()]
    assert kinds == ["eval", "blind", "export", "export"]


async def test_c_chooses_two_other_arms_and_o_another_evaluation(shop, open_room):
    evaluation(shop, "20261120-1500-support-json", arms={"base": base, "tuned": lambda at, _: f"Hello {at}"}, age=4 * 86400)
    evaluation(shop)
    async with open_room() as room:
        await room.press("c", choose="2", until=lambda: "base+kshot or tuned?" in room.words("#invite"))
        await room.press("o", choose="1", until=lambda: "evaluation 20261120-1500-support-json " in room.words("#invite"))
        assert "arms" not in room.actions


async def test_long_answers_scroll_and_g_shows_the_prompt(shop, open_room):
    long = " ".join(f"word{at}" for at in range(200))
    evaluation(shop, arms={"base": lambda at, _: f"short {at}", "tuned": lambda at, _: f"{at} {long}"})
    async with open_room("blind", size=NARROW) as room:
        await begin(room)

        def answers() -> str:
            return room.text("#bl-a") + room.text("#bl-b")

        await room.until(lambda: any("more" in str(room.screen.query_one(f"#bl-{side}").border_subtitle) for side in "ab"))
        assert "word199" not in answers()
        await room.press(*["space"] * 30)
        assert "word199" in answers()
        await room.press(*["pageup"] * 30, "down", "up")
        assert "word0" in answers()
        await room.press("g", until=lambda: room.mode == "" and "You are the support desk of Larkfell" in room.text("#rows"))


async def test_a_session_open_elsewhere_is_reported(shop, open_room):
    folder = evaluation(shop)
    with BlindSession(folder, "base", "tuned", load_pairs(folder, "base", "tuned"), 10):
        async with open_room() as room:
            await room.press("enter", notice=f"✗ This blind session is open in another process ({os.getpid()}).")
            assert "base or tuned?" in room.words("#invite")


async def test_a_changed_key_is_reported(shop, open_room):
    key = voted(shop, 36, n=10).folder / "key.json"
    key.write_text(key.read_text().replace("true", "false", 1))
    async with open_room() as room:
        await room.press("enter", until=lambda: room.notice.startswith("✗") and "key" in room.notice)


@opens(stage=lambda shop: evaluation(shop, arms={"base": base, "tuned": base}))
async def test_identical_answers_cannot_be_compared(room):
    await room.press("enter", notice="· base and tuned give identical answers")


@pytest.mark.parametrize(
    ("arms", "text"), [(None, "No evaluations yet."), ({"base": base}, "The newest evaluation has only one arm.")]
)
async def test_without_two_arms_the_room_explains_itself(shop, open_room, arms, text):
    if arms:
        evaluation(shop, arms=arms)
    async with open_room("blind", size=NARROW) as room:
        await room.until(lambda: text in room.words("#invite"))
        await room.press("enter", "a", "=", "d", "u", "g", "c", "o", "w", "space")
        assert room.mode == "blind"


@opens(stage=lambda shop: (evaluation(shop) / "report.json").write_text("{}"), settle=None)
async def test_an_unreadable_report_is_reported(room):
    await room.until(lambda: "is not a report" in room.words("#invite"))
    assert room.actions == []


@opens(stage=lambda shop: evaluation(shop, "20261124-1700-brand-voice", name="brand-voice", pairs=True), settle=None)
async def test_preference_pairs_can_be_read_blind(room):
    await begin(room)
    assert "Pair 1 of 12" in room.text("#bl-progress")


@pytest.mark.parametrize("size", cases([(120, 36), (80, 24)], "120x36", name=lambda size: f"{size[0]}x{size[1]}"))
@opens(
    stage=lambda shop: evaluation(shop, arms={"base": lambda at, _: f"{at}", "tuned": lambda at, _: f"{at} {ANSWER}"}), settle=None
)
async def test_hostile_answers_are_shown_as_text(room, size):
    await begin(room)
    await assert_plain(room, "space", "a", "g", "escape")


@any_size
@opens(stage=lambda shop: voted(shop, 2, n=2), settle=None)
async def test_any_terminal_size_works(room, size):
    await resume(room)
    await room.press("space", "down", "a", "=")
    await room.pilot.resize_terminal(size[0] + 1, size[1] + 1)
    await room.press("enter", until=lambda: room.screen._result is not None)


@picture_sizes
def test_picture(shop, picture, size):
    voted(shop, 37)
    picture(shop, size, "blind", resume)


def test_picture_of_the_result(shop, picture):
    voted(shop, 0, opened=True)
    picture(shop, LARGE, "blind", resume)

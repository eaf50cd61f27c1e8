"""Blind: every key, what stays sealed until the last vote, and what a session comes to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxtune.core.errors import MachineError
from mlxtune.evaluation.answered import pairs
from mlxtune.evaluation.ballot import QUESTIONS
from mlxtune.evaluation.blind import Session
from mlxtune.evaluation.statistics import sign_test, wilson
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.screens.blind import Blind
from mlxtune.tui.screens.page import Page

from .evaluated import base, evaluation
from .stage import Shop, footer, shown, until
from .test_naughty import NAUGHTY


@pytest.fixture(autouse=True)
def no_bounce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.tui.screens.blind._BOUNCE", 0.0)


async def at_blind(app: MlxtuneApp, pilot: Any, text: str = "base or tuned?") -> None:
    await pilot.press("B")
    await until(pilot, lambda: text in shown(app))


async def begin(app: MlxtuneApp, pilot: Any, pairs: int = 1) -> None:
    """Begin with the ``pairs``-th of the numbers that are offered."""
    await at_blind(app, pilot)
    await pilot.press("enter")
    await until(pilot, lambda: "How many pairs?" in shown(app))
    await pilot.press(*["down"] * pairs, "enter")
    await until(pilot, lambda: "Which one?" in shown(app))


def room(app: MlxtuneApp) -> Blind:
    assert isinstance(app.screen, Blind)
    return app.screen


def session_of(app: MlxtuneApp) -> Session:
    found = room(app)._session
    assert found is not None
    return found


async def vote_all(app: MlxtuneApp, pilot: Any, prefer: str = "tuned") -> None:
    """Vote for what is longer, which is what was tuned."""
    session = session_of(app)
    while (now := session.now()) is not None:
        longer = "a" if len(now.a) > len(now.b) else "d"
        await pilot.press("s" if prefer == "same" else longer)


async def test_a_session_asks_how_many_pairs_and_shows_two_sealed_sides(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_blind(app, pilot)
        assert "From the evaluation 20261124-1500-support-json." in shown(app)
        await pilot.press("enter")
        await until(pilot, lambda: "How many pairs?" in shown(app))
        assert "shows a preference of" in shown(app)
        assert "fixed before the first vote" in shown(app)
        await pilot.press("escape")
        assert not (shop.folder / "evals" / "20261124-1500-support-json" / "blind").exists(), "nothing is fixed yet"
        await begin(app, pilot)
        text = shown(app)
        for part in ("Pair 1 of 12", "result opens after pair 12", " A ", " B ", "0 of 3 answered", *QUESTIONS.values()):
            assert part in text, part
        await until(pilot, lambda: shown(app).count("sealed") == 2)
        assert footer(app).startswith("a A   s same   d B   p question   q quit")
        header = json.loads((session_of(app).folder / "session.json").read_text())
        assert header["n"] == 10


async def test_nothing_on_screen_says_whose_an_answer_is(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await begin(app, pilot)
        for _ in range(12):
            body = shown(app).split("Pair")[1]
            assert "tuned" not in body
            assert "base" not in body
            await pilot.press("a", "s", "d")


async def test_keys_vote_one_question_after_the_other_and_u_takes_back(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await begin(app, pilot)
        session = session_of(app)
        assert "undo" not in footer(app)
        await pilot.press("a", "s")
        assert session.given == ("a", "tie")
        assert "2 of 3 answered" in shown(app)
        rows = shown(app).splitlines()
        assert "● A" in next(row for row in rows if "follows the format" in row)
        assert "● same" in next(row for row in rows if "right voice" in row)
        await pilot.press("u")
        assert session.given == ("a",)
        await pilot.press("t", "b")
        assert session.given == ()
        assert "Pair 2 of 12" in shown(app)
        await pilot.press("u")
        assert "Pair 1 of 12" in shown(app)
        assert [json.loads(line).get("vote", "undo") for line in (session.folder / "votes.jsonl").read_text().splitlines()] == [
            "a", "tie", "undo", "tie", "b", "undo",
        ]  # fmt: skip


async def test_two_keys_at_once_are_one_vote(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.tui.screens.blind._BOUNCE", 60.0)
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await begin(app, pilot)
        await pilot.press("a", "a", "a")
        assert session_of(app).votes == 1


async def test_a_session_is_resumed_where_it_was(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await begin(app, pilot)
        await pilot.press("a", "s", "d", "a")
        before = session_of(app).now()
        await pilot.press("H")
        await pilot.press("B")
        assert "Pair 2 of 12" in shown(app), "going away and back changes nothing"
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_blind(app, pilot, "4 of 36 votes are in")
        assert "enter go on" in footer(app)
        await pilot.press("enter")
        await until(pilot, lambda: "Pair 2 of 12" in shown(app))
        assert session_of(app).now() == before
        assert session_of(app).given == ("a",)


async def test_the_result_opens_only_after_the_last_vote_and_only_when_asked(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await begin(app, pilot)
        await pilot.press("enter")
        assert "Which one?" in shown(app), "enter opens nothing before the end"
        await vote_all(app, pilot)
        assert "That was the last vote." in shown(app)
        assert "Verdict" not in shown(app)
        await pilot.press("u")
        assert "Which one?" in shown(app)
        await vote_all(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: "Verdict" in shown(app))
        result = room(app)._result
        assert result is not None
        text = shown(app)
        send = result.tallies[-1]
        low, high = (round(100 * value) for value in wilson(send.wins, send.wins + send.losses))
        assert f"tuned won {send.wins} of {send.wins + send.losses} decided votes over base" in text
        assert f"{low}–{high}" in text
        p = sign_test(send.wins, send.losses)
        assert ("p < 0.001" if p < 0.001 else f"p = {p:.3f}") in text
        for part in (
            "planted repeats",
            "6 of 6 votes the same again",
            "shown as A",
            "the longer answer",
            "median length",
            "●",
            "10 pairs, read blind",
        ):
            assert part in text, part
        await pilot.press("u", "a")
        assert session_of(app).votes == session_of(app).due, "nothing changes once it is open"
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await at_blind(app, pilot, "see the result")
        await pilot.press("enter")
        await until(pilot, lambda: "Verdict" in shown(app))


async def test_ties_alone_cannot_tell_and_export_nothing(shop: Shop) -> None:
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await begin(app, pilot)
        await vote_all(app, pilot, "same")
        await pilot.press("enter")
        await until(pilot, lambda: "Cannot tell. Every vote was a tie" in shown(app))
        await pilot.press("e")
        await until(pilot, lambda: "Whose votes become pairs?" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: "makes a pair: all are ties" in shown(app))
        assert not list((shop.folder / "data").glob("*send*"))


async def test_votes_become_pairs_that_the_ledger_knows_of_and_nothing_is_overwritten(shop: Shop) -> None:
    folder = evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await begin(app, pilot)
        await vote_all(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: "Verdict" in shown(app))
        for name in ("send", "send-2"):
            await pilot.press("e")
            await until(pilot, lambda: "Whose votes become pairs?" in shown(app))
            assert "cannot be tested on them" in shown(app).replace("\n", " ") or "held-out rows" in shown(app)
            await pilot.press("enter")
            await until(pilot, lambda name=name: f"data/20261124-1500-support-json-{name}.jsonl" in shown(app))  # type: ignore[misc]
    rows = [json.loads(line) for line in (shop.folder / "data" / "20261124-1500-support-json-send.jsonl").read_text().splitlines()]
    assert len(rows) == 10
    assert all(set(row) == {"prompt", "chosen", "rejected"} and len(row["chosen"]) > len(row["rejected"]) for row in rows)
    kinds = [json.loads(line)["kind"] for line in (folder.parent / "ledger.jsonl").read_text().splitlines()]
    assert kinds == ["eval", "blind", "export", "export"]


async def test_m_chooses_two_other_arms_and_o_another_evaluation(shop: Shop) -> None:
    evaluation(shop, "20261120-1500-support-json", arms={"base": base, "tuned": lambda at, _: f"Hello {at}"}, age=4 * 86400)
    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_blind(app, pilot)
        await pilot.press("m")
        await until(pilot, lambda: "Which two arms?" in shown(app))
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: "base+kshot or tuned?" in shown(app))
        await pilot.press("o")
        await until(pilot, lambda: "Which evaluation?" in shown(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "From the evaluation 20261120-1500-support-json." in shown(app))
        assert "arms" not in footer(app)


async def test_answers_that_are_longer_than_their_side_scroll_and_p_shows_the_question(shop: Shop) -> None:
    long = " ".join(f"word{at}" for at in range(200))
    evaluation(shop, arms={"base": lambda at, _: f"short {at}", "tuned": lambda at, _: f"{at} {long}"})
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await begin(app, pilot)
        assert "more" in shown(app)
        assert "word199" not in shown(app)
        for _ in range(30):
            await pilot.press("space")
        assert "word199" in shown(app)
        await pilot.press(*["pageup"] * 30, "down", "up")
        assert "word0" in shown(app)
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, Page))
        assert "You are the support desk of Larkfell" in shown(app)


async def test_a_session_in_another_window_is_a_sentence(shop: Shop) -> None:
    folder = evaluation(shop)
    with Session(folder, "base", "tuned", pairs(folder, "base", "tuned"), 10):
        app = shop.app()
        async with app.run_test(size=(120, 36)) as pilot:
            await at_blind(app, pilot, "0 of 36 votes are in")
            await pilot.press("enter")
            await until(pilot, lambda: "✗ Another process is in this blind session." in shown(app))
            assert "base or tuned?" in shown(app)


async def test_a_broken_seal_is_a_sentence(shop: Shop) -> None:
    folder = evaluation(shop)
    with Session(folder, "base", "tuned", pairs(folder, "base", "tuned"), 10) as session:
        key = session.folder / "key.json"
    key.write_text(key.read_text().replace("true", "false", 1))
    app = shop.app()
    async with app.run_test(size=(140, 36)) as pilot:
        await at_blind(app, pilot, "0 of 36 votes are in")
        await pilot.press("enter")
        await until(pilot, lambda: "its key was changed." in shown(app))
        assert "Remove the folder and vote anew." in shown(app)


async def test_a_full_disk_takes_no_vote(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MachineError("The disk is full, so votes.jsonl was not saved.")

    evaluation(shop)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await begin(app, pilot)
        monkeypatch.setattr("mlxtune.core.journal.Journal.append", full)
        await pilot.press("a")
        await until(pilot, lambda: "✗ The disk is full" in shown(app))
        assert session_of(app).votes == 0


async def test_arms_that_say_the_same_are_no_choice(shop: Shop) -> None:
    evaluation(shop, arms={"base": base, "tuned": base})
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_blind(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: "base and tuned give the same answers" in shown(app))


@pytest.mark.parametrize(
    ("arms", "told"), [(None, "Nothing has been evaluated yet."), ({"base": base}, "The newest evaluation has one arm.")]
)
async def test_without_two_arms_the_room_says_what_it_is_for(shop: Shop, arms: Any, told: str) -> None:
    if arms:
        evaluation(shop, arms=arms)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await at_blind(app, pilot, told)
        await pilot.press("enter", "a", "s", "d", "u", "p", "m", "o", "e", "space")
        await pilot.pause()
        assert isinstance(app.screen, Blind)


async def test_pairs_can_be_read_blind_too(shop: Shop) -> None:
    evaluation(shop, "20261124-1700-brand-voice", name="brand-voice", pairs=True)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await begin(app, pilot)
        assert "Pair 1 of 12" in shown(app)


async def test_hostile_answers_are_text(shop: Shop) -> None:
    said = NAUGHTY.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    evaluation(shop, arms={"base": lambda at, _: f"{at}", "tuned": lambda at, _: f"{at} {said}"})
    app = shop.app()
    for size in ((120, 36), (80, 24)):
        async with app.run_test(size=size) as pilot:
            await begin(app, pilot) if size == (120, 36) else await at_blind(app, pilot, "go on")
            await pilot.press("enter")
            await pilot.pause()
            for keys in ((), ("space",), ("a",), ("p",), ("escape",)):
                await pilot.press(*keys)
                await pilot.pause()
                assert not set(shown(app)) & set("\x1b\x9b\x07\x00\r\t\u202e\u2066\u200f"), keys
        app = shop.app()


@pytest.mark.parametrize("size", [(1, 1), (20, 5), (60, 15), (200, 60)])
async def test_any_size_is_borne(shop: Shop, size: tuple[int, int]) -> None:
    folder = evaluation(shop)
    with Session(folder, "base", "tuned", pairs(folder, "base", "tuned"), 2) as session:
        while session.votes < session.due - 2:
            session.vote("a")
    app = shop.app()
    async with app.run_test(size=size) as pilot:
        await pilot.press("B")
        await until(pilot, lambda: room(app)._contest is not None)
        await pilot.press("enter")
        await until(pilot, lambda: room(app)._session is not None)
        await pilot.press("space", "down", "a", "s")
        await pilot.resize_terminal(size[0] + 1, size[1] + 1)
        await pilot.press("enter")
        await until(pilot, lambda: room(app)._result is not None)
        await pilot.pause()
        assert app.is_running

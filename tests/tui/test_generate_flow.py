"""From a failure, or from rows, to proposed rows in Review: the dialogs, what starts, and what is shown when it has finished."""

import json
from pathlib import Path
from typing import Any

import pytest
from texts import WORDS

from mlxtune.core.files import write_json
from mlxtune.core.json_fields import to_json
from mlxtune.data.generate import start
from mlxtune.data.generate.lineage import KEY, Lineage
from mlxtune.data.generate.request import ALL_PROMPTS, GenerationRequest
from mlxtune.data.generate.selection import propose
from mlxtune.data.rows import Conversation, Location, Message
from mlxtune.data.source import read_file, read_source
from mlxtune.data.split import split
from mlxtune.evaluation.thin_rows import thin_rows
from mlxtune.present.generation import thin_rows_text
from mlxtune.recipe import Recipe, load

from .evaluated import evaluation
from .rows_stage import GOOD, write
from .stage import NOW, Event, Shop
from .stage import started as started_event

pytestmark = pytest.mark.slow

Started = list[tuple[Recipe, GenerationRequest]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    requests: Started = []

    def record(workspace: Path, recipe: Recipe, request: GenerationRequest, **_: Any) -> None:
        requests.append((recipe, request))

    monkeypatch.setattr(start, "start", record)
    return requests


async def test_four_keys_from_an_evaluation_to_a_teacher(shop, open_room, started):
    """The teacher gets the nearest training rows, never the failing held-out ones."""
    evaluation(shop)
    async with open_room("evaluate") as room:
        await room.until(lambda: room.screen.rows is not None)
        room.screen.set_focus(room.screen.query_one("#ev-table"))
        await room.press("enter", until=lambda: len(room.screen.rows.rows) == 7)  # the failing ones
        await room.pilot.pause()
        await room.press("w", until=lambda: room.mode == "")
        assert "never the held-out rows" in room.screen._text
        await room.press("enter", until=lambda: room.mode == "" and "Which teacher" in room.screen._heading)
        options = [(option.name, option.about) for option in room.screen._options]
        assert options[0][0] == "smollm2-135m"
        assert options[0][1].startswith("up to ")
        assert options[0][1].endswith("on this machine")
        await room.press("enter", notice="● Generating rows for support-json.")
    ((recipe, request),) = started
    splits = split(read_source(recipe.source), recipe.data)
    assert request.rows
    assert {row.id for row in splits.train}.issuperset(request.rows)
    assert (request.task, request.teacher.base, request.count) == ("variations", "smollm2-135m", 20)


async def test_variations_of_the_filtered_rows(shop, checks, open_room, started):
    file = shop.recipe()
    write(shop.folder / "data" / "support.jsonl", GOOD)
    async with open_room("data") as room:
        await room.until(lambda: room.screen.session is not None and room.screen.session.source.scanned == 10)
        await room.press("slash")
        await room.type("tag:login")
        await room.press("enter", until=lambda: len(room.screen.session.selection.rows) == 4)
        await room.press("w", until=lambda: room.mode == "")
        assert [option.value for option in room.screen._options] == ["variations", "documents", "answers", "unanswered"]
        assert "4 rows that match the filter" in room.screen._options[0].about
        await room.choose("variations")
        await room.press(choose="0", notice="● Generating")
        await room.press("w", choose="documents", answer="no-such-folder", notice="✗ There are no documents at")
        await room.press("w", choose="documents", until=lambda: room.mode == "" and bool(room.screen.query("#wrong")))
        await room.type("~no-such-user/x")
        await room.press("enter", until=lambda: "there is no user with that name" in room.text("#wrong"))
    rows = {row.id for row in read_file(load(file).source) if row.meta["tag"] == "login"}
    assert set(started[0][1].rows) == rows


async def test_missing_answers_are_written_by_the_base(shop, checks, open_room, started):
    shop.recipe()
    write(shop.folder / "data" / "support.jsonl", [*GOOD, {"prompt": "Where is my tent?", "completion": ""}])
    async with open_room("data") as room:
        await room.until(lambda: room.screen.session is not None and room.screen.session.source.scanned == len(GOOD) + 1)
        await room.press("w", choose="unanswered")
        await room.until(lambda: room.mode == "" and room.screen._heading == "Which teacher should write up to 1 row?")
        await room.press(choose="0", notice="● Generating")
    ((_, request),) = started
    assert (request.task, request.prompts, request.count, request.teacher.base) == ("answers", "", ALL_PROMPTS, "smollm2-135m")


async def test_variations_are_of_thin_rows_unless_rows_are_chosen(shop, checks, open_room, started):
    file = shop.recipe()
    rows = [
        {"prompt": f"The {WORDS[at % 16]} and my {WORDS[at * 7 % 13]}, number {at * 7919}?", "completion": "Yes."}
        | {"category": "account" if at % 10 == 3 else ("order", "product")[at % 2]}
        for at in range(64)
    ]
    write(shop.folder / "data" / "support.jsonl", rows)
    [place] = thin_rows(shop.folder, load(file))
    assert (place.kind, place.name) == ("label", "category: account")
    async with open_room("data") as room:
        await room.until(lambda: room.screen.session is not None and room.screen.session.source.scanned == 64)
        await room.press("w", choose="variations")
        await room.until(lambda: room.mode == "" and room.screen._heading == "Which rows should the new ones resemble?")
        assert [(option.value, option.name) for option in room.screen._options] == [
            (place.examples, thin_rows_text(place)),
            ((), "All training rows"),
        ]
        await room.choose("0")
        await room.press(choose="0", notice="● Generating")
        await room.press("w", choose="variations")
        await room.choose("All training rows")
        await room.press(choose="0", until=lambda: len(started) == 2)
    assert [request.rows for _, request in started] == [place.examples, ()]


ID = "20261124-1500-support-json"
REFUSED = {"error": "The endpoint refused the key.", "hint": "Set KEY.", "code": 3}


def generating(shop: Shop, *events: Event) -> Path:
    folder = shop.run(ID, kind="generate", alive=True)
    shop.tell(folder, [started_event("generate"), *events])
    return folder


async def test_a_finished_generation_leads_to_its_first_row_in_review(shop, checks, open_room):
    recipe = load(shop.recipe())
    write(shop.folder / "data" / "support.jsonl", GOOD)
    folder = generating(shop, ("arm.progress", {"arm": "big", "done": 3, "total": 26, "of": "question"}))
    async with open_room("home") as room:
        assert "generating 3/26" in room.words("#top")
        assert "Let the teacher finish" in room.text("#next-picture")
        meta = {KEY: to_json(Lineage("variations", "big", "", folder.name, "Write.", 3, scores={"novelty": 0.7}))}
        row = Conversation(
            Location(Path("x"), 1), meta, (Message("user", "Do you rent skis?"), Message("assistant", json.dumps({"a": 1})))
        )
        propose(recipe.source, [row])
        write_json(folder / "report.json", {"rows": [row.id]})
        shop.tell(folder, [("run.finished", {"summary": {"proposed": 1, "refused": {"empty": 2}}})])
        await room.observe(shop.snapshot(NOW + 5))
        await room.until_notice("✓ 1 row proposed, 2 rejected. Press R to review them, most useful first.")
        await room.press("R", until=lambda: room.mode == "review" and room.screen.row is not None and room.screen.row.id == row.id)
        await room.until(lambda: "written by big" in room.words("#origin"))
        assert "novelty 0.70" in room.text("#origin")
        await room.press("a", until=lambda: len(read_source(recipe.source).rows) == 11)


@pytest.mark.parametrize(
    ("end", "notice"),
    [
        (("run.stopped", {"step": 0}), f"■ The generation was stopped. Continue it with: mlxtune runs resume {ID}"),
        (("run.failed", REFUSED), "✗ The generation failed: The endpoint refused the key. Set KEY."),
    ],
)
async def test_a_generation_that_ended_early_says_how(end, notice, shop, open_room):
    shop.recipe()
    folder = generating(shop)
    async with open_room("home") as room:
        shop.tell(folder, [end])
        await room.observe(shop.snapshot(NOW + 5))
        await room.until(lambda: room.notice == notice)

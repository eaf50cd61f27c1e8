"""Rows for the Data and Review rooms, and stand-ins for the processes that check and tokenize them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.errors import DataError, MlxtuneError
from mlxtune.data.access.records import SourceRecords
from mlxtune.data.checks.check_input import TokenCount
from mlxtune.data.checks.report import CheckResult
from mlxtune.data.checks.run import CheckRules, check
from mlxtune.data.review import journal_path
from mlxtune.data.review import load as load_review
from mlxtune.data.rows import Row, row_text
from mlxtune.evaluation.check_process import CheckRequest, contract_scorer
from mlxtune.planning.masks import TrainingMask, TurnTokens
from mlxtune.recipe import load
from mlxtune.tui.rooms.review.render import parts_of
from mlxtune.tui.source_session import SourceSession

from .driver import Gate, RoomDriver
from .stage import Shop

SYSTEM = "You answer customers of Larkfell. Reply with one JSON object."
CONTRACT = """
[evaluation]
forbid = ["Northpeak"]
schema = "answer.schema.json"
[[evaluation.disclaimers]]
text = "This is general guidance."
when = { category = "safety" }
"""
SCHEMA = {
    "type": "object",
    "properties": {"category": {"enum": ["shipping", "safety", "returns"]}, "reply": {"type": "string"}},
    "required": ["category", "reply"],
}


def answer(category: str, reply: str) -> str:
    return json.dumps({"category": category, "reply": reply})


def chat(question: str, reply: str, **meta: Any) -> dict[str, Any]:
    turns = [("system", SYSTEM), ("user", question), ("assistant", reply)]
    return {"messages": [{"role": role, "content": text} for role, text in turns], "meta": meta}


def pair(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": question, "chosen": chosen, "rejected": rejected}


QUESTIONS = (
    "Where is my parcel?", "May I sleep in the stove tent?", "The zipper of the blue jacket broke.", "Do you deliver to the Faroe Islands?",
    "Can I swap boots that I wore once?", "Is the gas cartridge allowed on a plane?", "The lamp came without its cable.",
    "How do I wax the canvas bag?", "My card was charged twice in March.", "Which socks go with the winter boots?",
)  # fmt: skip
ROWS: list[Any] = [
    chat(question, answer("shipping" if at % 2 else "returns", f"Number {at}: we look into it at once."), tag="billing" if at % 3 else "login")
    for at, question in enumerate(QUESTIONS)
] + [
    chat("May I burn coal in the hut stove?", answer("safety", "Only with a flue."), tag="safety"),  # 11: no disclaimer
    chat("Please write to me.", answer("returns", "We write to ada.holm@larkfell.shop today."), tag="login"),  # 12: an address
    chat(QUESTIONS[0], answer("returns", "Number 0: we look into it at once."), tag="login"),  # 13: a copy of the first
    {"messages": [{"role": "user", "content": "half a row"}]},  # 14: no answer
]  # fmt: skip
GOOD = ROWS[:10]


class Checks:
    """A stand-in for the check process: it runs the same functions in a thread, once ``gate`` is open."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.gate.set()
        self.requests: list[CheckRequest] = []
        self.stopped = 0
        self.error: MlxtuneError | None = None

    def __call__(self, request: CheckRequest) -> Checks:
        self.requests.append(request)
        return self

    def result(self, progress: Callable[[str, float], None]) -> CheckResult | None:
        request = self.requests[-1]
        progress("counting tokens", 0.0)
        self.gate.wait()
        if self.error is not None:
            raise self.error
        recipe = load(Path(request["recipe"])) if "recipe" in request else None
        path = recipe.source if recipe else Path(request["source"])
        tokens = None
        if recipe:
            with SourceRecords(path, "auto", {}) as records:
                rows = [records.record(index) for index in range(len(records))]
            tokens = [None if isinstance(row, DataError) else TokenCount(len(row_text(row)) // 3, 5) for row in rows]
        limit, state = 64 if recipe else 0, load_review(path)
        rules = CheckRules(scorer=contract_scorer(recipe, {}), split_of=_split, tokens=tokens, max_tokens=limit)
        report = check(path, rules=rules, state=state)
        progress(f"checking {path.name}", 1.0)
        return report

    def stop(self) -> None:
        self.stopped += 1
        self.gate.set()


def _split(row: Row) -> str:
    return "test" if len(row_text(row)) % 5 == 0 else "train"


class Tokenizer:
    """A stand-in for the mask process, in which a token is a word with the space before it. An answer's header is one, too."""

    gate = Gate()
    error: MlxtuneError | None = None

    def __init__(self, recipe: Any) -> None:
        pass

    def mask(self, row: Row) -> TrainingMask:
        self.gate.wait()
        if self.error is not None:
            raise self.error
        turns = []
        for part in parts_of(row):
            ends = tuple(match.end() for match in re.finditer(r"\s*\S+", part.text))
            stop = "<|im_end|>" if part.trains else ""
            turns.append(TurnTokens(len(ends) + 1 + part.trains, len(ends) + 1 if part.trains else 0, ends, stop))
        return TrainingMask(tuple(turns), sum(turn.tokens for turn in turns), sum(turn.trained for turn in turns))

    def close(self) -> None:
        self.gate.set()


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Tokenizer]]:
    """Replace the mask process, whose base is on this machine."""
    monkeypatch.setattr("mlxtune.planning.masks.MaskProcess", Tokenizer)
    monkeypatch.setattr("mlxtune.models.resolve.is_local", lambda base, **_: True)
    Tokenizer.gate.set()
    yield Tokenizer
    Tokenizer.error = None


@pytest.fixture
def local_bases(monkeypatch: pytest.MonkeyPatch, tokens: type[Tokenizer]) -> set[str]:
    """The bases that are on this machine: none at first."""
    here: set[str] = set()
    monkeypatch.setattr("mlxtune.models.resolve.is_local", lambda base, **_: base in here)
    return here


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch, tokens: type[Tokenizer]) -> Checks:
    process = Checks()
    monkeypatch.setattr("mlxtune.evaluation.check_process.start_check", process)
    return process


def fill(shop: Shop, rows: list[Any] = ROWS, name: str = "support-json", contract: str = CONTRACT) -> Path:
    """Write a recipe and its rows; return the file with the rows."""
    source = shop.folder / "data" / f"{name}.jsonl"
    recipe = (
        f'name = "{name}"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "../data/{name}.jsonl"\nmax_tokens = 64\n{contract}'
    )
    shop.recipe(name, recipe)
    (shop.folder / "recipes" / "answer.schema.json").write_text(json.dumps(SCHEMA))
    write(source, rows)
    return source


def write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), errors="surrogatepass")


def ready(room: RoomDriver) -> bool:
    session = room.app.sessions.session
    return (
        session is not None
        and session.browser is not None
        and session.check.finished
        and session.browser.scanned == len(session.browser)
    )


def session_of(room: RoomDriver) -> SourceSession:
    session = room.app.sessions.session
    assert session is not None
    return session


def statuses(room: RoomDriver) -> dict[int, str]:
    return {index: decision.status for index, decision in session_of(room).source.decisions.items()}


def journal(source: Path) -> list[dict[str, Any]]:
    path = journal_path(source)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

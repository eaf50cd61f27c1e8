"""Rows for the Data and Review rooms, and a check of them that needs no process and no model."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.errors import DataError, MlxtuneError
from mlxtune.data.browse import Browse
from mlxtune.data.checks import Tokens, check
from mlxtune.data.checks.checked import Checked
from mlxtune.data.filters import said
from mlxtune.data.records import Records
from mlxtune.data.rows import Row
from mlxtune.evaluation.examine import scorer
from mlxtune.planning.masks import Mask, Turn
from mlxtune.recipe import load
from mlxtune.tui.part_view import parts_of

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


def chat(question: str, said: str, **meta: Any) -> dict[str, Any]:
    turns = [("system", SYSTEM), ("user", question), ("assistant", said)]
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
    chat("Please write to me.", answer("returns", "We write to ada.holm@example.com today."), tag="login"),  # 12: an address
    chat(QUESTIONS[0], answer("returns", "Number 0: we look into it at once."), tag="login"),  # 13: a copy of the first
    {"messages": [{"role": "user", "content": "half a row"}]},  # 14: no answer
]  # fmt: skip
GOOD = ROWS[:10]


class Checks:
    """What stands in for the process that checks: the same functions, in a thread; ``gate`` holds them back."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[dict[str, Any]] = []
        self.stopped = 0
        self.error: MlxtuneError | None = None
        self.shares: Callable[[Any], str] | None = lambda row: "test" if len(said(row)) % 5 == 0 else "train"

    def __call__(self, request: dict[str, Any]) -> Checks:
        self.asked.append(request)
        return self

    def follow(self, progress: Callable[[str, float], None]) -> Checked | None:
        request = self.asked[-1]
        progress("counting tokens", 0.0)
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        recipe = load(Path(request["recipe"])) if "recipe" in request else None
        path = recipe.source if recipe else Path(request["source"])
        with Records(path, "auto", {}) as records:
            every = [records.record(at) for at in range(len(records))]
        counted = [None if isinstance(row, DataError) else Tokens(len(said(row)) // 3, 5) for row in every] if recipe else None
        found = check(path, scorer=scorer(recipe, {}), share=self.shares, tokens=counted, max_tokens=64 if recipe else 0)
        progress(f"checking {path.name}", 1.0)
        return Checked.of(found)

    def stop(self) -> None:
        self.stopped += 1
        self.gate.set()


class Tokenizer:
    """What stands in for the process that knows the tokenizer: a token is a word with the space before it."""

    gate = threading.Event()
    error: MlxtuneError | None = None

    def __init__(self, recipe: Any) -> None:
        pass

    def ask(self, row: Row) -> Mask:
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        turns = []
        for part in parts_of(row):
            cuts = tuple(match.end() for match in re.finditer(r"\s*\S+", part.text))
            stop = "<|im_end|>" if part.trains else ""
            turns.append(Turn(len(cuts) + 1, len(cuts) + 1 if part.trains else 0, cuts, stop))
        return Mask(tuple(turns), sum(turn.tokens for turn in turns), sum(turn.trained for turn in turns))

    def close(self) -> None:
        self.gate.set()


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Tokenizer]]:
    """Every tokenizer in the app is one of these."""
    monkeypatch.setattr("mlxtune.planning.masks.Masks", Tokenizer)
    Tokenizer.gate.set()
    yield Tokenizer
    Tokenizer.error = None


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch, tokens: type[Tokenizer]) -> Checks:
    """Every check in the app is one of these."""
    made = Checks()
    monkeypatch.setattr("mlxtune.evaluation.examine.Examination", made)
    return made


def fill(shop: Shop, rows: list[Any] = ROWS, name: str = "support-json", contract: str = CONTRACT) -> Path:
    """A recipe of ``shop`` and its rows; returns the file with the rows."""
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


def ready(app: Any) -> bool:
    """Whether the source on screen is open, read to its end and checked."""
    work = app.screen.bench.work
    return work is not None and work.browse is not None and work.checking.done and work.browse.known == len(work.browse)


def browse_of(app: Any) -> Browse:
    return app.screen.bench.work.source

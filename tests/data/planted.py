"""A file with one planted case of every check, and its clean twin."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.data.checks import Tokens
from mlxtune.data.rows import Row

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
WINDOW = 400
KEY = "ghp_" + "a1B2c3D4" * 4 + "e5F6"  # in two pieces, so that no scanner takes it for one


@dataclass
class Planted:
    """``records`` as they stand in the file, and for each check the line (from 1) of the row that it must find."""

    records: list[Any] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)
    tokens: dict[int, Tokens] = field(default_factory=dict)
    test: set[int] = field(default_factory=set)

    def write(self, path: Path) -> Path:
        path.write_text(
            "".join((one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)) + "\n" for one in self.records)
        )
        return path

    def share(self, row: Row) -> str:
        return "test" if row.place.line in self.test else "train"

    def lengths(self) -> list[Tokens | None]:
        return [self.tokens.get(line, Tokens(200, 100)) for line in range(1, len(self.records) + 1)]


def scorer(answer: str) -> dict[str, str]:
    """A contract: chat answers are JSON with a reply, thank the customer, and name no competitor."""
    try:
        reply = json.loads(answer)["reply"]
    except ValueError as error:
        return {"json": str(error), "schema": "not JSON"}
    except KeyError:
        return {"schema": "“reply” is missing"}
    failed = {} if ": " in reply or "Thank you" in reply else {"disclaimer": "no thanks"}
    return failed | ({"forbidden": "it says “Northpeak”"} if "Northpeak" in reply else {})


def _rows(name: str, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / name).read_text().splitlines()[:count]]


def make(*, dirty: bool) -> Planted:
    """Forty conversations and thirty pairs of the samples; ``dirty`` plants a fault of every kind in a row of its own."""
    made = Planted()
    chats, pairs = iter(_rows("support.jsonl", 120)), iter(_rows("support-pairs.jsonl", 120))
    for _ in range(40):
        made.records.append(next(chats))
    for _ in range(30):
        made.records.append(next(pairs))

    def plant(check: str, kind: str, fault: Callable[[dict[str, Any]], Any]) -> int:
        clean = next(pairs) if kind == "pair" else next(chats)
        made.records.append(fault(deepcopy(clean)) if dirty else clean)
        made.lines[check] = len(made.records)
        return len(made.records)

    def asks(text: str) -> Callable[[dict[str, Any]], Any]:
        return lambda row: _said(row, 1, lambda old: f"{old} {text}")

    def says(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], Any]:
        def fault(row: dict[str, Any]) -> Any:
            answer = json.loads(row["messages"][-1]["content"])
            change(answer)
            return _said(row, -1, lambda _: json.dumps(answer, ensure_ascii=False))

        return fault

    def reply(text: str) -> Callable[[dict[str, Any]], Any]:
        return says(lambda answer: answer.update(reply=answer["reply"] + " " + text))

    plant("bad-row", "chat", lambda row: json.dumps(row)[:50])
    plant("role-order", "chat", lambda row: {**row, "messages": [row["messages"][1], *row["messages"][1:]]})
    plant("no-answer", "chat", lambda row: {**row, "messages": row["messages"][:-1]})
    plant("empty-target", "chat", lambda row: _said(row, -1, lambda _: "  "))
    plant("contract-json", "chat", lambda row: _said(row, -1, lambda old: f"```json\n{old}\n```"))
    plant("contract-schema", "chat", says(lambda answer: answer.pop("reply")))
    plant(
        "contract-disclaimer",
        "chat",
        says(lambda answer: answer.update(reply="The blue one weighs ninety grams less than the green one.")),
    )
    plant("contract-forbidden", "chat", reply("Northpeak has it too."))
    plant("secret", "chat", asks(f"My token is {KEY}"))
    plant("same-pair", "pair", lambda row: {**row, "rejected": row["chosen"].upper().replace(" ", "  ")})
    plant("different-prompts", "pair", _two_prompts)
    plant("placeholder", "chat", asks("Is {{product_name}} in stock?"))
    plant("email", "chat", asks("Write to ada.holm@example.com"))
    plant("phone", "chat", asks("Call +44 20 7946 0958"))
    plant("card", "chat", asks("I paid with 4111 1111 1111 1111"))
    plant("iban", "chat", asks("Send it to GB82 WEST 1234 5698 7654 32 today"))
    plant("mojibake", "chat", asks("It was the cafÃ© next door"))
    plant("control", "chat", asks("\u202etfel\u202c"))
    plant("mixed-script", "chat", asks("I paid with p\u0430ypal"))
    plant("refusal", "chat", reply("As an AI language model, I cannot know."))
    plant("boilerplate", "chat", reply("I hope this helps!"))
    plant("loop", "chat", reply("we will ask, we will ask, we will ask, we will ask, we will ask"))
    plant("length-outlier", "chat", lambda row: _said(row, -1, lambda old: json.dumps({**json.loads(old), "reply": _long()})))
    made.tokens[plant("prompt-fills-window", "chat", lambda row: row)] = Tokens(900, WINDOW + 1) if dirty else Tokens(300, 200)
    made.tokens[plant("truncated", "chat", lambda row: row)] = Tokens(WINDOW + 1, 200) if dirty else Tokens(WINDOW, 200)
    made.tokens[plant("template", "chat", lambda row: row)] = Tokens(0, 0, "it refuses") if dirty else Tokens(300, 200)
    plant("duplicate", "chat", lambda row: deepcopy(made.records[0]))
    plant("near-duplicate", "chat", lambda row: _said(deepcopy(made.records[1]), 1, lambda old: old + " please"))
    plant("conflict", "chat", lambda row: {**row, "messages": [*made.records[2]["messages"][:2], row["messages"][-1]]})
    made.test = {4}
    plant("leak", "chat", lambda row: _said(deepcopy(made.records[3]), 1, lambda old: old + " now"))
    return made


def _said(row: dict[str, Any], turn: int, change: Callable[[str], str]) -> dict[str, Any]:
    row["messages"][turn]["content"] = change(row["messages"][turn]["content"])
    return row


def _two_prompts(row: dict[str, Any]) -> dict[str, Any]:
    turns = {
        key: [{"role": "user", "content": f"{key}?"}, {"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")
    }
    return {"prompt": row["prompt"], **turns}


def _long() -> str:
    return "Thank you for writing to us. " + " ".join(f"Step {number} is to look at part {number * 7}." for number in range(200))

"""A data file with one planted fault per check, and the same file without faults."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.data.checks.check_input import TokenCount
from mlxtune.data.checks.contract import ContractScorer
from mlxtune.data.rows import Row

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
WINDOW = 400
KEY = "ghp_" + "a1B2c3D4" * 4 + "e5F6"  # split so that secret scanners ignore it


@dataclass
class PlantedFile:
    """The records of a file, and for each check the line (from 1) that it must report."""

    records: list[Any] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)
    tokens: dict[int, TokenCount] = field(default_factory=dict)
    test_lines: set[int] = field(default_factory=set)

    def write(self, path: Path) -> Path:
        path.write_text(
            "".join((one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)) + "\n" for one in self.records),
            errors="surrogateescape",
        )
        return path

    def split_of(self, row: Row) -> str:
        return "test" if row.location.line in self.test_lines else "train"

    def token_counts(self) -> list[TokenCount | None]:
        return [self.tokens.get(line, TokenCount(200, 100)) for line in range(1, len(self.records) + 1)]


def _failures(answer: str) -> dict[str, str]:
    try:
        reply = json.loads(answer)["reply"]
    except ValueError as error:
        return {"json": str(error)}
    except KeyError:
        return {"schema": "“reply” is missing"}
    failed = {} if ": " in reply or "Thank you" in reply else {"disclaimer": "no thanks"}
    failed |= {"forbidden": "it says “Northpeak”"} if "Northpeak" in reply else {}
    return failed | ({"length": "33 words, at most 30"} if "lamps are in stock" in reply else {})


# Chat answers must be JSON with a reply, thank the customer, name no competitor, and be short.
SCORER: ContractScorer = _failures


def _rows(name: str, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / name).read_text().splitlines()[:count]]


def make_planted(*, dirty: bool) -> PlantedFile:
    """Return 40 sample conversations and 30 pairs, plus one row per check; with ``dirty``, each of those rows has its fault."""
    planted = PlantedFile()
    chats = (row for row in _rows("support.jsonl", 120) if "robot" not in row["messages"][1]["content"])  # may be answered by one
    pairs = iter(_rows("support-pairs.jsonl", 120))
    for _ in range(40):
        planted.records.append(next(chats))
    for _ in range(30):
        planted.records.append(next(pairs))

    def plant(check: str, kind: str, fault: Callable[[dict[str, Any]], Any]) -> int:
        clean = next(pairs) if kind == "pair" else next(chats)
        planted.records.append(fault(deepcopy(clean)) if dirty else clean)
        planted.lines[check] = len(planted.records)
        return len(planted.records)

    def append_to_prompt(text: str) -> Callable[[dict[str, Any]], Any]:
        return lambda row: _change_turn(row, 1, lambda prompt: f"{prompt} {text}")

    def change_answer(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], Any]:
        def fault(row: dict[str, Any]) -> Any:
            answer = json.loads(row["messages"][-1]["content"])
            change(answer)
            return _change_turn(row, -1, lambda _: json.dumps(answer, ensure_ascii=False))

        return fault

    def append_to_reply(text: str) -> Callable[[dict[str, Any]], Any]:
        return change_answer(lambda answer: answer.update(reply=answer["reply"] + " " + text))

    plant("bad-row", "chat", lambda row: json.dumps(row)[:50])
    plant("encoding", "chat", lambda row: _as_cp1252(append_to_prompt("Grüße, René")(row)))
    plant("role-order", "chat", lambda row: {**row, "messages": [row["messages"][1], *row["messages"][1:]]})
    plant("no-answer", "chat", lambda row: {**row, "messages": row["messages"][:-1]})
    plant("empty-target", "chat", lambda row: _change_turn(row, -1, lambda _: "  "))
    plant("contract-json", "chat", lambda row: _change_turn(row, -1, lambda text: f"```json\n{text}\n```"))
    plant("contract-schema", "chat", change_answer(lambda answer: answer.update(text=answer.pop("reply"))))
    plant(
        "contract-disclaimer",
        "chat",
        change_answer(lambda answer: answer.update(reply="The blue one weighs ninety grams less than the green one.")),
    )
    plant("contract-forbidden", "chat", append_to_reply("Northpeak has it too."))
    plant("contract-length", "chat", append_to_reply("The lamps are in stock."))
    plant("secret", "chat", append_to_prompt(f"My token is {KEY}"))
    plant("same-pair", "pair", lambda row: {**row, "rejected": row["chosen"].upper().replace(" ", "  ")})
    plant("different-prompts", "pair", _different_prompts)
    plant("placeholder", "chat", append_to_prompt("Is {{product_name}} in stock?"))
    plant("email", "chat", append_to_prompt("Write to ada.holm@northpeak.shop"))
    plant("phone", "chat", append_to_prompt("Call +44 20 7946 0958"))
    plant("card", "chat", append_to_prompt("I paid with 4111 1111 1111 1111"))
    plant("iban", "chat", append_to_prompt("Send it to GB82 WEST 1234 5698 7654 32 today"))
    plant("address", "chat", append_to_prompt("I live at 4211 Birchwood Lane now"))
    plant("government-id", "chat", append_to_prompt("My SSN is 219-09-9871"))
    plant("mojibake", "chat", append_to_prompt("It was the cafÃ© next door"))
    plant("control", "chat", append_to_prompt("\u202etfel\u202c"))
    plant("mixed-script", "chat", append_to_prompt("I paid with p\u0430ypal"))
    plant("refusal", "chat", append_to_reply("I am sorry, but I cannot help with that."))
    plant("self-reference", "chat", append_to_reply("As an AI language model, we have a tent."))
    plant("boilerplate", "chat", append_to_reply("I hope this helps!"))
    plant("cut-off", "chat", lambda row: {**row, "finish_reason": "length"})
    plant("loop", "chat", append_to_reply("we will ask, we will ask, we will ask, we will ask, we will ask."))
    plant("residue", "chat", append_to_reply("<br>&nbsp;Thank you."))
    plant("mid-sentence", "chat", append_to_reply("We can offer you a refund of the"))
    german = "Thank you: das Paket ist nicht mit der Post gekommen, und wir sind auch nicht im Lager."
    plant("language", "chat", change_answer(lambda answer: answer.update(reply=german)))
    plant(
        "length-outlier",
        "chat",
        lambda row: _change_turn(row, -1, lambda text: json.dumps({**json.loads(text), "reply": _long_reply()})),
    )
    planted.tokens[plant("prompt-fills-window", "chat", lambda row: row)] = (
        TokenCount(900, WINDOW + 1) if dirty else TokenCount(300, 200)
    )
    planted.tokens[plant("truncated", "chat", lambda row: row)] = TokenCount(WINDOW + 1, 200) if dirty else TokenCount(WINDOW, 200)
    planted.tokens[plant("template", "chat", lambda row: row)] = (
        TokenCount(0, 0, "the template refused") if dirty else TokenCount(300, 200)
    )
    typed = ("control-tokens",) if dirty else ()
    planted.tokens[plant("control-tokens", "chat", lambda row: row)] = TokenCount(200, 100, notes=typed)
    plant("duplicate", "chat", lambda row: deepcopy(planted.records[0]))
    plant("near-duplicate", "chat", lambda row: _change_turn(deepcopy(planted.records[1]), 1, lambda text: text + " please"))
    plant("conflict", "chat", lambda row: {**row, "messages": [*planted.records[2]["messages"][:2], row["messages"][-1]]})
    planted.test_lines = {4}
    plant("leak", "chat", lambda row: _change_turn(deepcopy(planted.records[3]), 1, lambda text: text + " now"))
    return planted


def _change_turn(row: dict[str, Any], turn: int, change: Callable[[str], str]) -> dict[str, Any]:
    row["messages"][turn]["content"] = change(row["messages"][turn]["content"])
    return row


def _as_cp1252(row: dict[str, Any]) -> str:
    """Return a record in Windows-1252, whose bytes are no UTF-8."""
    return json.dumps(row, ensure_ascii=False).encode("cp1252").decode(errors="surrogateescape")


def _different_prompts(row: dict[str, Any]) -> dict[str, Any]:
    turns = {
        key: [{"role": "user", "content": f"{key}?"}, {"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")
    }
    return {"prompt": row["prompt"], **turns}


def _long_reply() -> str:
    return "Thank you for writing to us. " + " ".join(f"Step {number} is to look at part {number * 7}." for number in range(200))

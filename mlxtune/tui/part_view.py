"""The parts of a row as Review shows them: who says what, what trains, what a word differs in."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import lru_cache

from mlxtune.core.text import one_line
from mlxtune.data.rows import Conversation, Preference, Row, Unpaired

ROLES = {  # the sign, and the token of the name
    "system": ("◇", "$muted"),
    "developer": ("◇", "$muted"),
    "user": ("○", "$foreground"),
    "assistant": ("●", "$primary"),
    "tool": ("▷", "$muted"),
}
SIDES = ("chosen", "rejected")
_WORD = re.compile(r"\s+|\w+|[^\w\s]")
_MOST = 3000  # words of a side beyond which differences are not looked for


@dataclass(frozen=True)
class PartView:
    """``name`` is what the core calls the part; ``text`` is as the row has it, to be made safe where it is drawn."""

    name: str
    role: str
    text: str
    trains: bool
    calls: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        return ROLES.get(self.role, ("●", "$primary"))[0]

    @property
    def token(self) -> str:
        return ROLES.get(self.role, ("●", "$primary"))[1]


def parts_of(row: Row) -> tuple[PartView, ...]:
    """The parts of ``row``, those of a pair's two answers last."""
    from mlxtune.data.checks.look import parts

    turns = row.messages if isinstance(row, Conversation) else ()
    found = []
    for at, part in enumerate(parts(row)):
        calls = _calls(turns[at].extra.get("tool_calls")) if turns else ()
        trains = part.trains or part.name in ("completion", *SIDES)
        found.append(PartView(part.name, part.name if part.name in SIDES else part.role, part.text, trains, calls))
    return tuple(found)


def _calls(value: object) -> tuple[str, ...]:
    shown = []
    for call in value if isinstance(value, list) else []:
        function = call.get("function", {})
        arguments = json.dumps(function.get("arguments", {}), ensure_ascii=False)
        shown.append(one_line(f"{function.get('name', '')}({arguments})", 2000))
    return tuple(shown)


def is_pair(row: Row | None) -> bool:
    return isinstance(row, Preference)


def wanted(row: Row) -> str:
    """For a row with one answer and a label, whether it is a wanted one."""
    return ("a wanted answer" if row.label else "an unwanted answer") if isinstance(row, Unpaired) else ""


Words = tuple[tuple[str, bool], ...]  # pieces of a text, and whether the other one has them not


@lru_cache(16)  # it is asked for again whenever a pair is drawn
def difference(left: str, right: str) -> tuple[Words, Words]:
    """Both texts in pieces, each with whether it is only there, word by word; very long texts are one piece each."""
    one, two = _WORD.findall(left), _WORD.findall(right)
    if max(len(one), len(two)) > _MOST:
        return ((left, False),), ((right, False),)
    sides: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for tag, start, end, begin, stop in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        for side, text in ((0, "".join(one[start:end])), (1, "".join(two[begin:stop]))):
            if text:
                sides[side].append((text, tag != "equal"))
    return _joined(sides[0]), _joined(sides[1])


def _joined(words: list[tuple[str, bool]]) -> Words:
    """``words`` with the space between two that differ taken for a difference, and at the edge of one for none."""
    for at, (text, _) in enumerate(words):
        if not text.strip():
            around = words[max(at - 1, 0) : at] + words[at + 1 : at + 2]
            words[at] = (text, len(around) == 2 and all(only for _, only in around))
    return tuple(words)

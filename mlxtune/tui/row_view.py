"""A row of a source as the rooms show it: every string made safe, every figure as it is known now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line
from mlxtune.data.decisions import Decision, Status, tags
from mlxtune.data.filters import gist
from mlxtune.data.rows import Row, RowError

if TYPE_CHECKING:  # they load numpy
    from mlxtune.data.browse import Browse

MARKS: dict[Status, tuple[str, str]] = {
    "pending": ("·", "$faint"),
    "accepted": ("✓", "$success"),
    "rejected": ("✗", "$error"),
    "skipped": ("○", "$muted"),
    "tied": ("=", "$muted"),
    "bad": ("✗", "$error"),
}
EDITED = ("~", "$primary")
WORDS = {  # of the checks: in a cell of the table, and in the list of findings
    "leak": ("leak", "train repeats held-out"),
    "contract-json": ("json", "answer is not JSON"),
    "contract-schema": ("schema", "breaks the schema"),
    "contract-disclaimer": ("disclaimer", "wrong disclaimer"),
    "contract-forbidden": ("forbidden", "forbidden phrase"),
    "prompt-fills-window": ("no room", "nothing would train"),
    "template": ("template", "template refuses it"),
    "truncated": ("long", "would be cut"),
    "length-outlier": ("length", "unusual length"),
    "bad-row": ("unreadable", "cannot be read"),
    "no-answer": ("no answer", "no final answer"),
    "role-order": ("turns", "turns out of order"),
    "empty-target": ("empty", "empty answer"),
    "same-pair": ("same", "both answers the same"),
    "different-prompts": ("prompts", "different prompts"),
    "secret": ("secret", "key or password"),
    "email": ("e-mail", "e-mail address"),
    "phone": ("phone", "phone number"),
    "card": ("card", "card number"),
    "iban": ("IBAN", "IBAN"),
    "duplicate": ("copy", "exact duplicate"),
    "near-duplicate": ("near twin", "near-duplicate"),
    "conflict": ("conflict", "two different answers"),
    "mojibake": ("mojibake", "decoded wrongly"),
    "control": ("unseen", "signs nobody sees"),
    "mixed-script": ("alphabets", "mixed alphabets"),
    "refusal": ("refusal", "answer refuses"),
    "boilerplate": ("phrases", "chatbot's boilerplate"),
    "placeholder": ("unfilled", "placeholder left in"),
    "loop": ("loop", "answer in a loop"),
}
PREVIEW = 200  # characters


@dataclass(frozen=True)
class RowView:
    """``tokens`` is -1 where they are not known; ``finding`` is the gravest one with its sign, empty where there is none."""

    at: int
    mark: str
    token: str
    tokens: int
    length: int
    long: bool
    share: str
    tag: str
    finding: str
    severity: str
    preview: str
    readable: bool = True


def row_view(browse: Browse, at: int) -> RowView:
    """Row ``at`` in one line; what is no row says why."""
    record = browse.seen(at).now_or_error
    checked = browse.checked
    first = next(iter(browse.findings(at)), None)
    finding = f"{sign_of(first.check)} {word_of(first.check)}" if first else ""
    severity = first.severity if first else ""
    if isinstance(record, DataError):
        why = record.why if isinstance(record, RowError) else record.message
        finding = finding or f"✗ {word_of('bad-row')}"
        return RowView(at, "✗", "$error", -1, 0, False, "", "", finding, severity or "block", one_line(why, PREVIEW), False)
    mark, token = mark_of(browse.decision(at))
    tokens = browse.tokens(at)
    long = checked is not None and 0 < checked.max_tokens < tokens
    share = (checked.share(at) or "") if checked else ""
    preview = one_line(gist(record)[: 4 * PREVIEW], PREVIEW)
    return RowView(at, mark, token, tokens, browse.length(at), long, share, tag_of(record, browse), finding, severity, preview)


def mark_of(held: Decision) -> tuple[str, str]:
    """The sign of a decision and its colour; an edit shows where nothing else was decided."""
    return EDITED if held.record is not None and held.status == "pending" else MARKS[held.status]


def sign_of(check: str) -> str:
    """The sign of a check."""
    from mlxtune.data.checks.finding import CHECKS

    return CHECKS[check].mark if check in CHECKS else "!"


def word_of(check: str) -> str:
    """What a check is called in a cell."""
    return WORDS[check][0] if check in WORDS else check


def name_of(check: str) -> str:
    """What a check is called in a list."""
    from mlxtune.data.checks.finding import CHECKS

    return WORDS[check][1] if check in WORDS else CHECKS[check].title


def tag_of(row: Row, browse: Browse) -> str:
    """The row's tags; without one, its value of the metadata that most of the source has."""
    if found := tags(row):
        return one_line(" ".join(found), 40)
    key = next((key for key in browse.checked.facts.tags if not key.startswith("answer.")), None) if browse.checked else None
    value = row.meta.get(key) if key else None
    return "" if value is None else one_line(str(value), 40)

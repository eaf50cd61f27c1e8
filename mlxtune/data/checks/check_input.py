"""A row as the checks see it: its texts, their roles, and which of them are trained on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mlxtune.data.rows import (
    REASONING,
    Conversation,
    Preference,
    Row,
    TextRow,
    Unpaired,
    json_strings,
    json_value,
    row_turns,
    with_turns,
)

# For TextPart.is_of
ROLES = ("system", "user", "assistant", "tool", "text", "chosen", "rejected", "completion", "prompt", "answer")
_ANSWERS = ("chosen", "rejected", "completion")


@dataclass(frozen=True, slots=True)
class TextPart:
    """One text in a row. ``exact`` is false if JSON escapes were resolved, so that offsets do not match the row's text.

    The reasoning of a turn and the arguments of its tool calls have the roles ``reasoning`` and ``call``.
    """

    name: str
    role: str
    text: str
    trains: bool = False
    exact: bool = True

    @property
    def is_answer(self) -> bool:
        """Whether this text is trained on and is one that users would read."""
        return self.trains and self.role not in ("reasoning", "call")

    def is_of(self, target: str) -> bool:
        """Return whether this is a text of the role or part ``target``; ``answer`` and ``prompt`` are all texts that are, or are not,
        an assistant turn or an answer of a pair."""
        is_answer = self.role == "assistant" or self.name in _ANSWERS
        return target in (self.name, self.role) or target == ("answer" if is_answer else "prompt")


@dataclass(frozen=True, slots=True)
class TokenCount:
    """A row's number of tokens, and how many come before the first trained one; or the chat template's ``error``.

    ``notes`` say what the template changes in the row. If each answer becomes a separate row, the counts are those of the longest
    one.
    """

    total: int
    prompt: int
    error: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckInput:
    """Record number ``index`` in a source, with its token count and the ``max_tokens`` window if they are known.

    With ``skip_too_long``, training skips a row whose prompt fills the window.
    """

    index: int
    row: Row
    tokens: TokenCount | None = None
    max_tokens: int = 0
    skip_too_long: bool = False

    @cached_property
    def parts(self) -> tuple[TextPart, ...]:
        """All texts in the row, with those inside its turns, and the decoded strings of JSON texts whose escapes hide characters."""
        own_parts = (*text_parts(self.row), *_inner_parts(self.row))
        return tuple(part for own in own_parts for part in (own, *_resolve_escapes(own)) if part.text)


def target_text(row: Row) -> str:
    """Return the text that ``row`` teaches: its last answer, or both answers of a pair."""
    if isinstance(row, Conversation):
        return row.reference
    if isinstance(row, Preference):
        return f"{row.chosen}\n{row.rejected}"
    return row.text if isinstance(row, TextRow) else row.completion


def scored_answer(row: Row) -> tuple[str, str]:
    """Return the part and text that a contract scores: the last, chosen, or desirable answer."""
    if isinstance(row, Conversation) and not row.messages[-1].extra.get("tool_calls"):
        return f"turn {len(row.messages)}", row.reference
    if isinstance(row, Preference):
        return "chosen", row.chosen
    return ("completion", row.completion) if isinstance(row, Unpaired) and row.label else ("", "")


def text_parts(row: Row) -> Iterator[TextPart]:
    """Yield every text in ``row``, including empty ones, in conversation order."""
    if isinstance(row, TextRow):
        yield TextPart("text", "text", row.text, trains=True)
        return
    for number, turn in enumerate(row_turns(row), 1):
        yield TextPart(
            f"turn {number}", turn.role, turn.content, turn.role == "assistant" and turn.trained and isinstance(row, Conversation)
        )
    if isinstance(row, Preference):
        yield TextPart("chosen", "assistant", row.chosen, trains=True)
        yield TextPart("rejected", "rejected", row.rejected)
    elif not isinstance(row, Conversation):
        yield TextPart("completion", "assistant", row.completion, trains=row.label)


def _inner_parts(row: Row) -> Iterator[TextPart]:
    """Yield the reasoning and the texts in the tool-call arguments of each turn."""
    found: list[tuple[str, str, str]] = []

    def collect(name: str, text: str, role: str) -> str:
        found.append((name, role, text))
        return text

    for number, turn in enumerate(row_turns(row), 1):
        _rewrite_extra(turn.extra, f"turn {number}", collect)
        yield from (TextPart(*item, turn.trained and isinstance(row, Conversation)) for item in found)
        found.clear()


def _rewrite_extra(extra: dict[str, Any], turn: str, rewrite: Callable[[str, str, str], str]) -> dict[str, Any]:
    """Return a turn's keys other than its content, with every text replaced by ``rewrite(part_name, text, role)``."""
    result = dict(extra)
    if isinstance(reasoning := extra.get(REASONING), str):
        result[REASONING] = rewrite(f"{turn}, reasoning", reasoning, "reasoning")
    if calls := extra.get("tool_calls"):
        result["tool_calls"] = [
            {**call, "function": {**function, "arguments": _rewrite_value(function.get("arguments", {}), name, rewrite)}}
            for number, call in enumerate(calls, 1)
            for function, name in [(call["function"], f"{turn}, call {number}")]
        ]
    return result


def _rewrite_value(value: Any, name: str, rewrite: Callable[[str, str, str], str]) -> Any:
    if isinstance(value, str):
        return rewrite(name, value, "call")
    if isinstance(value, dict):
        return {key: _rewrite_value(item, f"{name}, {key}", rewrite) for key, item in value.items()}
    if isinstance(value, list):
        return [_rewrite_value(item, f"{name}, {number}", rewrite) for number, item in enumerate(value, 1)]
    return value


def rewrite_texts(row: Row, rewrite: Callable[[str, str], str]) -> Row:
    """Return ``row`` with every text replaced by ``rewrite(part_name, text)``; parts are named as in :attr:`CheckInput.parts`."""
    turns = (
        replace(
            turn,
            content=rewrite(f"turn {number}", turn.content),
            extra=_rewrite_extra(turn.extra, f"turn {number}", lambda name, text, _: rewrite(name, text)),
        )
        for number, turn in enumerate(row_turns(row), 1)
    )
    match row := with_turns(row, tuple(turns)):
        case TextRow():
            return replace(row, text=rewrite("text", row.text))
        case Preference():
            return replace(row, chosen=rewrite("chosen", row.chosen), rejected=rewrite("rejected", row.rejected))
        case Unpaired():
            return replace(row, completion=rewrite("completion", row.completion))
    return row


def _resolve_escapes(part: TextPart) -> Iterator[TextPart]:
    """Yield the decoded strings of a JSON text if its escapes hide characters."""
    if "\\u" not in part.text or part.text.lstrip()[:1] not in ("{", "["):
        return
    text = "\n".join(json_strings(json_value(part.text)))
    if not (text.isprintable() and text.isascii()):
        yield TextPart(f"{part.name}, escapes resolved", part.role, text, part.trains, exact=False)

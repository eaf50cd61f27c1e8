"""What does not fit the window, by true lengths: the recipe's tokenizer and template, asked in a process of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlxtune.data.checks.finding import DROP, Finding, enter

FILLS = enter("prompt-fills-window", "block", "rows of which nothing would train", DROP, "✗")
CUT = enter("truncated", "warn", "rows that would be cut", DROP)
TEMPLATE = enter("template", "block", "rows that the template refuses", DROP, "✗")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A row's length in tokens, and how many come before the first that trains; or ``why`` it cannot be rendered."""

    full: int
    first: int
    why: str = ""


def measured(at: int, tokens: Tokens, max_tokens: int) -> Iterator[Finding]:
    """What a row's length means for a window of ``max_tokens``."""
    if tokens.why:
        yield Finding(TEMPLATE.id, TEMPLATE.severity, (at,), tokens.why)
    elif tokens.first >= max_tokens:
        why = f"The prompt has {tokens.first:,} tokens and the window {max_tokens:,}, so nothing would be trained."
        yield Finding(FILLS.id, FILLS.severity, (at,), why)
    elif tokens.full > max_tokens:
        why = f"It has {tokens.full:,} tokens; the last {tokens.full - max_tokens:,} would be cut, the stop with them."
        yield Finding(CUT.id, CUT.severity, (at,), why)


def lengths(tokens: Sequence[Tokens | None]) -> list[int]:
    """The lengths that are known."""
    return [one.full for one in tokens if one is not None and not one.why]

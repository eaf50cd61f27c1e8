"""Answers that break the recipe's own contract. The scorer is handed in: it stands above this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mlxtune.data.checks.finding import DROP, Check, Finding, Span, enter
from mlxtune.data.checks.look import Look
from mlxtune.data.rows import Conversation, Preference, Row, Unpaired

Scorer = Callable[[str], dict[str, str]]  # an answer to the metrics that it fails, each with a sentence; empty when it holds

_CHECKS: dict[str, Check] = {
    "json": enter("contract-json", "block", "answers that are not JSON", DROP, "✗"),
    "schema": enter("contract-schema", "block", "answers that break the schema", DROP, "✗"),
    "disclaimer": enter("contract-disclaimer", "block", "answers without the right disclaimer", DROP, "✗"),
    "forbidden": enter("contract-forbidden", "block", "answers with a forbidden phrase", DROP, "✗"),
}
CONTRACT = frozenset(check.id for check in _CHECKS.values())


def broken(look: Look, scorer: Scorer) -> Iterator[Finding]:
    """A finding for each metric that the row's answer fails. What is not JSON is not held against the schema, too."""
    part, answer = answered(look.row)
    if not part:
        return
    failed = scorer(answer)
    for metric, check in _CHECKS.items():
        if metric in failed and not (metric == "schema" and "json" in failed):
            yield Finding(
                check.id,
                check.severity,
                (look.at,),
                f"The answer breaks the contract: {failed[metric]}.",
                (Span(part, 0, len(answer), answer[:60]),),
            )


def answered(row: Row) -> tuple[str, str]:
    """The part and the text that a contract is about: the last answer, or the one to be preferred."""
    if isinstance(row, Conversation) and not row.messages[-1].extra.get("tool_calls"):
        return f"turn {len(row.messages)}", row.reference
    if isinstance(row, Preference):
        return "chosen", row.chosen
    return ("completion", row.completion) if isinstance(row, Unpaired) and row.label else ("", "")

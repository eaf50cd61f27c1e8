"""Find answers that break the recipe's contract. Scorers are in a higher-level package, so the caller passes them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mlxtune.data.checks.base import DROP, Check, Finding, Span
from mlxtune.data.checks.check_input import CheckInput
from mlxtune.data.rows import Conversation, Preference, Row, Unpaired

PREFIX = "contract-"
_labels: dict[str, str] = {}  # metric labels by check ID


@dataclass(frozen=True)
class ContractScorer:
    """Scores answers against a contract. ``failures`` returns each required metric that an answer fails, with the reason.

    ``labels`` maps every required metric to its label.
    """

    labels: Mapping[str, str]
    failures: Callable[[str], Mapping[str, str]]


def check_id(metric: str) -> str:
    """Return the check ID for a metric, such as ``contract-length``."""
    return PREFIX + metric.replace("_", "-")


def use_labels(labels: Mapping[str, str]) -> None:
    """Use the scorers' labels in the titles of these metrics' checks."""
    _labels.update((check_id(metric), label) for metric, label in labels.items())


def metric_check(id: str) -> Check:
    """Return the check for a ``contract-…`` ID."""
    metric = id.removeprefix(PREFIX)
    return Check(id, "block", f"answers that fail “{_labels.get(id, metric)}”", DROP, "✗", metric.partition("-")[0])


def contract_findings(row_input: CheckInput, scorer: ContractScorer) -> Iterator[Finding]:
    """Yield a finding for each required metric that the row's answer fails."""
    part, answer = scored_answer(row_input.row)
    if not part:
        return
    for metric, reason in scorer.failures(answer).items():
        span = Span(part, 0, len(answer), answer[:60])
        yield Finding(check_id(metric), "block", (row_input.index,), f"The answer breaks the contract: {reason}.", (span,))


def scored_answer(row: Row) -> tuple[str, str]:
    """Return the part and text that a contract scores: the last, chosen, or desirable answer."""
    if isinstance(row, Conversation) and not row.messages[-1].extra.get("tool_calls"):
        return f"turn {len(row.messages)}", row.reference
    if isinstance(row, Preference):
        return "chosen", row.chosen
    return ("completion", row.completion) if isinstance(row, Unpaired) and row.label else ("", "")

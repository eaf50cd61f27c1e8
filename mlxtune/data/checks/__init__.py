"""Checks: what is wrong with the rows of a source, what it means, and what would mend it.

One small file a family. A check is a function that a decorator of :mod:`finding` enters into a table, so that it runs and is shown:

    @text_check("shouting", "warn", "answers that shout", answers=True)
    def shouting(text: str) -> Iterator[Hit]:
        for match in re.finditer(r"!{3,}", text):
            yield Hit(*match.span(), "The answer shouts.", put="!")
"""

from mlxtune.data.checks import characters, contract, lengths, notes, pairs, personal, refused, secrets, tokens, twins, wording
from mlxtune.data.checks.contract import Scorer
from mlxtune.data.checks.finding import CHECKS, SEVERITIES, Check, Finding, Fix, Severity, Span
from mlxtune.data.checks.run import Report, check
from mlxtune.data.checks.tokens import Tokens
from mlxtune.data.records import Records

__all__ = [
    "CHECKS",
    "SEVERITIES",
    "Check",
    "Finding",
    "Fix",
    "Records",
    "Report",
    "Scorer",
    "Severity",
    "Span",
    "Tokens",
    "characters",
    "check",
    "contract",
    "lengths",
    "notes",
    "pairs",
    "personal",
    "refused",
    "secrets",
    "tokens",
    "twins",
    "wording",
]  # fmt: skip

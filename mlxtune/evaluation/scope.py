"""What an evaluation measured. If another one measured the same on more rows, that one counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from mlxtune.core.hashing import sha256_json
from mlxtune.evaluation.report import EvaluationReport

T = TypeVar("T")


@dataclass(frozen=True)
class Scope:
    """The IDs of the evaluated rows, the names of the arms, and a hash of everything else that decides the rates."""

    rows: frozenset[str]
    arms: frozenset[str]
    conditions: str

    @classmethod
    def of(cls, report: EvaluationReport) -> Scope:
        """Return what ``report`` measured."""
        facts = report.facts
        conditions = [
            facts.get("base_fingerprint"), facts.get("run") or facts.get("adapter"), facts.get("adapter_step"), facts.get("schema"),
            facts.get("contract"), facts.get("headline"), facts.get("template"), facts.get("decoding"), facts.get("thinking"),
            facts.get("thinking_tokens"),
        ]  # fmt: skip
        return cls(frozenset(facts["row_ids"]), frozenset(arm.name for arm in report.arms), sha256_json(conditions))

    def is_part_of(self, other: Scope) -> bool:
        """Return whether ``other`` measured the same on all rows of this one and on more."""
        return frozenset() < self.rows < other.rows and self.arms <= other.arms and self.conditions == other.conditions


def widest(evaluations: Iterable[T], scope: Callable[[T], Scope]) -> T | None:
    """Return the first of ``evaluations``, which are newest first, or the one that measured the same on most rows."""
    rest = iter(evaluations)
    counted = next(rest, None)
    for other in rest:
        if counted is not None and scope(counted).is_part_of(scope(other)):
            counted = other
    return counted

"""What a check found out, record by record: the part of a report that goes from the process that checks to one that shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from mlxtune.data.checks.finding import CHECKS, Finding, Span
from mlxtune.data.checks.notes import Facts
from mlxtune.data.checks.run import Report
from mlxtune.data.membership import SHARES, Share
from mlxtune.data.scan import Numbers

_LETTERS: dict[Share, str] = {"train": "t", "valid": "v", "test": "e"}
_SHARES = {letter: share for share, letter in _LETTERS.items()}


@dataclass(frozen=True)
class Checked:
    """``tokens`` has the length of each record, -1 where it is not known, and ``letters`` one letter for the share that it is in.

    ``skipped`` says what could not be checked, and why.
    """

    facts: Facts
    findings: tuple[Finding, ...]
    tokens: Numbers
    letters: str
    max_tokens: int
    skipped: Mapping[str, str]

    @classmethod
    def of(cls, report: Report) -> Checked:
        """What ``report`` says."""
        tokens = np.array(report.tokens, np.int64)
        letters = "".join(_LETTERS.get(share, " ") for share in report.shares)  # type: ignore[call-overload]
        return cls(report.facts, report.findings, tokens, letters, report.max_tokens, report.skipped)

    def share(self, at: int) -> Share | None:
        """The share that record ``at`` is in."""
        return _SHARES.get(self.letters[at]) if at < len(self.letters) else None

    @cached_property
    def shares(self) -> dict[Share, int]:
        """How many records each share has."""
        return {share: self.letters.count(_LETTERS[share]) for share in SHARES}

    @cached_property
    def by_row(self) -> Mapping[int, tuple[Finding, ...]]:
        """The findings about each record that is to be mended, the gravest first."""
        found: dict[int, list[Finding]] = {}
        for one in self.findings:
            if one.rows:
                found.setdefault(one.rows[0], []).append(one)
        return {at: tuple(several) for at, several in found.items()}

    def write(self) -> dict[str, Any]:
        """It all as one JSON value."""
        findings = [
            [
                one.check,
                one.severity,
                one.rows,
                one.why,
                [[span.part, span.start, span.end, span.text, span.put] for span in one.spans],
            ]
            for one in self.findings
        ]
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**plain, "facts": asdict(self.facts), "findings": findings, "tokens": self.tokens.tolist()}

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Checked:
        """What :meth:`write` has written."""
        findings = tuple(
            Finding(check, severity, tuple(rows), why, tuple(Span(*span) for span in spans))
            for check, severity, rows, why, spans in value["findings"]
            if check in CHECKS
        )
        return cls(
            **{**value, "facts": Facts(**value["facts"]), "findings": findings, "tokens": np.array(value["tokens"], np.int64)}
        )

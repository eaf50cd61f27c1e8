"""Every check on every row of a source, in one pass over the file and one look at the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import DataError
from mlxtune.core.text import plural
from mlxtune.data import outcome
from mlxtune.data.checks import notes
from mlxtune.data.checks.contract import CONTRACT, Scorer, broken
from mlxtune.data.checks.finding import (
    CHECKS,
    ROW_CHECKS,
    SEVERITIES,
    TEXT_CHECKS,
    WHOLE_CHECKS,
    Check,
    Finding,
    Hit,
    Severity,
    found,
)
from mlxtune.data.checks.look import Look, Part
from mlxtune.data.checks.notes import Facts
from mlxtune.data.checks.refused import refused
from mlxtune.data.checks.survey import Survey
from mlxtune.data.checks.tokens import CUT, FILLS, TEMPLATE, Tokens, lengths, measured
from mlxtune.data.formats import EMPTY
from mlxtune.data.records import Records
from mlxtune.data.rows import Place, Row

Progress = Callable[[float], None]
_STEP = 500  # rows between two words of progress


@dataclass(frozen=True)
class FileCount:
    """How many records a file has, and how many of them are rows."""

    path: Path
    part: str
    read: int
    kept: int
    notes: tuple[str, ...]

    @property
    def refused(self) -> int:
        return self.read - self.kept


@dataclass(frozen=True)
class Report:
    """What was found. ``lengths`` are in tokens where ``max_tokens`` is known, else in characters.

    ``skipped`` says of each group of checks that could not be applied why. ``tokens`` and ``shares`` go by record: its length, -1
    where it is not known, and the part of the split that it is in, empty where it is in none.
    """

    path: Path
    files: tuple[FileCount, ...]
    formats: dict[str, int]
    findings: tuple[Finding, ...]
    places: Mapping[int, tuple[Place, str]]
    facts: Facts
    lengths: tuple[int, ...]
    max_tokens: int
    advice: str
    skipped: dict[str, str]
    tokens: tuple[int, ...] = ()
    shares: tuple[str, ...] = ()

    @property
    def read(self) -> int:
        return sum(file.read for file in self.files)

    @property
    def kept(self) -> int:
        return sum(file.kept for file in self.files)

    @property
    def refused(self) -> int:
        return self.read - self.kept

    def rows(self, severity: Severity) -> int:
        """How many records have a finding of ``severity``."""
        return rows(self.findings, severity)

    @property
    def word(self) -> str:
        """``blocked``, ``look`` or ``clean``."""
        return verdict(self.findings, self.read)[0]

    @property
    def sentence(self) -> str:
        """What it means, in one sentence."""
        return verdict(self.findings, self.read)[1]


def rows(findings: Iterable[Finding], severity: Severity) -> int:
    """How many records have a finding of ``severity``."""
    return len({one.rows[0] for one in findings if one.severity == severity and one.rows})


def verdict(findings: Collection[Finding], read: int) -> tuple[str, str]:
    """``blocked``, ``look`` or ``clean``, and what ``findings`` in ``read`` rows mean, in one sentence."""
    kinds = {finding.severity for finding in findings}
    if "block" in kinds:
        return (
            "blocked",
            f"Not ready. {plural(rows(findings, 'block'), 'row')} of {read:,} must be mended or left out before training.",
        )
    if "warn" in kinds:
        return "look", f"Ready. {plural(rows(findings, 'warn'), 'row')} of {read:,} deserve a look first."
    return "clean", f"Clean. Nothing is wrong with {'this row' if read == 1 else f'these {read:,} rows'}."


def check(
    path: Path,
    format: str = "auto",
    mapping: Mapping[str, str] = EMPTY,
    *,
    scorer: Scorer | None = None,
    share: Callable[[Row], str] | None = None,
    tokens: Sequence[Tokens | None] | None = None,
    max_tokens: int = 0,
    skipped: Mapping[str, str] = EMPTY,
    progress: Progress = lambda share: None,
) -> Report:
    """Look at every record of ``path``, a file or a folder as :func:`mlxtune.data.source.files` takes them.

    ``scorer`` judges answers by a contract, ``share`` says where a row of a file was put by a split, ``tokens`` has the lengths of all
    records in order; without one of them its checks are left out, and ``skipped`` says why. Raises ``DataError`` when a file as a
    whole cannot be read, or there is nothing in it.
    """
    with Records(path, format, mapping) as records:
        if not len(records):
            raise DataError(f"{path} has no rows.", mend="It needs one JSON object per line.")
        survey = Survey(records.row)
        findings: list[Finding] = []
        formats: Counter[str] = Counter()
        counts = []
        scan = _Scan()
        at = 0
        for part, store in records.stores:
            before = len(survey.at)
            for record in store:
                if isinstance(record, DataError):
                    findings.append(refused(at, record))
                else:
                    formats[record.format] += 1
                    look = Look(at, record)
                    findings += scan.row(look)
                    if scorer:
                        findings += broken(look, scorer)
                    length = tokens[at] if tokens else None
                    if length:
                        findings += measured(at, length, max_tokens)
                    survey.tokens.append(length)
                    survey.add(look, part if part != "all" else share(record) if share else part)
                at += 1
                if not at % _STEP:
                    progress(0.7 * at / len(records))
            counts.append(FileCount(store.path, part, len(store), len(survey.at) - before, store.notes))
        for number, whole in enumerate(WHOLE_CHECKS, 1):
            findings += whole(survey)
            progress(0.7 + 0.3 * number / len(WHOLE_CHECKS))
        order = {name: number for number, name in enumerate(CHECKS)}
        findings.sort(key=lambda one: (SEVERITIES.index(one.severity), order[one.check], one.rows))
        facts = notes.facts(survey)
        known = tuple(lengths(survey.tokens))
        report = Report(
            path, tuple(counts), dict(formats.most_common()), tuple(findings), _places(records, findings), facts,
            known or tuple(survey.lengths), max_tokens if known else 0, notes.advice(facts, findings), dict(skipped),
            tuple(-1 if one is None or one.why else one.full for one in tokens or ()), _shares(survey, at),
        )  # fmt: skip
        outcome.keep(path, outcome.Outcome(report.word, report.sentence, report.kept, report.rows("block") or report.rows("warn")))
        return report


def of_rows() -> frozenset[str]:
    """The checks whose word on a row depends on that row alone, so that it is void once the row was edited."""
    own = {check.id for check, _, _ in TEXT_CHECKS} | {check.id for check, _ in ROW_CHECKS}
    return frozenset(own | CONTRACT | {FILLS.id, CUT.id, TEMPLATE.id})


def recheck(at: int, row: Row, scorer: Scorer | None = None) -> tuple[Finding, ...]:
    """What the checks of single rows, and the contract's, say of ``row`` as record ``at``: for one that was edited since."""
    look = Look(at, row)
    return (*_Scan().row(look), *(broken(look, scorer) if scorer else ()))


def _shares(survey: Survey, count: int) -> tuple[str, ...]:
    """The share of each of ``count`` records."""
    shares = [""] * count
    for at, share in zip(survey.at, survey.shares, strict=True):
        shares[at] = share if share != "all" else ""
    return tuple(shares)


def _places(records: Records, findings: Sequence[Finding]) -> dict[int, tuple[Place, str]]:
    """Place and id of every record that a finding names."""
    found: dict[int, tuple[Place, str]] = {}
    for at in sorted({at for finding in findings for at in finding.rows}):
        record = records.record(at)
        found[at] = (records.place(at), "" if isinstance(record, DataError) else record.id)
    return found


class _Scan:
    """The checks of single rows. What one long system prompt has is found once, however many rows begin with it."""

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[Check, list[Hit]]]] = {}

    def row(self, look: Look) -> Iterator[Finding]:
        hits: dict[str, list[tuple[Part, Hit]]] = {}
        for part in look.parts:
            for check, here in self._part(part):
                hits.setdefault(check.id, []).extend((part, hit) for hit in here)
        for id, all_hits in hits.items():
            yield from found(CHECKS[id], look.at, all_hits)
        for check, function in ROW_CHECKS:
            for why, spans in function(look):
                yield Finding(check.id, check.severity, (look.at,), why, spans)

    def _part(self, part: Part) -> list[tuple[Check, list[Hit]]]:
        if part.role not in ("system", "developer"):
            return _texts(part)
        if part.text not in self._known:
            if len(self._known) >= 64:
                self._known.clear()
            self._known[part.text] = _texts(part)
        return self._known[part.text]


def _texts(part: Part) -> list[tuple[Check, list[Hit]]]:
    made = []
    for check, function, answers in TEXT_CHECKS:
        if (part.trains or not answers) and (here := list(function(part.text))):
            made.append((check, here))
    return made

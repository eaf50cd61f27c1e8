"""The finished evaluations of a workspace. Each report is read once, and again when its file changes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import FileStamp, file_stamp
from mlxtune.core.hashing import sha256_json
from mlxtune.evaluation.report import FILE, ArmResult, Caveat, EvaluationReport, Rate, load, promotion_caveat
from mlxtune.evaluation.scorers.registry import FORMS
from mlxtune.recipe import Recipe
from mlxtune.runs.registry import RUN_KINDS, Run

_INVALID = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError)  # raised by JSON that is not a report


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


@dataclass(frozen=True, eq=False)  # an unchanged report is the same object
class Evaluation:
    """An evaluation that has a report."""

    run: Run  # the evaluation itself
    report: EvaluationReport

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that was evaluated. Raise ``InputError`` if it cannot be read."""
        return self.run.recipe()

    @property
    def recipe_exists(self) -> bool:
        """Whether :attr:`recipe` can be read."""
        with suppress(MlxtuneError, OSError):
            return bool(self.recipe)
        return False

    @property
    def name(self) -> str:
        """The recipe's name."""
        return str(self.report.facts["name"])

    @property
    def run_id(self) -> str:
        """The ID of the run whose adapter was evaluated; empty if there is none."""
        return str(self.report.facts.get("run", ""))

    @property
    def adapter(self) -> str:
        """The folder of the evaluated adapter; empty if there is none."""
        return str(self.report.facts.get("adapter", ""))

    @property
    def outcome(self) -> str:
        """The outcome of the verdict; empty if only the base was measured."""
        return self.report.outcome

    @cached_property
    def scope(self) -> Scope:
        return Scope.of(self.report)

    @cached_property
    def caveat(self) -> Caveat | None:
        """Why an adapter that is better is still not recommended, if it is not."""
        return promotion_caveat(self.report)

    @cached_property
    def rows(self) -> int:
        """The number of rows that the verdict is about."""
        headline = self.report.headline
        return headline.paired.total if headline else int(self.report.facts["rows"])

    @cached_property
    def subject(self) -> ArmResult:
        """The arm that the verdict is about."""
        return self.report.subject

    @cached_property
    def rival(self) -> ArmResult:
        """The arm that the subject is compared with."""
        headline = self.report.headline
        return next(arm for arm in self.report.arms if headline is None or arm.name == headline.first)

    @cached_property
    def changes(self) -> tuple[tuple[Rate, Rate], ...]:
        """The rival's and the subject's rate on each metric but those of the answers' form, the whole contract last.

        Empty if only the base was measured.
        """
        if self.rival is self.subject:
            return ()
        return tuple((rate, self.subject.rate(rate.metric)) for rate in self.rival.rates if rate.metric not in FORMS)


def evaluations(workspace: Path) -> list[Evaluation]:
    """Return the evaluations in ``workspace`` whose reports can be read, the most recently finished first."""
    stamped = [
        (stamp, path.parent) for path in (workspace / RUN_KINDS["eval"].folder).glob(f"*/{FILE}") if (stamp := file_stamp(path))
    ]
    newest_first = sorted(stamped, key=lambda item: (item[0][0], item[1].name), reverse=True)
    return [found for stamp, folder in newest_first if (found := _read(folder, stamp))]


def counting(found: list[Evaluation]) -> list[Evaluation]:
    """Return the evaluations that count: without those that another one repeated on more rows."""
    return [one for one in found if not any(one.scope.is_part_of(other.scope) for other in found)]


def evaluation_of(found: list[Evaluation], run_id: str, folder: Path | None = None) -> Evaluation | None:
    """Return the verdict that counts on the adapter of a run, or on the one in ``folder``: the newest, or the same on more rows."""
    counted: Evaluation | None = None
    for one in found:
        is_own = (run_id and one.run_id == run_id) or (folder and one.adapter == str(folder))
        if one.outcome and is_own and (counted is None or counted.scope.is_part_of(one.scope)):
            counted = one
    return counted


@lru_cache(maxsize=512)
def _read(folder: Path, _stamp: FileStamp) -> Evaluation | None:
    """Read a report. Return ``None`` if it is damaged or of another version."""
    with suppress(MlxtuneError, OSError, *_INVALID):
        found = Evaluation(Run(folder), load(folder))
        _ = found.name, found.rows, found.changes, found.scope, found.caveat  # raise now if something is missing
        return found
    return None

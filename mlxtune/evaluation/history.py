"""The finished evaluations of a workspace, read again when their files change, and whether their conditions allow a comparison."""

from __future__ import annotations

import json
import shlex
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.files import FileStamp, file_stamp, read_json
from mlxtune.core.hashing import sha256_json
from mlxtune.core.json_fields import from_json, to_json
from mlxtune.evaluation.report import FILE, Caveat, EvaluationReport, Rate, ReportFacts, load, promotion_caveat
from mlxtune.evaluation.scorers.registry import FORMS
from mlxtune.recipe import Recipe
from mlxtune.runs import registry
from mlxtune.runs.registry import RUN_KINDS, Run

# raised by JSON that is not a report
_INVALID = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, StopIteration)

_CONDITIONS = (  # the facts that decide the rates, besides the rows and the arms
    "base_fingerprint", "adapter_step", "schema", "contract", "headline", "template", "decoding", "thinking", "thinking_tokens"
)  # fmt: skip


@dataclass(frozen=True, eq=False)  # an unchanged report is the same object
class Evaluation:
    """An evaluation that has a report."""

    run: Run  # the evaluation itself
    name: str  # of the recipe
    run_id: str  # of the run whose adapter was evaluated; empty if there is none
    adapter: str  # the folder of the evaluated adapter; empty if there is none
    outcome: str  # of the verdict; empty if only the base was measured
    rows: int  # that the verdict is about
    row_ids: frozenset[str]
    caveat: Caveat | None  # why an adapter that is better is still not recommended, if it is not
    # the rival's and the subject's rate on each metric but those of the answers' form, the whole contract last; empty without a rival
    changes: tuple[tuple[Rate, Rate], ...]
    _stored: bytes  # the report as compressed JSON, a tenth of its size as objects: the app holds those of all evaluations

    @property
    def report(self) -> EvaluationReport:
        return _parse(self._stored)

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe that was evaluated, or ``None`` if it cannot be read."""
        with suppress(MlxtuneError, OSError):
            return self.run.recipe()
        return None

    @cached_property
    def _measured(self) -> tuple[frozenset[str], list[object]]:
        """The names of the arms, and everything but the rows that decides their rates."""
        conditions = [self.run_id or self.adapter, *map(self.report.facts.get, _CONDITIONS)]
        return frozenset(arm.name for arm in self.report.arms), conditions

    def is_part_of(self, other: Evaluation) -> bool:
        """Return whether ``other`` measured the same on all rows of this one and on more."""
        if not frozenset() < self.row_ids < other.row_ids:
            return False
        (arms, conditions), (other_arms, other_conditions) = self._measured, other._measured
        return arms <= other_arms and conditions == other_conditions


_listed: dict[Path, dict[tuple[FileStamp, Path], Evaluation | None]] = {}  # of the workspace that was listed last


def evaluations(workspace: Path) -> list[Evaluation]:
    """Return the evaluations in ``workspace`` whose reports can be read, the most recently finished first."""
    files = (workspace / RUN_KINDS["eval"].folder).glob(f"*/{FILE}")
    stamped = sorted(((stamp, path.parent) for path in files if (stamp := file_stamp(path))), reverse=True)
    known = _listed.get(workspace, {})
    for other in _listed.keys() - {workspace}:
        _listed.pop(other, None)
    listed = _listed[workspace] = {item: known[item] if item in known else _read(item[1]) for item in stamped}
    return [found for found in listed.values() if found]


def counting(found: list[Evaluation]) -> list[Evaluation]:
    """Return the evaluations that count: without those that another one repeated on more rows."""
    return [one for one in found if not any(one.is_part_of(other) for other in found)]


def evaluation_of(found: list[Evaluation], run_id: str, folder: Path | None = None) -> Evaluation | None:
    """Return the newest verdict that counts on the adapter of a run, or on the one in ``folder``."""
    own = [one for one in found if (run_id and one.run_id == run_id) or (folder and one.adapter == str(folder))]
    return next((one for one in counting(own) if one.outcome), None)


def find(workspace: Path, which: str) -> Path:
    """Return the folder of an evaluation's report: a ``report.json``, an evaluation's folder or ID, a training run that was evaluated, or ``last``.

    Raises ``InputError`` if there is none.
    """
    if Path(which).name == FILE and Path(which).is_file():
        return Path(which).parent
    run = next((run for kind in ("eval", "train") for run in registry.list_runs(workspace, kind) if run.id == which), None)
    if run is None:
        try:
            run = registry.find_run(workspace, which, "eval")
        except InputError as error:
            try:
                run = registry.find_run(workspace, which, "train")
            except InputError:
                raise error from None
    if (run.folder / FILE).is_file():
        return run.folder
    if found := next((one for one in evaluations(workspace) if one.run_id == run.id), None):
        return found.run.folder
    if run.kind == "eval":
        raise InputError(f"The evaluation {run.id} has no report.", hint=f"See why: mlxtune runs show {run.id}")
    raise InputError(f"{run.id} has not been evaluated.", hint=f"Evaluate it first: mlxtune eval {run.id}")


def _read(folder: Path) -> Evaluation | None:
    """Read a report. Return ``None`` if it is damaged or of another version."""
    with suppress(MlxtuneError, OSError, *_INVALID):
        report = load(folder)
        facts, headline, rival, subject = report.facts, report.headline, report.rival, report.subject
        rates = [] if rival is subject else [rate for rate in rival.rates if rate.metric not in FORMS]
        return Evaluation(
            Run(folder), str(facts["name"]), str(facts.get("run", "")), str(facts.get("adapter", "")), report.outcome,
            headline.paired.total if headline else int(facts["rows"]), _shared(frozenset(facts["row_ids"])), promotion_caveat(report),
            tuple((rate, subject.rate(rate.metric)) for rate in rates), zlib.compress(json.dumps(to_json(report)).encode()),
        )  # fmt: skip
    return None


@lru_cache(maxsize=8)  # as many as screens show at a time
def _parse(stored: bytes) -> EvaluationReport:
    data = json.loads(zlib.decompress(stored))
    return from_json(EvaluationReport, data, facts=data["facts"])


@lru_cache(maxsize=32)
def _shared(row_ids: frozenset[str]) -> frozenset[str]:
    """Return an earlier set with the same IDs, if there is one: most evaluations are about the same rows."""
    return row_ids


_NOT_CONTRACT = {
    "schema", "arms", "endpoints", "optimizer", "optimizer_calls", "prompt", "shots", "rows", "regression", "regression_rows",
    "regression_margin", "regression_system", "max_tokens", "thinking_tokens", "stop_loops", "batch_size", "extras",
}  # fmt: skip
Term = Literal["held_out_rows", "schema", "contract", "template", "thinking", "thinking_tokens", "token_limit", "decoding"]
_CRITERIA: tuple[Term, ...] = ("schema", "contract", "template")  # what answers must satisfy, and how prompts are rendered
_NAMES: dict[Term, str] = {
    "schema": "the schema", "contract": "the other requirements of the contract", "template": "the chat template",
    "thinking": "thinking", "thinking_tokens": "the limit for reasoning", "decoding": "how answers are generated",
}  # fmt: skip


@dataclass(frozen=True)
class ChangedTerm:
    """A condition that differs between two evaluations."""

    term: Term
    before: int = 0  # the token limit, or the number of removed rows
    now: int = 0  # the token limit, or the number of new rows

    @property
    def name(self) -> str:
        """The condition's name in an error or a report."""
        if self.term == "held_out_rows":
            return f"the held-out rows ({self.now} new, {self.before} removed)"
        if self.term == "token_limit":
            return f"the token limit of an answer ({self.before:,}, now {self.now:,})"
        return _NAMES[self.term]


@dataclass(frozen=True)
class ChangedTerms:
    """The conditions that changed since the evaluation ``since``."""

    since: str
    terms: tuple[ChangedTerm, ...]


def contract_hash(recipe: Recipe) -> str:
    """Return the hex SHA-256 of the contract apart from its schema."""
    return sha256_json({key: value for key, value in asdict(recipe.evaluation).items() if key not in _NOT_CONTRACT})


def schema_hash(recipe: Recipe) -> str:
    """Return the hex SHA-256 of the schema as canonical JSON, or ``""`` if there is none."""
    return sha256_json(read_json(recipe.schema_file)) if recipe.schema_file else ""


def differences(before: ReportFacts, now: ReportFacts) -> list[ChangedTerm]:
    """Return the differences between the conditions of two reports; empty if their results can be compared.

    Templates are compared only if the base is the same.
    """
    new, missing = set(now["row_ids"]) - set(before["row_ids"]), set(before["row_ids"]) - set(now["row_ids"])
    rows = [ChangedTerm("held_out_rows", len(missing), len(new))] if new or missing else []
    return [*rows, *_changes(before, now, (*_CRITERIA, "thinking", "thinking_tokens", "decoding"))]


def _changes(before: ReportFacts, now: ReportFacts, terms: Sequence[Term]) -> Iterator[ChangedTerm]:
    limits = [facts["decoding"]["max_tokens"] for facts in (before, now)]
    same_base = before.get("base_fingerprint") == now.get("base_fingerprint")
    for term in terms:
        if before.get(term) != now.get(term) and (same_base or term != "template"):
            is_limit = term == "decoding" and limits[0] != limits[1]
            yield ChangedTerm("token_limit", *limits) if is_limit else ChangedTerm(term)


def require_baseline_terms(evaluation: Path, facts: ReportFacts, recipe: Recipe) -> None:
    """Raise ``InputError`` if the base was last evaluated in this workspace with another contract or template than in ``facts``.

    A change in the held-out rows, or in how answers are generated, does not matter: every evaluation includes the base, which
    then gives the answers that are missing, and the report notes the change.
    """
    run, before = next(_earlier(evaluation, facts, recipe), (None, facts))
    if run and (changes := list(_changes(before, facts, _CRITERIA))):
        file = Path("recipes", f"{recipe.name}.toml")  # unless its name is not that of the recipe
        written = shlex.quote(str(file)) if (evaluation.parent.parent / file).is_file() else "RECIPE"
        raise InputError(
            f"{listed(changes)} changed since the base was evaluated ({run.id}), so the results cannot be compared.",
            hint=f"Undo the change, or evaluate the base again: mlxtune eval {written}",
        )


def changed_terms(evaluation: Path, facts: ReportFacts, recipe: Recipe) -> ChangedTerms | None:
    """Return how the conditions changed since an earlier evaluation of this base, or ``None`` if they did not."""
    for run, before in _earlier(evaluation, facts, recipe):
        if changes := differences(before, facts):
            return ChangedTerms(run.id, tuple(changes))
    return None


def require_comparable(first: str, before: ReportFacts, second: str, now: ReportFacts) -> None:
    """Raise ``InputError`` if the evaluations named ``first`` and ``second`` were made under different conditions."""
    if changes := differences(before, now):
        raise InputError(
            f"{first} and {second} cannot be compared: {', '.join(change.name for change in changes)} changed between them.",
            hint=_same_limit(before, now) or "Evaluate both with the same held-out rows, contract, chat template, and token limit.",
        )


def _same_limit(before: ReportFacts, now: ReportFacts) -> str:
    """Return how to evaluate again with the higher limit of two reports, or ``""`` if they differ in more than the limit."""
    one, two = sorted((before, now), key=lambda facts: facts["decoding"]["max_tokens"])
    if before["decoding"] == now["decoding"] or differences({**one, "decoding": two["decoding"]}, two):
        return ""
    command = f"mlxtune eval {one.get('run') or 'RECIPE'} --set evaluation.max_tokens={two['decoding']['max_tokens']}"
    return f"Evaluate the one with the lower limit again: {command}"


def _earlier(evaluation: Path, facts: ReportFacts, recipe: Recipe) -> Iterator[tuple[Run, ReportFacts]]:
    """Yield the run and facts of each finished evaluation with this recipe's name and base, newest first."""
    for one in evaluations(evaluation.parent.parent):
        before = one.report.facts
        is_comparable = all(before.get(key) == facts.get(key) for key in ("last_look", "base_fingerprint"))
        if one.run.folder != evaluation and one.name == recipe.name and is_comparable:
            yield one.run, before


def listed(changes: Sequence[ChangedTerm]) -> str:
    """Return the names of the changed conditions as the beginning of a sentence."""
    *items, last = [change.name for change in changes]
    text = f"{', '.join(items)} and {last}" if items else last
    return text[0].upper() + text[1:]

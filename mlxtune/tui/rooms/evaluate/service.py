"""The Evaluate room's service: load a report, find the rows behind a number, and start or compare evaluations."""

import importlib.util
import tomllib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import duration, one_line, plural
from mlxtune.data.source import read_source
from mlxtune.data.split import prompt_rows, sample_rows, split
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.arms import BASE, ENDPOINT, PARENT, STRONGEST, TUNED, arm_names, is_tuned
from mlxtune.evaluation.drilldown import CellName, Drilldown, ScoredRow
from mlxtune.evaluation.history import Evaluation
from mlxtune.evaluation.off_task.prompts import OFF_TASK, load_prompts
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.evaluation.scorers.registry import FORMS
from mlxtune.evaluation.verdict import Comparison
from mlxtune.present.labels import failure_name
from mlxtune.recipe import AUTO, Recipe, dump, load
from mlxtune.runs.events import read_all
from mlxtune.runs.launch import read_request
from mlxtune.runs.registry import Run

CELL_TITLES: dict[CellName, str] = {"both": "Both pass", "broken": "Broken", "fixed": "Fixed", "neither": "Both fail"}


@dataclass(frozen=True)
class LoadedReport:
    """An evaluation's report. ``drilldown`` has the rows behind its numbers, or ``evidence_error`` says why not."""

    folder: Path
    report: EvaluationReport
    drilldown: Drilldown | None
    evidence_error: MlxtuneError | None
    html: Path | None

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics: the headline first, output forms last."""
        names = [rate.metric for rate in self.report.arms[0].rates]
        return tuple(sorted(names, key=lambda name: (name != self.report.headline_metric, name in FORMS)))

    @property
    def baseline(self) -> str:
        """The arm that the verdict compares with, or an empty string."""
        return self.report.headline.first if self.report.headline else ""

    def comparison(self, metric: str, first: str = "") -> Comparison | None:
        """Return the tuned arm's comparison on ``metric`` with the arm ``first``, by default the verdict's baseline."""
        headline = self.report.headline
        if headline is None:
            return None
        key = (metric, first or headline.first, headline.second)
        return next((item for item in self.report.comparisons if (item.metric, item.first, item.second) == key), None)

    def second_metric(self, metric: str) -> str | None:
        """Return the metric to show next to ``metric``: the contract, or else the metric with the largest change from the first arm.

        A metric with the same rates, such as the only one of the contract, comes last.
        """
        others = [name for name in self.metrics if name != metric]
        others = [name for name in others if self.comparison(name)] or others
        if CONTRACT in others:
            return CONTRACT
        shares = [{rate.metric: rate.share for rate in arm.rates} for arm in self.report.arms]
        first, last = shares[0], shares[self.report.arms.index(self.report.subject)]

        def interest(name: str) -> tuple[bool, float]:
            differs = any(arm.get(name) != arm.get(metric) for arm in shares)
            return differs, abs(last.get(name, 0.0) - first.get(name, 0.0))

        return max(others, key=interest, default=None)


@dataclass(frozen=True)
class RowFilter:
    """Rows that ``arm`` fails on ``metric``, optionally of one kind; or a ``cell`` in the 2×2 table with ``baseline``."""

    metric: str
    arm: str
    kind: str = ""
    cell: CellName | None = None
    baseline: str = ""


@dataclass(frozen=True)
class FilteredRows:
    """The rows that match a filter. ``kinds`` counts the arm's failures by kind."""

    filter: RowFilter
    title: str
    rows: tuple[ScoredRow, ...] = ()
    kinds: dict[str, int] = field(default_factory=dict)


def load_report(folder: Path) -> LoadedReport:
    """Load the evaluation in ``folder``. Raise ``InputError`` if its report is missing or unreadable."""
    report = reports.load(folder)
    html = folder / "report.html"
    drilldown, error = None, None
    try:
        drilldown = Drilldown(folder)
    except MlxtuneError as reason:
        error = reason
    return LoadedReport(folder, report, drilldown, error, html if html.is_file() else None)


def find_rows(loaded: LoadedReport, filter: RowFilter) -> FilteredRows:
    """Return the matching rows, broken ones first. Raise ``InputError`` if the stored answers are missing."""
    drilldown, arm = loaded.drilldown, filter.arm
    if drilldown is None:
        raise loaded.evidence_error or ValueError("The report has neither stored answers nor an error that explains why.")
    if filter.cell:
        rows = drilldown.cell(filter.metric, filter.baseline, arm, filter.cell)
        return FilteredRows(filter, CELL_TITLES[filter.cell], tuple(rows))
    failures = drilldown.rows_for(filter.metric, arm, passed=False)
    kinds = Counter(kind for row in failures for kind in row.scores[arm].kinds)
    rows = [row for row in failures if not filter.kind or filter.kind in row.scores[arm].kinds]
    baseline = loaded.baseline
    rows.sort(key=lambda row: not (baseline in row.scores and baseline != arm and row.scores[baseline].passed))
    title = f"{arm_title(arm)} fails" + (f": {one_line(failure_name(filter.kind))}" if filter.kind else "")
    return FilteredRows(filter, title, tuple(rows), dict(kinds.most_common()))


def arm_title(arm: str) -> str:
    """Return an arm's name as the first word of a title."""
    name = one_line(arm)
    return f"{name[:1].upper()}{name[1:]}" if name.isalpha() else name


def arm_options(recipe: Recipe, *, has_adapter: bool) -> list[tuple[str, tuple[str, ...]]]:
    """Return sets of arms to evaluate, each with a label; the recipe's own set comes first. Tuned arms need an adapter."""
    own = tuple(arm for arm in arm_names(recipe) if has_adapter or not is_tuned(arm))
    extra = [("base+kshot", f"plus the base with {plural(recipe.evaluation.shots, 'example')}")]
    if recipe.evaluation.prompt:
        extra.append(("base+prompt", "plus the base with your prompt"))
    if recipe.evaluation.schema and importlib.util.find_spec("llguidance"):
        extra.append(("base+grammar", "plus the base with a grammar"))
        extra.append(("base+grammar+kshot", "plus the base with a grammar and examples"))
        extra += [("tuned+grammar", "plus the adapter with a grammar")] if "tuned" in own else []
    extra = [(arm, label) for arm, label in extra if arm not in own]

    def with_arms(*arms: str) -> tuple[str, ...]:
        return tuple(sorted((*own, *arms), key=is_tuned))

    options = [("as in the recipe", own), *((label, with_arms(arm)) for arm, label in extra)]
    return [*options, ("all of these", with_arms(*(arm for arm, _ in extra)))] if len(extra) > 1 else options


@dataclass(frozen=True)
class EvaluationOption:
    """Arms that can be chosen. They answer ``all_rows`` that are held out, or as many as the recipe says.

    At the base's speed, that takes ``seconds``: 0 if earlier evaluations have all answers, ``None`` if it is unknown.
    """

    label: str
    arms: tuple[str, ...]
    all_rows: bool = False
    seconds: float | None = None

    @property
    def about(self) -> str:
        """The number of arms and, if it is known, how long they take."""
        time = "" if self.seconds is None else f", about {duration(self.seconds)}" if self.seconds else ", answered before"
        return plural(len(self.arms), "arm") + time


@dataclass(frozen=True)
class ArmWork:
    """What the arms of an evaluation answer."""

    recipe: Recipe
    options: list[EvaluationOption]
    rows: int
    held_out: int
    max_tokens: int | None  # of an answer; None if it depends on the references
    off_task: int  # off-task prompts, which the base and the adapter answer

    @property
    def summary(self) -> str:
        """The rows, the prompts, and the length of an answer."""
        rows = f"{self.rows:,} of {plural(self.held_out, 'held-out row')}"
        prompts = f", {plural(self.off_task, 'off-task prompt')}" if self.off_task else ""
        return f"{rows}{prompts}" + (f", at most {self.max_tokens:,} tokens per answer" if self.max_tokens else "")


def count_work(recipe: Recipe, run: Run | None, earlier: Sequence[Evaluation]) -> ArmWork:
    """Read the rows, and return what the arms of ``recipe`` answer, with the adapter of ``run`` if there is one.

    Raise ``DataError`` if the rows or the off-task prompts cannot be read, or if no held-out row has a prompt.
    """
    section, run_id = recipe.evaluation, run.id if run else ""
    parts = split(read_source(recipe.source, recipe.data.format, recipe.data.map), recipe.data)
    held_out = prompt_rows(parts.prompts)
    rows, prompts = sample_rows(held_out, section.rows), load_prompts(recipe) if run else ()
    limit = None if section.max_tokens == AUTO else section.max_tokens
    earlier = [one for one in earlier if one.recipe_exists]
    row_seconds, off_task_seconds = None, _off_task_seconds(earlier, recipe) if prompts else None
    if report := _similar_evaluation(earlier, recipe):
        row_seconds = report.arms[0].seconds / report.facts["rows"]
        if decoding := report.facts.get("decoding"):
            limit = decoding["max_tokens"]
    answered = _answered_rows(earlier, recipe, run_id)
    same = [one.report for one in earlier if one.report.off_task and _off_task_work(one.recipe) == _off_task_work(recipe)]
    off_task_answered = {BASE for _ in same} | {TUNED for report in same if report.facts.get("run") == run_id}
    off_task_arms = {BASE, TUNED} - off_task_answered if prompts else set()

    def seconds(option: EvaluationOption) -> float | None:
        arms = (*option.arms, *([PARENT] if recipe.adapter.parent and TUNED in option.arms else ()))
        ids = {row.id for row in (held_out if option.all_rows else rows)}
        missing = sum(len(ids - answered[arm]) for arm in arms)
        missing_off_task = len(off_task_arms.intersection(arms))
        total = missing * (row_seconds or 0) + missing_off_task * (off_task_seconds or 0)
        is_unknown = (missing and row_seconds is None) or (missing_off_task and not total)
        return None if is_unknown or any(arm.startswith(ENDPOINT) for arm in arms) else total

    options = [EvaluationOption(label, arms) for label, arms in arm_options(recipe, has_adapter=run is not None)]
    if len(rows) < len(held_out):
        options.insert(1, replace(options[0], label=f"on all {len(held_out):,} held-out rows", all_rows=True))
    options = [replace(option, seconds=seconds(option)) for option in options]
    return ArmWork(recipe, options, len(rows), len(held_out), limit, len(prompts))


def _similar_evaluation(earlier: Sequence[Evaluation], recipe: Recipe) -> EvaluationReport | None:
    """Return the newest evaluation in which the base of ``recipe`` was not cached and had the same limits."""
    for item in earlier:
        base = item.report.arms[0]
        is_same = item.recipe.name == recipe.name and _limits(item.recipe) == _limits(recipe)
        if is_same and base.name == BASE and not base.cached:
            return item.report
    return None


def _answered_rows(earlier: Sequence[Evaluation], recipe: Recipe, run_id: str) -> defaultdict[str, set[str]]:
    """Return the IDs of the rows that each arm has answered within the limits of ``recipe``, with the adapter of ``run_id`` if tuned."""
    answered = defaultdict[str, set[str]](set)
    for item in (item for item in earlier if _limits(item.recipe) == _limits(recipe)):
        facts = item.report.facts
        for arm in (arm.name for arm in item.report.arms):
            has_adapter = not is_tuned(arm) or facts.get("run") == run_id
            if has_adapter and _arm_setting(item.recipe, arm) == _arm_setting(recipe, arm):
                answered[arm].update(facts["row_ids"])
    return answered


def _off_task_seconds(earlier: Sequence[Evaluation], recipe: Recipe) -> float | None:
    """Return how long the base took for the off-task prompts when it last answered them, if it did."""
    for item in earlier:
        for event in read_all(item.run.folder) if _off_task_work(item.recipe) == _off_task_work(recipe) else ():
            if event["type"] == "arm.finished" and (event["arm"], event.get("of")) == (BASE, OFF_TASK) and not event.get("cached"):
                return float(event.get("seconds", 0.0))
    return None


def _off_task_work(recipe: Recipe) -> tuple[object, ...]:
    section = recipe.evaluation
    return recipe.model.base, recipe.model.thinking, section.regression, section.regression_rows, section.regression_system


def _limits(recipe: Recipe) -> tuple[object, ...]:
    return recipe.model.base, recipe.model.thinking, recipe.evaluation.max_tokens, recipe.evaluation.thinking_tokens


def _arm_setting(recipe: Recipe, arm: str) -> object:
    """Return the setting that the answers of ``arm`` depend on, if there is one."""
    section, parent = recipe.evaluation, recipe.adapter.parent
    settings = {
        "prompt": recipe.prompt_file or section.prompt,
        "kshot": section.shots,
        "grammar": recipe.schema_file,
        PARENT: recipe.path(parent) if parent else None,
    }
    return [settings.get(part) for part in arm.split("+")]


@lru_cache(maxsize=4)
def planned_arms(run: Run) -> tuple[str, ...]:
    """Return the arms that the evaluation ``run`` evaluates, in order; none if that is not known."""
    try:
        arms, adapter = arm_names(run.recipe()), read_request(run.folder).get("adapter")
    except (MlxtuneError, OSError, KeyError):
        return ()
    return tuple(arm for arm in arms if arm != STRONGEST and (adapter or not is_tuned(arm)))


def has_other_evaluation(run: Run, path: Path) -> bool:
    """Return whether the recipe at ``path`` evaluates differently from the recipe of ``run``."""
    try:
        now, then = (tomllib.loads(dump(recipe)) for recipe in (load(path), run.recipe()))
    except MlxtuneError:
        return False
    return bool(now["evaluation"] != then["evaluation"])

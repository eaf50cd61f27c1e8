"""The Evaluate room's service: load a report, find the rows behind a number, and start or compare evaluations."""

import importlib.util
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mlxtune.advice.evidence import seconds_per_answer
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import duration, one_line, plural
from mlxtune.data.split import prompt_rows, recipe_splits, sample_rows
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.arms import ENDPOINT, STRONGEST, arm_names, is_tuned
from mlxtune.evaluation.drilldown import CellName, Drilldown, ScoredRow
from mlxtune.evaluation.off_task.prompts import load_prompts
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.evaluation.scorers.registry import FORMS
from mlxtune.evaluation.verdict import Comparison
from mlxtune.present.labels import capital
from mlxtune.recipe import AUTO, Recipe, dump, load
from mlxtune.runs.launch import read_request
from mlxtune.runs.registry import Run
from mlxtune.tui.widgets import ChoiceOption

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
        """Return the metric to show next to ``metric``: the contract, or else the first other one, preferably with other rates."""
        shares = {name: [arm.rate(name).share for arm in self.report.arms] for name in self.metrics}
        others = sorted(shares.keys() - {metric}, key=lambda name: (shares[name] == shares[metric], self.metrics.index(name)))
        return CONTRACT if CONTRACT in others else next(iter(others), None)


@dataclass(frozen=True)
class RowFilter:
    """Rows that ``arm`` fails on ``metric``, or a ``cell`` in the 2×2 table with ``baseline``."""

    metric: str
    arm: str
    cell: CellName | None = None
    baseline: str = ""


@dataclass(frozen=True)
class FilteredRows:
    """The rows that match a filter."""

    filter: RowFilter
    title: str
    rows: tuple[ScoredRow, ...] = ()

    @property
    def is_of_one_kind(self) -> bool:
        scores = (row.scores.get(self.filter.arm) for row in self.rows)
        return len({kind for score in scores if score and not score.passed for kind in score.kinds}) == 1


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
    rows = drilldown.rows_for(filter.metric, arm, passed=False)
    baseline = loaded.baseline
    rows.sort(key=lambda row: not (baseline in row.scores and baseline != arm and row.scores[baseline].passed))
    return FilteredRows(filter, f"{arm_title(arm)} fails", tuple(rows))


def arm_title(arm: str) -> str:
    """Return an arm's name as the first word of a title."""
    name = one_line(arm)
    return capital(name) if name.isalpha() else name


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


def evaluation_options(workspace: Path, recipe: Recipe, run: Run | None) -> tuple[list[ChoiceOption], str]:
    """Read the rows, and return the options, with the adapter of ``run`` if there is one, and what the first one answers.

    An option's value is its arms, and whether they answer all held-out rows or as many as the recipe says. Times are at the speed
    of the base's newest evaluation. Raise ``DataError`` if the rows or the off-task prompts cannot be read, or none has a prompt.
    """
    section, pace = recipe.evaluation, seconds_per_answer(workspace, recipe)
    held_out = prompt_rows(recipe_splits(recipe).prompts)
    rows, prompts = len(sample_rows(held_out, section.rows)), load_prompts(recipe) if run else ()

    def about(arms: tuple[str, ...], rows: int) -> str:
        if pace is None or any(arm.startswith(ENDPOINT) for arm in arms):
            return plural(len(arms), "arm")
        return f"{plural(len(arms), 'arm')}, rows ≤ {duration(len(arms) * rows * pace)}"

    sets = arm_options(recipe, has_adapter=run is not None)
    options = [ChoiceOption((arms, False), label, about(arms, rows)) for label, arms in sets]
    if rows < len(held_out):
        arms, label = sets[0][1], f"on all {len(held_out):,} held-out rows"
        options.insert(1, ChoiceOption((arms, True), label, about(arms, len(held_out))))
    off_task = f", {plural(len(prompts), 'off-task prompt')}" if prompts else ""
    limit = "" if section.max_tokens == AUTO else f", at most {section.max_tokens:,} tokens per answer"
    return options, f"{', '.join(sets[0][1])} on {rows:,} of {plural(len(held_out), 'held-out row')}{off_task}{limit}."


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

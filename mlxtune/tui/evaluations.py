"""What the Evaluate room asks of the core: a report with the rows behind its numbers, and what could be measured next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural

if TYPE_CHECKING:  # scorers bring validators, which the first screen should not wait for
    from mlxtune.evaluation.drill import Drill, Row
    from mlxtune.evaluation.report import Arm, Report
    from mlxtune.evaluation.verdict import Comparison
    from mlxtune.recipe import Recipe

Cell = Literal["both", "broken", "fixed", "neither"]
CELLS: tuple[Cell, ...] = ("both", "broken", "fixed", "neither")


@dataclass(frozen=True)
class Opened:
    """An evaluation on show. ``drill`` is ``None`` where its evidence is missing, as ``trouble`` says; ``page`` is its HTML report."""

    folder: Path
    report: Report
    drill: Drill | None
    trouble: MlxtuneError | None
    page: Path | None

    @property
    def headline(self) -> str:
        """The metric that the verdict is about."""
        return str(self.report.facts.get("headline", "contract"))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that every arm was asked about, the headline's first, and forms of answers last."""
        from mlxtune.evaluation.contract import FORMS

        found = [rate.metric for rate in self.report.arms[0].rates]
        return tuple(sorted(found, key=lambda metric: (metric != self.headline, metric in FORMS)))

    def comparison(self, metric: str) -> Comparison | None:
        """What was tuned, on ``metric``, against the arm that the verdict is over."""
        headline = self.report.headline
        if headline is None:
            return None
        asked = (metric, headline.first, headline.second)
        return next((item for item in self.report.comparisons if (item.metric, item.first, item.second) == asked), None)


@dataclass(frozen=True)
class Lens:
    """Which rows are looked at: those that ``arm`` fails on ``metric``, only those of a class of failures, or a cell of the 2×2."""

    metric: str
    arm: str
    kind: str = ""
    cell: Cell | None = None
    against: str = ""


@dataclass(frozen=True)
class Seen:
    """The rows behind a number. ``title`` says which, ``kinds`` how many fail in each way."""

    lens: Lens
    title: str
    rows: tuple[Row, ...] = ()
    kinds: dict[str, int] = field(default_factory=dict)


def open_evaluation(folder: Path) -> Opened:
    """The evaluation in ``folder``. Raises ``InputError`` when it has no report that can be read."""
    from mlxtune.evaluation import report as reports
    from mlxtune.evaluation.drill import Drill

    report = reports.load(folder)
    page = folder / "report.html"
    try:
        drill, trouble = Drill(folder), None
    except MlxtuneError as error:
        drill, trouble = None, error
    return Opened(folder, report, drill, trouble, page if page.is_file() else None)


def first_lens(opened: Opened) -> Lens:
    """The failures of the arm that the verdict is about, on its metric."""
    return Lens(opened.headline, opened.report.arms[-1].arm)


def look(opened: Opened, lens: Lens) -> Seen:
    """The rows that ``lens`` shows, broken ones first. Raises ``InputError`` when they cannot be found."""
    drill = opened.drill
    if drill is None:
        raise opened.trouble or ValueError("no evidence, and no reason")
    if lens.cell:
        rows = drill.square(lens.metric, lens.against, lens.arm, lens.cell)
        words = {"both": "Both hold", "broken": "Broken", "fixed": "Fixed", "neither": "Both fail"}
        return Seen(lens, words[lens.cell], tuple(rows))
    failing = drill.behind(lens.metric, lens.arm, holds=False)
    kinds: dict[str, int] = {}
    for row in failing:
        kinds[row.scores[lens.arm].kind] = kinds.get(row.scores[lens.arm].kind, 0) + 1
    rows = [row for row in failing if not lens.kind or row.scores[lens.arm].kind == lens.kind]
    over = opened.report.headline.first if opened.report.headline else ""
    rows.sort(key=lambda row: not (over in row.scores and over != lens.arm and row.scores[over].holds))
    title = f"{named(lens.arm)} fails" + (f": {one_line(lens.kind)}" if lens.kind else "")
    return Seen(lens, title, tuple(rows), dict(sorted(kinds.items(), key=lambda item: -item[1])))


def named(arm: str) -> str:
    """An arm as a word that begins a title."""
    shown = one_line(arm)
    return f"{shown[:1].upper()}{shown[1:]}" if shown.isalpha() else shown


def label(metric: str) -> str:
    """What reports call a metric."""
    from mlxtune.evaluation.contract import LABELS

    return LABELS.get(metric, one_line(metric))


def choices_of_arms(recipe: Recipe) -> list[tuple[str, tuple[str, ...]]]:
    """What could be measured beside what ``recipe`` asks for: a few words, and the arms; what it asks for comes first."""
    import importlib.util

    asked = tuple(recipe.evaluation.arms)
    more: list[tuple[str, str]] = [("base+kshot", f"and the base with {plural(recipe.evaluation.shots, 'example')} in its prompt")]
    if recipe.evaluation.prompt:
        more.append(("base+prompt", "and the base with your best prompt"))
    if recipe.evaluation.schema and importlib.util.find_spec("llguidance"):
        more.append(("base+grammar", "and the base held to the schema by a grammar"))
    missing = [(arm, words) for arm, words in more if arm not in asked]
    found = [("as the recipe says", asked), *((words, _with(asked, arm)) for arm, words in missing)]
    if len(missing) > 1:
        found.append(("all of these", _with(asked, *(arm for arm, _ in missing))))
    return found


def _with(asked: tuple[str, ...], *more: str) -> tuple[str, ...]:
    """The arms, those that need no training before what was tuned."""
    return (*(arm for arm in asked if arm != "tuned"), *more, *(arm for arm in asked if arm == "tuned"))


def telling(opened: Opened, metric: str) -> str | None:
    """Another metric worth a look beside ``metric``: the whole contract, or the part of it on which the last arm moved most."""
    others = [one for one in opened.metrics if one != metric and opened.comparison(one)]
    if not others:
        others = [one for one in opened.metrics if one != metric]
    if "contract" in others:
        return "contract"
    first, last = opened.report.arms[0], opened.report.arms[-1]
    return max(others, key=lambda one: abs(_share(last, one) - _share(first, one)), default=None)


def _share(arm: Arm, metric: str) -> float:
    return next((rate.share for rate in arm.rates if rate.metric == metric), 0.0)

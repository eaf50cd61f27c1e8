"""What the workspace itself says: how much data there is, what a contract asks, and what was measured on held-out rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mlxtune.advice.conditions import Fact
from mlxtune.advice.sample import sample_name
from mlxtune.core.errors import DataError, InputError, MlxtuneError
from mlxtune.core.files import read_json
from mlxtune.core.hashing import sha256_json
from mlxtune.data.rows import Preference
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.arms import BASE, GRAMMAR, KSHOT, PROMPT, TUNED
from mlxtune.evaluation.power import detectable
from mlxtune.evaluation.report import Report
from mlxtune.evaluation.terms import contract_hash
from mlxtune.evaluation.verdict import HEADLINE
from mlxtune.recipe import Recipe
from mlxtune.runs import registry

ENOUGH = 30  # held-out rows that are enough to see whether a prompt will do
NAMES = {"base": BASE, "prompt": PROMPT, "kshot": KSHOT, "grammar": GRAMMAR, "tuned": TUNED}  # facts, and the arms behind them
_SAID = {
    BASE: "The base alone", PROMPT: "Your prompt alone", KSHOT: "Prompting with a few examples", GRAMMAR: "A grammar alone",
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One arm: how many of ``total`` held-out rows it got right, with the 95 % Wilson interval, and by which evaluation that is known."""

    arm: str
    hits: int
    total: int
    low: float
    high: float
    by: str

    @property
    def percent(self) -> float:
        return round(100 * self.hits / self.total, 1)


@dataclass(frozen=True)
class Evidence:
    """All that is known; ``None`` for what is not. ``arms`` maps a metric to what each arm reaches on it.

    ``recipe`` is what commands call it. ``passed`` says what was left out, and why.
    """

    recipe: str = ""
    rows: int | None = None
    groups: int | None = None
    tier: str | None = None
    pairs: int | None = None
    held_out: int | None = None
    contract: bool | None = None
    prompted: bool | None = None
    parameters: int | None = None
    arms: dict[str, dict[str, Measured]] = field(default_factory=dict)
    passed: tuple[str, ...] = ()

    def on(self, metric: Fact) -> dict[str, Measured]:
        """What each arm reaches on ``metric``, or on the whole contract where that is no metric of an evaluation."""
        return self.arms.get(str(metric)) or self.arms.get(HEADLINE, {})

    def best(self, metric: Fact) -> Measured | None:
        """The arm without training that reaches most; of equals the one with less in its prompt."""
        free = [found for arm in (BASE, PROMPT, KSHOT, GRAMMAR) if (found := self.on(metric).get(arm))]
        return max(free, key=lambda one: one.percent, default=None)

    def facts(self, metric: Fact, target: float) -> dict[str, Fact]:
        """The facts that rules may ask for; rates in percent of the answers that are right by ``metric``."""
        arms, best = self.on(metric), self.best(metric)
        rise = detectable(self.held_out) if self.held_out else None
        rates: dict[str, Fact] = {name: arms[arm].percent if arm in arms else None for name, arm in NAMES.items()}
        return rates | {
            "rows": self.rows,
            "groups": self.groups,
            "tier": self.tier,
            "pairs": self.pairs,
            "held_out": self.held_out,
            "detectable": None if rise is None else round(100 * rise),
            "contract": None if self.contract is None else "yes" if self.contract else "no",
            "prompted": None if self.prompted is None else "yes" if self.prompted else "no",
            "size": None if self.parameters is None else round(self.parameters / 1e9, 2),
            "best": best.percent if best else None,
            "gap": round(target - best.percent, 1) if best else None,
        }

    def named(self, metric: Fact) -> dict[str, str]:
        """Words for texts that tell of the best arm without training."""
        best = self.best(metric)
        return {
            "best_arm": best.arm if best else "",
            "best_said": _SAID[best.arm] if best else "",
            "recipe": self.recipe or "RECIPE",
        }

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def gather(workspace: Path, recipe: Recipe, called: str = "", parameters: int | None = None) -> Evidence:
    """What ``workspace`` knows of ``recipe``, which commands call ``called``. Raises ``InputError`` for data that cannot be read."""
    from mlxtune.data.checks.notes import tier  # these load numpy, which other verbs need not wait for
    from mlxtune.data.groups import question, together
    from mlxtune.data.source import read_source
    from mlxtune.data.split import split

    source = read_source(recipe.source, recipe.data.format, recipe.data.map)
    rows = source.rows
    groups = len(set(together(rows, [question(row) for row in rows], recipe.data.group_by)))
    arms, passed = _arms(workspace, recipe)
    try:
        held_out = len(split(source, recipe.data).test)
    except DataError as error:  # too few rows to hold any out, which is what the groups say too
        held_out, passed = None, (*passed, f"No rows are held out: {error.message}")
    return Evidence(
        called, len(rows), groups, tier(groups), sum(isinstance(row, Preference) for row in rows), held_out, recipe.contract,
        bool(recipe.evaluation.prompt.strip()), parameters, arms, passed,
    )  # fmt: skip


def answering(workspace: Path, recipe: Recipe) -> float | None:
    """Seconds that an answer of the recipe's base took, many at a time, in the newest evaluation of ``workspace`` that asked it."""
    for report in _reports(workspace):
        for arm in reversed(report.arms):
            if report.facts.get("base") in _called(recipe) and not arm.cached and report.facts.get("rows"):
                return arm.seconds / float(report.facts["rows"])
    return None


def _arms(workspace: Path, recipe: Recipe) -> tuple[dict[str, dict[str, Measured]], tuple[str, ...]]:
    """The newest rate of each arm on each metric, by evaluations of this recipe on its present terms; and which were passed over."""
    found: dict[str, dict[str, Measured]] = {}
    passed = []
    terms = {"contract": contract_hash(recipe), "schema": sha256_json(read_json(recipe.schema)) if recipe.schema else ""}
    for report in _reports(workspace):
        told = report.facts
        if told.get("name") not in (recipe.name, sample_name(recipe.name)) or told.get("base") not in _called(recipe):
            continue
        if any(told.get(key, value) != value for key, value in terms.items()):
            passed.append(f"{told['by']} asked for something else: the contract changed since.")
            continue
        for arm in report.arms:
            for rate in arm.rates:
                found.setdefault(rate.metric, {}).setdefault(
                    arm.arm, Measured(arm.arm, rate.hits, rate.total, rate.low, rate.high, told["by"])
                )
    return found, tuple(passed)


def measurable(recipe: Recipe) -> bool:
    """Whether there is anything to tell a good answer by."""
    return recipe.contract or bool(recipe.evaluation.reference)


def sampled(recipe: Recipe) -> Recipe:
    """``recipe`` as it is measured for advice: the base, its prompt if it has one, and a few examples, on :data:`ENOUGH` held-out rows.

    Raises ``InputError`` when the recipe has no contract and nothing to compare with.
    """
    if not measurable(recipe):
        raise InputError(
            "There is nothing to measure by: the recipe has no contract and compares with no reference.",
            mend='Give [evaluation] a schema, disclaimers, forbidden phrases, or reference = ["exact"].',
        )
    arms = [BASE, *([PROMPT] if recipe.evaluation.prompt.strip() else []), KSHOT]
    section = replace(recipe.evaluation, arms=arms, rows=ENOUGH)  # type: ignore[arg-type]
    return replace(recipe, name=sample_name(recipe.name), evaluation=section)


def _called(recipe: Recipe) -> tuple[str, str]:
    """The recipe's base as it stands there, and as a run says it where it is a folder."""
    return recipe.model.base, str(recipe.path(recipe.model.base))


def _reports(workspace: Path) -> Iterator[Report]:
    """Finished evaluations, newest first; their facts say ``by`` which folder."""
    for run in registry.all_runs(workspace, "eval"):
        try:
            report = reports.load(run.folder)
        except (InputError, MlxtuneError):
            continue
        report.facts["by"] = run.id
        yield report

"""Evidence from the workspace: the amount of data, the contract, and evaluations on held-out rows."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mlxtune.advice.next_step import sample_name
from mlxtune.advice.rules import Fact
from mlxtune.core.errors import DataError, InputError
from mlxtune.data.rows import Preference
from mlxtune.evaluation.arms import BASE, GRAMMAR, GRAMMAR_KSHOT, GRAMMAR_PROMPT, KSHOT, PROMPT, TUNED, contest
from mlxtune.evaluation.history import Evaluation, contract_hash, evaluations, schema_hash
from mlxtune.evaluation.report import Rate
from mlxtune.evaluation.scorers import CONTRACT, CORRECT, PREFERENCE
from mlxtune.evaluation.statistics.intervals import LEVEL
from mlxtune.evaluation.statistics.significance import detectable_gain
from mlxtune.models import catalog
from mlxtune.recipe import Recipe

SAMPLE_ROWS = 30  # held-out rows needed to see whether a prompt is good enough
# By the fact that holds the arm's rate
ARMS = {"base": BASE, "prompt": PROMPT, "kshot": KSHOT, "grammar": GRAMMAR, "tuned": TUNED}
_METRICS = frozenset({CONTRACT, CORRECT, PREFERENCE})  # that the interview knows

Measured = tuple[Rate, str]  # an arm's rate on held-out rows, and the ID of the evaluation that measured it


@dataclass(frozen=True)
class AdviceEvidence:
    """Everything known about a recipe. Unknown values are ``None``."""

    recipe: str = ""  # its name in commands
    rows: int | None = None
    groups: int | None = None
    tier: str | None = None
    pairs: int | None = None
    held_out: int | None = None
    contract: bool | None = None
    prompted: bool | None = None
    parameters: int | None = None
    arms: Mapping[str, Mapping[str, Measured]] = field(default_factory=dict)  # by metric and arm
    ignored: tuple[str, ...] = ()  # the IDs of evaluations by another contract
    split_error: str = ""  # why no rows are held out
    contest: tuple[int, int] = (1, 1)  # the numbers of baselines and of tuned arms that a verdict compares

    def arms_by_metric(self, metric: Fact) -> Mapping[str, Measured]:
        """Return each arm's rate on ``metric``, or on the whole contract if no evaluation has that metric."""
        return self.arms.get(str(metric)) or self.arms.get(CONTRACT, {})

    def best(self, metric: Fact) -> str | None:
        """Return the best arm without training. If arms are tied, return the one with the shortest prompt."""
        arms = self.arms_by_metric(metric)
        return max(
            (arm for arm in (BASE, PROMPT, KSHOT, GRAMMAR, GRAMMAR_PROMPT, GRAMMAR_KSHOT) if arm in arms),
            key=lambda arm: _percent(arms[arm]),
            default=None,
        )

    def facts(self, metric: Fact, target: float) -> dict[str, Fact]:
        """Return the facts used by the rules. Rates on ``metric`` are percentages."""
        arms = self.arms_by_metric(metric)
        name = self.best(metric)
        best = _percent(arms[name]) if name else None
        baselines, tuned = self.contest
        gain = detectable_gain(self.held_out, 0.0, baselines, LEVEL / tuned) if self.held_out else None
        rates: dict[str, Fact] = {fact: _percent(arms[arm]) if arm in arms else None for fact, arm in ARMS.items()}
        return rates | {
            "rows": self.rows, "groups": self.groups, "tier": self.tier, "pairs": self.pairs, "held_out": self.held_out,
            "detectable": None if gain is None else round(100 * gain),
            "contract": None if self.contract is None else "yes" if self.contract else "no",
            "prompted": None if self.prompted is None else "yes" if self.prompted else "no",
            "size": None if self.parameters is None else round(self.parameters / 1e9, 2),
            "evaluated": frozenset(self.arms) & _METRICS or None, "best": best,
            "gap": None if best is None else round(target - best, 1),
        }  # fmt: skip

    def as_json(self) -> dict[str, object]:
        arms = {
            metric: {arm: {**asdict(rate), "evaluation": id} for arm, (rate, id) in rates.items()}
            for metric, rates in self.arms.items()
        }
        return {**asdict(replace(self, arms={})), "arms": arms}


def _percent(measured: Measured) -> float:
    return round(100 * measured[0].share, 1)


def collect(workspace: Path, recipe: Recipe, name: str = "") -> AdviceEvidence:
    """Collect the evidence in ``workspace`` about ``recipe``, named ``name`` in commands. Raise ``InputError`` if unreadable."""
    from mlxtune.data.checks.statistics import tier  # imports numpy, which other commands do not need
    from mlxtune.data.source import read_source
    from mlxtune.data.split import group_labels, split

    base = catalog.find(recipe.model.base)
    source = read_source(recipe.source, recipe.data)
    rows = source.rows
    groups = len(set(group_labels(rows, recipe.data.turns, recipe.data.group_by)))
    arms, ignored = _arms(workspace, recipe)
    held_out, split_error = None, ""
    try:
        held_out = len(split(source, recipe.data).evaluated)
    except DataError as error:  # too few rows for a held-out split
        split_error = error.message
    return AdviceEvidence(
        name, len(rows), groups, tier(groups), sum(isinstance(row, Preference) for row in rows), held_out, recipe.has_contract,
        bool(recipe.evaluation.prompt.strip()), base.shapes.parameters if base else None, arms, ignored, split_error, contest(recipe),
    )  # fmt: skip


def seconds_per_answer(workspace: Path, recipe: Recipe) -> float | None:
    """Return the seconds per answer, batched, of the recipe's base in its newest evaluation in ``workspace``."""
    for evaluation in _of_base(workspace, recipe):
        rows = evaluation.report.facts.get("rows")
        for arm in reversed(evaluation.report.arms):
            if rows and arm.seconds and not arm.cached:
                return arm.seconds / rows
    return None


def can_measure(recipe: Recipe) -> bool:
    """Whether the recipe has a metric: a contract, or pairs whose preferred answers are known."""
    return recipe.has_contract or recipe.method.kind == "dpo"


def sample_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe that evaluates a sample with the base, the prompt and examples. Raise ``InputError`` without a metric."""
    if not can_measure(recipe):
        hint = 'Add correct = ["answer"], a schema, disclaimers or forbidden phrases to [evaluation].'
        raise InputError("The recipe has no contract.", hint=hint)
    arms = [BASE, *([PROMPT] if recipe.evaluation.prompt.strip() else []), KSHOT]
    section = replace(recipe.evaluation, arms=arms, rows=SAMPLE_ROWS)
    return replace(recipe, name=sample_name(recipe.name), evaluation=section)


def _arms(workspace: Path, recipe: Recipe) -> tuple[dict[str, dict[str, Measured]], tuple[str, ...]]:
    """Return the newest rate per metric and arm from comparable evaluations of ``recipe``, and the IDs of the others."""
    arms: dict[str, dict[str, Measured]] = {}
    ignored = []
    contract, schema = contract_hash(recipe), schema_hash(recipe)
    for evaluation in _of_base(workspace, recipe):
        id, facts = evaluation.run.id, evaluation.report.facts
        if evaluation.name not in (recipe.name, sample_name(recipe.name)):
            continue
        if facts.get("contract", contract) != contract or facts.get("schema", schema) != schema:
            ignored.append(id)
            continue
        for arm in evaluation.report.arms:
            for rate in arm.rates:
                arms.setdefault(rate.metric, {}).setdefault(arm.name, (rate, id))
    return arms, tuple(ignored)


def _of_base(workspace: Path, recipe: Recipe) -> Iterator[Evaluation]:
    """Return the evaluations of the recipe's base, newest first."""
    bases = (recipe.model.base, str(recipe.path(recipe.model.base)))  # reports store the full path of a local folder
    return (one for one in evaluations(workspace) if one.report.facts.get("base") in bases)

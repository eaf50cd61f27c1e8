"""Test whether the adapter answers off-task prompts as well as the base: held, dropped, or cannot tell.

This is a paired non-inferiority test with a margin chosen before the run (Piaggio et al. 2012, JAMA 308:2594). The interval is
Tango's score interval with one-sided 95% limits, so *held* and *dropped* are each wrong at most 5% of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlxtune.core.text import plural
from mlxtune.evaluation.json_fields import from_json
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt, load_prompts
from mlxtune.evaluation.statistics.clusters import effective_n
from mlxtune.evaluation.statistics.intervals import PairedCounts, tango
from mlxtune.evaluation.statistics.power import FLIPPED, non_inferiority_power
from mlxtune.evaluation.verdict import change_text
from mlxtune.recipe import Recipe

MARGIN = 0.05  # default of evaluation.regression_margin
LEAST = 0.2  # the base's rate below which prompts say too little about forgetting
HELD, DROPPED, UNKNOWN = "held", "dropped", "cannot tell"
Word = Literal["held", "dropped", "cannot tell"]


@dataclass(frozen=True)
class OffTaskCell:
    """The correct answers to the prompts of a category, asked with or without the system prompt.

    The test counts them only if the base answers at least :data:`LEAST` of them correctly: otherwise there is little to forget.
    """

    category: str
    with_system: bool
    total: int
    base: int
    tuned: int

    @property
    def counted(self) -> bool:
        return self.base >= LEAST * self.total


@dataclass(frozen=True)
class OffTaskChange:
    """How correct answers changed over the counted prompts of a category, or of all categories if ``category`` is empty.

    ``low`` and ``high`` are one-sided 95% limits of the change in the rate. ``power`` is the probability of *held* if nothing
    was forgotten and :data:`~mlxtune.evaluation.statistics.power.FLIPPED` of the answers change.
    """

    category: str
    prompts: int
    paired: PairedCounts
    effective_n: float
    low: float
    change: float
    high: float
    power: float
    word: Word

    @property
    def text(self) -> str:
        """The change in points with its limits: ``−0.8 (−3.1 to +1.5)``."""
        return change_text(self.low, self.change, self.high)


@dataclass(frozen=True)
class OffTaskResult:
    """The test's result over all counted prompts and by category, and the IDs of the prompts whose answers changed.

    IDs of prompts asked with the system prompt end in ``+system``.
    """

    margin: float
    overall: OffTaskChange
    categories: tuple[OffTaskChange, ...]
    cells: tuple[OffTaskCell, ...]
    broken: tuple[str, ...]
    fixed: tuple[str, ...]

    @property
    def word(self) -> Word:
        return self.overall.word

    @property
    def set_apart(self) -> tuple[OffTaskCell, ...]:
        """The cells that the test does not count."""
        return tuple(cell for cell in self.cells if not cell.counted)

    @property
    def caveat(self) -> str:
        """A short reason not to promote the adapter, or ``""``."""
        paired = self.overall.paired
        if self.word == DROPPED:
            return (
                f"off-task accuracy dropped from {_percent(paired.first, paired.total)} to {_percent(paired.second, paired.total)}"
            )
        return "" if self.word == HELD else f"off-task accuracy may have dropped by {_points(self.margin)} points or more"

    @property
    def summary(self) -> str:
        """The result as sentences."""
        paired, overall = self.overall.paired, self.overall
        if not paired.total:
            return f"Off-task accuracy: cannot tell. The base answers fewer than {LEAST:.0%} correctly in every category."
        rates = f"{_percent(paired.second, paired.total)}, compared with {_percent(paired.first, paired.total)} for the base"
        text = f"Off-task accuracy: {self.word}. {rates} ({paired.total:,} answers): a change of {overall.text} points"
        if self.word == DROPPED:
            return f"{text}. Not recommended."
        return f"{text}, so a drop of {_points(self.margin)} points is {'' if self.word == HELD else 'not '}ruled out."

    def legacy_record(self) -> dict[str, Any]:
        """Return the result as reports stored it before the non-inferiority test."""
        (cell,) = self.cells
        counts = {"total": cell.total, "base": cell.base, "tuned": cell.tuned}
        return {**counts, "broken": list(self.broken), "fixed": list(self.fixed)}


def compare_off_task(
    prompts: Sequence[OffTaskPrompt], base: Sequence[str], tuned: Sequence[str], margin: float = MARGIN
) -> OffTaskResult:
    """Compare the answers of the base and the adapter to ``prompts``, in their order, with the non-inferiority ``margin``.

    Answers to the same prompt in both conditions are dependent, so the interval uses the effective number of answers.
    """
    passes = [(prompt, prompt.passes(one), prompt.passes(two)) for prompt, one, two in zip(prompts, base, tuned, strict=True)]
    cells = []
    for category, with_system in dict.fromkeys((prompt.category, prompt.with_system) for prompt in prompts):
        own = [(one, two) for prompt, one, two in passes if (prompt.category, prompt.with_system) == (category, with_system)]
        cells.append(OffTaskCell(category, with_system, len(own), sum(one for one, _ in own), sum(two for _, two in own)))
    keys = {(cell.category, cell.with_system) for cell in cells if cell.counted}
    counted = [item for item in passes if (item[0].category, item[0].with_system) in keys]
    names = list(dict.fromkeys(prompt.category for prompt in prompts))
    return OffTaskResult(
        margin,
        _change("", counted, margin),
        tuple(_change(name, [item for item in counted if item[0].category == name], margin) for name in names),
        tuple(cells),
        broken=tuple(_answer_id(prompt) for prompt, one, two in passes if one and not two),
        fixed=tuple(_answer_id(prompt) for prompt, one, two in passes if two and not one),
    )


def _change(category: str, passes: Sequence[tuple[OffTaskPrompt, bool, bool]], margin: float) -> OffTaskChange:
    ids = [prompt.id for prompt, *_ in passes]
    paired = PairedCounts.count([(one, two) for _, one, two in passes])
    size, low, change, high = 0.0, -1.0, 0.0, 1.0
    if passes:
        size = effective_n([two - one for _, one, two in passes], ids)
        low, change, high = tango(paired, effective_n=size)
    power = non_inferiority_power(len(set(ids)), margin)
    return OffTaskChange(category, len(set(ids)), paired, size, low, change, high, power, _word(low, high, margin))


def _word(low: float, high: float, margin: float) -> Word:
    """Return *held* if a drop of ``margin`` is ruled out, *dropped* if a drop is certain, and otherwise *cannot tell*."""
    return "held" if low > -margin else "dropped" if high < 0 else "cannot tell"


def off_task_power(recipe: Recipe) -> str:
    """Describe the test's power before the run: ``300 prompts: 84% power to rule out a drop of 5 points, if 10% of answers change``.

    Answers to a prompt in both conditions count as one, so the true power is at least this. Empty if the recipe has no off-task
    prompts. Raises ``DataError``.
    """
    count, margin = len(load_prompts(recipe)), recipe.evaluation.regression_margin
    if not count:
        return ""
    power = f"{non_inferiority_power(count, margin):.0%} power to rule out a drop of {_points(margin)} points"
    return f"{plural(count, 'prompt')}: {power}, if {FLIPPED:.0%} of answers change."


def from_record(record: Mapping[str, Any]) -> OffTaskResult:
    """Return the result that a report stores. Raises ``KeyError`` or ``TypeError`` for a malformed record."""
    if "overall" not in record:
        return _from_legacy_record(**record)
    return from_json(
        OffTaskResult,
        record,
        overall=_from_change(record["overall"]),
        categories=tuple(map(_from_change, record["categories"])),
        cells=tuple(from_json(OffTaskCell, cell) for cell in record["cells"]),
        broken=tuple(record["broken"]),
        fixed=tuple(record["fixed"]),
    )


def _from_change(record: Mapping[str, Any]) -> OffTaskChange:
    return from_json(OffTaskChange, record, paired=PairedCounts(**record["paired"]))


def _from_legacy_record(total: int, base: int, tuned: int, broken: Sequence[str], fixed: Sequence[str]) -> OffTaskResult:
    """Return the result of a report that has only counts, judged by today's test."""
    both = base - len(broken)
    paired = PairedCounts(both, len(broken), len(fixed), total - both - len(broken) - len(fixed))
    low, change, high = tango(paired)
    power = non_inferiority_power(total, MARGIN)
    overall = OffTaskChange("", total, paired, float(total), low, change, high, power, _word(low, high, MARGIN))
    return OffTaskResult(MARGIN, overall, (), (OffTaskCell("", False, total, base, tuned),), tuple(broken), tuple(fixed))


def _answer_id(prompt: OffTaskPrompt) -> str:
    return f"{prompt.id}+system" if prompt.with_system else prompt.id


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.1f}%"


def _points(share: float) -> str:
    return f"{100 * share:g}"
